"""Stochastic normalization: BatchNorm by chance of the batch or as it serves.

In training each channel is normalised by (1 - s) (x - m) / sqrt(v) + s (x -
m_b) / sqrt(v_b): m, v are BatchNorm's moving statistics, m_b, v_b those of the
batch, and s ~ Bernoulli(`probability`) is drawn anew for each channel and
step. gamma and beta are common to both, and the moving statistics are updated
at every step. So the statistics that serve also train, and a small batch
matters less. Probability 1 is fine-tuning and leaves the device out; what is
served is plain BatchNorm.

The moving statistics keep the share `momentum` of themselves at a step, 0.9 as
the authors' (PyTorch's momentum 0.1), whatever the source's own: what they are
matters in training too. The result's BatchNorm keeps that setting. The authors
train with batch 48, rate 1e-3 and a head ten times as fast, which is
`head_learning_rate` 1e-2.

Row: M25 (article 003).
Source: Kou et al. 2020 (NeurIPS). https://github.com/thuml/StochNorm
"""

import keras
from keras.layers import BatchNormalization

from ktransfer.engine.kinds import Positive, Share
from ktransfer.engine.training import fit
from ktransfer.errors import NotApplicable
from ktransfer.models.graph import leaves
from ktransfer.models.layers import StochasticNormalization
from ktransfer.models.surgery import classifier, copy_backbone, inline
from ktransfer.seeds import stream
from ktransfer.stages.heads import own_rate


def transfer(
    target,
    source,
    *,
    steps,
    seed,
    probability: Share = 0.5,
    momentum: Share = 0.9,
    head_learning_rate: Positive | None = None,
    **training,
):
    model = classifier(copy_backbone(source.model), target, seed=seed)
    norms = _norms(model)
    trained = model
    if probability != 1:
        for norm in norms:
            norm.momentum = momentum
        trained = _stochastic(inline(model), norms, probability, seed)
    rates = own_rate(head_learning_rate, model.get_layer("logits"))
    fit(trained, target.train, steps=steps, seed=seed, rates=rates, **training)
    return model


def _norms(model):
    norms = [x for x in leaves(model) if isinstance(x, BatchNormalization)]
    if not norms:
        raise NotApplicable(
            "the source has no BatchNorm layer; expected at least one, whose "
            "two kinds of statistics are to be mixed."
        )
    return norms


def _stochastic(model, norms, probability, seed):
    """Return `model`, flat, with its own BatchNorms inside stochastic ones.

    All layers are shared, so that training the result trains `model`.
    """

    def wrapped(layer):
        if layer not in norms:
            return layer
        own = stream(seed, "normalization", layer.name)
        return StochasticNormalization(layer, probability, own, name=layer.name)

    return keras.models.clone_model(model, clone_function=wrapped)
