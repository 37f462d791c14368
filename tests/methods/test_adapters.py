"""Adapters: the frozen blocks keep their bits, small bottlenecks learn."""

import keras
import numpy as np
import pytest
from helpers import defaults, moved_names, small_task, weights_of
from keras import layers

from ktransfer.methods.feature import linear_probe
from ktransfer.methods.finetuning.adapters import transfer
from ktransfer.models import backbones
from ktransfer.models.blocks import blocks
from ktransfer.models.graph import leaves
from ktransfer.models.own import Source
from ktransfer.models.surgery import attach_head, cut
from ktransfer.models.surgery import trainable_count as count

OPTIONS = {"seed": 1, "batch_size": 16}
HEAD = 8 * 3 + 3


def adapters(model):
    """Return the layers of the adapters by name."""
    return {x.name: x for x in leaves(model) if "_adapter" in x.name}


def test_without_its_second_half_an_adapter_is_the_identity(world):
    model = transfer(*world, steps=2, **OPTIONS)
    probe = linear_probe.transfer(*world, steps=0, **OPTIONS)
    model.get_layer("logits").set_weights(
        probe.get_layer("logits").get_weights()
    )
    x = world[0].train.x
    assert not np.array_equal(model(x), probe(x))
    for name, layer in adapters(model).items():
        if name.endswith("_up"):
            layer.set_weights([0 * w for w in layer.get_weights()])
    np.testing.assert_array_equal(model(x), probe(x))


def test_only_adapters_and_head_move(world):
    start, model = (
        weights_of(transfer(*world, steps=steps, **OPTIONS)) for steps in (0, 2)
    )
    moved = moved_names(start, model)
    assert moved == {
        path for path in start if "_adapter" in path or "logits" in path
    }
    source = weights_of(world[1].model)
    for path in start.keys() - moved:
        assert model[path] == source[path]
    # Three blocks of a kernel, a bias and four of BatchNorm.
    assert len(start.keys() - moved) == 18


@pytest.mark.parametrize("units", [64, 5])
def test_the_trainable_count_is_the_formula(world, units):
    model = transfer(*world, steps=0, units=units, **OPTIONS)
    expected = sum(2 * c * units + c + units for c in (4, 6, 8))
    assert count(model) == expected + HEAD


def test_an_adapter_is_the_written_formula(world):
    from math import erf

    model = transfer(*world, steps=0, initial_deviation=0.7, **OPTIONS)
    parts = adapters(model)
    down, up = (parts[f"block2_adapter_{x}"] for x in ("down", "up"))
    rng = np.random.default_rng(0)
    for layer in (down, up):
        layer.bias.assign(rng.normal(size=layer.bias.shape))
    x = world[0].train.x[:5]
    h = np.asarray(cut(model, "block2_pool")(x), "float64")
    inner = np.einsum("nhwc,cu->nhwu", h, down.kernel.numpy()) + down.bias
    inner = inner * (1 + np.vectorize(erf)(inner / np.sqrt(2))) / 2
    outer = np.einsum("nhwu,uc->nhwc", inner, up.kernel.numpy()) + up.bias
    found = cut(model, "block2_adapter")(x)
    assert found.shape == (5, 3, 3, 6)
    np.testing.assert_allclose(found, h + outer, rtol=1e-4, atol=1e-4)


def test_kernels_start_small_and_biases_at_zero(world):
    model = transfer(*world, steps=0, units=200, **OPTIONS)
    kernels = []
    for name, layer in adapters(model).items():
        if not name.endswith("_adapter"):
            kernels.append(layer.kernel.numpy())
            assert kernels[-1].std() == pytest.approx(1e-3, rel=0.1)
            assert not layer.bias.numpy().any()
    assert len(kernels) == 6
    # No two start alike.
    assert len({kernel.ravel()[:4].tobytes() for kernel in kernels}) == 6


def test_every_block_has_one_and_dense_blocks_too():
    task = small_task("source", 3)
    backbone = backbones.mlp((12, 12, 3), units=(10, 7))
    source = Source(attach_head(backbone, 3, seed=0), task)
    model = transfer(small_task("target", 1), source, steps=2, **OPTIONS)
    names = [
        x.name
        for x in leaves(model)
        if isinstance(x, layers.Add | layers.Dense)
    ]
    assert names == [
        "block1_dense",
        "block1_adapter_down",
        "block1_adapter_up",
        "block1_adapter",
        "features",
        "features_adapter_down",
        "features_adapter_up",
        "features_adapter",
        "logits",
    ]


def test_residual_blocks_are_adapted_as_wholes():
    backbone = backbones.resnet20((12, 12, 3), filters=(2, 3, 4))
    task = small_task("source", 3)
    source = Source(attach_head(backbone, 3, seed=0), task)
    model = transfer(small_task("target", 1), source, steps=0, seed=1)
    names = [x.name for x in leaves(model)]
    for block in blocks(backbone):
        last = "relu" if block == "block1" else "relu2"
        place = names.index(f"{block}_adapter_down")
        assert names[place - 1] == f"{block}_{last}"


def test_a_branch_is_within_a_block(world):
    inputs = keras.Input((12, 12, 3), dtype="uint8", name="images")
    x = layers.Rescaling(1 / 255)(inputs)
    low = layers.Conv2D(3, 3, padding="same", name="block1_conv")(x)
    high = layers.Conv2D(3, 3, padding="same", name="block2_conv")(low)
    x = layers.Concatenate(name="joined")([low, high])
    x = layers.Flatten(name="features")(x)
    model = attach_head(keras.Model(inputs, x, name="branches"), 2, seed=0)
    target, source = world
    adapted = transfer(
        target, Source(model, source.task), steps=1, units=2, **OPTIONS
    )
    names = [x.name for x in leaves(adapted) if x.name.endswith("_down")]
    assert names == ["block1_adapter_down", "block2_adapter_down"]
    # The second stands after the join, which is six channels wide.
    found = {x.name: x for x in leaves(adapted)}
    assert found[names[1]].kernel.shape == (6, 2)


def test_the_defaults_are_the_authors():
    found = defaults(transfer)
    assert (found["units"], found["initial_deviation"]) == (64, 1e-3)
