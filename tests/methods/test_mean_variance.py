"""Mean and variance: fresh draws with the source's moments, not its weights."""

import keras
import numpy as np
from helpers import layer_of, small_task
from keras import layers

from ktransfer.engine.normalization import reestimate_statistics
from ktransfer.methods.structure.mean_variance import transfer
from ktransfer.models import backbones
from ktransfer.models.own import Source
from ktransfer.models.surgery import attach_head, copy, cut, trainable_count


def vgg_source():
    """Return a source whose variables all have a mean and a spread."""
    task = small_task("source", 3)
    model = attach_head(
        backbones.vgg(task.image_shape, filters=(32, 64)), 3, seed=0
    )
    rng = np.random.default_rng(0)
    for number, variable in enumerate(model.weights):
        value = rng.normal(0.02 * number, 0.1 + 0.02 * number, variable.shape)
        positive = variable.name == "moving_variance"
        variable.assign(np.exp(2 * value) if positive else value)
    return Source(model, task)


def pairs(model, source):
    return zip(
        cut(model, "features").weights,
        cut(source.model, "features").weights,
        strict=True,
    )


def test_each_variable_keeps_mean_and_std_and_not_its_entries():
    source = vgg_source()
    model = transfer(small_task("target", 1), source, steps=0, seed=3)
    for ours, theirs in pairs(model, source):
        if ours.name.startswith("moving"):
            continue
        old, new = theirs.numpy().ravel(), ours.numpy().ravel()
        n = old.size
        assert abs(np.corrcoef(old, new)[0, 1]) < 4.5 / np.sqrt(n)
        assert abs(new.mean() - old.mean()) < 4.5 * old.std() / np.sqrt(n)
        assert abs(new.std() / old.std() - 1) < 4.5 / np.sqrt(2 * n)


def test_moving_statistics_are_those_of_the_targets_images():
    """Drawn ones belong to no network: 60 steps on them gave .627 for 1.0."""
    target = small_task("target", 1)
    model = transfer(target, vgg_source(), steps=0, seed=3)
    twin = copy(model)
    reestimate_statistics(twin, target.train.x)
    found, wanted = (
        [v.numpy() for v in m.weights if v.name.startswith("moving")]
        for m in (model, twin)
    )
    assert len(found) == 8
    for ours, theirs in zip(found, wanted):
        np.testing.assert_array_equal(ours, theirs)


def test_what_is_adapted_to_data_is_not_drawn():
    images = small_task("source", 3).train.x
    normalise = layers.Normalization(name="normalise")
    inputs = keras.Input((12, 12, 3), dtype="uint8")
    x = layers.Conv2D(4, 3, name="block1_conv")(
        normalise(layers.Rescaling(1.0)(inputs))
    )
    backbone = keras.Model(inputs, layers.Flatten(name="features")(x))
    normalise.adapt(images.astype("float32"))
    source = Source(attach_head(backbone, 3, seed=0), small_task("source", 3))
    model = transfer(small_task("target", 1), source, steps=0, seed=3)
    ours = layer_of(model, "normalise")
    np.testing.assert_array_equal(ours.mean, normalise.mean)
    np.testing.assert_array_equal(ours.variance, normalise.variance)


def test_a_constant_variable_stays_and_streams_are_apart():
    source = vgg_source()
    for variable in source.model.weights:
        if variable.name == "bias":
            variable.assign(np.full(variable.shape, 0.25))
        if variable.name == "gamma":
            variable.assign(np.ones(variable.shape))
    target = small_task("target", 1)
    one, two = (transfer(target, source, steps=0, seed=s) for s in (0, 1))
    for ours, theirs in pairs(one, source):
        if ours.name.startswith("moving"):
            continue
        constant = ours.name in ("bias", "gamma")
        equal = ours.numpy().tobytes() == theirs.numpy().tobytes()
        assert equal == constant, ours.path
    betas = [w.numpy() for w in one.weights if w.name == "beta"]
    assert not np.isclose(betas[0], betas[1]).any()
    other = [w.numpy() for w in two.weights if w.name == "beta"]
    assert not np.isclose(betas[0], other[0]).any()


def test_all_of_it_is_trained_under_a_new_head():
    source = vgg_source()
    target = small_task("target", 1)
    start = transfer(target, source, steps=0, seed=3)
    model = transfer(target, source, steps=2, seed=3, batch_size=8)
    fixed = sum(np.prod(v.shape) for v in model.non_trainable_variables)
    assert trainable_count(model) == model.count_params() - fixed
    for a, b in zip(start.trainable_weights, model.trainable_weights):
        assert a.numpy().tobytes() != b.numpy().tobytes()
