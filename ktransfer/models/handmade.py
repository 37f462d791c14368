"""Hand-made image features: what one would measure without any training."""

import math

import keras
from keras import layers, ops

from ktransfer.errors import unknown

_DIRECTIONS = 9


@keras.saving.register_keras_serializable("ktransfer")
class ExpertFeatures(layers.Layer):
    """Raw images `(batch, height, width, channels)` -> `(batch, width)`.

    All are computed in grey, the mean of the channels in 0..1, and finite on
    every image:

        "gradients"  36 shares of gradient by direction, 9 a quarter
        "moments"    mean brightness, its centre (y, x), its variances (y, x)
                     and covariance, with height and width from 0 to 1
        "symmetry"   1 - the mean difference to the image mirrored left-right,
                     up-down, and both
        "holes"      parts minus holes of the pixels above the middle of the
                     image's range (Euler number)

    Args:
        features: names of these, in the order of the output.

    Raises:
        KTransferError: `E_UNKNOWN` for another name.
    """

    def __init__(self, features, **kwargs):
        super().__init__(**kwargs)
        for name in features:
            if name not in MEASURES:
                raise unknown("feature", name, MEASURES)
        self.features = list(features)

    def call(self, inputs):
        grey = ops.mean(ops.cast(inputs, "float32") / 255, axis=-1)
        found = [MEASURES[name](grey) for name in self.features]
        return ops.concatenate(found, axis=-1)

    def get_config(self):
        return {**super().get_config(), "features": self.features}

    def as_builtins(self):
        return self.call


def _gradients(grey):
    """Return the shares of gradient by quarter and direction, modulo pi."""
    across = grey[:, 1:-1, 2:] - grey[:, 1:-1, :-2]
    down = grey[:, 2:, 1:-1] - grey[:, :-2, 1:-1]
    size = ops.sqrt(across**2 + down**2)
    angle = ops.mod(ops.arctan2(down, across), math.pi)
    place = ops.floor(angle * (_DIRECTIONS / math.pi))
    # An angle of just below zero is pi after rounding.
    place = ops.cast(ops.clip(place, 0, _DIRECTIONS - 1), "int32")
    votes = ops.one_hot(place, _DIRECTIONS) * size[..., None]
    y, x = (length // 2 for length in size.shape[1:])
    quarters = (
        votes[:, :y, :x],
        votes[:, :y, x:],
        votes[:, y:, :x],
        votes[:, y:, x:],
    )
    counts = [ops.sum(quarter, axis=(1, 2)) for quarter in quarters]
    total = ops.sum(size, axis=(1, 2))[:, None]
    return ops.concatenate(counts, axis=-1) / (total + 1e-6)


def _moments(grey):
    _, height, width = grey.shape
    y = ops.linspace(0.0, 1.0, height)[:, None]
    x = ops.linspace(0.0, 1.0, width)[None]
    mass = grey / (ops.sum(grey, axis=(1, 2), keepdims=True) + 1e-6)

    def mean(values):
        return ops.sum(mass * values, axis=(1, 2), keepdims=True)

    centre_y, centre_x = mean(y), mean(x)
    found = [
        ops.mean(grey, axis=(1, 2), keepdims=True),
        centre_y,
        centre_x,
        mean((y - centre_y) ** 2),
        mean((x - centre_x) ** 2),
        mean((y - centre_y) * (x - centre_x)),
    ]
    return ops.concatenate(found, axis=-1)[:, 0]


def _symmetry(grey):
    likeness = [
        1 - ops.mean(ops.abs(grey - ops.flip(grey, axis)), axis=(1, 2))
        for axis in (2, 1, (1, 2))
    ]
    return ops.stack(likeness, axis=-1)


def _euler_number(grey):
    """Return (Q1 - Q3 - 2 QD) / 4, counts of 2x2 windows; 8-connected.

    Q1 and Q3 have one and three bright pixels, QD two on a diagonal.
    """
    lowest = ops.min(grey, axis=(1, 2), keepdims=True)
    highest = ops.max(grey, axis=(1, 2), keepdims=True)
    bright = ops.cast(grey > (lowest + highest) / 2, "float32")
    bright = ops.pad(bright, ((0, 0), (1, 1), (1, 1)))
    first, last = bright[:, :-1, :-1], bright[:, 1:, 1:]
    total = first + last + bright[:, :-1, 1:] + bright[:, 1:, :-1]
    # Of what is symbolic, as in an export, `==` compares the objects.
    diagonal = ops.logical_and(ops.equal(total, 2), ops.equal(first, last))
    quads = (
        ops.cast(ops.equal(total, 1), "float32")
        - ops.cast(ops.equal(total, 3), "float32")
        - 2 * ops.cast(diagonal, "float32")
    )
    return ops.sum(quads, axis=(1, 2))[:, None] / 4


MEASURES = {
    "gradients": _gradients,
    "moments": _moments,
    "symmetry": _symmetry,
    "holes": _euler_number,
}
