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
from keras import layers, ops

from ktransfer.layers import Beside, InferenceMode
from ktransfer.losses import cross_entropy
from ktransfer.stages import small_network, teacher
from ktransfer.surgery import cut, inline
from ktransfer.training import fit


def transfer(
    target,
    source,
    *,
    steps,
    seed,
    learning_rate=1e-3,
    distance_strength=25.0,
    angle_strength=50.0,
    teacher_share=0.5,
    **training,
):
    student = small_network(target, seed, name="student")
    training["learning_rate"] = learning_rate
    teach, left = teacher(
        target, source, steps=steps, share=teacher_share, seed=seed, **training
    )

    def loss(labels, outputs):
        total = cross_entropy(labels, outputs["logits"])
        own, given = outputs["student"], outputs["teacher"]
        if distance_strength:
            apart = _huber(_distances(own), _distances(given))
            total = total + distance_strength * apart
        if angle_strength:
            total = total + angle_strength * _huber(
                _angles(own), _angles(given)
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
    logits, given = mine.output["logits"], guide(mine.input)
    outputs = {
        "logits": logits,
        "student": layers.Flatten()(mine.output["features"]),
        "teacher": layers.Flatten()(Beside()([logits, given])),
    }
    return keras.Model(mine.input, outputs, name="compared")


def _lengths(features):
    """Return the distances of all pairs, `(n, n)`.

    The root is not taken at 0, where it has no gradient: equal images are at
    distance 0, and without influence.
    """
    squares = ops.sum(ops.square(features[:, None] - features), axis=-1)
    positive = squares > 0
    root = ops.sqrt(ops.where(positive, squares, 1.0))
    return ops.where(positive, root, 0.0)


def _distances(features):
    lengths = _lengths(features)
    positive = ops.sum(ops.cast(lengths > 0, lengths.dtype))
    mean = ops.sum(lengths) / ops.maximum(positive, 1.0)
    return lengths / ops.where(mean > 0, mean, 1.0)


def _angles(features):
    """Return the cosines of the angles i-j-k, `(j, i, k)`; 0 beside a 0.

    (f_i - f_j)(f_k - f_j)' comes from the products of all pairs, since all
    differences of all triplets would cost several times the student.
    """
    lengths = _lengths(features)
    centred = features - ops.mean(features, axis=0)
    product = ops.matmul(centred, ops.transpose(centred))
    dots = product - product[:, :, None] - product[:, None, :]
    dots = dots + ops.diagonal(product)[:, None, None]
    inverse = 1 / ops.where(lengths > 0, lengths, 1.0)
    inverse = ops.where(lengths > 0, inverse, 0.0)
    return dots * inverse[:, :, None] * inverse[:, None, :]


def _huber(values, wanted):
    error = ops.abs(values - ops.stop_gradient(wanted))
    return ops.mean(ops.where(error < 1, 0.5 * ops.square(error), error - 0.5))
