"""Feature noise: fine-tuning while the features are blurred by Gaussian noise.

z = h(phi(x) + strength s e), e standard normal and drawn anew for each value
and step, s the standard deviation of all feature values of the labelled
images, measured before training; phi starts at the source's weights and all
is trained. In inference there is no noise; strength 0 leaves the layer out.
The default strength, 0.1, is ours.

Row: M8 (article 000, section 2.2.2).
Source: on weights, in Wu et al. 2022. https://arxiv.org/abs/2202.12024
"""

import keras

from ktransfer.engine.kinds import NotNegative
from ktransfer.engine.prediction import predict
from ktransfer.engine.training import fit
from ktransfer.models.graph import node_of
from ktransfer.models.layers import FeatureNoise
from ktransfer.models.surgery import classifier, copy_backbone
from ktransfer.seeds import stream


def transfer(
    target, source, *, steps, seed, strength: NotNegative = 0.1, **training
):
    model = classifier(copy_backbone(source.model), target, seed=seed)
    if strength:
        model = _noisy(model, target.train.x, strength, seed)
    fit(model, target.train, steps=steps, seed=seed, **training)
    return model


def _noisy(model, images, strength, seed):
    """Return `model` with noise between its features and its logits."""
    (features,) = node_of(model.output).input_tensors
    values = predict(keras.Model(model.input, features), images)
    noise = FeatureNoise(
        strength * float(values.std()),
        seed=stream(seed, "dropout", "feature_noise"),
        name="feature_noise",
    )
    logits = model.get_layer("logits")(noise(features))
    return keras.Model(model.input, logits, name=model.name)
