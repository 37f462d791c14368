"""A backbone under a new head, and steps shared out to two stages."""

import keras
import numpy as np
from keras import ops

from ktransfer.data import validation_split
from ktransfer.engine.arguments import check_alive
from ktransfer.engine.losses import cross_entropy
from ktransfer.engine.prediction import predict
from ktransfer.engine.training import fit
from ktransfer.errors import KTransferError, NotApplicable, unknown
from ktransfer.measures.solvers import softmax_regression
from ktransfer.models import backbones
from ktransfer.models.blocks import blocks
from ktransfer.models.graph import node_of
from ktransfer.models.surgery import classifier, copy_backbone, freeze, inline
from ktransfer.seeds import stream


def fitted(target, backbone, *, steps, seed, **training):
    """Return `backbone` under a new head; what is thawed is trained."""
    model = classifier(backbone, target, seed=seed)
    fit(model, target.train, steps=steps, seed=seed, **training)
    return model


def tuned(target, source, *, steps, seed, **training):
    """Return the source's features under a new head, all trained on `target`.

    Args:
        target: the `Task`; its labelled images train the model.
        source: the `Source`.
        steps, seed, training: as in `fit`.
    """
    backbone = copy_backbone(source.model)
    return fitted(target, backbone, steps=steps, seed=seed, **training)


def probed(target, backbone, *, steps, seed, **training):
    """Return a linear head, trained on the frozen `backbone`.

    The backbone is frozen in place and stays so; thaw it to go on.
    """
    freeze(backbone)
    return fitted(target, backbone, steps=steps, seed=seed, **training)


SOLVERS = ("adam", "direct")


def linear_head(target, backbone, *, solver, strength, steps, seed, **training):
    """Return a linear head on the frozen `backbone`, trained or solved for.

    CE + strength ||kernel||^2 has one minimum; the bias is not penalised.

    Args:
        target: the `Task`.
        backbone: frozen in place.
        solver: "adam" takes `steps` optimiser steps towards it; "direct" goes
            to the minimum itself by Newton's method, and leaves `steps` and
            `training` unused.
        strength: at least 0; above it for "direct", since without a penalty
            features that separate the classes have no minimum.
        steps, seed, training: as in `fit`.

    Raises:
        KTransferError: `E_UNKNOWN` for another solver, `E_ARGUMENT` for a
            strength that it has no minimum for.
    """
    if solver not in SOLVERS:
        raise unknown("solver", solver, SOLVERS)
    if solver == "direct":
        if not strength > 0:
            raise KTransferError(
                "E_ARGUMENT",
                f"strength is {strength!r}; the direct solver expects one "
                "above 0.",
            )
        steps = 0
    freeze(backbone)
    model = classifier(backbone, target, seed=seed)
    head = model.get_layer("logits")

    def penalised(labels, outputs):
        penalty = strength * ops.sum(ops.square(head.kernel))
        return cross_entropy(labels, outputs) + penalty

    loss = penalised if strength else cross_entropy
    fit(model, target.train, steps=steps, seed=seed, loss=loss, **training)
    if solver == "direct":
        (features,) = node_of(model.output).input_tensors
        z = predict(keras.Model(model.input, features), target.train.x)
        check_alive(z)
        one_hot = np.eye(target.num_classes)[target.train.y]
        head.set_weights(softmax_regression(z, one_hot, strength))
    return model


def divided(steps, share, *, seed):
    """Share `steps` out to two stages of one training.

    Args:
        steps: of both stages.
        share: of the first, from 0 to 1.
        seed: of the method, and of its first stage.

    Returns:
        (steps of the first, steps of the second, seed of the second). The
        second has epochs of its own: it would see the images of the first
        once more, in the same order. Alone it has the method's seed.

    Raises:
        KTransferError: `E_ARGUMENT` if the share is not within 0 and 1.
    """
    if not 0 <= share <= 1:
        raise KTransferError(
            "E_ARGUMENT", f"the share is {share!r}; expected 0 to 1."
        )
    first = int(steps * share)
    return first, steps - first, stream(seed, "stage", 2) if first else seed


def own_rate(learning_rate, *heads):
    """Return the `rates` of `fit` under which the `heads` have their own.

    None, the rate of all else, needs no entry.
    """
    return [(heads, learning_rate)] if learning_rate is not None else []


def small_network(target, seed, name=None):
    """Return the fresh, untrained default network: images -> logits.

    It is what `baselines/scratch` trains, and the student of distillation.
    """
    backbone = backbones.convnet(seed=seed)
    return classifier(backbone, target, seed=seed, name=name)


def held_out(target, seed):
    """Return `target` with fewer labelled images, and the `Split` they form.

    Raises:
        NotApplicable: no class has two images.
    """
    training, validation = validation_split(target.train, seed=seed)
    if not len(validation.y):
        raise NotApplicable(
            "no class has two labelled images; expected at least one that "
            "has, to hold an image out for a choice."
        )
    return target._replace(train=training), validation


def block_chain(model):
    """Return `model` cut after every block, and the rest up to its output.

    The pieces are models that share its layers; run one after the other they
    are `model`.

    Raises:
        NotApplicable: a branch leads around a cut.
    """
    flat = inline(model, tap=[*blocks(model), *model.output_names])
    starts = [flat.input, *flat.output.values()]
    try:
        return [
            keras.Model(start, end, name=f"{model.name}_{name}")
            for start, (name, end) in zip(starts, flat.output.items())
        ]
    except ValueError as error:
        raise NotApplicable(
            f"the blocks of {model.name!r} branch; expected a chain of blocks."
        ) from error
