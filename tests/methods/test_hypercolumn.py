"""Hypercolumn: every depth of the frozen source, normalised, side by side."""

import inspect

import keras
import numpy as np
import pytest
from conftest import small_source, small_task
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


@pytest.fixture(scope="module")
def world():
    source = small_source(small_task("source", 3), normalised=True, steps=3)
    return small_task("target", 1), source


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
    assert [v.numpy().tobytes() for v in ours.variables] == [
        v.numpy().tobytes() for v in theirs.variables
    ]


def test_the_last_block_alone_is_a_linear_probe_on_its_pooled_map(world):
    target, source = world
    options = {"steps": 4, "seed": 0, "batch_size": 16}
    ours = transfer(target, source, blocks=["block3"], **options)
    maps = copy(cut(source.model, "block3"), "backbone")
    pooled = layers.GlobalAveragePooling2D()(maps.output)
    normalised = layers.LayerNormalization(center=False, scale=False)(pooled)
    theirs = probed(target, keras.Model(maps.input, normalised), **options)
    for a, b in zip(
        ours.get_layer("logits").weights, theirs.get_layer("logits").weights
    ):
        assert a.numpy().tobytes() == b.numpy().tobytes()


def loss_and_slope(model, task, strength):
    """Return the loss and the largest slope of it, in NumPy and float64."""
    x = predict(cut(model, "column"), task.train.x).astype("float64")
    weights = model.get_layer("logits").get_weights()
    kernel, bias = (w.astype("float64") for w in weights)
    z = x @ kernel + bias
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    y = np.eye(3)[task.train.y]
    loss = -np.log((p * y).sum(axis=1)).mean() + strength * (kernel**2).sum()
    slope = x.T @ (p - y) / len(x) + 2 * strength * kernel
    return loss, max(np.abs(slope).max(), np.abs((p - y).mean(axis=0)).max())


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
        ends[solver] = loss_and_slope(model, target, 1e-2)
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
    defaults = inspect.signature(transfer).parameters
    assert defaults["solver"].default == "adam"
    assert defaults["strength"].default == 0.0


def test_a_block_is_chosen_by_name(world):
    target, source = world
    model = transfer(target, source, steps=0, seed=0, blocks="block2")
    assert trainable_count(model) == (6 + 1) * 3
    with pytest.raises(KTransferError, match="'block9'"):
        transfer(target, source, steps=1, seed=0, blocks=["block9"])
