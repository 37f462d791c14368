"""LwF: the tuned source still answers as the untouched one, on new images."""

import keras
import numpy as np
import pytest
from helpers import (
    bytes_of,
    defaults,
    log_loss,
    small_classifier,
    small_world,
    softmax,
    weights_of,
)

from ktransfer.engine import backend
from ktransfer.methods.finetuning import learning_without_forgetting as lwf
from ktransfer.methods.finetuning.learning_without_forgetting import transfer
from ktransfer.methods.parameter import fine_tuning
from ktransfer.models.own import Source
from ktransfer.models.surgery import adapt_input, copy

OPTIONS = {"steps": 3, "seed": 2, "batch_size": 16}


@pytest.fixture
def world():
    """The source has two classes, the target three."""
    return small_world(num_classes=2, steps=40)


def divergence(old, now):
    """Return KL(old, now) of two sets of logits, a mean over the images."""
    p, q = softmax(old), softmax(now)
    return (p * np.log(p / q)).sum(-1).mean()


def drift(outputs):
    """Return KL(old, now) at temperature 1, a mean over the images."""
    return divergence(outputs["old"], outputs["source_logits"])


@pytest.mark.parametrize("normalised", [False, True])
def test_strength_zero_is_fine_tuning(normalised):
    target, source = small_world(normalised=normalised)
    model = transfer(target, source, strength=0, **OPTIONS)
    tuned = fine_tuning.transfer(target, source, **OPTIONS)
    assert bytes_of(model) == bytes_of(tuned)


def test_the_loss_is_the_written_formula(world, given_to_fit):
    call = given_to_fit(lwf, *world, strength=0.7, temperature=3.0)
    x, y = world[0].train
    outputs = call.model(x)
    assert outputs["old"].shape == outputs["source_logits"].shape == (48, 2)
    assert outputs["logits"].shape == (48, 3)
    hard = log_loss(y, outputs["logits"])
    # Before the first step the source answers as it did.
    assert drift(outputs) == pytest.approx(0, abs=1e-9)
    assert float(call.loss(y, outputs)) == pytest.approx(hard, rel=1e-5)

    moved = np.random.default_rng(0).normal(size=(48, 2)).astype("float32")
    apart = divergence(outputs["old"] / 3.0, moved / 3.0)
    found = float(call.loss(y, {**outputs, "source_logits": moved}))
    assert found == pytest.approx(hard + 0.7 * 9 * apart, rel=1e-5)


def test_the_gradient_at_the_defaults_is_the_authors(world, given_to_fit):
    """(softmax - c) / T at T 2 and lambda 1, as in their vl_nnsoftmaxdiff.m.

    Their c is the recorded answer to the power 1 / T, normalised.
    """
    call = given_to_fit(lwf, *world)
    x, y = world[0].train
    outputs = call.model(x)
    now = np.random.default_rng(0).normal(size=(48, 2)).astype("float32")
    variable = keras.Variable(now)
    _, (found,) = backend.value_and_gradients(
        lambda: call.loss(y, {**outputs, "source_logits": variable.value}),
        [variable],
    )
    c = softmax(outputs["old"]) ** (1 / 2)
    c = c / c.sum(-1, keepdims=True)
    # Theirs is summed over a batch, by whose size the step is divided.
    wanted = (softmax(now / 2) - c) / 2 / 48
    assert np.abs(wanted).max() > 1e-3
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-8)


def test_the_defaults_are_the_authors():
    found = defaults(transfer)
    assert (found["temperature"], found["strength"]) == (2.0, 1 / 2**2)


def test_old_is_what_the_untouched_source_answers(world, spy):
    target, source = world
    calls = spy(lwf)
    model = transfer(target, source, learning_rate=0.02, **OPTIONS)
    x = target.train.x
    reader = adapt_input(copy(source.model), target.image_shape)
    outputs = calls[0].model(x)
    # After the training too, when the tuned head has moved.
    np.testing.assert_allclose(outputs["old"], reader(x), atol=1e-6)
    assert drift(outputs) > 1e-6
    np.testing.assert_allclose(outputs["logits"], model(x), atol=1e-6)


def test_old_is_recorded_once_and_the_source_head_is_dropped(world, fits):
    target, source = world
    model = transfer(target, source, **OPTIONS)
    (fit,) = fits
    assert fit.cached == 2
    # The source head (8 x 6 + 6, 6 x 2 + 2) trains beside the result.
    assert fit.trainable_parameters == model.count_params() + 54 + 14
    tuned = fine_tuning.transfer(target, source, **{**OPTIONS, "steps": 0})
    assert weights_of(model).keys() == weights_of(tuned).keys()


def test_a_source_with_dropout_answers_as_it_serves(world, fits):
    target, source = world
    model = small_classifier(2, dropout=0.5)
    transfer(target, Source(model, source.task), **OPTIONS)
    (fit,) = fits
    assert fit.cached == 2


def test_the_drift_falls_with_strength(world, spy):
    target, source = world
    calls = spy(lwf)
    for strength in (0.03, 1.0, 30.0):
        transfer(
            target,
            source,
            steps=12,
            seed=0,
            strength=strength,
            learning_rate=0.01,
            batch_size=16,
        )
    free, loose, tight = (drift(call.model(target.train.x)) for call in calls)
    assert free > loose > tight > 0
