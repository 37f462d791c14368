"""FitNets: the hint trains the lower student; the regressor is left behind."""

import itertools

import numpy as np
import pytest
from helpers import idle, renamed, small_backbone, small_task, weights_of

from ktransfer.engine import batches, training
from ktransfer.errors import KTransferError, NotApplicable
from ktransfer.methods.knowledge import distillation, fitnets
from ktransfer.methods.knowledge.fitnets import transfer
from ktransfer.models import backbones
from ktransfer.models.blocks import blocks
from ktransfer.models.own import Source
from ktransfer.models.surgery import attach_head, copy, cut, freeze
from ktransfer.stages import heads, teachers


def test_the_teacher_itself_behind_an_identity_is_at_distance_zero():
    target = small_task("target", 3)
    guide = cut(small_backbone(), "block2")
    freeze(guide)
    hints = fitnets._hints(copy(guide), guide, seed=0)
    regressor = hints.get_layer("regressor")
    assert float(fitnets._distance(None, hints(target.train.x))) > 0
    regressor.kernel.assign(np.eye(6))
    outputs = hints(target.train.x)
    assert outputs["student"].shape == (48, 3, 3, 6)
    assert float(fitnets._distance(None, outputs)) == 0


def test_a_teacher_with_dropout_is_read_as_it_serves():
    target = small_task("target", 3)
    guide = cut(small_backbone(dropout=0.5), "block2_pool")
    freeze(guide)
    below = cut(small_backbone(seed=1), "block2")
    hints = fitnets._hints(below, guide, seed=0)
    found = hints(target.train.x, training=True)["teacher"]
    np.testing.assert_array_equal(found, guide(target.train.x))


def test_the_distance_is_a_mean_of_squares():
    rng = np.random.default_rng(0)
    one, two = rng.normal(size=(2, 5, 3, 3, 4))
    found = fitnets._distance(None, {"student": one, "teacher": two})
    assert float(found) == pytest.approx(((one - two) ** 2).mean())


def test_hint_share_zero_is_distillation(world):
    target, source = world
    options = {"steps": 2, "seed": 1, "batch_size": 8}
    hinted = transfer(target, source, hint_share=0.0, **options)
    plain = distillation.transfer(target, source, **options)
    assert weights_of(hinted) == weights_of(plain)


@pytest.mark.parametrize("block", ["block2", "features"])
def test_the_hint_trains_up_to_its_block_and_no_further(world, block, fits):
    target, source = world
    model = transfer(
        target,
        source,
        steps=2,
        seed=1,
        batch_size=8,
        hint_block=block,
        hint_share=1.0,
    )
    (fit,) = fits
    assert fit.steps == 2 and fit.cached in (3 * 3 * 6, 8)
    start = heads.small_network(target, 1, name="student")
    # The regressor is not in the result.
    assert weights_of(model).keys() == weights_of(start).keys()
    moved = {
        name
        for name, layers in blocks(model).items()
        if (
            layers[0].kernel.numpy() != blocks(start)[name][0].kernel.numpy()
        ).any()
    }
    above = {"block2": {"block3", "logits"}, "features": {"logits"}}[block]
    assert moved == {"block1", "block2", "block3", "logits"} - above


def test_the_steps_are_divided(world, fits):
    target, source = world
    other = renamed(source)
    transfer(target, other, steps=6, seed=1, batch_size=8)
    assert [fit.steps for fit in fits] == [3, 1, 2]


def test_every_stage_has_an_epoch_order_of_its_own(world, spy):
    """Of one order all stages would see the same first images."""
    target, source = world
    other = renamed(source)
    hints, others = (
        spy(module, instead=idle) for module in (fitnets, teachers)
    )
    transfer(target, other, steps=12, seed=1)
    teaching, learning = others
    seeds = [call.kwargs["seed"] for call in (teaching, *hints, learning)]
    orders = [batches.epoch_order(48, 3, 16, seed) for seed in seeds]
    assert len(orders) == 3
    for one, two in itertools.combinations(orders, 2):
        assert not np.array_equal(one, two)
    # The student starts as it does without a teacher, or without a hint.
    assert seeds[1] == 1
    hints.clear()
    others.clear()
    transfer(target, source, steps=12, seed=1, hint_share=0.0)
    assert [call.kwargs["seed"] for call in (*hints, *others)] == [1, 1]


def test_the_student_runs_once_a_step():
    target = small_task("target", 3)
    below = cut(small_backbone(normalised=True, seed=1), "block2")
    guide = cut(small_backbone(), "block2")
    freeze(guide)
    first = blocks(below)["block1"]
    values = first[0](target.train.x / np.float32(255)).numpy()
    training.fit(
        fitnets._hints(below, guide, seed=0),
        target.train,
        steps=1,
        learning_rate=1e-3,
        seed=0,
        batch_size=48,
        loss=fitnets._distance,
        statistics="trained",
    )
    np.testing.assert_allclose(
        first[1].moving_mean, 0.01 * values.mean((0, 1, 2)), rtol=1e-3
    )


def test_a_block_that_is_not_there_is_refused_before_training(world, fits):
    target, source = world
    dense = Source(
        attach_head(backbones.mlp((12, 12, 3)), 3, seed=0), source.task
    )
    with pytest.raises(NotApplicable, match="no hint block 'block2'"):
        transfer(target, dense, steps=2, seed=0)
    with pytest.raises(KTransferError, match="block3"):
        transfer(target, source, steps=2, seed=0, hint_block="block33")
    assert not fits
