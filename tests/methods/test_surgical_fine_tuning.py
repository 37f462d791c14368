"""Surgical fine-tuning: the named block and the head move, nothing else."""

import keras
import pytest
from helpers import bytes_by_block
from keras import layers

from ktransfer.errors import KTransferError, NotApplicable
from ktransfer.methods.feature import linear_probe
from ktransfer.methods.finetuning.surgical_fine_tuning import transfer
from ktransfer.methods.parameter import fine_tuning
from ktransfer.models.blocks import blocks
from ktransfer.models.own import Source
from ktransfer.models.surgery import attach_head, trainable_count

OPTIONS = {"steps": 3, "seed": 5, "batch_size": 16}


@pytest.mark.parametrize(
    ("block", "thawed"),
    [
        ("block1", ["block1"]),
        (("block1", "block3"), ["block1", "block3"]),
        (None, ["block3"]),
    ],
)
def test_the_named_block_and_the_head_move_and_all_else_stays(
    world, block, thawed
):
    start, model = (
        transfer(*world, block=block, **{**OPTIONS, "steps": steps})
        for steps in (0, 3)
    )
    before, after = bytes_by_block(start), bytes_by_block(model)
    theirs = bytes_by_block(world[1].model)
    for name in after:
        moved = name in [*thawed, "logits"]
        assert (after[name] != before[name]) == moved
        assert moved or after[name] == theirs[name]
    count = sum(
        layer.count_params()
        for name in [*thawed, "logits"]
        for layer in blocks(model)[name]
    )
    # Two moving statistics a channel are not trained.
    filters = {"block1": 4, "block2": 6, "block3": 8}
    statistics = sum(2 * filters[name] for name in thawed)
    assert trainable_count(model) == count - statistics


@pytest.mark.parametrize(
    ("block", "other"),
    [
        (("block1", "block2", "block3"), fine_tuning),
        ((), linear_probe),
    ],
)
def test_its_ends_are_other_methods(world, block, other):
    model = transfer(*world, block=block, **OPTIONS)
    assert bytes_by_block(model) == bytes_by_block(
        other.transfer(*world, **OPTIONS)
    )


def test_the_last_block_is_trained_on_features_computed_once(world, fits):
    transfer(*world, **OPTIONS)
    (fit,) = fits
    assert fit.cached


@pytest.mark.parametrize("block", ["block4", ("block1", "features")])
def test_a_name_without_weights_is_refused(world, block):
    # It would otherwise be a linear probe, without a word.
    with pytest.raises(KTransferError, match="Valid: block1, block2, block3"):
        transfer(*world, block=block, **OPTIONS)


def test_a_source_without_weights_does_not_apply(world):
    target, source = world
    inputs = keras.Input((12, 12, 3), dtype="uint8")
    x = layers.Rescaling(1 / 255)(inputs)
    x = layers.Flatten(name="features")(x)
    model = attach_head(keras.Model(inputs, x), 3, seed=0)
    with pytest.raises(NotApplicable, match="no weights"):
        transfer(target, Source(model, source.task), **OPTIONS)
