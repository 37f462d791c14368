"""Linear probe: convex on frozen features; Newton's method finds its floor."""

import numpy as np
import pytest
from helpers import probe_loss, silenced, weights_of

from ktransfer.errors import KTransferError, NotApplicable
from ktransfer.methods.feature import feature_extraction
from ktransfer.methods.feature.linear_probe import transfer
from ktransfer.models.surgery import trainable_count


@pytest.mark.parametrize("solver", ["adam", "direct"])
def test_features_that_have_died_are_named(world, solver):
    """Training on shuffled labels may end so; the kernel had no gradient."""
    target, source = world
    dead = silenced(source.model)
    with pytest.raises(NotApplicable, match="are 0 for every labelled image"):
        transfer(
            target,
            source._replace(model=dead),
            steps=2,
            seed=0,
            solver=solver,
            strength=1.0,
        )


def test_it_is_feature_extraction_without_a_hidden_layer(world):
    target, source = world
    options = {"steps": 4, "seed": 1, "batch_size": 16}
    ours = transfer(target, source, **options)
    theirs = feature_extraction.transfer(
        target, source, hidden_units=None, **options
    )
    assert weights_of(ours) == weights_of(theirs)
    assert trainable_count(ours) == 8 * 3 + 3


def test_the_loss_that_is_trained_is_the_written_one(world, fits):
    target, source = world
    start = transfer(target, source, steps=0, seed=0, strength=0.3)
    expected, _ = probe_loss(start, "features", target, 0.3)
    transfer(target, source, steps=1, seed=0, strength=0.3, batch_size=48)
    (done,) = fits
    assert done.curve[0][1] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("solver", ["adam", "direct"])
def test_it_reads_the_layer_that_is_named(world, solver):
    model = transfer(
        *world, steps=1, seed=0, layer="block2", solver=solver, strength=0.1
    )
    assert trainable_count(model) == (3 * 3 * 6 + 1) * 3


def test_the_direct_solver_is_the_floor_of_adam_under_two_seeds(world, traced):
    target, source = world
    strength = 1e-2
    options = {"steps": 300, "learning_rate": 3e-2, "strength": strength}
    exact = transfer(
        target, source, steps=0, seed=0, strength=strength, solver="direct"
    )
    least, gradient = probe_loss(exact, "features", target, strength)
    assert np.linalg.norm(gradient) < 1e-6
    for seed in (0, 1):
        model = transfer(target, source, seed=seed, **options)
        loss, _ = probe_loss(model, "features", target, strength)
        assert least <= loss == pytest.approx(least, rel=0.02)


def test_the_direct_solver_converges_at_every_strength(world):
    target, source = world
    for strength in (1e-6, 1e-3, 10.0):
        model = transfer(
            target, source, steps=0, seed=0, strength=strength, solver="direct"
        )
        _, gradient = probe_loss(model, "features", target, strength)
        assert np.linalg.norm(gradient) < 1e-5


def test_a_solver_without_a_minimum_or_a_name_is_refused(world):
    with pytest.raises(KTransferError, match="above 0"):
        transfer(*world, steps=1, seed=0, solver="direct")
    with pytest.raises(KTransferError, match="'direct'"):
        transfer(*world, steps=1, seed=0, solver="dirct")
