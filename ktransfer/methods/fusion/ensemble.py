"""Ensemble: the mean of what several fine-tuned sources believe.

Each source is fine-tuned with its part of the steps, in an epoch order of its
own; the logits of the result are the log of the weighted mean of the members'
probabilities. `weights` "uniform" gives each member 1/n. "fitted" trains the
members without some of the target's own images and takes the weights that are
most likely on those, over the simplex (by expectation maximisation, which is
convex here).

Row: M22 (article 001, section 6.3).
Source: Dietterich 2000. https://doi.org/10.1007/3-540-45014-9_1
"""

from typing import Literal

import numpy as np
from keras import ops

from ktransfer.engine.prediction import predict
from ktransfer.engine.training import fit
from ktransfer.errors import unknown
from ktransfer.models.surgery import classifier, copy, copy_backbone
from ktransfer.seeds import stream
from ktransfer.stages.fusion import mixture, require_sources
from ktransfer.stages.heads import held_out


def transfer(
    target,
    *sources,
    steps,
    seed,
    weights: Literal["uniform", "fitted"] = "uniform",
    **training,
):
    if weights not in ("uniform", "fitted"):
        raise unknown("weighting", weights, ["uniform", "fitted"])
    require_sources(sources)
    validation = None
    if weights == "fitted" and len(sources) > 1:
        target, validation = held_out(target, seed)
    members = _members(target, sources, steps=steps, seed=seed, **training)
    shares = [1 / len(members)] * len(members)
    if validation:
        shares = _fitted(members, validation)
    named = [copy(m, f"member_{n}") for n, m in enumerate(members, start=1)]
    return mixture(named, shares)


def _members(target, sources, *, steps, seed, **training):
    """Return each source under a new head, trained for a part of the steps."""
    members = []
    for number, source in enumerate(sources):
        member = classifier(copy_backbone(source.model), target, seed=seed)
        # One order for all would show the same first images to each.
        order = stream(seed, "member", number) if number else seed
        steps_each = steps // len(sources)
        fit(member, target.train, steps=steps_each, seed=order, **training)
        members.append(member)
    return members


def _fitted(members, validation, rounds=200):
    """Return the shares under which the labels are most likely."""
    rows = np.arange(len(validation.y)), validation.y
    beliefs = [ops.softmax(predict(m, validation.x)) for m in members]
    chances = np.stack([np.asarray(belief)[rows] for belief in beliefs])
    return _most_likely(chances.astype("float64") + 1e-12, rounds)


def _most_likely(chances, rounds):
    """Return the mixture, list of shares, of chances `(members, images)`."""
    shares = np.full(len(chances), 1 / len(chances))
    for _ in range(rounds):
        joint = shares[:, None] * chances
        shares = (joint / joint.sum(axis=0)).mean(axis=1)
    return [float(share) for share in shares]
