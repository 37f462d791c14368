"""Attention transfer: the student looks where the teacher looks.

Q = mean over channels of f^2, flattened and divided by its norm, f a block's
map; L = CE + strength x mean over positions of (Q_student - Q_teacher)^2,
summed over `blocks` (None: all that both networks have as maps). The mean of
squares is the form of the authors' code, to which strength 1000 belongs; the
paper has a norm of the difference. Of maps of different size the larger mean
of f^2 is average-pooled to the smaller (ours). Student and teacher are those
of distillation; `teacher_share` is ours.

Row: M12 (article 004, section 2, item 3).
Source: Zagoruyko and Komodakis 2017. https://arxiv.org/abs/1612.03928
"""

import keras
from keras import ops

from ktransfer.engine.kinds import Layers, NotNegative, Share
from ktransfer.engine.losses import (
    attention_energy,
    attention_map,
    cross_entropy,
)
from ktransfer.engine.training import fit
from ktransfer.errors import NotApplicable
from ktransfer.models.blocks import blocks as blocks_of
from ktransfer.models.layers import InferenceMode
from ktransfer.models.surgery import cut, inline
from ktransfer.stages.heads import small_network
from ktransfer.stages.teachers import same_size, teacher


def transfer(
    target,
    source,
    *,
    steps,
    seed,
    strength: NotNegative = 1000.0,
    blocks: Layers | None = None,
    teacher_share: Share = 0.5,
    **training,
):
    student = small_network(target, seed, name="student")
    names = _common_maps(student, cut(source.model, "features"), blocks)
    teach, left = teacher(
        target, source, steps=steps, share=teacher_share, seed=seed, **training
    )

    def loss(labels, outputs):
        pairs = zip(outputs["student"], outputs["teacher"])
        apart = sum(ops.mean(ops.square(a - b)) for a, b in pairs)
        return cross_entropy(labels, outputs["logits"]) + strength * apart

    fit(
        _compared(student, teach, names) if strength else student,
        target.train,
        steps=left,
        seed=seed,
        loss=loss if strength else cross_entropy,
        **training,
    )
    return student


def _common_maps(student, features, wanted):
    """Return the names of the blocks that are maps in both networks."""
    common = _maps(student) & _maps(features)
    names = sorted(common) if wanted is None else list(wanted)
    missing = [name for name in names if name not in common]
    if missing or not names:
        raise NotApplicable(
            f"student and source have no 4-D feature map {missing or ''} in "
            f"common; expected blocks among {sorted(common)}."
        )
    return names


def _maps(model):
    flat = inline(model, tap=[*blocks_of(model)])
    return {name for name, x in flat.output.items() if len(x.shape) == 4}


def _compared(student, teach, names):
    """Return raw images -> logits, and the attention maps of both networks."""
    mine = inline(student, tap=[*names, "logits"])
    theirs = InferenceMode(inline(teach, tap=names), name="teacher")(mine.input)
    outputs = {"logits": mine.output["logits"], "student": [], "teacher": []}
    for name in names:
        pair = same_size(
            attention_energy(mine.output[name]), attention_energy(theirs[name])
        )
        own, given = map(attention_map, pair)
        outputs["student"].append(own)
        outputs["teacher"].append(given)
    return keras.Model(mine.input, outputs, name="compared")
