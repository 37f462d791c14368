"""Normalisation tuning: gamma, beta and the head move; statistics stay."""

import keras
import numpy as np
import pytest
from helpers import moved_names, small_task, small_world, weights_of
from keras import layers

from ktransfer.errors import NotApplicable
from ktransfer.methods.finetuning.normalization_tuning import transfer
from ktransfer.models.own import Source
from ktransfer.models.surgery import attach_head, cut, trainable_count

OPTIONS = {"steps": 3, "seed": 5, "batch_size": 16}
HEAD = 8 * 3 + 3


@pytest.mark.parametrize("traces", [False, True])
def test_gamma_beta_and_the_head_move_and_all_else_stays(
    world, traces, request, fits
):
    if traces:
        request.getfixturevalue("traced")
    start = transfer(*world, **{**OPTIONS, "steps": 0})
    model = transfer(*world, **OPTIONS)
    # Statistics, kernels and biases are not among them.
    assert moved_names(weights_of(start), weights_of(model)) == {
        "logits/kernel",
        "logits/bias",
        *(f"block{b}_norm/{v}" for b in (1, 2, 3) for v in ("gamma", "beta")),
    }
    theirs = weights_of(cut(world[1].model, "features"))
    assert theirs.items() <= weights_of(start).items()
    trained = 2 * (4 + 6 + 8) + HEAD
    assert trainable_count(model) == trained
    (fit,) = fits
    assert fit.trainable_parameters == trained


def test_the_images_of_a_batch_do_not_change_each_other(world):
    # One step of SGD on two images is the mean of one on either: with the
    # statistics of the batch it would not be.
    target, source = world
    options = {
        "seed": 5,
        "optimizer": keras.optimizers.SGD,
        "learning_rate": 1.0,
    }
    pair = target.train.x[:2], target.train.y[:2]

    def after(rows, steps=1):
        split = target.train._replace(x=pair[0][rows], y=pair[1][rows])
        lone = target._replace(train=split)
        size = {"batch_size": len(rows)}
        model = transfer(lone, source, steps=steps, **size, **options)
        return [v.numpy().astype("float64") for v in model.weights]

    start = after([0], steps=0)
    first, second, both = after([0]), after([1]), after([0, 1])
    for old, a, b, mean in zip(start, first, second, both):
        wanted = (a - old) / 2 + (b - old) / 2
        np.testing.assert_allclose(mean - old, wanted, atol=1e-5)
        assert np.abs(wanted).max() > 1e-3 or not wanted.any()


def test_other_normalisations_are_tuned_too(fits):
    target, task = small_task("target", 1), small_task("source", 3)
    inputs = keras.Input((12, 12, 3), dtype="uint8", name="images")
    x = layers.Rescaling(1 / 255, name="rescale")(inputs)
    x = layers.Conv2D(4, 3, name="block1_conv")(x)
    x = layers.GroupNormalization(2, name="block1_norm")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.LayerNormalization(name="features")(x)
    model = attach_head(keras.Model(inputs, x, name="small"), 3, seed=0)
    source = Source(model, task)
    start = transfer(target, source, **{**OPTIONS, "steps": 0})
    model = transfer(target, source, **OPTIONS)
    assert moved_names(weights_of(start), weights_of(model)) == {
        f"{layer}/{name}"
        for layer, names in (
            ("block1_norm", ("gamma", "beta")),
            ("features", ("gamma", "beta")),
            ("logits", ("kernel", "bias")),
        )
        for name in names
    }
    # What stands below the first normalisation is computed once.
    (fit,) = fits
    assert fit.cached == 10 * 10 * 4


def test_a_source_without_normalisation_does_not_apply(fits):
    target, source = small_world()
    with pytest.raises(
        NotApplicable, match="no BatchNorm.* with gamma or beta"
    ):
        transfer(target, source, **OPTIONS)
    assert not fits


def test_a_misspelt_option_is_a_type_error_where_it_applies(world):
    with pytest.raises(TypeError, match="temprature"):
        transfer(*world, temprature=1, **OPTIONS)
