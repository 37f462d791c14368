"""Stages that several methods go through: probe, tune, teacher, student.

A method never imports a method; what two of them do alike stands here.
"""

from ktransfer import backbones
from ktransfer.surgery import (
    adapt_input,
    classifier,
    copy,
    copy_backbone,
    freeze,
)
from ktransfer.training import fit


def tuned(target, source, *, steps, seed, learning_rate=1e-3, **training):
    """Return the source's features under a new head, all trained on `target`.

    Args:
        target: the `Task`; its labelled images train the model.
        source: the `Source`.
        steps, seed, learning_rate, training: as in `fit`.
    """
    model = classifier(copy_backbone(source.model), target, seed=seed)
    fit(
        model,
        target.train,
        steps=steps,
        learning_rate=learning_rate,
        seed=seed,
        **training,
    )
    return model


def probed(target, backbone, *, steps, seed, learning_rate=1e-3, **training):
    """Return a linear head, trained on the frozen `backbone`.

    The backbone is frozen in place and stays so; thaw it to go on.
    """
    freeze(backbone)
    model = classifier(backbone, target, seed=seed)
    fit(
        model,
        target.train,
        steps=steps,
        learning_rate=learning_rate,
        seed=seed,
        **training,
    )
    return model


def small_network(target, seed, name=None):
    """Return the fresh, untrained default network: images -> logits.

    It is what `baselines/scratch` trains, and the student of distillation.
    """
    backbone = backbones.convnet(seed=seed)
    return classifier(backbone, target, seed=seed, name=name)


def answers(source, target):
    """Tell whether the source already answers the classes of `target`."""
    return tuple(source.task.labels) == tuple(target.labels)


def teacher(target, source, *, steps, share, seed, name="teacher"):
    """Return a frozen teacher for `target`, and the steps left for the rest.

    The source itself if it answers the target's classes; else the source,
    fine-tuned on the labelled target images.

    Args:
        steps: of the whole method.
        share: of the steps that fine-tuning a teacher may take.

    Returns:
        (model from raw target images to logits, number of steps left).
    """
    if answers(source, target):
        model = adapt_input(copy(source.model), target.image_shape)
        spent = 0
    else:
        spent = int(steps * share)
        model = tuned(target, source, steps=spent, seed=seed)
    model = copy(model, name)
    freeze(model)
    return model, steps - spent
