"""Bias tuning: of the source, only biases and BatchNorm's beta move."""

import keras
import pytest
from helpers import (
    moved_names,
    small_backbone,
    small_task,
    small_world,
    weights_of,
)
from keras import layers

from ktransfer.errors import NotApplicable
from ktransfer.methods.finetuning.bias_tuning import transfer
from ktransfer.models.own import Source
from ktransfer.models.surgery import attach_head, copy, cut, trainable_count

OPTIONS = {"steps": 3, "seed": 5, "batch_size": 16}
HEAD = 8 * 3 + 3
BIASES = 4 + 6 + 8


@pytest.mark.parametrize("traces", [False, True])
@pytest.mark.parametrize("normalised", [False, True])
def test_biases_and_the_head_move_and_all_else_stays(
    normalised, traces, request
):
    if traces:
        request.getfixturevalue("traced")
    target, source = small_world(normalised=normalised)
    start = transfer(target, source, **{**OPTIONS, "steps": 0})
    model = transfer(target, source, **OPTIONS)
    # Kernels, gamma, moving mean and moving variance are not among them.
    kinds = ["conv/bias", *(["norm/beta"] if normalised else [])]
    assert moved_names(weights_of(start), weights_of(model)) == {
        "logits/kernel",
        "logits/bias",
        *(f"block{block}_{kind}" for block in (1, 2, 3) for kind in kinds),
    }
    theirs = weights_of(cut(source.model, "features"))
    assert theirs.items() <= weights_of(start).items()
    trained = BIASES * len(kinds) + HEAD
    assert trainable_count(model) == trained


@pytest.mark.parametrize("normalised", [False, True])
def test_the_count_of_the_record_is_biases_and_head(normalised, fits):
    target, source = small_world(normalised=normalised)
    transfer(target, source, **OPTIONS)
    (fit,) = fits
    assert fit.trainable_parameters == BIASES * (1 + normalised) + HEAD


def test_the_result_is_a_plain_model_that_copies():
    target, source = small_world(normalised=True)
    model = transfer(target, source, **OPTIONS)
    # No wrapper is left around the layers, so they can still be cut.
    assert cut(model, "block2").output.shape[-1] == 6
    assert weights_of(copy(model)) == weights_of(model)


def test_layers_without_a_bias_are_computed_once(fits):
    # The first layer has no bias, so all up to the second is frozen.
    source = without_biases(last=True)
    target = small_task("target", 1)
    model = transfer(target, source, **OPTIONS)
    (fit,) = fits
    assert fit.cached == 12 * 12 * 4
    assert trainable_count(model) == 6 + (12 * 12 * 6 * 3 + 3)


def test_a_source_without_a_bias_does_not_apply():
    target = small_task("target", 1)
    with pytest.raises(NotApplicable, match="bias or beta"):
        transfer(target, without_biases(last=False), **OPTIONS)


def without_biases(last):
    """Return a source of two convolutions, the last one with a bias or not."""
    inputs = keras.Input((12, 12, 3), dtype="uint8", name="images")
    x = layers.Rescaling(1 / 255, name="rescale")(inputs)
    for block, filters, bias in ((1, 4, False), (2, 6, last)):
        x = layers.Conv2D(
            filters,
            3,
            padding="same",
            use_bias=bias,
            name=f"block{block}_conv",
        )(x)
    x = layers.Flatten(name="features")(x)
    model = attach_head(keras.Model(inputs, x, name="small"), 3, seed=0)
    return Source(model, small_task("source", 3))


def test_dropout_stays_on_unless_batchnorm_rules_it_out():
    target, task = small_task("target", 1), small_task("source", 3)

    def source(dropout, normalised):
        backbone = small_backbone(normalised=normalised, dropout=dropout)
        return Source(attach_head(backbone, 3, seed=0), task)

    for normalised in (False, True):
        dropped, plain = (
            weights_of(transfer(target, source(rate, normalised), **OPTIONS))
            for rate in (0.5, 0.0)
        )
        assert bool(moved_names(plain, dropped)) != normalised
