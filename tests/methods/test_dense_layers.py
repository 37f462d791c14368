"""Dense layers: new ones read the source's own Dense layer, which stays."""

import numpy as np
import pytest
from helpers import defaults, small_classifier, small_task, weights_of

from ktransfer.errors import NotApplicable
from ktransfer.methods.feature.dense_layers import transfer
from ktransfer.models.blocks import select
from ktransfer.models.own import Source
from ktransfer.models.surgery import (
    adapt_input,
    cut,
    trainable_count,
)


def moved(model, source):
    """Return the names of the source's layers that `model` has changed."""
    names = [f"block{k}_{what}" for k in (1, 2, 3) for what in ("conv", "norm")]
    return {
        name
        for name in [*names, "head_hidden"]
        for ours, theirs in zip(
            select(model, name)[0].weights,
            select(source.model, name)[0].weights,
            strict=True,
        )
        if ours.numpy().tobytes() != theirs.numpy().tobytes()
    }


def test_the_source_stays_and_the_new_layer_reads_its_dense_layer(world):
    target, source = world
    model = transfer(target, source, steps=4, seed=0, hidden_units=5)
    assert not moved(model, source)
    # The old Dense layer has 6 units; the features below it are 8.
    assert model.get_layer("new_hidden").kernel.shape == (6, 5)
    assert trainable_count(model) == (6 + 1) * 5 + (5 + 1) * 3
    x = target.train.x
    old = adapt_input(cut(source.model, "head_hidden"), target.image_shape)(x)
    new = model.get_layer("logits")(model.get_layer("new_hidden")(old))
    np.testing.assert_allclose(model(x), new, atol=1e-6)


def test_the_new_layer_is_256_rectified_units_on_the_old_ones(world):
    target, source = world
    model = transfer(target, source, steps=0, seed=0)
    x = target.train.x
    old = adapt_input(cut(source.model, "head_hidden"), target.image_shape)(x)
    (w, b), (v, c) = (
        model.get_layer(name).get_weights() for name in ("new_hidden", "logits")
    )
    assert w.shape == (6, 256)
    expected = np.maximum(np.asarray(old) @ w + b, 0) @ v + c
    np.testing.assert_allclose(model(x), expected, atol=1e-5)


def test_the_old_dense_layer_moves_on_request_and_nothing_else(world):
    target, source = world
    model = transfer(
        target, source, steps=4, seed=0, hidden_units=5, train_source_dense=True
    )
    assert moved(model, source) == {"head_hidden"}
    added = (6 + 1) * 5 + (5 + 1) * 3
    assert trainable_count(model) == added + (8 + 1) * 6


def test_the_source_is_frozen_by_default_as_in_the_paper():
    assert defaults(transfer)["train_source_dense"] is False


def test_both_start_from_the_same_weights(world):
    target, source = world
    frozen, trained = (
        transfer(target, source, steps=0, seed=0, train_source_dense=flag)
        for flag in (False, True)
    )
    assert weights_of(frozen) == weights_of(trained)


def test_a_source_without_a_dense_layer_is_refused():
    task = small_task("source", 3)
    source = Source(small_classifier(), task)
    with pytest.raises(NotApplicable, match="no Dense layer"):
        transfer(small_task("target", 1), source, steps=1, seed=0)
