"""Domain-adversarial network (DANN): features that hide their domain.

L = CE(source) + BCE(D(reverse(f)), domain): the discriminator D learns to tell
source from target by the features f, and the reversed gradient teaches the
backbone to give it nothing to tell by, at lambda = strength (2 / (1 + exp(-10
p)) - 1) with p the share of steps done. D itself learns at weight 1. D has
`hidden_units` 100 (unverified as the authors' for this size of network) and is
not in the result. The authors train by SGD with momentum 0.9 at
0.01 / (1 + 10 p)^0.75: `optimizer` "sgd", `schedule` "annealed".

Row: M27 (article 003; article 004).
Source: Ganin et al. 2016. https://arxiv.org/abs/1505.07818
"""

from ktransfer.engine.kinds import Count, NotNegative
from ktransfer.stages.domains import adversary, train_on_domains, two_domains


def transfer(
    target,
    source,
    *,
    steps,
    seed,
    strength: NotNegative = 1.0,
    hidden_units: Count = 100,
    from_source: bool = False,
    **training,
):
    network, both = two_domains(
        target, source, seed=seed, from_source=from_source
    )
    features = {
        name: both.output[f"{name}_features"] for name in ("target", "source")
    }
    both, penalty = adversary(
        both, features, seed=seed, hidden_units=hidden_units, strength=strength
    )
    options = {"steps": steps, "seed": seed, **training}
    train_on_domains(network, both, target, source, penalty, **options)
    return network
