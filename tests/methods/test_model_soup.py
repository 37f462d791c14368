"""Model soup: means of fine-tunings that start alike, the best kept."""

import keras
import numpy as np
import pytest
from helpers import (
    bytes_of,
    check_the_statistics,
    defaults,
    small_classifier,
    small_task,
    small_world,
)

from ktransfer.data import Split
from ktransfer.engine.prediction import predict
from ktransfer.errors import NotApplicable
from ktransfer.methods.parameter import fine_tuning, model_soup
from ktransfer.methods.parameter.model_soup import transfer
from ktransfer.models.own import Source
from ktransfer.models.surgery import assign
from ktransfer.stages.heads import held_out


@pytest.fixture
def world():
    return small_world()


def test_one_member_is_fine_tuning(world):
    options = {"steps": 3, "seed": 5, "batch_size": 16}
    soup = transfer(*world, num_members=1, **options)
    assert bytes_of(soup) == bytes_of(fine_tuning.transfer(*world, **options))


def test_equal_members_give_that_member(world):
    # Without a step all members are the start.
    soup = transfer(*world, num_members=3, greedy=False, steps=0, seed=5)
    start = fine_tuning.transfer(*world, steps=0, seed=5)
    assert bytes_of(soup) == bytes_of(start)


@pytest.fixture
def members(spy):
    """The calls that trained the members, with their weights."""
    return spy(model_soup, watch=keras.Model.get_weights)


def test_uniform_is_the_mean_of_members_from_one_start(world, members, fits):
    soup = transfer(*world, steps=9, seed=5, greedy=False, batch_size=16)
    for member in members[1:]:
        for a, b in zip(members[0].before, member.before, strict=True):
            np.testing.assert_array_equal(a, b)
    ends = [member.after for member in members]
    for mine, *theirs in zip(soup.weights, *ends, strict=True):
        assert (theirs[0] != theirs[1]).any()
        mean = np.mean(np.stack(theirs).astype("float64"), axis=0)
        np.testing.assert_allclose(mine, mean, rtol=1e-6)
    assert [len(member.args[1].y) for member in members] == [48, 48, 48]
    options = [member.kwargs for member in members]
    assert [x["learning_rate"] for x in options] == [1e-3, 5e-4, 2e-3]
    assert len({x["seed"] for x in options}) == 3
    assert [fit.steps for fit in fits] == [3, 3, 3]


def test_each_member_draws_dropout_of_its_own(members, monkeypatch):
    """Members alike in order and rate differ by their masks alone."""
    monkeypatch.setattr(model_soup, "_factor", lambda number: 1.0)
    monkeypatch.setattr(model_soup, "stream", lambda seed, *names: seed)
    task = small_task("source", 3)
    options = {"steps": 6, "seed": 5, "greedy": False, "batch_size": 16}

    def ends(dropout):
        members.clear()
        model = small_classifier(dropout=dropout)
        transfer(small_task("target", 1), Source(model, task), **options)
        return [np.concatenate([*map(np.ravel, x.after)]) for x in members]

    first, second, third = ends(0.0)
    assert (first == second).all() and (first == third).all()
    first, second, third = ends(0.5)
    for one, other in ((first, second), (first, third), (second, third)):
        assert np.mean(one != other) > 0.5
    # And the same call gives the same masks.
    for one, again in zip((first, second, third), ends(0.5), strict=True):
        np.testing.assert_array_equal(one, again)


def test_greedy_is_never_below_its_best_member(world, members):
    target, source = world
    options = {"steps": 30, "seed": 5, "learning_rate": 1e-2, "batch_size": 16}
    soup = transfer(target, source, num_members=3, **options)
    part, validation = held_out(target, 5)
    # The members see nothing of what chooses among them.
    assert {len(x.args[1].y) for x in members} == {len(part.train.y)}
    assert len(part.train.y) + len(validation.y) == 48

    def accuracy(model):
        guesses = predict(model, validation.x).argmax(-1)
        return np.mean(guesses == validation.y)

    reached = accuracy(soup)
    weights = [v.numpy() for v in soup.weights]
    best = 0
    for member in members:
        assign(soup, member.after)
        best = max(best, accuracy(soup))
    assert reached >= best
    assert any(
        np.allclose(
            np.mean([members[i].after[0] for i in chosen], 0), weights[0]
        )
        for chosen in ([0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2])
    )


def test_a_member_joins_only_if_the_mean_gets_strictly_better(monkeypatch):
    """Members are the numbers 0, 4, 8, 2: 4 is best alone, 3 is better."""
    right = {0: 5, 4: 9, 8: 7, 2: 8, 3: 10, 14 / 3: 10}
    held = {}

    def average(target, model, members):
        held["mean"] = float(np.mean([m[0] for m in members]))

    def guess(model, images):
        count = right[held["mean"]]
        return np.eye(2)[[1] * count + [0] * (10 - count)]

    monkeypatch.setattr(model_soup, "_average", average)
    monkeypatch.setattr(model_soup, "predict", guess)
    validation = Split(np.zeros((10, 1)), np.ones(10, int))
    members = [[0.0], [4.0], [8.0], [2.0]]
    soup = model_soup._chosen(None, None, members, validation)
    # With 2 the mean is 3; with 8 it is no better, with 0 worse.
    assert soup == [[4.0], [2.0]]


@pytest.mark.parametrize("greedy", [False, True])
def test_a_mean_gets_statistics_of_its_own(greedy, monkeypatch):
    target, source = small_world(normalised=True)
    # The mean is better than any member, so that the greedy soup is one.
    monkeypatch.setattr(
        model_soup, "_chosen", lambda target, model, members, _: members
    )
    soup = transfer(
        target, source, steps=4, seed=5, num_members=2, greedy=greedy
    )
    images = held_out(target, 5)[0].train.x if greedy else target.train.x
    check_the_statistics(soup, images)


def test_the_default_is_the_greedy_soup():
    assert defaults(transfer)["greedy"] is True


def test_one_image_a_class_leaves_nothing_to_choose_by(world):
    target, source = world
    few = Split(target.train.x[:3], target.train.y[:3])
    with pytest.raises(NotApplicable, match="two labelled images"):
        transfer(target._replace(train=few), source, steps=6, seed=5)
