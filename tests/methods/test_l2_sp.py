"""L2-SP: the kernels of the backbone are pulled to where they started."""

import keras
import numpy as np
import pytest
from helpers import bytes_of, defaults, idle, small_task, small_world
from keras import layers

from ktransfer.engine import backend
from ktransfer.engine.losses import cross_entropy
from ktransfer.measures.similarity import weight_distance
from ktransfer.methods.finetuning import l2_sp
from ktransfer.methods.finetuning.l2_sp import transfer
from ktransfer.methods.parameter import fine_tuning
from ktransfer.models.own import Source
from ktransfer.models.surgery import attach_head, cut


@pytest.fixture
def handed(spy):
    """The calls of `fit`, which does not run."""
    return spy(l2_sp, instead=idle)


def is_pulled(variable):
    return variable.path.endswith("conv/kernel")


def shift(model, size=0.1):
    """Move every trainable weight; return the old and new arrays by path."""
    rng = np.random.default_rng(0)
    old = {v.path: v.numpy().astype("float64") for v in model.weights}
    for v in model.trainable_variables:
        v.assign(v.numpy() + size * rng.normal(size=v.shape))
    return old, {v.path: v.numpy().astype("float64") for v in model.weights}


def distance(target, source, model):
    start = cut(source.model, "features").weights
    pairs = zip(cut(model, "features").weights, start, strict=True)
    return np.sqrt(
        sum(
            ((a.numpy() - b.numpy()) ** 2).sum()
            for a, b in pairs
            if is_pulled(a)
        )
    )


def test_strengths_of_zero_are_fine_tuning(world):
    options = {"steps": 3, "seed": 2, "batch_size": 16}
    model = transfer(*world, strength=0, head_strength=0, **options)
    tuned = fine_tuning.transfer(*world, **options)
    assert bytes_of(model) == bytes_of(tuned)


def test_the_defaults_are_those_of_the_authors_training_script():
    found = defaults(transfer)
    assert (found["strength"], found["head_strength"]) == (0.1, 0.01)


def test_the_penalty_sums_over_kernels_and_nothing_else(world, handed):
    target, source = world
    model = transfer(target, source, steps=1, seed=0, strength=3.0)
    x, y = target.train
    kernel = model.get_layer("logits").kernel.numpy().astype("float64")
    # At the start the backbone is the source, so only the head counts.
    plain = float(cross_entropy(y, model(x)))
    found = float(handed[0].loss(y, model(x))) - plain
    assert found == pytest.approx(0.005 * (kernel**2).sum(), rel=1e-4)

    old, new = shift(model)
    pulled = [path for path in old if path.endswith("conv/kernel")]
    assert len(pulled) == 3
    squares = sum(((new[p] - old[p]) ** 2).sum() for p in pulled)
    (head,) = [p for p in new if p.endswith("logits/kernel")]
    plain = float(cross_entropy(y, model(x)))
    found = float(handed[0].loss(y, model(x))) - plain
    wanted = 1.5 * squares + 0.005 * (new[head] ** 2).sum()
    assert found == pytest.approx(wanted, rel=1e-4)


def test_the_kernels_of_separable_convolutions_are_pulled_too(handed):
    inputs = keras.Input((12, 12, 1), dtype="uint8", name="images")
    x = layers.Rescaling(1 / 255, name="rescale")(inputs)
    x = layers.SeparableConv2D(5, 3, name="block1_separable")(x)
    x = layers.GlobalAveragePooling2D(name="features")(x)
    model = attach_head(keras.Model(inputs, x), 3, seed=0)
    task = small_task("target", 1)
    model = transfer(
        task,
        Source(model, task),
        steps=1,
        seed=0,
        strength=3.0,
        head_strength=0,
    )
    old, new = shift(model)
    pulled = [path for path in old if path.endswith("wise_kernel")]
    assert len(pulled) == 2
    squares = sum(((new[p] - old[p]) ** 2).sum() for p in pulled)
    x, y = task.train
    found = float(handed[0].loss(y, model(x)))
    found -= float(cross_entropy(y, model(x)))
    assert found == pytest.approx(1.5 * squares, rel=1e-4)


def test_the_pull_is_strength_times_the_way_back(world, handed):
    target, source = world
    model = transfer(
        target, source, steps=1, seed=0, strength=3.0, head_strength=0.5
    )
    old, new = shift(model)
    x, y = target.train

    def slopes(loss):
        variables = model.trainable_variables
        return backend.value_and_gradients(lambda: loss(y, model(x)), variables)

    _, free = slopes(cross_entropy)
    _, held = slopes(handed[0].loss)
    for v, a, b in zip(model.trainable_variables, free, held, strict=True):
        wanted = 0 * new[v.path]
        if is_pulled(v):
            wanted = 3.0 * (new[v.path] - old[v.path])
        if v.path.endswith("logits/kernel"):
            wanted = 0.5 * new[v.path]
        np.testing.assert_allclose(b - a, wanted, atol=2e-5)


def test_the_distance_falls_with_strength_down_to_nothing():
    target, source = small_world()
    options = {"optimizer": keras.optimizers.SGD, "batch_size": 16}
    models = [
        transfer(
            target,
            source,
            steps=8,
            seed=0,
            strength=strength,
            # A rate of 0.9 / strength: above 1 it would diverge.
            learning_rate=rate,
            **options,
        )
        for strength, rate in ((0, 0.05), (10, 0.05), (1e5, 9e-6))
    ]
    free, pulled, held = (distance(target, source, m) for m in models)
    moved = [
        sum(weight_distance(model, source.model).values()) for model in models
    ]
    assert moved == sorted(moved, reverse=True) and moved[0] > 2 * moved[2]
    assert free > pulled > held
    assert pulled < free / 2
    assert held < 1e-4


def test_the_result_carries_no_penalty(world):
    model = transfer(*world, steps=2, seed=0, batch_size=8)
    assert model.losses == []
