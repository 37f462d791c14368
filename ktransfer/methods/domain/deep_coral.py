"""Deep CORAL: logits that vary alike in both domains.

L = CE(source) + strength x ||C_s - C_t||^2 / (4 d^2), with C the covariances
(by n - 1) of the d logits over the batches of the two domains. Like the
authors, the distance is taken at the classification layer; its gradient and
that of the cross-entropy both reach the whole backbone. `strength` 1 is ours:
the authors choose it so that both losses end alike (unverified). Libraries
that take mean squares, or add a distance of means, count it in other units.

Row: M27 (article 003; article 004).
Source: Sun and Saenko 2016. https://arxiv.org/abs/1607.01719
"""

from ktransfer.engine.kinds import NotNegative
from ktransfer.engine.losses import covariance_distance
from ktransfer.stages.domains import train_on_domains, two_domains


def transfer(
    target,
    source,
    *,
    steps,
    seed,
    strength: NotNegative = 1.0,
    from_source: bool = False,
    **training,
):
    network, both = two_domains(
        target, source, seed=seed, from_source=from_source
    )

    def penalty(outputs):
        distance = covariance_distance(outputs["source"], outputs["target"])
        return strength * distance

    options = {"steps": steps, "seed": seed, **training}
    train_on_domains(
        network, both, target, source, penalty if strength else None, **options
    )
    return network
