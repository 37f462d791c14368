"""Deep adaptation (DAN): top layers distributed alike in both domains.

L = CE(source) + strength x sum of MMD^2(source, target) over the top layers,
here the features and the logits. MMD^2 is the quadratic estimator, never
negative, under the sum of five Gaussians of variance 2^k x the mean squared
distance, k = -3, ..., 1. `strength` 1 is that of TLlib, whose rate of 0.003 is
not taken over: every method here trains at one.

Row: M27 (article 003; article 004).
Source: Long et al. 2015. https://arxiv.org/abs/1502.02791
"""

from ktransfer.engine.kinds import NotNegative
from ktransfer.engine.losses import kernel_distance
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
        return strength * _distance(outputs)

    options = {"steps": steps, "seed": seed, **training}
    train_on_domains(
        network, both, target, source, penalty if strength else None, **options
    )
    return network


def _distance(outputs):
    """Return the sum of MMD^2 over the top layers, a scalar."""
    return sum(
        kernel_distance(outputs[f"source{top}"], outputs[f"target{top}"])
        for top in ("_features", "")
    )
