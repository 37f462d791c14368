"""Adaptive BatchNorm (AdaBN): source only, with the target's own statistics.

The network is trained as by `source_only`; then every BatchNorm layer gets the
mean and the variance of its inputs on the target's unlabelled images, bottom
up, and nothing else changes: it costs one pass over the images, and has
no hyper-parameter of its own. `from_source` starts from the source's backbone
instead of a fresh one, as in the whole family; that needs BatchNorm in it.

Row: M27 (article 003; article 004).
Source: Li et al. 2016. https://arxiv.org/abs/1603.04779
"""

from keras.layers import BatchNormalization

from ktransfer.engine.normalization import reestimate_statistics
from ktransfer.errors import NotApplicable
from ktransfer.models.graph import leaves
from ktransfer.stages.domains import (
    train_on_source,
    two_domains,
    without_labels,
)


def transfer(
    target, source, *, steps, seed, from_source: bool = False, **training
):
    network, both = two_domains(
        target, source, seed=seed, from_source=from_source
    )
    if not any(isinstance(x, BatchNormalization) for x in leaves(network)):
        raise NotApplicable(
            f"the network {network.name!r} has no BatchNorm layer; expected "
            "at least one, whose statistics are to be the target's."
        )
    train_on_source(both, source, steps=steps, seed=seed, **training)
    reestimate_statistics(network, without_labels(target))
    return network
