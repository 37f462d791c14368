"""BSS: the smallest singular values of a batch's features are shrunk."""

import keras
import numpy as np
import pytest
from helpers import bytes_of, defaults, idle, log_loss, small_world

from ktransfer.engine import backend
from ktransfer.errors import Diverged
from ktransfer.methods.finetuning import batch_spectral_shrinkage as bss
from ktransfer.methods.finetuning.batch_spectral_shrinkage import (
    _smallest_squares,
    transfer,
)
from ktransfer.methods.parameter import fine_tuning
from ktransfer.models.surgery import cut


@pytest.fixture
def world():
    return small_world()


def drawn(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def slope(features, num_values):
    variable = keras.Variable(features)
    _, (found,) = backend.value_and_gradients(
        lambda: _smallest_squares(variable.value, num_values), [variable]
    )
    return np.asarray(found)


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (6, 6)])
@pytest.mark.parametrize("num_values", [1, 3])
def test_it_is_the_svd_and_so_is_its_gradient(shape, num_values):
    features = drawn(*shape)
    u, s, v = np.linalg.svd(features.astype("float64"), full_matrices=False)
    s[:-num_values] = 0
    found = float(_smallest_squares(features, num_values))
    assert found == pytest.approx((s**2).sum(), rel=1e-4)
    np.testing.assert_allclose(
        slope(features, num_values), 2 * (u * s) @ v, atol=1e-4
    )


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (4, 2, 3, 2)])
def test_all_values_are_the_squared_norm(shape):
    features = drawn(*shape)
    wanted = pytest.approx((features.astype("float64") ** 2).sum(), rel=1e-5)
    assert float(_smallest_squares(features, 99)) == wanted
    np.testing.assert_allclose(slope(features, 99), 2 * features, atol=1e-5)


@pytest.mark.parametrize("num_values", [1, 3])
def test_values_that_repeated_images_make_zero_are_passed_over(num_values):
    """Fewer images than a batch holds: the penalty was 0, and did nothing."""
    few = drawn(5, 9)
    repeated = few[[0, 1, 2, 3, 4, 0, 1, 2]]
    values = np.linalg.svd(repeated.astype("float64"))[1][:5]
    wanted = pytest.approx((values[-num_values:] ** 2).sum(), rel=1e-4)
    assert float(_smallest_squares(repeated, num_values)) == wanted
    assert np.abs(slope(repeated, num_values)).max() > 0.1


@pytest.mark.parametrize("features", [np.eye(4, 7), np.zeros((3, 3))])
def test_equal_singular_values_have_a_finite_gradient(features):
    found = slope(features.astype("float32"), 2)
    assert np.isfinite(found).all()
    # Along any two of the directions.
    assert (found**2).sum() == pytest.approx(8 * features.max(), rel=1e-5)


@pytest.mark.parametrize("num_values", [1, 2])
def test_values_equal_up_to_rounding_have_the_exact_gradient(num_values):
    """Through the directions it would be rounding over rounding."""
    for seed in range(3):
        drawn = np.random.default_rng(seed).normal(size=(9, 5))
        features = np.linalg.qr(drawn)[0].T.astype("float32")
        found = slope(features, num_values)
        # 2 u u' F, of unit directions and values of 1.
        square = (found.astype("float64") ** 2).sum()
        assert square == pytest.approx(4 * num_values, rel=1e-3)


def test_the_defaults_are_the_authors():
    found = defaults(transfer)
    assert (found["strength"], found["num_values"]) == (0.001, 1)


def test_strength_zero_is_fine_tuning(world):
    options = {"steps": 3, "seed": 2, "batch_size": 16}
    model = transfer(*world, strength=0, **options)
    tuned = fine_tuning.transfer(*world, **options)
    assert bytes_of(model) == bytes_of(tuned)


def test_the_loss_is_the_written_formula(world, spy):
    target, source = world
    calls = spy(bss, instead=idle)
    model = transfer(
        target, source, steps=1, seed=0, strength=5e3, num_values=4
    )
    x, y = target.train.x[:6], target.train.y[:6]
    (call,) = calls
    outputs = {k: v.numpy() for k, v in call.model(x).items()}
    features = np.asarray(cut(source.model, "features")(x.repeat(3, -1)))
    np.testing.assert_allclose(outputs["features"], features, atol=1e-5)
    hard = log_loss(y, model(x))
    values = np.linalg.svd(outputs["features"].astype("float64"))[1]
    weakest = 5e3 * (values[-4:] ** 2).sum()
    assert 0.1 < weakest / hard < 10
    found = float(call.loss(y, outputs))
    assert found == pytest.approx(hard + weakest, rel=1e-4)


def test_the_weakest_directions_shrink(world, traced):
    target, source = world

    def weakest(strength):
        model = transfer(
            target,
            source,
            steps=50,
            seed=0,
            strength=strength,
            num_values=4,
            learning_rate=1e-2,
            batch_size=16,
        )
        features = cut(model, "features")(target.train.x)
        values = np.linalg.svd(np.asarray(features, "float64"))[1]
        return (values[-4:] ** 2).sum() / (values**2).sum()

    assert weakest(100.0) < weakest(0.0) / 2


def test_a_divergence_is_called_one(world):
    with pytest.raises(Diverged):
        transfer(
            *world,
            steps=4,
            seed=0,
            learning_rate=1e12,
            optimizer=keras.optimizers.SGD,
            batch_size=8,
        )
