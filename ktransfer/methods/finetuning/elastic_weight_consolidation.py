"""EWC: fine-tuning that holds each weight by how much the source needs it.

L = CE + strength / 2 sum of F_i (W_i - W_s,i)^2 over all trained weights of
the backbone, biases, gamma and beta included. F is the diagonal Fisher
information of the source on `num_images` of its own training images: W_s is
held where the source's answers depend on it. With F = 1 on the kernels and 0
elsewhere it is L2-SP without a term for the head.

No strength is right for all tasks: report a curve over several, never one
point. The default and `num_images` are ours. If the loss is read as a
posterior given both tasks, strength is the number of source images for each
labelled target image.

Row: M25 (article 003).
Source: Kirkpatrick et al. 2017. https://arxiv.org/abs/1612.00796
"""

from ktransfer.engine.kinds import Count, NotNegative
from ktransfer.engine.losses import cross_entropy
from ktransfer.engine.training import fit
from ktransfer.measures.fisher import diagonal_fisher
from ktransfer.models.own import answering
from ktransfer.models.surgery import classifier, copy, copy_backbone, cut
from ktransfer.stages.weights import anchor


def transfer(
    target,
    source,
    *,
    steps,
    seed,
    strength: NotNegative = 100.0,
    num_images: Count = 256,
    **training,
):
    backbone = copy_backbone(source.model)
    model = classifier(backbone, target, seed=seed)
    if not strength:
        fit(model, target.train, steps=steps, seed=seed, **training)
        return model
    importances = _importances(source, num_images, seed)
    distance = anchor(backbone.trainable_variables, importances)

    def loss(labels, logits):
        return cross_entropy(labels, logits) + strength * distance()

    fit(model, target.train, steps=steps, seed=seed, loss=loss, **training)
    return model


def _importances(source, num_images, seed):
    """Return the source's Fisher of each trainable backbone variable."""
    network = copy(answering(source))
    return diagonal_fisher(
        network,
        source.task.train.x,
        cut(network, "features").trainable_variables,
        num_images=num_images,
        seed=seed,
    )
