"""Probe, then fine-tune: fit a head on frozen features, then train everything.

Stage 1 is a linear probe of the source's backbone and takes `probe_share` of
the steps; stage 2 trains the whole model from that very head, so that the
features are not distorted for the sake of a random one. Share 0 is
fine-tuning, share 1 the linear probe. The default share is ours; the authors
sweep ten rates from 3e-7 to 1e-2 with cosine decay.

Row: M25 (article 003).
Source: Kumar et al. 2022, LP-FT. https://arxiv.org/abs/2202.10054
"""

from ktransfer.engine.kinds import Share
from ktransfer.engine.training import fit
from ktransfer.models.surgery import copy_backbone, unfreeze
from ktransfer.stages.heads import divided, probed


def transfer(
    target, source, *, steps, seed, probe_share: Share = 0.5, **training
):
    probing, tuning, later = divided(steps, probe_share, seed=seed)
    backbone = copy_backbone(source.model)
    model = probed(target, backbone, steps=probing, seed=seed, **training)
    if tuning:
        unfreeze(model)
        fit(model, target.train, steps=tuning, seed=later, **training)
    return model
