"""Logistic regression is convex, and its penalty is what it says."""

import numpy as np
import pytest
from helpers import small_task, softmax

from ktransfer.engine.losses import cross_entropy
from ktransfer.engine.prediction import predict
from ktransfer.methods.baselines.logistic_regression import transfer
from ktransfer.models.surgery import trainable_count


def objective(model, task, strength):
    logits = predict(model, task.train.x)
    kernel = model.get_layer("logits").kernel.numpy()
    return (
        float(cross_entropy(task.train.y, logits))
        + strength * (kernel**2).sum()
    )


def test_two_seeds_reach_the_same_loss(traced):
    task, strength = small_task("target", 1), 1e-2
    options = {"steps": 400, "learning_rate": 2e-2, "strength": strength}
    losses = [
        objective(transfer(task, seed=s, **options), task, strength)
        for s in (0, 1)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


@pytest.mark.parametrize("options", [{}, {"strength": 0.3}])
def test_the_loss_is_the_written_one(options, fits):
    task = small_task("target", 1)
    start = transfer(task, steps=0, seed=0, **options)
    expected = objective(start, task, options.get("strength", 1e-4))
    transfer(task, steps=1, seed=0, batch_size=48, **options)
    (done,) = fits
    assert done.curve[0][1] == pytest.approx(expected, rel=1e-6)


def test_a_large_strength_leaves_the_class_frequencies(traced):
    task = small_task("target", 1, n=40)
    model = transfer(task, steps=300, seed=0, strength=1e3, learning_rate=5e-3)
    logits = predict(model, task.train.x)
    shares = softmax(logits)
    expected = np.bincount(task.train.y) / 40
    np.testing.assert_allclose(shares.mean(0), expected, atol=0.03)


def test_its_parameters_are_pixels_times_classes():
    model = transfer(small_task("target", 1), steps=0, seed=0)
    assert trainable_count(model) == 12 * 12 * 3 + 3
