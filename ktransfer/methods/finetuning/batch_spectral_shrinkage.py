"""BSS: fine-tuning that lets the weakest directions of the features vanish.

L = CE + strength x sum of the `num_values` smallest squared singular values
of F, the features of a batch, `(n, d)`, of which there are min(n, d). They
carry what does not transfer. A feature map is flattened.

The squares are taken as ||F'u||^2 along the eigenvectors u of F F' (of F' F if
n > d), and u counts as constant: that is the exact gradient where the values
differ, and a finite one where they are equal. Values of 0 are passed over: an
image that is in a batch twice makes one, and it would hide all others.

Row: M25 (article 003).
Source: Chen et al. 2019. https://proceedings.neurips.cc/paper/2019/hash/c6bff625bdb0393992c9d4db0c6bbe45-Abstract.html
"""

import math

from keras import ops

from ktransfer.engine.kinds import Count, NotNegative
from ktransfer.engine.losses import cross_entropy
from ktransfer.engine.training import fit
from ktransfer.models.surgery import classifier, copy_backbone, inline


def transfer(
    target,
    source,
    *,
    steps,
    seed,
    strength: NotNegative = 1e-3,
    num_values: Count = 1,
    **training,
):
    backbone = copy_backbone(source.model)
    model = classifier(backbone, target, seed=seed)
    tapped = inline(model, tap=["features", "logits"])
    fit(
        tapped if strength else model,
        target.train,
        steps=steps,
        seed=seed,
        loss=_shrinking(strength, num_values) if strength else cross_entropy,
        **training,
    )
    return model


def _shrinking(strength, num_values):
    """Return the loss that the weakest directions add to."""

    def loss(labels, outputs):
        weakest = _smallest_squares(outputs["features"], num_values)
        return cross_entropy(labels, outputs["logits"]) + strength * weakest

    return loss


# Share of the largest squared value below which float32 cannot tell it from 0.
_ZERO = 3e-7


def _smallest_squares(features, num_values):
    """Return the sum of the smallest squared singular values, a scalar."""
    flat = ops.reshape(features, (-1, math.prod(features.shape[1:])))
    if flat.shape[0] > flat.shape[1]:
        flat = ops.transpose(flat)
    gram = ops.stop_gradient(ops.matmul(flat, ops.transpose(flat)))
    # A divergence is left to `fit`, which names it: eigh would raise at NaN.
    values, vectors = ops.eigh(ops.nan_to_num(gram, posinf=0.0, neginf=0.0))
    known = ops.cast(values > _ZERO * values[-1], "float32")
    weakest = known * ops.cast(ops.cumsum(known) <= num_values, "float32")
    along = ops.matmul(ops.transpose(vectors), flat)
    return ops.sum(weakest * ops.sum(ops.square(along), axis=-1))
