"""L2-SP: fine-tuning with weight decay towards the source and not towards 0.

L = CE + strength / 2 ||W - W_s||^2 over the kernels of the backbone
+ head_strength / 2 ||W_head||^2 over the kernel of the new head, both summed
over weights and not averaged. It takes the place of weight decay; biases and
BatchNorm's gamma and beta are free. The strengths are those of the authors'
training script (their flags say 0.01 for both), which runs 9,000 steps of SGD
with momentum 0.9, rate 0.01 and batches of 64; under SGD it diverges unless
rate x strength stays below 1.

Row: M25 (article 003).
Source: Li, Grandvalet and Davoine 2018. https://arxiv.org/abs/1802.01483
"""

from keras import ops

from ktransfer.engine.kinds import NotNegative
from ktransfer.engine.losses import cross_entropy
from ktransfer.engine.training import fit
from ktransfer.models.surgery import classifier, copy_backbone
from ktransfer.stages.weights import anchor, kernels


def transfer(
    target,
    source,
    *,
    steps,
    seed,
    strength: NotNegative = 0.1,
    head_strength: NotNegative = 0.01,
    **training,
):
    backbone = copy_backbone(source.model)
    model = classifier(backbone, target, seed=seed)
    distance = anchor(kernels(backbone))
    head = model.get_layer("logits").kernel

    def loss(labels, logits):
        total = cross_entropy(labels, logits)
        if strength:
            total = total + strength * distance()
        if head_strength:
            total = total + head_strength / 2 * ops.sum(ops.square(head))
        return total

    fit(model, target.train, steps=steps, seed=seed, loss=loss, **training)
    return model
