"""Ensemble: the log of the mean of its members' probabilities."""

import numpy as np
import pytest
from helpers import bytes_of, small_world
from keras import ops

from ktransfer.data import Split
from ktransfer.errors import KTransferError, NotApplicable
from ktransfer.methods.fusion import ensemble
from ktransfer.methods.fusion.ensemble import _most_likely, transfer
from ktransfer.methods.parameter import fine_tuning

OPTIONS = {"seed": 5, "batch_size": 16}


@pytest.fixture
def world():
    return small_world(2)


def chances(model, images):
    return np.asarray(ops.softmax(model(images))).astype("float64")


@pytest.mark.parametrize("weights", ["uniform", "fitted"])
def test_one_source_is_fine_tuning(world, weights):
    target, source, _ = world
    model = transfer(target, source, steps=2, weights=weights, **OPTIONS)
    tuned = fine_tuning.transfer(target, source, steps=2, **OPTIONS)
    assert bytes_of(model) == bytes_of(tuned)
    x = target.train.x[:5]
    np.testing.assert_array_equal(model(x), tuned(x))


def test_its_softmax_is_the_mean_of_the_members(world, fits):
    target, *sources = world
    model = transfer(target, *sources, steps=4, **OPTIONS)
    assert [fit.steps for fit in fits] == [2, 2]
    x = target.train.x[:9]
    members = [model.get_layer(f"member_{i}") for i in (1, 2)]
    tuned = fine_tuning.transfer(target, sources[0], steps=2, **OPTIONS)
    assert bytes_of(members[0]) == bytes_of(tuned)
    wanted = np.mean([chances(member, x) for member in members], axis=0)
    np.testing.assert_allclose(chances(model, x), wanted, rtol=1e-5)
    np.testing.assert_allclose(model(x), np.log(wanted), rtol=1e-4, atol=1e-6)


def test_each_member_has_an_epoch_order_of_its_own(world, fits):
    target, source, _ = world
    model = transfer(target, source, source, source, steps=6, **OPTIONS)
    assert [fit.steps for fit in fits] == [2, 2, 2]
    members = [bytes_of(model.get_layer(f"member_{i}")) for i in (1, 2, 3)]
    tuned = fine_tuning.transfer(target, source, steps=2, **OPTIONS)
    assert members[0] == bytes_of(tuned)
    assert members[1] != members[0] != members[2] != members[1]


def test_equal_members_give_the_member(world):
    target, source, _ = world
    model = transfer(target, source, source, steps=0, **OPTIONS)
    x = target.train.x[:9]
    member = model.get_layer("member_1")
    np.testing.assert_allclose(chances(model, x), chances(member, x), rtol=1e-5)


def test_fitted_weights_are_those_of_a_grid():
    rng = np.random.default_rng(0)
    found = rng.uniform(0.05, 1, (2, 40))
    found[1, :25] *= 0.5
    share, rest = _most_likely(found, 2000)
    grid = np.linspace(0, 1, 2001)
    scores = [np.log(a * found[0] + (1 - a) * found[1]).sum() for a in grid]
    assert share == pytest.approx(grid[int(np.argmax(scores))], abs=1e-3)
    assert share + rest == pytest.approx(1)


def test_a_member_that_is_never_right_sinks_and_stays_finite():
    shares = _most_likely(np.array([[0.9, 0.8], [1e-12, 1e-12]]), 200)
    assert shares[0] == pytest.approx(1)
    assert shares[1] >= 0 and sum(shares) == pytest.approx(1)


def test_fitted_weights_are_held_out_from_the_members(world, spy):
    target, *sources = world
    trainings, choices = spy(ensemble), spy(ensemble, "_most_likely")
    model = transfer(target, *sources, steps=4, weights="fitted", **OPTIONS)
    assert [len(call.args[1].y) for call in trainings] == [39, 39]
    (choice,) = choices
    assert choice.args[0].shape == (2, 9)
    shares = choice.result
    assert sum(shares) == pytest.approx(1) and min(shares) >= 0
    x = target.train.x[:9]
    members = [model.get_layer(f"member_{i}") for i in (1, 2)]
    wanted = sum(s * chances(m, x) for s, m in zip(shares, members))
    np.testing.assert_allclose(chances(model, x), wanted, rtol=1e-5)


def test_one_image_a_class_leaves_nothing_to_fit_weights_on(world):
    target, *sources = world
    few = target._replace(train=Split(target.train.x[:3], target.train.y[:3]))
    with pytest.raises(NotApplicable, match="two labelled images"):
        transfer(few, *sources, steps=2, weights="fitted", **OPTIONS)


def test_other_weightings_are_refused(world):
    with pytest.raises(KTransferError, match="fitted"):
        transfer(*world, steps=2, weights="fited", **OPTIONS)
