"""Conditional adversarial (CDAN): features that hide their domain by class.

L = CE(source) + BCE(D(reverse(f x g)), domain), g = softmax(z) taken as a
constant: the discriminator D reads the outer product of features and beliefs,
`(batch, d K)`, so that the domains are aligned class by class, and no gradient
of D reaches the head. Where d K is above 4096, D reads a random projection of
it to 1024 values, (f R_f) (g R_g) / sqrt(1024) with fixed Gaussian R (sizes
unverified). With `entropy_weights` an image weighs 1 + exp(-entropy of g)
within its domain: sure beliefs count more. `strength`, `hidden_units` and the
authors' optimiser are those of the domain-adversarial network.

Row: M27 (article 003; article 004).
Source: Long et al. 2018. https://arxiv.org/abs/1705.10667
"""

import numpy as np
from keras import ops

from ktransfer.engine.kinds import Count, NotNegative
from ktransfer.seeds import stream
from ktransfer.stages.domains import adversary, train_on_domains, two_domains

_WIDEST = 4096
_NUM_PROJECTIONS = 1024


def transfer(
    target,
    source,
    *,
    steps,
    seed,
    strength: NotNegative = 1.0,
    hidden_units: Count = 100,
    entropy_weights: bool = False,
    from_source: bool = False,
    **training,
):
    network, both = two_domains(
        target, source, seed=seed, from_source=from_source
    )
    weigh = _certainty if entropy_weights else None
    both, penalty = _with_adversary(both, seed, hidden_units, strength, weigh)
    options = {"steps": steps, "seed": seed, **training}
    train_on_domains(network, both, target, source, penalty, **options)
    return network


def _with_adversary(both, seed, hidden_units, strength, weigh):
    """Return the `adversary` that reads features together with beliefs."""
    joint = {
        name: _joint(both.output[f"{name}_features"], both.output[name], seed)
        for name in ("target", "source")
    }
    return adversary(
        both,
        joint,
        seed=seed,
        hidden_units=hidden_units,
        strength=strength,
        weigh=weigh,
    )


def _joint(features, logits, seed):
    """Return the outer product of features and beliefs, or its projection."""
    beliefs = ops.stop_gradient(ops.softmax(logits, axis=-1))
    width, num_classes = features.shape[-1], logits.shape[-1]
    if width * num_classes <= _WIDEST:
        product = ops.einsum("bd,bk->bdk", features, beliefs)
        return ops.reshape(product, (-1, width * num_classes))
    # Drawn alike for both domains.
    rng = np.random.default_rng(stream(seed, "projection"))
    first, second = (
        ops.matmul(x, rng.normal(size=(n, _NUM_PROJECTIONS)).astype("float32"))
        for x, n in ((features, width), (beliefs, num_classes))
    )
    return first * second / _NUM_PROJECTIONS**0.5


def _certainty(logits):
    """Return 1 + exp(-entropy), `(batch, 1)`, a constant to the gradient."""
    logs = ops.log_softmax(logits, axis=-1)
    negative = ops.sum(ops.exp(logs) * logs, axis=-1, keepdims=True)
    return ops.stop_gradient(1 + ops.exp(negative))
