"""Fine-tuning: it starts at the source, and every step is the optimiser's."""

import keras
import numpy as np
import pytest
from conftest import small_source, small_task

from ktransfer.engine.batches import epoch_order
from ktransfer.engine.losses import cross_entropy
from ktransfer.methods.parameter.fine_tuning import transfer
from ktransfer.models.graph import leaves
from ktransfer.models.surgery import (
    adapt_input,
    copy_backbone,
    cut,
    trainable_count,
)


@pytest.fixture
def world():
    source = small_source(small_task("source", 3), steps=3)
    return small_task("target", 1), source


def test_it_starts_at_the_source_with_a_new_head(world):
    target, source = world
    model = transfer(target, source, steps=0, seed=1)
    backbone, original = cut(model, "features"), cut(source.model, "features")
    assert [v.numpy().tobytes() for v in backbone.weights] == [
        v.numpy().tobytes() for v in original.weights
    ]
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


def test_a_source_of_other_images_is_adapted(world):
    target, source = world
    backbone = adapt_input(copy_backbone(source.model), target.image_shape)
    assert backbone.input.shape == (None, 12, 12, 1)
