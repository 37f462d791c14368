"""Logistic regression on the pixels: a linear model that sees no features.

Minimises CE + strength ||kernel||^2 over z = x W + b, x the pixels in 0..1;
the bias is not penalised.

Source: Cox 1958, as in any textbook. https://doi.org/10.1111/j.2517-6161.1958.tb00292.x
"""

import keras
from keras import layers, ops

from ktransfer.engine.kinds import NotNegative
from ktransfer.engine.losses import cross_entropy
from ktransfer.engine.training import fit
from ktransfer.models.surgery import head_layer


def transfer(target, *, steps, seed, strength: NotNegative = 1e-4, **training):
    inputs = keras.Input(target.image_shape, dtype="uint8", name="images")
    x = layers.Rescaling(1 / 255, name="rescale")(inputs)
    x = layers.Flatten(name="features")(x)
    logits = head_layer(target.num_classes, "logits", seed)
    model = keras.Model(inputs, logits(x), name="logistic_regression")

    def loss(labels, outputs):
        penalty = strength * ops.sum(ops.square(logits.kernel))
        return cross_entropy(labels, outputs) + penalty

    fit(model, target.train, steps=steps, seed=seed, loss=loss, **training)
    return model
