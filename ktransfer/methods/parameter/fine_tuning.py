"""Fine-tuning: the source's features, copied, under a new head; all trained.

W_t = W_s + the sum of the optimiser's updates. `head_learning_rate` gives the
new head a rate of its own (M18: ten times the other); `weight_decay` adds
weight_decay / 2 ||kernel||^2 over all kernels, the head's and those of
separable convolutions and of attention among them.

Row: M3 (articles 000, 002, 003, 004), M18 (article 001, sections 3.2 and 4.1).
Source: Yosinski et al. 2014. https://arxiv.org/abs/1411.1792
"""

from keras import ops

from ktransfer.engine.kinds import NotNegative, Positive
from ktransfer.engine.losses import cross_entropy
from ktransfer.engine.training import fit
from ktransfer.models.surgery import classifier, copy_backbone
from ktransfer.stages.heads import own_rate
from ktransfer.stages.weights import kernels


def transfer(
    target,
    source,
    *,
    steps,
    seed,
    learning_rate: Positive = 1e-3,
    head_learning_rate: Positive | None = None,
    weight_decay: NotNegative = 0.0,
    **training,
):
    backbone = copy_backbone(source.model)
    model = classifier(backbone, target, seed=seed)
    fit(
        model,
        target.train,
        steps=steps,
        learning_rate=learning_rate,
        seed=seed,
        loss=_decaying(model, weight_decay) if weight_decay else cross_entropy,
        rates=own_rate(head_learning_rate, model.get_layer("logits")),
        **training,
    )
    return model


def _decaying(model, weight_decay):
    """Return the loss that the size of the kernels adds to."""
    decaying = kernels(model)

    def decayed(labels, logits):
        squares = sum(ops.sum(ops.square(kernel)) for kernel in decaying)
        return cross_entropy(labels, logits) + weight_decay / 2 * squares

    return decayed
