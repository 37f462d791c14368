"""Weighted sum: a softmax mean of the features of several frozen sources."""

import keras
import numpy as np
import pytest
from helpers import bytes_of, small_world

from ktransfer.errors import KTransferError, NotApplicable
from ktransfer.methods.feature import linear_probe
from ktransfer.methods.fusion.weighted_sum import SoftmaxSum, transfer
from ktransfer.models.own import Source
from ktransfer.models.surgery import attach_head, copy_backbone, cut


@pytest.fixture
def world():
    return small_world(2, normalised=True)


def test_the_weights_start_equal_and_go_on_summing_to_1(world):
    target, *sources = world
    start = transfer(target, *sources, steps=0, seed=5)
    np.testing.assert_array_equal(start.get_layer("weights").shares(), 0.5)
    model = transfer(target, *sources, steps=4, seed=5, learning_rate=0.1)
    shares = model.get_layer("weights").shares()
    assert shares.sum() == pytest.approx(1, abs=1e-6)
    assert shares[0] != shares[1]
    for number, source in enumerate(sources, start=1):
        part = model.get_layer(f"source_{number}")
        assert bytes_of(part) == bytes_of(copy_backbone(source.model))


def test_one_source_plain_is_a_linear_probe(world):
    target, source, _ = world
    options = {"steps": 3, "seed": 5, "batch_size": 16}
    model = transfer(
        target, source, shared_units=None, activation="linear", **options
    )
    probe = linear_probe.transfer(target, source, **options)
    assert bytes_of(model) == bytes_of(probe)


@pytest.mark.parametrize("chosen", [0, 1])
def test_a_one_hot_weight_is_that_source_alone(world, chosen):
    target, *sources = world
    options = {"steps": 2, "seed": 5, "shared_units": None}
    weights = [0.0, 0.0]
    weights[chosen] = 1.0
    model = transfer(target, *sources, weights=weights, **options)
    alone = transfer(target, sources[chosen], **options)
    assert bytes_of(model) == bytes_of(alone)


def test_it_is_the_sum_that_it_says(world):
    target, *sources = world
    options = {"steps": 0, "seed": 5, "shared_units": 5}
    model = transfer(target, *sources, weights=(1, 3), **options)
    x = target.train.x[:6]
    parts = [
        np.asarray(
            keras.Model(model.input, model.get_layer(f"norm_{i}").output)(x)
        ).astype("float64")
        for i in (1, 2)
    ]
    wanted = np.maximum(0.25 * parts[0] + 0.75 * parts[1], 0)
    got = keras.Model(model.input, model.get_layer("activation").output)(x)
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6)
    layer = model.get_layer("weights")
    assert not layer.trainable_variables
    again = SoftmaxSum.from_config(layer.get_config())
    again.build([(None, 5), (None, 5)])
    np.testing.assert_allclose(again.shares(), [0.25, 0.75], rtol=1e-6)


def test_by_default_64_units_are_added_up_and_rectified(world):
    target, *sources = world
    model = transfer(target, *sources, steps=0, seed=5)
    assert model.get_layer("weights").output.shape == (None, 64)
    rectified = keras.Model(model.input, model.get_layer("activation").output)
    assert np.min(rectified(target.train.x)) == 0


def test_unequal_widths_need_a_projection(world):
    target, source, _ = world
    part = cut(source.model, "block2_pool")
    flat = keras.layers.Flatten(name="features")(part.output)
    wide = attach_head(keras.Model(part.input, flat), 3, seed=0)
    other = Source(wide, source.task)
    with pytest.raises(NotApplicable, match="widths"):
        transfer(target, source, other, steps=1, seed=0, shared_units=None)


@pytest.mark.parametrize("weights", [(1,), (0, 0), (-1, 2)])
def test_wrong_weights_are_refused(world, weights):
    target, *sources = world
    with pytest.raises(KTransferError, match="expected 2 numbers"):
        transfer(target, *sources, steps=1, seed=0, weights=weights)
