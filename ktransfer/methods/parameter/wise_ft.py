"""WiSE-FT: the mean, in weights, of a linear probe and of its fine-tuning.

theta = (1 - alpha) theta_probe + alpha theta_tuned, over all weights with the
head among them: theta_probe is the source's backbone under a fitted linear
head, theta_tuned what becomes of that very model when all of it is trained.
The probe takes `probe_share` of the steps (ours). Between the ends BatchNorm's
statistics are re-estimated on the target's images.

Source: Wortsman et al. 2022, WiSE-FT. https://arxiv.org/abs/2109.01903
"""

from ktransfer.engine.kinds import Share
from ktransfer.engine.training import fit
from ktransfer.models.surgery import copy_backbone, unfreeze
from ktransfer.stages.heads import divided, probed
from ktransfer.stages.weights import merge


def transfer(
    target,
    source,
    *,
    steps,
    seed,
    alpha: Share = 0.5,
    probe_share: Share = 0.5,
    **training,
):
    probing, tuning, later = divided(steps, probe_share, seed=seed)
    model = probed(
        target,
        copy_backbone(source.model),
        steps=probing,
        seed=seed,
        **training,
    )
    probe = [variable.numpy() for variable in model.weights]
    unfreeze(model)
    fit(model, target.train, steps=tuning, seed=later, **training)
    tuned = [variable.numpy() for variable in model.weights]
    merge(target, model, [probe, tuned], [1 - alpha, alpha])
    return model
