"""Deep CORAL: the covariance distance of NumPy, felt by the whole backbone."""

import keras
import numpy as np
import pytest
from helpers import bytes_of, domains, log_loss

from ktransfer.engine import backend
from ktransfer.engine.losses import covariance_distance
from ktransfer.methods.domain import deep_coral, source_only
from ktransfer.methods.domain.deep_coral import transfer

OPTIONS = {"steps": 3, "seed": 0, "batch_size": 8, "from_source": True}


def batches(seed, shape=(9, 4)):
    return np.random.default_rng(seed).normal(1, 2, (2, *shape))


def written_out(first, second):
    difference = np.cov(first.T) - np.cov(second.T)
    return (difference**2).sum() / (4 * first.shape[1] ** 2)


def distance(first, second):
    return float(
        covariance_distance(first.astype("float32"), second.astype("float32"))
    )


@pytest.mark.parametrize("seed", range(3))
def test_the_distance_is_that_of_numpy(seed):
    first, second = batches(seed)
    for other in (second, second[:5], 3 * first):
        expected = written_out(first, other)
        assert distance(first, other) == pytest.approx(expected, rel=1e-4)
        assert distance(other, first) == pytest.approx(expected, rel=1e-4)


def test_equal_batches_are_at_0_and_a_shift_changes_nothing():
    first, second = batches(4)
    assert distance(first, first) == 0
    assert distance(first, first[::-1]) < 1e-10
    assert distance(first, first + 5) < 1e-6
    moved = distance(first - 2, second + np.arange(4))
    assert moved == pytest.approx(distance(first, second), rel=1e-4)


def test_the_gradient_is_that_of_the_definition():
    first, second = batches(5, (6, 3))
    variable = keras.Variable(first.astype("float32"))
    _, (slope,) = backend.value_and_gradients(
        lambda: covariance_distance(variable, second.astype("float32")),
        [variable],
    )
    # d/dX of ||C - C_t||^2 / (4 d^2) with C = X_c' X_c / (n - 1).
    difference = np.cov(first.T) - np.cov(second.T)
    centred = first - first.mean(0)
    expected = 4 * centred @ difference / 5 / (4 * 9)
    np.testing.assert_allclose(slope, expected, atol=1e-5)


@pytest.mark.parametrize("normalised", [False, True])
def test_strength_zero_is_source_only_and_the_encoder_moves(normalised):
    world = domains(normalised)
    model = transfer(*world, strength=0, **OPTIONS)
    plain = source_only.transfer(*world, **OPTIONS)
    assert bytes_of(model) == bytes_of(plain)
    start = transfer(*world, strength=0, **{**OPTIONS, "steps": 0})
    for old, new in zip(start.trainable_variables, model.trainable_variables):
        assert np.any(old.numpy() != new.numpy()), old.path


def test_both_losses_reach_every_weight():
    sgd = {"optimizer": keras.optimizers.SGD, "learning_rate": 0.1}
    options = {**OPTIONS, **sgd, "steps": 1, "batch_size": 48}
    world = domains()
    start = transfer(*world, **{**options, "steps": 0})
    moves = []
    # Untrained logits hardly vary, so that a strength of 1 would be rounding.
    for strength in (0, 1e6, 3e6):
        model = transfer(*world, strength=strength, **options)
        pairs = zip(model.weights, start.weights)
        moves.append([a.numpy() - b.numpy() for a, b in pairs])
    for variable, task, one, three in zip(start.weights, *moves):
        assert np.abs(task).max() > 1e-5, variable.path
        pull = one - task
        if "logits/bias" in variable.path:
            # A shift of the logits changes no covariance.
            assert np.abs(pull).max() < 1e-6
            continue
        assert np.abs(pull).max() > 1e-5, variable.path
        np.testing.assert_allclose(
            three - task, 3 * pull, rtol=1e-2, atol=1e-2 * np.abs(pull).max()
        )


def test_the_loss_is_the_written_formula(given_to_fit):
    given = given_to_fit(deep_coral, *domains(), strength=0.7, from_source=True)
    ours, theirs = batches(6, (9, 3))
    labels = np.arange(9) % 3
    outputs = {"source": theirs, "target": ours}
    outputs = {k: v.astype("float32") for k, v in outputs.items()}
    expected = log_loss(labels, theirs) + 0.7 * written_out(theirs, ours)
    loss = given.loss({"source": labels}, outputs)
    assert float(loss) == pytest.approx(expected, rel=1e-4)
