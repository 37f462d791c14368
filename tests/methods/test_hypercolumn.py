"""Hypercolumn: every depth of the frozen source, normalised, side by side."""

import keras
import numpy as np
import pytest
from helpers import bytes_of, defaults, layer_of, probe_loss
from keras import layers

from ktransfer.engine.prediction import predict
from ktransfer.errors import KTransferError
from ktransfer.methods.feature.hypercolumn import transfer
from ktransfer.models.surgery import (
    adapt_input,
    copy,
    cut,
    inline,
    trainable_count,
)
from ktransfer.stages.heads import probed


def numpy_column(source, target, names):
    """Return pooled maps, each normalised over its channels, in NumPy."""
    parts = []
    for name in names:
        maps = adapt_input(cut(source.model, name), target.image_shape)
        values = predict(maps, target.train.x).mean(axis=(1, 2))
        centred = values - values.mean(axis=1, keepdims=True)
        variance = centred.var(axis=1, keepdims=True)
        parts.append(centred / np.sqrt(variance + 1e-3))
    return np.concatenate(parts, axis=1)


def test_it_joins_all_blocks_and_leaves_them_alone(world):
    target, source = world
    model = transfer(target, source, steps=4, seed=0, batch_size=16)
    column = predict(cut(model, "column"), target.train.x)
    assert column.shape == (48, 4 + 6 + 8)
    assert trainable_count(model) == (18 + 1) * 3
    names = ["block1", "block2", "block3"]
    expected = numpy_column(source, target, names)
    np.testing.assert_allclose(column, expected, atol=1e-4)
    # Of the column, whose taps branch off, the layers are one block.
    names = [f"{name}_pool" for name in names]
    ours, theirs = (inline(m, tap=names) for m in (model, source.model))
    assert bytes_of(ours) == bytes_of(theirs)


def test_the_last_block_alone_is_a_linear_probe_on_its_pooled_map(world):
    target, source = world
    options = {"steps": 4, "seed": 0, "batch_size": 16}
    ours = transfer(target, source, blocks=["block3"], **options)
    maps = copy(cut(source.model, "block3"), "backbone")
    pooled = layers.GlobalAveragePooling2D()(maps.output)
    normalised = layers.LayerNormalization(center=False, scale=False)(pooled)
    theirs = probed(target, keras.Model(maps.input, normalised), **options)
    one, other = (layer_of(model, "logits") for model in (ours, theirs))
    assert bytes_of(one) == bytes_of(other)


def test_the_direct_solver_is_at_the_minimum_that_adam_falls_short_of(
    world, fits
):
    target, source = world
    ends = {}
    for solver in ("adam", "direct"):
        fits.clear()
        model = transfer(
            target, source, steps=20, seed=0, solver=solver, strength=1e-2
        )
        assert len(fits) == (solver == "adam")
        loss, gradient = probe_loss(model, "column", target, 1e-2)
        ends[solver] = loss, np.abs(gradient).max()
    assert ends["direct"][1] < 1e-6 < 1e-3 < ends["adam"][1]
    assert ends["direct"][0] < ends["adam"][0]


def test_a_penalty_shrinks_the_trained_head(world):
    target, source = world
    sizes = [
        np.linalg.norm(
            transfer(target, source, steps=20, seed=0, strength=strength)
            .get_layer("logits")
            .kernel
        )
        for strength in (0.0, 0.1, 1.0)
    ]
    assert sizes[0] > sizes[1] > sizes[2]


def test_the_default_takes_the_steps_of_every_method():
    found = defaults(transfer)
    assert (found["solver"], found["strength"]) == ("adam", 0.0)


def test_a_block_is_chosen_by_name(world):
    target, source = world
    model = transfer(target, source, steps=0, seed=0, blocks="block2")
    assert trainable_count(model) == (6 + 1) * 3
    with pytest.raises(KTransferError, match="'block9'"):
        transfer(target, source, steps=1, seed=0, blocks=["block9"])
