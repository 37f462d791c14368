"""Fine-tuning: it starts at the source, and every step is the optimiser's."""

import keras
import numpy as np
import pytest
from helpers import (
    bytes_of,
    defaults,
    small_task,
    small_transformer,
    small_world,
)
from keras import layers

from ktransfer.engine.batches import epoch_order
from ktransfer.engine.losses import cross_entropy
from ktransfer.methods.parameter.fine_tuning import transfer
from ktransfer.models.graph import leaves
from ktransfer.models.own import Source
from ktransfer.models.surgery import attach_head, cut, trainable_count


@pytest.fixture
def world():
    return small_world()


def test_it_starts_at_the_source_with_a_new_head(world):
    target, source = world
    model = transfer(target, source, steps=0, seed=1)
    backbone, original = cut(model, "features"), cut(source.model, "features")
    assert bytes_of(backbone) == bytes_of(original)
    # The source has as many classes; its head is not taken all the same.
    old, new = leaves(source.model)[-1], leaves(model)[-1]
    assert old.units == new.units
    assert new.kernel.shape[0] == 8
    assert trainable_count(model) == model.count_params()


def test_one_step_of_sgd_moves_by_rate_times_gradient(world):
    target, source = world
    options = {"seed": 1, "batch_size": 16, "optimizer": keras.optimizers.SGD}
    start = transfer(target, source, steps=0, seed=1)
    after = transfer(target, source, steps=1, learning_rate=1e-2, **options)
    rows = epoch_order(48, 1, 16, 1)[0]
    x, y = target.train.x[rows], target.train.y[rows]
    for path in ("logits/bias", "block3_conv/bias"):
        (variable,) = [v for v in start.weights if v.path.endswith(path)]
        (moved,) = [v for v in after.weights if v.path.endswith(path)]
        change = (moved.numpy() - variable.numpy()) / -1e-2
        value = variable.numpy()
        for k in range(2):
            losses = []
            for step in (-1e-3, 1e-3):
                nudge = np.zeros_like(value)
                nudge[k] = step
                variable.assign(value + nudge)
                losses.append(float(cross_entropy(y, start(x))))
            variable.assign(value)
            slope = (losses[1] - losses[0]) / 2e-3
            assert change[k] == pytest.approx(slope, abs=3e-3)


def test_the_head_may_have_its_own_rate(world):
    target, source = world
    options = {"steps": 1, "seed": 1, "optimizer": keras.optimizers.SGD}
    slow = transfer(target, source, learning_rate=1e-3, **options)
    fast = transfer(
        target, source, learning_rate=1e-3, head_learning_rate=1e-2, **options
    )
    start = transfer(target, source, steps=0, seed=1)
    for a, b, c in zip(start.weights, slow.weights, fast.weights):
        ratio = 10.0 if "logits" in a.path else 1.0
        np.testing.assert_allclose(c - a, ratio * (b - a), atol=1e-6)


def test_by_default_nothing_decays_and_the_head_has_the_rate_of_all():
    found = defaults(transfer)
    assert (found["learning_rate"], found["weight_decay"]) == (1e-3, 0)
    assert found["head_learning_rate"] is None


def test_weight_decay_shrinks_the_kernels(world):
    target, source = world
    plain, decayed = (
        transfer(target, source, steps=20, seed=1, weight_decay=decay)
        for decay in (0.0, 10.0)
    )
    norms = [
        sum(
            (x.kernel.numpy() ** 2).sum()
            for x in leaves(m)
            if hasattr(x, "kernel")
        )
        for m in (plain, decayed)
    ]
    assert norms[1] < norms[0]


def separable():
    """Return a separable and a depthwise convolution, images -> 4 features."""
    inputs = keras.Input((12, 12, 3), dtype="uint8", name="images")
    x = layers.Rescaling(1 / 255, name="rescale")(inputs)
    x = layers.SeparableConv2D(5, 3, name="block1_separable")(x)
    x = layers.DepthwiseConv2D(3, name="block2_depthwise")(x)
    x = layers.BatchNormalization(name="block2_norm")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dense(4, name="features")(x)
    return keras.Model(inputs, x, name="separable")


@pytest.mark.parametrize(
    ("build", "num_kernels"), [(separable, 5), (small_transformer, 7)]
)
def test_each_kernel_decays_by_its_own_size_and_nothing_else(
    build, num_kernels
):
    source = Source(attach_head(build(), 3, seed=0), small_task("source", 3))
    options = {"seed": 1, "batch_size": 16, "optimizer": keras.optimizers.SGD}
    start, plain, decayed = (
        transfer(
            small_task("target", 1),
            source,
            steps=steps,
            weight_decay=decay,
            learning_rate=0.1,
            **options,
        ).trainable_variables
        for steps, decay in ((0, 0.0), (1, 0.0), (1, 0.5))
    )
    kernels = 0
    for old, free, held in zip(start, plain, decayed, strict=True):
        # The gradient of weight_decay / 2 ||W||^2 is weight_decay W.
        wanted = np.zeros(old.shape)
        if "kernel" in old.path.split("/")[-1]:
            kernels += 1
            wanted = -0.1 * 0.5 * old.numpy()
            assert np.abs(wanted).max() > 1e-3
        np.testing.assert_allclose(held - free, wanted, atol=1e-6)
    assert kernels == num_kernels


@pytest.mark.parametrize("size", [12, 10])
def test_a_source_of_other_images_is_adapted(world, size):
    """Smaller grey images get a border of zeros and three equal channels."""
    _, source = world
    target = small_task("target", 1, size=size)
    model = transfer(target, source, steps=2, seed=1, batch_size=16)
    assert model.input.shape == (None, size, size, 1)
    start = transfer(target, source, steps=0, seed=1)
    border = (12 - size) // 2
    frame = [(0, 0), (border, border), (border, border), (0, 0)]
    colour = np.repeat(np.pad(target.train.x, frame), 3, axis=-1)
    wanted = cut(source.model, "features")(colour)
    found = cut(start, "features")(target.train.x)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert model(target.train.x).shape == (48, 3)
