"""Expert features: hand-made image features join those of a frozen source.

z = Dense(K)([phi(x); standardised e(x)]), phi being the source's features and
e(x) what a person would measure; the head alone is trained. `features` names
the parts of e, all computed from the raw pixels inside the model, in grey:

    "gradients"  histogram of gradient directions, 9 a quarter of the image
    "moments"    mean, centre of brightness, its second moments
    "symmetry"   likeness to the image mirrored left-right, up-down and both
    "holes"      Euler number, parts minus holes, of the bright pixels

They are standardised by mean and deviation over the target's training images.
The list is ours.

Row: M21 (article 001, section 2.2).
Source: bit quads of Gray 1971 after Yao et al. 2015.
https://doi.org/10.1186/s40064-015-1511-8
"""

import keras
from keras import layers

from ktransfer.engine.kinds import Texts
from ktransfer.engine.prediction import predict
from ktransfer.engine.training import fit
from ktransfer.models.handmade import ExpertFeatures
from ktransfer.models.surgery import head_layer
from ktransfer.stages.fusion import read_sources


def transfer(
    target,
    source,
    *,
    steps,
    seed,
    features: Texts = ("gradients", "moments", "symmetry", "holes"),
    **training,
):
    images, (x,) = read_sources(target, [source])
    if features:
        measured = ExpertFeatures(features, name="expert")(images)
        seen = predict(keras.Model(images, measured), target.train.x)
        standardised = _standardisation(seen)(measured)
        x = layers.Concatenate(name="fused")([x, standardised])
    logits = head_layer(target.num_classes, "logits", seed)(x)
    model = keras.Model(images, logits, name="expert_features")
    fit(model, target.train, steps=steps, seed=seed, **training)
    return model


def _standardisation(seen):
    """Return a fixed layer that centres and scales as `seen` `(n, d)` needs."""
    mean = seen.mean(axis=0, dtype="float64")
    variance = seen.var(axis=0, dtype="float64")
    # A feature that never differs would be blown up on other images.
    variance[variance < 1e-10] = 1.0
    return layers.Normalization(
        mean=mean.tolist(), variance=variance.tolist(), name="standardise"
    )
