"""Target oracle: trained on the target's own labels, which no rival sees.

L = CE(target), on the network and under the rules of the family: the upper
bound, no method of adaptation. The share of the gap that a method recovers is
(its accuracy - source only) / (oracle - source only).

Row: M27 (article 003; article 004).
Source: Ganin and Lempitsky 2015. https://arxiv.org/abs/1409.7495
"""

from ktransfer.engine.training import fit
from ktransfer.stages.domains import two_domains


def transfer(
    target, source, *, steps, seed, from_source: bool = False, **training
):
    network, _ = two_domains(target, source, seed=seed, from_source=from_source)
    fit(network, target.train, steps=steps, seed=seed, **training)
    return network
