"""Structure transfer: the source's architecture without one of its weights.

W_t starts at W_0, a fresh initialisation of the source's features; with a new
head all of it is trained.

Row: M6 (article 000, section 2.2; article 004, section 3.2).
Source: control of Yosinski et al. 2014. https://arxiv.org/abs/1411.1792
"""

from ktransfer.models.surgery import fresh
from ktransfer.stages.heads import tuned


def transfer(target, source, *, steps, seed, **training):
    untrained = source._replace(model=fresh(source.model, seed))
    return tuned(target, untrained, steps=steps, seed=seed, **training)
