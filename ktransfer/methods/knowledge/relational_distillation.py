"""Relational distillation: the student keeps the teacher's geometry.

L = CE + distance_strength x Huber(psi_student, psi_teacher) +
angle_strength x Huber(cos_student, cos_teacher). psi are the distances of all
pairs of features in the batch divided by the mean of the positive ones, cos
the cosines of the angles at j of all triplets (i, j, k); Huber turns linear
at 1 and is a mean over pairs or triplets, as in RepDistiller, whose strengths
25 and 50 are the default. Nothing changes when features are turned, scaled or
shifted, and the widths may differ. Student and teacher are those of
distillation; `teacher_share` is ours.

Row: M12 (article 004, section 2, item 3: relations).
Source: Park et al. 2019, RKD. https://arxiv.org/abs/1904.05068
"""

import keras
from keras import layers

from ktransfer.engine.kinds import NotNegative, Share
from ktransfer.engine.losses import (
    cross_entropy,
    huber,
    relative_distances,
    triplet_angles,
)
from ktransfer.engine.training import fit
from ktransfer.models.layers import InferenceMode
from ktransfer.models.surgery import cut, inline
from ktransfer.stages.heads import small_network
from ktransfer.stages.teachers import teacher


def transfer(
    target,
    source,
    *,
    steps,
    seed,
    distance_strength: NotNegative = 25.0,
    angle_strength: NotNegative = 50.0,
    teacher_share: Share = 0.5,
    **training,
):
    student = small_network(target, seed, name="student")
    teach, left = teacher(
        target, source, steps=steps, share=teacher_share, seed=seed, **training
    )

    def loss(labels, outputs):
        total = cross_entropy(labels, outputs["logits"])
        own, given = outputs["student"], outputs["teacher"]
        if distance_strength:
            apart = huber(relative_distances(own), relative_distances(given))
            total = total + distance_strength * apart
        if angle_strength:
            total = total + angle_strength * huber(
                triplet_angles(own), triplet_angles(given)
            )
        return total

    related = distance_strength or angle_strength
    fit(
        _compared(student, teach) if related else student,
        target.train,
        steps=left,
        seed=seed,
        loss=loss if related else cross_entropy,
        **training,
    )
    return student


def _compared(student, teach):
    """Return raw images -> logits, and the features of both networks."""
    mine = inline(student, tap=["features", "logits"])
    guide = InferenceMode(cut(teach, "features"), name="teacher")
    outputs = {
        "logits": mine.output["logits"],
        "student": layers.Flatten()(mine.output["features"]),
        "teacher": layers.Flatten()(guide(mine.input)),
    }
    return keras.Model(mine.input, outputs, name="compared")
