"""Feature noise: in training only, as large as it says, on every value."""

import keras
import numpy as np
import pytest
from helpers import small_world, weights_of

from ktransfer.engine.prediction import predict
from ktransfer.methods.parameter import fine_tuning
from ktransfer.methods.structure.feature_noise import transfer
from ktransfer.models.graph import leaves
from ktransfer.models.surgery import adapt_input, cut


@pytest.fixture
def world():
    return small_world()


def test_strength_zero_is_fine_tuning_bit_for_bit(world):
    options = {"steps": 4, "seed": 1, "batch_size": 16}
    ours = transfer(*world, strength=0.0, **options)
    theirs = fine_tuning.transfer(*world, **options)
    assert weights_of(ours) == weights_of(theirs)
    assert [x.name for x in leaves(ours)] == [x.name for x in leaves(theirs)]
    noisy = transfer(*world, strength=0.5, **options)
    assert weights_of(noisy).keys() == weights_of(theirs).keys()
    assert weights_of(noisy) != weights_of(theirs)


@pytest.mark.parametrize("strength", [0.1, 40.0])
def test_the_noise_has_the_stated_deviation_and_shape(world, strength):
    target, source = world
    model = transfer(target, source, steps=0, seed=1, strength=strength)
    noisy = cut(model, "feature_noise")
    x = np.tile(target.train.x, (20, 1, 1, 1))
    clean = predict(noisy, x)
    features = adapt_input(cut(source.model, "features"), target.image_shape)
    np.testing.assert_allclose(clean, predict(features, x), atol=1e-6)
    noise = np.asarray(noisy(x, training=True)) - clean
    assert noise.shape == (960, 8)
    deviation = strength * clean.std()
    assert noise.std() == pytest.approx(deviation, rel=0.05)
    assert abs(noise.mean()) < 0.1 * deviation
    # One draw a value: neither rows nor columns share one.
    np.testing.assert_allclose(noise.std(axis=0), deviation, rtol=0.15)
    assert np.abs(np.corrcoef(noise.T) - np.eye(8)).max() < 0.2
    again = np.asarray(noisy(x, training=True)) - clean
    assert (again != noise).mean() > 0.99


def test_by_default_the_noise_is_a_tenth_of_the_features(world):
    target, source = world
    deviations = [
        transfer(target, source, steps=0, seed=1, **options)
        .get_layer("feature_noise")
        .deviation
        for options in ({}, {"strength": 0.1})
    ]
    assert deviations[0] == deviations[1] > 0


def test_inference_has_no_noise_before_and_after_saving(world, tmp_path):
    target, source = world
    model = transfer(target, source, steps=0, seed=1, strength=0.5)
    plain = fine_tuning.transfer(target, source, steps=0, seed=1)
    x = target.train.x
    np.testing.assert_array_equal(model(x), plain(x))
    np.testing.assert_array_equal(model(x), model(x))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(model(x), loaded(x))
    layer = loaded.get_layer("feature_noise")
    assert layer.deviation == model.get_layer("feature_noise").deviation > 0
