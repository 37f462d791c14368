"""Soft sharing: a tower for each task, and a pull between equal layers.

L = CE(target) + CE(source) + strength x sum ||W_s - W_t||^2 over the weights
of the backbones, paired by layer; the heads are free. Both towers have one
architecture and start from the same weights: the source's features if
`from_source`, else a fresh network. Strength 0 trains two single-task
networks side by side; a very large one leaves the towers almost equal.

Row: M24 (article 003).
Source: Duong et al. 2015, Low Resource Dependency Parsing. https://doi.org/10.3115/v1/P15-2139
"""

from keras import ops

from ktransfer.engine.kinds import NotNegative
from ktransfer.engine.losses import summed_cross_entropy
from ktransfer.engine.training import fit
from ktransfer.stages.streams import first_backbone, two_streams


def transfer(
    target,
    source,
    *,
    steps,
    seed,
    strength: NotNegative = 1e-3,
    from_source: bool = False,
    **training,
):
    towers = [
        first_backbone(source, seed=seed, from_source=from_source)
        for _ in ("target", "source")
    ]
    both = two_streams(target, source, *towers, seed=seed)
    fit(
        both,
        {"target": target.train, "source": source.task.train},
        steps=steps,
        seed=seed,
        loss=_pulling(towers, strength) if strength else summed_cross_entropy,
        **training,
    )
    return both.get_layer("target_network")


def _pulling(towers, strength):
    """Return the loss that the distance of the towers adds to."""
    pairs = list(zip(*(t.trainable_variables for t in towers), strict=True))

    def pulled(labels, outputs):
        distance = sum(ops.sum(ops.square(w_s - w_t)) for w_t, w_s in pairs)
        return summed_cross_entropy(labels, outputs) + strength * distance

    return pulled
