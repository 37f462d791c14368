"""Task arithmetic: a base plus what its descendants learned."""

import numpy as np
import pytest
from helpers import bytes_of, norms_of, small_task, small_world

from ktransfer.data import Split
from ktransfer.engine.normalization import reestimate_statistics
from ktransfer.engine.prediction import predict
from ktransfer.errors import NotApplicable
from ktransfer.methods.fusion import task_arithmetic
from ktransfer.methods.fusion.task_arithmetic import transfer
from ktransfer.methods.parameter import fine_tuning
from ktransfer.models import backbones
from ktransfer.models.own import Source
from ktransfer.models.surgery import attach_head, copy, copy_backbone, cut

START = {"steps": 0, "seed": 5}


@pytest.fixture
def world():
    """Three sources of one initialisation, the base first."""
    return small_world(3)


def backbone_of(model):
    return cut(model, "features")


@pytest.mark.parametrize("normalised", [False, True])
def test_strength_0_is_the_base(normalised):
    target, base, *sources = small_world(3, normalised=normalised)
    model = transfer(target, base, *sources, strength=0, **START)
    theirs = copy_backbone(base.model)
    assert bytes_of(backbone_of(model)) == bytes_of(theirs)


def test_one_source_at_strength_1_is_that_source_fine_tuned(world):
    target, base, source, _ = world
    options = {"steps": 2, "seed": 5, "batch_size": 16}
    model = transfer(target, base, source, strength=1, **options)
    tuned = fine_tuning.transfer(target, source, **options)
    assert bytes_of(model) == bytes_of(tuned)


@pytest.mark.parametrize("strength", [0.5, 0.3])
def test_it_is_the_base_plus_the_task_vectors(world, strength):
    target, *members = world
    model = transfer(target, *members, strength=strength, **START)
    zero, one, two = (
        [v.numpy().astype("float64") for v in x.trainable_variables]
        for x in (copy_backbone(source.model) for source in members)
    )
    mine = backbone_of(model).trainable_variables
    for variable, a, b, c in zip(mine, zero, one, two):
        wanted = a + strength * ((b - a) + (c - a))
        np.testing.assert_allclose(variable, wanted, rtol=1e-5, atol=1e-6)
        if strength == 0.5:
            # n sources at 1/n: their average, the base left out.
            average = (b + c) / 2
            np.testing.assert_allclose(variable, average, rtol=1e-5, atol=1e-6)


def test_a_merge_gets_statistics_of_its_own():
    target, *members = small_world(3, normalised=True)
    model = transfer(target, *members, strength=0.5, **START)
    twin = copy(model)
    reestimate_statistics(twin, target.train.x)
    norms, wanted = norms_of(model), norms_of(twin)
    assert len(norms) == 3
    for norm, other in zip(norms, wanted):
        mixed = np.mean(
            [
                s.model.get_layer("small").get_layer(norm.name).moving_mean
                for s in members[1:]
            ],
            axis=0,
        )
        np.testing.assert_array_equal(norm.moving_mean, other.moving_mean)
        np.testing.assert_array_equal(
            norm.moving_variance, other.moving_variance
        )
        assert abs(norm.moving_mean.numpy() - mixed).max() > 1e-5


def test_the_strength_is_chosen_on_images_held_out(world, spy):
    target, *members = world
    task, validation = task_arithmetic.held_out(target, 5)
    right = iter([3, 5, 5, 4])

    def nearest_mean(known, labels, new):
        return np.where(np.arange(len(new)) < next(right), validation.y, -1)

    calls = spy(task_arithmetic, "_nearest_mean", instead=nearest_mean)
    chosen = transfer(target, *members, **START)
    # Each strength is judged by the features of its own merge.
    for strength, call in zip(task_arithmetic.GRID, calls, strict=True):
        known, _, new = call.args
        assert (len(known), len(new)) == (39, 9)
        merged = transfer(target, *members, strength=strength, **START)
        wanted = predict(backbone_of(merged), task.train.x)
        np.testing.assert_allclose(known, wanted, atol=1e-5)
    # The smallest of equals.
    fixed = transfer(target, *members, strength=0.5, **START)
    assert bytes_of(chosen) == bytes_of(fixed)


def test_the_nearest_mean_of_a_class_is_what_it_says():
    rng = np.random.default_rng(0)
    # Off centre, so that the norms of the means tell.
    known, new = rng.normal(1, 2, size=(20, 3)), rng.normal(1, 2, size=(90, 3))
    labels = np.tile([0, 2, 5, 7], 5)
    means = {k: known[labels == k].mean(0) for k in (0, 2, 5, 7)}
    wanted = [
        min(means, key=lambda k: ((row - means[k]) ** 2).sum()) for row in new
    ]
    assert list(task_arithmetic._nearest_mean(known, labels, new)) == wanted


def test_other_architectures_do_not_apply(world):
    target, base, *_ = world
    other = attach_head(backbones.mlp((12, 12, 3)), 3, seed=0)
    with pytest.raises(NotApplicable, match="one architecture"):
        transfer(target, base, Source(other, base.task), steps=1, seed=0)


def test_a_base_alone_or_no_image_to_hold_out_do_not_apply(world):
    target, *members = world
    with pytest.raises(NotApplicable, match="only a base"):
        transfer(target, members[0], steps=1, seed=0)
    task = small_task("target", 1)
    few = task._replace(train=Split(task.train.x[:3], task.train.y[:3]))
    with pytest.raises(NotApplicable, match="two labelled images"):
        transfer(few, *members, steps=1, seed=0)
