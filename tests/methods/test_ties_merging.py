"""TIES merging: trim, elect a sign, average those that agree."""

import numpy as np
import pytest
from helpers import defaults, layer_of, norms_of, small_world

from ktransfer.errors import NotApplicable
from ktransfer.methods.fusion import task_arithmetic
from ktransfer.methods.fusion.ties_merging import _elected_mean, transfer
from ktransfer.models import backbones
from ktransfer.models.own import Source
from ktransfer.models.surgery import (
    attach_head,
    copy_backbone,
    cut,
    keep_largest,
)

START = {"steps": 0, "seed": 5}


@pytest.fixture
def world():
    return small_world(3)


def vector(model):
    parts = [v.numpy().ravel() for v in model.trainable_variables]
    return np.concatenate(parts).astype("float64")


def merged(target, *members, **options):
    model = transfer(target, *members, **START, **options)
    return vector(cut(model, "features"))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_exactly_the_share_is_kept_and_it_is_the_largest(share):
    values = np.random.default_rng(0).normal(size=(10, 20))
    kept = keep_largest(values, share)
    assert np.count_nonzero(kept) == round(share * 200)
    chosen = kept != 0
    np.testing.assert_array_equal(kept[chosen], values[chosen])
    if 0 < share < 1:
        assert abs(kept[chosen]).min() > abs(values[~chosen]).max()


def test_the_share_is_of_each_task_vector_as_a_whole(world):
    target, base, source, _ = world
    start = vector(copy_backbone(base.model))
    change = vector(copy_backbone(source.model)) - start
    moved = merged(target, base, source, density=0.3) - start
    assert np.count_nonzero(moved) == round(0.3 * len(start))
    wanted = keep_largest(change, 0.3)
    np.testing.assert_allclose(moved, wanted, atol=1e-6)


def test_a_fifth_is_kept_by_default_as_in_the_authors_commands():
    found = defaults(transfer)
    assert (found["density"], found["strength"]) == (0.2, 1.0)


def test_density_1_with_one_source_is_task_arithmetic(world):
    target, base, source, _ = world
    for strength in (0.0, 0.5):
        ours = transfer(
            target, base, source, density=1.0, strength=strength, **START
        )
        theirs = task_arithmetic.transfer(
            target, base, source, strength=strength, **START
        )
        for mine, other in zip(ours.weights, theirs.weights):
            np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-6)
    full = merged(target, base, source, density=1.0)
    np.testing.assert_array_equal(full, vector(copy_backbone(source.model)))


def test_equal_task_vectors_give_that_vector_trimmed(world):
    target, base, source, _ = world
    once = merged(target, base, source, density=0.2)
    twice = merged(target, base, source, source, density=0.2)
    np.testing.assert_array_equal(once, twice)


def test_signs_are_elected_by_mass_and_never_cancel():
    vectors = [
        np.array([3.0, -1.0, 0.0, 2.0, 1.0, 0.0]),
        np.array([-1.0, -2.0, 0.0, 0.0, -1.0, 5.0]),
        np.array([1.0, 9.0, 0.0, 4.0, 0.0, -6.0]),
    ]
    # 3 and 1 win over -1; 9 over -3; zeros do not count as members; a draw
    # elects none.
    wanted = [2.0, 9.0, 0.0, 3.0, 0.0, -6.0]
    np.testing.assert_array_equal(_elected_mean(vectors), wanted)


def test_each_source_is_trimmed_by_itself(world):
    """A source with a large vector does not use up the others' share."""
    target, base, first, second = world
    start = vector(copy_backbone(base.model))
    changes = [vector(copy_backbone(x.model)) - start for x in (first, second)]
    both = merged(target, base, first, second, density=0.1) - start
    trimmed = [keep_largest(change, 0.1) for change in changes]
    np.testing.assert_allclose(both, _elected_mean(trimmed), atol=1e-6)


def test_statistics_are_re_estimated():
    target, *members = small_world(3, normalised=True)
    model = transfer(target, *members, **START)
    for layer in norms_of(model):
        assert (layer.moving_variance.numpy() > 0).all()
        old = layer_of(members[0].model, layer.name).moving_mean.numpy()
        assert abs(layer.moving_mean.numpy() - old).max() > 1e-3


def test_needs_are_named(world):
    target, base, *_ = world
    other = attach_head(backbones.mlp((12, 12, 3)), 3, seed=0)
    with pytest.raises(NotApplicable, match="one architecture"):
        transfer(target, base, Source(other, base.task), **START)
    with pytest.raises(NotApplicable, match="only a base"):
        transfer(target, base, **START)
