"""Shrink and perturb: interpolation with two shares of their own."""

import numpy as np
import pytest
from helpers import bytes_of, check_the_statistics, small_world

from ktransfer.methods.parameter import fine_tuning, interpolation
from ktransfer.methods.parameter.shrink_and_perturb import transfer
from ktransfer.methods.structure import structure_transfer
from ktransfer.models.surgery import copy_backbone, cut, fresh


@pytest.fixture
def world():
    return small_world()


@pytest.mark.parametrize(
    ("shares", "other", "options", "steps"),
    [
        ((1, 0), fine_tuning, {}, 0),
        ((0, 1), structure_transfer, {}, 0),
        ((0.75, 0.25), interpolation, {"alpha": 0.75}, 2),
    ],
)
def test_its_corners_are_other_methods(world, shares, other, options, steps):
    common = {"steps": steps, "seed": 5, "batch_size": 16}
    shrink, perturb = shares
    model = transfer(*world, shrink=shrink, perturb=perturb, **common)
    assert bytes_of(model) == bytes_of(
        other.transfer(*world, **options, **common)
    )


def test_the_defaults_shrink_to_two_fifths_and_add_a_tenth(world):
    target, source = world
    backbone = cut(transfer(target, source, steps=0, seed=5), "features")
    theirs = copy_backbone(source.model)
    initial = fresh(theirs, 5)
    for mine, old, new in zip(
        backbone.trainable_variables,
        theirs.trainable_variables,
        initial.trainable_variables,
    ):
        wanted = 0.4 * old.numpy() + 0.1 * new.numpy()
        np.testing.assert_allclose(mine, wanted, rtol=1e-5, atol=1e-7)


def test_the_statistics_are_those_of_the_shrunk_network():
    target, source = small_world(normalised=True)
    model = transfer(target, source, steps=0, seed=5)
    check_the_statistics(model, target.train.x)
