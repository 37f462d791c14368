"""Co-tuning: the source head is taught the source's view of each class."""

import keras
import numpy as np
import pytest
from conftest import (
    check_the_rate_of_the_head,
    small_source,
    small_task,
    weights_of,
    worlds,
)
from keras import layers

from ktransfer.engine import prediction, training
from ktransfer.errors import NotApplicable
from ktransfer.measures.transferability import label_map
from ktransfer.methods.finetuning import co_tuning
from ktransfer.methods.finetuning.co_tuning import (
    _relationship,
    _softmax,
    _temperature,
    transfer,
)
from ktransfer.methods.parameter import fine_tuning
from ktransfer.models.own import Source
from ktransfer.models.surgery import adapt_input

OPTIONS = {"steps": 3, "seed": 2, "batch_size": 16}


@pytest.fixture
def world():
    """The source has two classes, the target three."""
    source = small_source(small_task("source", 3, num_classes=2), steps=3)
    return small_task("target", 1), source


def perfect_source(task):
    """Return a source that measures the bright band of each class."""
    kernel = np.zeros((12, 12, 1, 3), "float32")
    for label in range(3):
        kernel[label * 4 : label * 4 + 4, 2:10, 0, label] = 1 / 32
    inputs = keras.Input((12, 12, 1), dtype="uint8", name="images")
    x = layers.Rescaling(1 / 255, name="rescale")(inputs)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(3, use_bias=False, name="features")(x)
    outputs = layers.Dense(3, name="logits")(x)
    model = keras.Model(inputs, outputs)
    model.get_layer("features").kernel.assign(kernel.reshape(144, 3))
    model.get_layer("logits").kernel.assign(20 * np.eye(3, dtype="float32"))
    return Source(model, task)


def cross_entropy(logits, labels):
    return -np.log(_softmax(logits)[np.arange(len(labels)), labels]).mean()


@pytest.mark.parametrize("number", [0, 1])
def test_strength_zero_is_fine_tuning(number):
    target, (source,) = worlds(1)[number]
    model = transfer(target, source, strength=0, **OPTIONS)
    tuned = fine_tuning.transfer(target, source, **OPTIONS)
    assert list(weights_of(model).values()) == list(weights_of(tuned).values())


def test_a_perfect_source_on_its_own_task_gives_the_identity():
    target = small_task("target", 1)
    rows = _relationship(target, perfect_source(target), 2000, seed=0)
    np.testing.assert_allclose(rows, np.eye(3), atol=1e-3)


def test_the_rows_are_the_sources_mean_belief_of_each_class(world):
    target, source = world
    rows = _relationship(target, source, 2000, seed=0)
    assert rows.shape == (3, 2)
    np.testing.assert_allclose(rows.sum(1), 1, rtol=1e-12)
    # Of one joint distribution with the map that LEEP counts: Bayes.
    held = co_tuning.held_out(source.task, 0)[1]
    heat = _temperature(source.model(held.x), held.y)
    reader = adapt_input(source.model, target.image_shape)
    theta = _softmax(np.asarray(reader(target.train.x)) / heat)
    shares = np.bincount(target.train.y) / len(target.train.y)
    joint = label_map(theta, target.train.y) * theta.mean(0)[:, None]
    np.testing.assert_allclose(rows * shares[:, None], joint.T, rtol=1e-5)


def test_the_temperature_has_the_least_cross_entropy():
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(size=(400, 5))
    chosen = [rng.choice(5, p=p) for p in _softmax(logits / 3)]
    found = _temperature(logits, chosen)
    grid = np.exp(np.linspace(np.log(0.5), np.log(15), 500))
    best = grid[np.argmin([cross_entropy(logits / t, chosen) for t in grid])]
    assert found == pytest.approx(best, rel=0.01)
    assert 2 < found < 5
    # Logits of another scale are the same beliefs.
    assert _temperature(4 * logits, chosen) == pytest.approx(4 * found)
    # A source that is never wrong has no minimum, but an end.
    assert _temperature(np.eye(3), [0, 1, 2]) == pytest.approx(0.05)


def test_the_loss_is_the_written_formula(world, monkeypatch):
    target, source = world
    seen = {}
    monkeypatch.setattr(
        co_tuning,
        "fit",
        lambda model, *args, **options: seen.update(options, model=model),
    )
    transfer(target, source, steps=1, seed=0)
    x, y = target.train
    outputs = {k: np.asarray(v) for k, v in seen["model"](x).items()}
    # The source head starts as the source's own.
    reader = adapt_input(source.model, target.image_shape)
    np.testing.assert_allclose(outputs["source_logits"], reader(x), atol=1e-6)
    rows = _relationship(target, source, 2000, seed=0)
    related = -(rows[y] * np.log(_softmax(outputs["source_logits"]))).sum(1)
    wanted = cross_entropy(outputs["logits"], y) + 2.3 * related.mean()
    assert float(seen["loss"](y, outputs)) == pytest.approx(wanted, rel=1e-5)


def test_the_source_head_trains_and_is_not_in_the_result(world, fitted):
    target, source = world
    joint = fitted(co_tuning)
    training.ledger()
    model = transfer(target, source, **OPTIONS)
    (fit,) = training.ledger()
    assert fit.trainable_parameters == model.count_params() + 54 + 14
    tuned = fine_tuning.transfer(target, source, **{**OPTIONS, "steps": 0})
    assert weights_of(model).keys() == weights_of(tuned).keys()
    head = joint[0].get_layer("source_head")
    old = [v.numpy() for v in source.model.weights[-len(head.weights) :]]
    for before, after in zip(old, head.weights, strict=True):
        assert (before != after.numpy()).any()


def test_calibration_reads_a_bounded_number_of_held_out_images(
    world, monkeypatch
):
    target, source = world
    read = []

    def watching(model, images):
        read.append(images)
        return prediction.predict(model, images)

    monkeypatch.setattr(co_tuning, "predict", watching)
    _relationship(target, source, 5, seed=0)
    assert [len(images) for images in read] == [5, 48]
    theirs = {image.tobytes() for image in source.task.train.x}
    assert {image.tobytes() for image in read[0]} <= theirs


def test_a_source_with_one_image_a_class_cannot_be_calibrated(world):
    target, source = world
    few = source.task.train._replace(
        x=source.task.train.x[:2], y=source.task.train.y[:2]
    )
    lone = source._replace(task=source.task._replace(train=few))
    training.ledger()
    with pytest.raises(NotApplicable, match="two labelled images"):
        transfer(target, lone, **OPTIONS)
    assert not training.ledger()


def test_the_head_may_have_its_own_rate(world):
    check_the_rate_of_the_head(transfer, world)
