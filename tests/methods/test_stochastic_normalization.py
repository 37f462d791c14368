"""Stochastic normalization: between two BatchNorms, and served as one."""

import keras
import numpy as np
import pytest
from helpers import (
    bytes_of,
    check_the_rate_of_the_head,
    defaults,
    layer_of,
    small_world,
    weights_of,
)
from keras import layers

from ktransfer.engine.batches import epoch_order
from ktransfer.errors import NotApplicable
from ktransfer.methods.finetuning import stochastic_normalization
from ktransfer.methods.finetuning.stochastic_normalization import transfer
from ktransfer.methods.parameter import fine_tuning
from ktransfer.models.graph import leaves
from ktransfer.models.layers import StochasticNormalization
from ktransfer.models.surgery import cut

OPTIONS = {"seed": 1, "batch_size": 16}


def normalisation(channels=5):
    """Return a BatchNorm whose four vectors are random."""
    rng = np.random.default_rng(0)
    norm = layers.BatchNormalization(momentum=0.9, name="norm")
    norm.build((None, 4, 4, channels))
    for variable in norm.weights:
        variable.assign(rng.uniform(0.5, 2, channels))
    return norm


def images(n=8, channels=5):
    rng = np.random.default_rng(1)
    return rng.normal(3, 2, (n, 4, 4, channels)).astype("float32")


def mixed(x, norm, batch):
    """Return `x` normalised, written out; `batch` bool by channel."""
    x = x.astype("float64")
    gamma, beta, mean, variance = (v.numpy() for v in norm.weights)
    mean = np.where(batch, x.mean((0, 1, 2)), mean)
    variance = np.where(batch, x.var((0, 1, 2)), variance)
    return gamma * (x - mean) / np.sqrt(variance + norm.epsilon) + beta


@pytest.mark.parametrize("probability", [0, 1])
def test_the_ends_are_batchnorm_in_either_mode(probability):
    plain, norm, x = normalisation(), normalisation(), images()
    layer = StochasticNormalization(norm, probability, seed=2)
    expected = plain(x, training=bool(probability)).numpy()
    np.testing.assert_array_equal(layer(x, training=True), expected)


def test_the_moving_statistics_are_updated_after_their_use():
    plain, norm, x = normalisation(), normalisation(), images()
    plain(x, training=True)
    layer = StochasticNormalization(norm, 0.0, seed=2)
    layer(x, training=True)
    assert bytes_of(norm) == bytes_of(plain)
    second = layer(x, training=True).numpy()
    np.testing.assert_array_equal(second, plain(x, training=False))


def test_each_channel_is_drawn_anew_at_each_step():
    norm, x, drawn = normalisation(40), images(channels=40), []
    layer = StochasticNormalization(norm, 0.3, seed=2)
    for _ in range(20):
        by_moving = mixed(x, norm, np.zeros(40, bool))
        by_batch = mixed(x, norm, np.ones(40, bool))
        found = layer(x, training=True).numpy()
        batch = np.isclose(found, by_batch, atol=1e-4).all((0, 1, 2))
        np.testing.assert_allclose(
            found, np.where(batch, by_batch, by_moving), atol=1e-4
        )
        drawn.append(batch)
    # 800 draws, no two steps alike.
    assert np.mean(drawn) == pytest.approx(0.3, abs=0.06)
    assert len({batch.tobytes() for batch in drawn}) == 20
    found = []
    for seed in (2, 3):
        layer = StochasticNormalization(normalisation(40), 0.3, seed)
        by_batch = mixed(x, normalisation(40), np.ones(40, bool))
        given = layer(x, training=True).numpy()
        found.append(np.isclose(given, by_batch, atol=1e-4).all((0, 1, 2)))
    assert (found[0] == drawn[0]).all() and (found[1] != drawn[0]).any()


def test_in_inference_it_is_the_batchnorm_after_loading_too(tmp_path):
    inputs = keras.Input((4, 4, 5))
    layer = StochasticNormalization(normalisation(), 0.5, 2, name="mixed")
    model = keras.Model(inputs, layer(inputs))
    plain, x = normalisation(), images()
    np.testing.assert_array_equal(model(x), plain(x))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(x), plain(x))
    again = loaded.get_layer("mixed")
    assert (again.probability, again.seed) == (0.5, 2)


def test_probability_one_is_fine_tuning_bit_for_bit(world):
    ours = transfer(*world, steps=3, probability=1, **OPTIONS)
    theirs = fine_tuning.transfer(*world, steps=3, **OPTIONS)
    assert weights_of(ours) == weights_of(theirs)


def test_the_device_itself_at_one_is_fine_tuning(world):
    ours = transfer(
        *world, steps=3, probability=1.0 - 1e-9, momentum=0.99, **OPTIONS
    )
    theirs = fine_tuning.transfer(*world, steps=3, **OPTIONS)
    for a, b in zip(ours.weights, theirs.weights):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "share"), [({}, 0.1), ({"momentum": 0.7}, 0.3)]
)
def test_a_step_moves_the_statistics_by_the_authors_tenth(
    world, options, share
):
    target, source = world
    # Estimated anew when training ends, they would not show it.
    options = {**options, **OPTIONS, "statistics": "trained"}
    start, model = (
        transfer(target, source, steps=steps, **options) for steps in (0, 1)
    )
    (rows,) = epoch_order(48, 1, 16, 1)
    x = cut(start, "block1_conv")(target.train.x[rows])
    x = np.asarray(x, "float64")
    old, new = layer_of(start, "block1_norm"), layer_of(model, "block1_norm")
    for before, after, batch in (
        (old.moving_mean, new.moving_mean, x.mean((0, 1, 2))),
        (old.moving_variance, new.moving_variance, x.var((0, 1, 2))),
    ):
        wanted = (1 - share) * before.numpy() + share * batch
        np.testing.assert_allclose(after, wanted, rtol=1e-3, atol=1e-6)


def test_at_probability_one_the_sources_own_momentum_stays(world):
    model = transfer(*world, steps=0, probability=1, **OPTIONS)
    assert layer_of(model, "block1_norm").momentum == 0.99
    assert layer_of(world[1].model, "block1_norm").momentum == 0.99


def test_the_defaults_are_the_authors():
    found = defaults(transfer)
    assert (found["probability"], found["momentum"]) == (0.5, 0.9)


def test_what_is_trained_is_mixed_and_what_is_served_is_plain(world, spy):
    calls = spy(stochastic_normalization)
    start = weights_of(transfer(*world, steps=0, **OPTIONS))
    model = transfer(*world, steps=2, **OPTIONS)
    kinds = [type(layer) for layer in leaves(calls[-1].model)]
    assert kinds.count(StochasticNormalization) == 3
    kinds = [type(layer) for layer in leaves(model)]
    assert kinds.count(layers.BatchNormalization) == 3
    assert StochasticNormalization not in kinds
    after = weights_of(model)
    assert after.keys() == start.keys()
    assert all(after[path] != start[path] for path in start)
    x = world[0].train.x
    np.testing.assert_array_equal(model(x), calls[-1].model(x))


def test_a_traced_loop_draws_at_each_step_as_well(world, traced):
    import tensorflow

    # Under Adam rounding errors would grow to whole steps.
    options = {**OPTIONS, "steps": 3, "optimizer": keras.optimizers.SGD}
    one = transfer(*world, learning_rate=0.1, **options)
    tensorflow.config.run_functions_eagerly(True)
    other = transfer(*world, learning_rate=0.1, **options)
    for a, b in zip(one.weights, other.weights):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_the_draws_of_the_layers_differ(world, spy):
    calls = spy(stochastic_normalization)
    transfer(*world, steps=0, **OPTIONS)
    seeds = {
        layer.seed
        for layer in leaves(calls[0].model)
        if isinstance(layer, StochasticNormalization)
    }
    assert len(seeds) == 3


def test_a_source_without_batchnorm_is_refused_before_training(fits):
    with pytest.raises(NotApplicable, match="no BatchNorm layer"):
        transfer(*small_world(), steps=2, **OPTIONS)
    assert not fits


def test_the_head_may_have_its_own_rate(world):
    check_the_rate_of_the_head(transfer, world)
