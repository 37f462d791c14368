"""Several teachers: distillation from the mean of their softened answers.

The wanted distribution is sum over i of w_i softmax(z_i / T): the teachers'
probabilities are averaged, not their logits. The rest is distillation, with
its `temperature` T and `strength`; each teacher that must be fine-tuned first
takes an equal part of `teacher_share` of the steps. `weights`:

    "uniform"              the same for each teacher
    "validation_accuracy"  in proportion to the accuracy on images held out of
                           the target's own, which no teacher then trains on
    a list of numbers      one a teacher; those of weight 0 are left out

All weights are scaled to sum to 1. Teachers may take other input shapes.

Row: M10 (article 000, section 2.3), M14 (article 001, section 1).
Source: You et al. 2017. https://doi.org/10.1145/3097983.3098135
"""

from typing import Literal

import numpy as np

from ktransfer.engine.kinds import NotNegative, Positive, Share, Weights
from ktransfer.engine.prediction import predict
from ktransfer.errors import NotApplicable, unknown
from ktransfer.stages.fusion import mixture, require_sources
from ktransfer.stages.heads import held_out, small_network
from ktransfer.stages.teachers import distill, teacher

_CHOICES = ("uniform", "validation_accuracy")


def transfer(
    target,
    *sources,
    steps,
    seed,
    weights: Literal["uniform", "validation_accuracy"] | Weights = "uniform",
    temperature: Positive = 4.0,
    strength: NotNegative = 0.9,
    teacher_share: Share = 0.5,
    **training,
):
    _check(sources, weights)
    held = weights == "validation_accuracy"
    taught, validation = held_out(target, seed) if held else (target, None)
    teachers, left = [], steps
    for number, source in enumerate(sources, start=1):
        teach, rest = teacher(
            taught,
            source,
            steps=steps,
            share=teacher_share / len(sources),
            seed=seed,
            number=number,
            **training,
        )
        teachers.append(teach)
        left -= steps - rest
    shares = _shares(weights, teachers, validation)
    student = small_network(target, seed, name="student")
    distill(
        student,
        target,
        mixture(teachers, shares, temperature),
        steps=left,
        seed=seed,
        temperature=temperature,
        strength=strength,
        **training,
    )
    return student


def _check(sources, weights):
    require_sources(sources)
    if isinstance(weights, str):
        if weights not in _CHOICES:
            raise unknown("choice of weights", weights, _CHOICES)
    elif len(weights) != len(sources) or min(weights) < 0 or not sum(weights):
        raise NotApplicable(
            f"weights {list(weights)} do not fit {len(sources)} teachers; "
            "expected a number >= 0 for each, not all of them 0."
        )


def _shares(weights, teachers, validation):
    if weights == "uniform":
        weights = [1.0] * len(teachers)
    elif weights == "validation_accuracy":
        guesses = [predict(t, validation.x).argmax(-1) for t in teachers]
        # One right answer more for each, so that they cannot all be 0.
        weights = [1 + np.sum(g == validation.y) for g in guesses]
    return np.asarray(weights, "float64") / np.sum(weights)
