"""Layer transfer: exactly the lowest blocks are the source's."""

import pytest
from helpers import bytes_by_block, bytes_of, defaults, small_world

from ktransfer.errors import NotApplicable
from ktransfer.methods.feature import linear_probe
from ktransfer.methods.parameter import fine_tuning
from ktransfer.methods.parameter.layer_transfer import transfer
from ktransfer.methods.structure import structure_transfer
from ktransfer.models.blocks import blocks
from ktransfer.models.surgery import copy_backbone, fresh

OPTIONS = {"steps": 3, "seed": 5, "batch_size": 16}


@pytest.mark.parametrize(
    ("num_blocks", "freeze_copied", "other"),
    [
        (3, True, linear_probe),
        (3, False, fine_tuning),
        (0, True, structure_transfer),
    ],
)
def test_its_ends_are_other_methods(num_blocks, freeze_copied, other):
    target, source = small_world()
    model = transfer(
        target,
        source,
        num_blocks=num_blocks,
        freeze_copied=freeze_copied,
        **OPTIONS,
    )
    same = other.transfer(target, source, **OPTIONS)
    assert bytes_of(model) == bytes_of(same)


@pytest.mark.parametrize("freeze_copied", [True, False])
def test_exactly_the_copied_blocks_are_the_sources(freeze_copied):
    target, source = small_world(normalised=True)
    start, model = (
        transfer(
            target,
            source,
            num_blocks=2,
            freeze_copied=freeze_copied,
            **{**OPTIONS, "steps": steps},
        )
        for steps in (0, 3)
    )
    initial = fresh(copy_backbone(source.model), 5)
    for name in ("block1", "block2"):
        theirs = bytes_by_block(source.model)[name]
        assert bytes_by_block(start)[name] == theirs
        # Frozen (AnB) or tuned (AnB+), BatchNorm's statistics included.
        assert (bytes_by_block(model)[name] == theirs) == freeze_copied
        for layer in blocks(model)[name]:
            assert layer.trainable != freeze_copied
    assert bytes_by_block(start)["block3"] == bytes_by_block(initial)["block3"]
    assert bytes_by_block(model)["block3"] != bytes_by_block(initial)["block3"]


def test_more_blocks_than_there_are_do_not_apply():
    target, source = small_world()
    with pytest.raises(NotApplicable, match="0 to 3.*block1, block2, block3"):
        transfer(target, source, num_blocks=4, **OPTIONS)


def test_by_default_two_blocks_are_copied_and_frozen():
    found = defaults(transfer)
    assert (found["num_blocks"], found["freeze_copied"]) == (2, True)
