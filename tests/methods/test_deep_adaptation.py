"""DAN: the quadratic MMD of NumPy, on the features and on the logits."""

import keras
import numpy as np
import pytest
from helpers import bytes_of, domains, log_loss

from ktransfer.engine import backend
from ktransfer.engine.losses import kernel_distance
from ktransfer.methods.domain import deep_adaptation, source_only
from ktransfer.methods.domain.deep_adaptation import transfer

OPTIONS = {"steps": 3, "seed": 0, "batch_size": 8, "from_source": True}


def sets(seed, shape=(7, 4)):
    return np.random.default_rng(seed).normal(1, 2, (2, *shape))


def written_out(first, second, unit=None):
    """Return MMD^2, pair by pair; `unit` fixes the mean squared distance."""
    joint = np.concatenate([first, second])
    if unit is None:
        unit = np.mean([[((a - b) ** 2).sum() for a in joint] for b in joint])

    def kernel(a, b):
        square = ((a - b) ** 2).sum()
        return sum(
            np.exp(-square / (2 * variance))
            for variance in unit * np.array([1 / 8, 1 / 4, 1 / 2, 1, 2])
        )

    def mean(x, y):
        return np.mean([[kernel(a, b) for a in x] for b in y])

    return mean(first, first) + mean(second, second) - 2 * mean(first, second)


def distance(first, second):
    return float(
        kernel_distance(first.astype("float32"), second.astype("float32"))
    )


@pytest.mark.parametrize("seed", range(3))
def test_the_distance_is_that_of_numpy_and_symmetric(seed):
    first, second = sets(seed)
    for other in (second, second[:4], first + 1, second + 100):
        expected = written_out(first, other)
        assert distance(first, other) == pytest.approx(expected, abs=1e-5)
        assert distance(other, first) == pytest.approx(expected, abs=1e-5)


def test_equal_sets_are_at_0_in_any_order():
    first, _ = sets(3)
    assert abs(distance(first, first)) < 1e-6
    assert abs(distance(first, first[::-1])) < 1e-6
    # Even where all rows are equal, and a distance has no unit.
    assert distance(np.ones((3, 2)), np.ones((3, 2))) == 0


def test_it_is_the_quadratic_estimator_which_is_never_negative():
    # The linear-time and the unbiased one are negative for half of these.
    for seed in range(30):
        first, second = sets(seed, (4, 2))
        assert distance(first, second) > 0


def test_the_unit_is_constant_to_the_gradient():
    first, second = sets(5, (3, 2))
    joint = np.concatenate([first, second])
    unit = np.mean(((joint[:, None] - joint) ** 2).sum(-1))
    variable = keras.Variable(first.astype("float32"))
    _, (slope,) = backend.value_and_gradients(
        lambda: kernel_distance(variable, second.astype("float32")), [variable]
    )
    for row in range(3):
        for column in range(2):
            step = np.zeros((3, 2))
            step[row, column] = 1e-5
            rise = written_out(first + step, second, unit)
            rise -= written_out(first - step, second, unit)
            expected = rise / 2e-5
            found = float(slope[row, column])
            assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("normalised", [False, True])
def test_strength_zero_is_source_only(normalised):
    world = domains(normalised)
    model = transfer(*world, strength=0, **OPTIONS)
    plain = source_only.transfer(*world, **OPTIONS)
    assert bytes_of(model) == bytes_of(plain)
    assert bytes_of(transfer(*world, **OPTIONS)) != bytes_of(plain)


def test_the_loss_is_the_written_formula_on_both_top_layers(given_to_fit):
    given = given_to_fit(
        deep_adaptation, *domains(), strength=0.7, from_source=True
    )
    ours, theirs = sets(6, (9, 3))
    below, their_below = sets(7, (9, 8))
    labels = np.arange(9) % 3
    outputs = {
        "source": theirs,
        "target": ours,
        "source_features": their_below,
        "target_features": below,
    }
    outputs = {k: v.astype("float32") for k, v in outputs.items()}
    expected = log_loss(labels, theirs)
    expected += 0.7 * written_out(theirs, ours)
    expected += 0.7 * written_out(their_below, below)
    loss = given.loss({"source": labels}, outputs)
    assert float(loss) == pytest.approx(expected, rel=1e-4)
