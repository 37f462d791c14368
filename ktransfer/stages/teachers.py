"""A teacher for the target, and a student that learns from it."""

import keras
import numpy as np
from keras import layers, ops

from ktransfer.engine.losses import cross_entropy, softened_divergence
from ktransfer.engine.training import fit
from ktransfer.models.layers import InferenceMode
from ktransfer.models.surgery import (
    adapt_input,
    classifier,
    copy,
    copy_backbone,
    freeze,
)
from ktransfer.seeds import stream


def answers(source, target):
    """Tell whether the source already answers the classes of `target`.

    Classes that nobody named are not those of another task.
    """
    theirs, ours = source.task, target
    return bool(ours.label_space) and (
        (theirs.label_space, theirs.labels) == (ours.label_space, ours.labels)
    )


def teacher(target, source, *, steps, share, seed, number=None, **training):
    """Return a frozen teacher for `target`, and the steps left for the rest.

    The source itself if it answers the target's classes; else the source,
    fine-tuned on the labelled target images in an epoch order of its own.

    Args:
        steps, seed: of the whole method.
        share: of the steps that fine-tuning a teacher may take.
        number: of one of several, from 1 on, in its name; 1 learns as None.
        training: as in `fit`.

    Returns:
        (model from raw target images to logits, number of steps left).
    """
    if answers(source, target):
        model = adapt_input(copy(source.model), target.image_shape)
        spent = 0
    else:
        spent = int(steps * share)
        model = _tuned(target, source, spent, seed, number, **training)
    model = copy(model, f"teacher_{number}" if number else "teacher")
    freeze(model)
    return model, steps - spent


def _tuned(target, source, steps, seed, number, **training):
    """Return the source, fine-tuned in the epoch order of a teacher.

    In that of the student both would see the same first images, and where the
    steps do not reach all of them, the rest would never be seen.
    """
    model = classifier(copy_backbone(source.model), target, seed=seed)
    order = stream(seed, "teacher", number or 1)
    fit(model, target.train, steps=steps, seed=order, **training)
    return model


def distill(
    student, target, teach, *, steps, seed, temperature, strength, **training
):
    """Train `student` in place, on the labels and on the answers of `teach`.

    L = (1 - strength) CE + strength T^2 KL; a term of weight 0 is left out.

    Args:
        student: raw target images -> logits.
        target: the `Task`.
        teach: frozen, raw target images -> logits of the same classes.
        temperature, strength: T and the weight of the teacher, 0 to 1.
        steps, seed, learning_rate, training: as in `fit`.
    """
    inputs = keras.Input(target.image_shape, dtype="uint8", name="images")
    logits = student(inputs)
    answered = InferenceMode(teach, name="teacher")(inputs)
    both = {"logits": logits, "teacher": answered}

    def loss(labels, outputs):
        logits = outputs["logits"]
        soft = softened_divergence(outputs["teacher"], logits, temperature)
        if strength == 1:
            return soft
        hard = cross_entropy(labels, logits)
        return (1 - strength) * hard + strength * soft

    fit(
        keras.Model(inputs, both) if strength else student,
        target.train,
        steps=steps,
        seed=seed,
        loss=loss if strength else cross_entropy,
        **training,
    )


def same_size(first, second):
    """Return two feature maps with the height and width of the smaller.

    The larger one is average-pooled. A map beside a vector is averaged over
    its positions.

    Args:
        first, second: symbolic, `(n, height, width, channels)` or `(n, d)`.
    """
    if len(first.shape) == 2 or len(second.shape) == 2:
        return [
            x if len(x.shape) == 2 else layers.GlobalAveragePooling2D()(x)
            for x in (first, second)
        ]
    sizes = zip(first.shape[1:3], second.shape[1:3])
    size = tuple(min(pair) for pair in sizes)
    return [_pooled(x, size) for x in (first, second)]


def _pooled(x, size):
    """Return the map `x` at height and width `size`, as means over areas.

    Keras's AdaptiveAveragePooling2D fails where a size does not divide.
    """
    for axis, wanted in ((1, size[0]), (2, size[1])):
        if x.shape[axis] != wanted:
            table = _area_table(x.shape[axis], wanted)
            letters = "bhwc,kh->bkwc" if axis == 1 else "bhwc,kw->bhkc"
            x = ops.einsum(letters, x, table)
    return x


def _area_table(length, wanted):
    """Return `(wanted, length)`: the share of each cell in each wider one."""
    width = length / wanted
    cells, areas = np.arange(length), np.arange(wanted)[:, None] * width
    ends = np.minimum(cells + 1, areas + width)
    overlap = np.maximum(ends - np.maximum(cells, areas), 0)
    return (overlap / width).astype("float32")
