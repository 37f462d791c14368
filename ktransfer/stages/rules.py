"""Rules of the target's classes, read off a source: values in 0..1.

A rule is a frozen model, raw target images -> `(n, K)`: 1 for a class that
agrees with what the source sees in the image, 0 for one that contradicts it.
It reads the image and the source; the labelled target images tell once how
the source's classes read as the target's, and the label of an image to be
judged is never looked at.
"""

import math

import keras
from keras import layers, ops

from ktransfer.engine.prediction import predict
from ktransfer.errors import unknown
from ktransfer.measures.transferability import label_map
from ktransfer.models.layers import InferenceMode
from ktransfer.models.own import answering
from ktransfer.models.surgery import adapt_input, copy, freeze
from ktransfer.stages.teachers import answers


def beliefs(target, source):
    """Return raw target images -> the source's probabilities of its classes.

    p(y given x) = sum over z of P(y given z) softmax(F_s(x))_z, P from the
    joint frequencies on the labelled images; the source's own probabilities
    where it answers the target's classes.
    """
    inputs = keras.Input(target.image_shape, dtype="uint8", name="images")
    network = adapt_input(copy(answering(source)), target.image_shape)
    x = InferenceMode(network, name="source")(inputs)
    x = layers.Softmax(name="source_probabilities")(x)
    model = keras.Model(inputs, x, name="beliefs")
    if not answers(source, target):
        table = label_map(
            predict(model, target.train.x), target.train.y, target.num_classes
        )
        mapping = layers.Dense(
            target.num_classes, use_bias=False, name="label_map"
        )
        model = keras.Model(inputs, mapping(x), name="beliefs")
        mapping.kernel.assign(table)
    freeze(model)
    return model


def source_agreement(probabilities, allowed_share):
    """Return p(y) / max p: the likeliest class holds wholly, others partly."""
    return probabilities / ops.max(probabilities, axis=-1, keepdims=True)


def likely_classes(probabilities, allowed_share):
    """Return 1 for the likeliest classes, `allowed_share` of K rounded up."""
    number = math.ceil(allowed_share * probabilities.shape[-1])
    ahead = ops.sum(_likelier(probabilities), axis=-1)
    return ops.cast(ahead < max(number, 1), probabilities.dtype)


def likely_mass(probabilities, allowed_share):
    """Return 1 for the fewest likely classes that hold `allowed_share` of p.

    The surer the source, the fewer they are; at least one.
    """
    others = ops.expand_dims(probabilities, axis=-2)
    mass = ops.sum(_likelier(probabilities) * others, axis=-1)
    return ops.cast(mass < allowed_share, probabilities.dtype)


def _likelier(probabilities):
    """Return `(n, K, K)`: 1 at (y, y') where y' is likelier than y."""
    others = ops.expand_dims(probabilities, axis=-2)
    own = ops.expand_dims(probabilities, axis=-1)
    return ops.cast(others > own, probabilities.dtype)


RULES = {
    "source_agreement": source_agreement,
    "likely_classes": likely_classes,
    "likely_mass": likely_mass,
}
# Those that allow a class or forbid it.
CONSTRAINTS = {name: RULES[name] for name in ("likely_classes", "likely_mass")}


def check(name, choices):
    """Refuse an unknown `name`; the message lists the `choices`."""
    if name not in choices:
        raise unknown("rule", name, choices)


def read(name, target, source, allowed_share):
    """Return the rule `name`: a frozen model, raw images -> `(n, K)`.

    Args:
        name: one of `RULES`.
        target: the `Task`.
        source: the `Source`.
        allowed_share: of the classes, or of the probability, 0 to 1.
    """
    model = beliefs(target, source)
    values = RULES[name](model.output, allowed_share)
    return keras.Model(model.input, values, name=name)
