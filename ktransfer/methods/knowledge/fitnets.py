"""FitNets: a hint from inside the teacher first, then distillation.

Stage 1, `hint_share` of the student's steps: the student up to `hint_block`
is trained on the mean of (r(f_student) - f_teacher)^2, f being the maps of
that block of either network. r is linear on the channels, a 1x1 convolution,
and bridges widths; of maps of different size the larger is average-pooled to
the smaller (ours), and a map beside a vector is averaged over its positions.
Stage 2: distillation, with its `temperature` and `strength`, in an epoch order
of its own. r is left behind.
`hint_block` and both shares are ours; a joint form would weight the hint by
100 (RepDistiller).

Row: M12 (article 004, section 2, item 3).
Source: Romero et al. 2015. https://arxiv.org/abs/1412.6550
"""

import keras
from keras import ops

from ktransfer.engine.kinds import Layer, NotNegative, Positive, Share
from ktransfer.engine.training import fit
from ktransfer.errors import KTransferError, NotApplicable
from ktransfer.models.layers import InferenceMode
from ktransfer.models.surgery import cut, head_layer
from ktransfer.stages.heads import divided, small_network
from ktransfer.stages.teachers import distill, same_size, teacher


def transfer(
    target,
    source,
    *,
    steps,
    seed,
    hint_block: Layer = "block2",
    hint_share: Share = 0.5,
    temperature: Positive = 4.0,
    strength: NotNegative = 0.9,
    teacher_share: Share = 0.5,
    **training,
):
    student = small_network(target, seed, name="student")
    below = cut(student, hint_block)
    _check_source(source, hint_block)
    teach, left = teacher(
        target, source, steps=steps, share=teacher_share, seed=seed, **training
    )
    hint_steps, rest, later = divided(left, hint_share, seed=seed)
    fit(
        _hints(below, cut(teach, hint_block), seed),
        target.train,
        steps=hint_steps,
        seed=seed,
        loss=_distance,
        **training,
    )
    distill(
        student,
        target,
        teach,
        steps=rest,
        seed=later,
        temperature=temperature,
        strength=strength,
        **training,
    )
    return student


def _check_source(source, hint_block):
    """Refuse, before any training, a source without that block."""
    try:
        cut(cut(source.model, "features"), hint_block)
    except KTransferError as error:
        raise NotApplicable(
            f"the source has no hint block {hint_block!r}: {error.message}"
        ) from error


def _hints(below, guide, seed):
    """Return raw images -> {"student": r(f_student), "teacher": f_teacher}.

    Args:
        below: the student up to the block; it is trained.
        guide: the frozen teacher up to the block.
        seed: of r.
    """
    wanted = InferenceMode(guide, name="teacher")(below.input)
    mine, wanted = same_size(below.output, wanted)
    # Dense acts on the last axis: on a map it is a 1x1 convolution.
    regressor = head_layer(wanted.shape[-1], "regressor", seed)
    given = regressor(mine)
    hints = {"student": given, "teacher": wanted}
    return keras.Model(below.input, hints, name="hints")


def _distance(_, outputs):
    return ops.mean(ops.square(outputs["student"] - outputs["teacher"]))
