"""Gradual unfreezing: each stage trains the head and one more block."""

import pytest
from helpers import bytes_by_block, moved_names

from ktransfer.errors import NotApplicable
from ktransfer.methods.finetuning import gradual_unfreezing
from ktransfer.methods.finetuning.gradual_unfreezing import transfer
from ktransfer.methods.parameter import fine_tuning
from ktransfer.models.surgery import trainable_count

OPTIONS = {"steps": 8, "seed": 5, "batch_size": 16}
# The head is a block of its own, named after its layer.
BLOCKS = ["block1", "block2", "block3", "logits"]


@pytest.fixture
def stages(spy):
    """The calls of `fit`, one a stage."""
    return spy(gradual_unfreezing, watch=bytes_by_block)


def moved(stages):
    """Return the names of the blocks that each stage moved."""
    return [moved_names(stage.before, stage.after) for stage in stages]


def test_each_stage_moves_the_head_and_one_more_block(world, stages):
    tuned = fine_tuning.transfer(*world, **{**OPTIONS, "steps": 0})
    model = transfer(*world, **OPTIONS)
    assert moved(stages) == [set(BLOCKS[first:]) for first in (3, 2, 1, 0)]
    assert trainable_count(model) == trainable_count(tuned)
    # The stages do not all begin with the same images.
    assert len({stage.kwargs["seed"] for stage in stages}) == 4


def test_each_stage_starts_afresh_and_says_what_it_trained(world, fits):
    transfer(*world, **{**OPTIONS, "steps": 6})
    # Six steps in four stages: all are taken.
    assert sum(fit.steps for fit in fits) == 6
    counts = [fit.trainable_parameters for fit in fits]
    assert counts == sorted(set(counts)) and len(counts) == 4
    # With frozen blocks below, nothing below the first thawed one is redone.
    assert [fit.cached > 0 for fit in fits] == [True, True, True, False]


@pytest.mark.parametrize(
    ("num_stages", "first_blocks"), [(2, [3, 0]), (3, [3, 2, 0])]
)
def test_fewer_stages_thaw_several_blocks_at_once(
    world, stages, num_stages, first_blocks
):
    transfer(*world, num_stages=num_stages, **OPTIONS)
    assert moved(stages) == [set(BLOCKS[first:]) for first in first_blocks]


def test_a_single_stage_is_fine_tuning(world):
    options = {**OPTIONS, "steps": 3}
    model = transfer(*world, num_stages=1, **options)
    assert bytes_by_block(model) == bytes_by_block(
        fine_tuning.transfer(*world, **options)
    )


@pytest.mark.parametrize("num_stages", [0, 5])
def test_more_stages_than_blocks_and_the_head_do_not_apply(
    world, num_stages, fits
):
    with pytest.raises(NotApplicable, match="expected 1 to 4"):
        transfer(*world, num_stages=num_stages, **OPTIONS)
    assert not fits
