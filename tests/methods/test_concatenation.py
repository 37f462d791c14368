"""Concatenation: several frozen sources side by side, all of them owned."""

import keras
import numpy as np
import pytest
from helpers import bytes_of, small_world

from ktransfer.errors import NotApplicable
from ktransfer.methods.feature import linear_probe
from ktransfer.methods.fusion.concatenation import transfer
from ktransfer.models.surgery import adapt_input, copy_backbone, trainable_count


@pytest.fixture
def world():
    return small_world(2, normalised=True)


def fused(model):
    return keras.Model(model.input, model.get_layer("fused").output)


def test_one_source_without_projection_is_a_linear_probe(world):
    target, source, _ = world
    options = {"steps": 3, "seed": 5, "batch_size": 16}
    model = transfer(target, source, shared_units=None, **options)
    probe = linear_probe.transfer(target, source, **options)
    assert bytes_of(model) == bytes_of(probe)


def test_the_sources_are_owned_and_stay_as_they_are(world, tmp_path):
    target, *sources = world
    model = transfer(
        target, *sources, steps=3, seed=5, shared_units=5, batch_size=16
    )
    # Raw images are all that the saved model needs.
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for number, source in enumerate(sources, start=1):
        original = copy_backbone(source.model)
        for kept in (model, loaded):
            part = kept.get_layer(f"source_{number}")
            assert bytes_of(part) == bytes_of(original)
            assert not part.trainable_variables
    x = target.train.x[:5]
    np.testing.assert_allclose(loaded(x), model(x), rtol=1e-6, atol=1e-6)
    # Two projections of 8 features with their norms, and the head.
    assert fused(model).output.shape == (None, 2 * 5)
    assert trainable_count(model) == 2 * (9 * 5 + 2 * 5) + (2 * 5 + 1) * 3


def test_a_projection_is_linear_and_then_normalised(world):
    target, *sources = world
    model = transfer(target, *sources, steps=0, seed=5, shared_units=5)
    x = target.train.x[:6]
    for number, source in enumerate(sources, start=1):
        reader = adapt_input(copy_backbone(source.model), target.image_shape)
        kernel, bias = model.get_layer(f"project_{number}").get_weights()
        z = np.asarray(reader(x)) @ kernel + bias
        assert z.min() < 0
        centred = z - z.mean(axis=1, keepdims=True)
        wanted = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-3)
        norm = model.get_layer(f"norm_{number}").output
        found = keras.Model(model.input, norm)(x)
        np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_the_order_of_the_sources_permutes_columns_only(world):
    target, first, second = world
    options = {"steps": 0, "seed": 5, "shared_units": None}
    x = target.train.x[:6]
    one = np.asarray(fused(transfer(target, first, second, **options))(x))
    other = np.asarray(fused(transfer(target, second, first, **options))(x))
    np.testing.assert_array_equal(one, np.roll(other, 8, axis=1))
    # Features, not class logits, and those of the source alone.
    alone = adapt_input(copy_backbone(first.model), target.image_shape)
    np.testing.assert_array_equal(one[:, :8], alone(x))


def test_one_source_may_be_given_twice(world):
    target, source, _ = world
    model = transfer(target, source, source, steps=0, seed=5)
    assert fused(model).output.shape == (None, 128)


def test_the_sources_are_tuned_on_request(world):
    target, source, _ = world
    model = transfer(target, source, steps=2, seed=5, tune_sources=True)
    part = model.get_layer("source_1_adapted")
    original = copy_backbone(source.model)
    for mine, theirs in zip(
        part.trainable_variables, original.trainable_variables
    ):
        assert (mine.numpy() != theirs.numpy()).any()


def test_it_needs_a_source(world):
    with pytest.raises(NotApplicable, match="no source"):
        transfer(world[0], steps=1, seed=0)
