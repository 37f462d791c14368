"""Source only: trained on the source's labels, tested on the target.

L = CE(source). No target image is read, in BatchNorm neither: the lower bound
that every other method of this family has to beat. The network is that of the
source, with fresh weights; `from_source` starts from the source's own instead,
as in the whole family.

Row: M27 (article 003; article 004).
Source: Ben-David et al. 2010. https://doi.org/10.1007/s10994-009-5152-4
"""

from ktransfer.stages.domains import train_on_source, two_domains


def transfer(
    target, source, *, steps, seed, from_source: bool = False, **training
):
    network, both = two_domains(
        target, source, seed=seed, from_source=from_source
    )
    train_on_source(both, source, steps=steps, seed=seed, **training)
    return network
