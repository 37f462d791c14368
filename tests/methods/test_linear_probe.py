"""Linear probe: convex on frozen features; Newton's method finds its floor."""

import numpy as np
import pytest
from conftest import silenced, small_source, small_task, weights_of

from ktransfer.engine.prediction import predict
from ktransfer.errors import KTransferError, NotApplicable
from ktransfer.methods.feature import feature_extraction
from ktransfer.methods.feature.linear_probe import transfer
from ktransfer.models.surgery import cut, trainable_count


@pytest.fixture(scope="module")
def world():
    source = small_source(small_task("source", 3), normalised=True, steps=3)
    return small_task("target", 1), source


def loss_and_gradient(model, task, strength):
    """Return the loss and its gradient, in NumPy and float64."""
    x = predict(cut(model, "features"), task.train.x).astype("float64")
    head = model.get_layer("logits")
    kernel, bias = (v.numpy().astype("float64") for v in head.weights)
    z = x @ kernel + bias
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    y = np.eye(3)[task.train.y]
    loss = -np.log((p * y).sum(axis=1)).mean() + strength * (kernel**2).sum()
    slope = x.T @ (p - y) / len(x) + 2 * strength * kernel
    return loss, np.concatenate([slope.ravel(), (p - y).mean(axis=0)])


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
    expected, _ = loss_and_gradient(start, target, 0.3)
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
    least, gradient = loss_and_gradient(
        transfer(
            target, source, steps=0, seed=0, strength=strength, solver="direct"
        ),
        target,
        strength,
    )
    assert np.linalg.norm(gradient) < 1e-6
    for seed in (0, 1):
        model = transfer(target, source, seed=seed, **options)
        loss, _ = loss_and_gradient(model, target, strength)
        assert least <= loss == pytest.approx(least, rel=0.02)


def test_the_direct_solver_converges_at_every_strength(world):
    target, source = world
    for strength in (1e-6, 1e-3, 10.0):
        model = transfer(
            target, source, steps=0, seed=0, strength=strength, solver="direct"
        )
        _, gradient = loss_and_gradient(model, target, strength)
        assert np.linalg.norm(gradient) < 1e-5


def test_a_solver_without_a_minimum_or_a_name_is_refused(world):
    with pytest.raises(KTransferError, match="above 0"):
        transfer(*world, steps=1, seed=0, solver="direct")
    with pytest.raises(KTransferError, match="'direct'"):
        transfer(*world, steps=1, seed=0, solver="dirct")
