"""Co-tuning: the source head is taught the source's view of each class."""

import keras
import numpy as np
import pytest
from helpers import (
    bytes_of,
    check_the_rate_of_the_head,
    defaults,
    idle,
    log_loss,
    sizes_of,
    small_task,
    small_world,
    softmax,
    weights_of,
)
from keras import layers

from ktransfer.errors import KTransferError, NotApplicable
from ktransfer.measures.transferability import label_map
from ktransfer.methods.finetuning import co_tuning
from ktransfer.methods.finetuning.co_tuning import _rows, _temperature, transfer
from ktransfer.methods.parameter import fine_tuning
from ktransfer.models.own import Source
from ktransfer.models.surgery import adapt_input

OPTIONS = {"steps": 3, "seed": 2, "batch_size": 16}


@pytest.fixture
def world():
    """The source has two classes, the target three."""
    return small_world(num_classes=2)


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


@pytest.mark.parametrize("normalised", [False, True])
def test_strength_zero_is_fine_tuning(normalised):
    target, source = small_world(normalised=normalised)
    model = transfer(target, source, strength=0, **OPTIONS)
    tuned = fine_tuning.transfer(target, source, **OPTIONS)
    assert bytes_of(model) == bytes_of(tuned)


@pytest.mark.parametrize("relationship", ["direct", "reverse"])
def test_a_perfect_source_on_its_own_task_gives_the_identity(relationship):
    target = small_task("target", 1)
    rows = _rows(target, perfect_source(target), 1.0, relationship, seed=0)
    np.testing.assert_allclose(rows, np.eye(3), atol=1e-2)


def test_the_direct_rows_are_the_sources_mean_belief_of_each_class(world):
    target, source = world
    rows = _rows(target, source, 1.7, "direct", seed=0)
    assert rows.shape == (3, 2)
    np.testing.assert_allclose(rows.sum(1), 1, rtol=1e-12)
    # Of one joint distribution with the map that LEEP counts: Bayes.
    reader = adapt_input(source.model, target.image_shape)
    theta = softmax(np.asarray(reader(target.train.x)) / 1.7)
    shares = np.bincount(target.train.y) / len(target.train.y)
    joint = label_map(theta, target.train.y) * theta.mean(0)[:, None]
    np.testing.assert_allclose(rows * shares[:, None], joint.T, rtol=1e-5)


def test_the_reverse_rows_are_of_a_split_of_the_labelled_images(world, spy):
    target, source = world
    calls = spy(co_tuning, "reverse", instead=idle)
    _rows(target, source, 1.7, "reverse", seed=3)
    (call,) = calls
    training_part, validation, num_classes = call.args
    assert num_classes == 3
    part, held = co_tuning.held_out(target, 3)
    assert 0 < len(held.y) < len(part.train.y)
    reader = adapt_input(source.model, target.image_shape)
    for (theta, labels), split in (
        (training_part, part.train),
        (validation, held),
    ):
        np.testing.assert_array_equal(labels, split.y)
        wanted = softmax(np.asarray(reader(split.x)) / 1.7)
        np.testing.assert_allclose(theta, wanted, rtol=1e-4)


def test_a_temperature_is_calibrated_on_held_out_images():
    """A source that is wrong at times and always sure is softened."""
    task = small_task("target", 1)
    labels = np.where(np.arange(48) % 5, task.train.y, 0).astype("int32")
    task = task._replace(train=task.train._replace(y=labels))
    source = perfect_source(task)
    found = _temperature(source, 2000, seed=0)
    _, held = co_tuning.held_out(task, 0)
    logits = np.asarray(source.model(held.x))
    grid = np.exp(np.linspace(0, np.log(20), 400))
    losses = [log_loss(held.y, logits / t) for t in grid]
    assert found == pytest.approx(grid[np.argmin(losses)], rel=0.01)
    assert 1.5 < found < 15


def test_training_images_never_sharpen_the_source():
    """On what it was trained on a source is right, and looks too unsure."""
    task = small_task("target", 1)
    source = perfect_source(task)
    _, held = co_tuning.held_out(task, 0)
    logits = np.asarray(source.model(held.x))
    lower = log_loss(held.y, logits / 0.5)
    assert lower < log_loss(held.y, logits)
    assert _temperature(source, 2000, seed=0) == pytest.approx(1, abs=1e-6)


def test_the_temperature_softens_the_rows_and_none_calibrates(
    world, monkeypatch, spy
):
    target, source = world
    calls = spy(co_tuning, "_rows", instead=lambda *args: np.eye(3, 2))
    monkeypatch.setattr(co_tuning, "_temperature", lambda *_: 3.25)
    transfer(target, source, **OPTIONS)
    transfer(target, source, temperature=None, relationship="direct", **OPTIONS)
    asked = [call.args[2:4] for call in calls]
    assert asked == [(1.13, "reverse"), (3.25, "direct")]


def test_the_defaults_are_the_authors():
    found = defaults(transfer)
    assert found["strength"] == 2.3
    assert found["temperature"] == 1.13
    assert found["relationship"] == "reverse"
    # Ours.
    assert found["num_images"] == 2000


def test_bad_choices_are_refused_before_training(world, fits):
    with pytest.raises(KTransferError, match="direct"):
        transfer(*world, relationship="directed", **OPTIONS)
    with pytest.raises(KTransferError, match="temperature is 0"):
        transfer(*world, temperature=0, **OPTIONS)
    assert not fits


def test_the_loss_is_the_written_formula(world, given_to_fit):
    target, source = world
    call = given_to_fit(co_tuning, *world)
    x, y = target.train
    outputs = {k: np.asarray(v) for k, v in call.model(x).items()}
    # The source head starts as the source's own.
    reader = adapt_input(source.model, target.image_shape)
    np.testing.assert_allclose(outputs["source_logits"], reader(x), atol=1e-6)
    rows = _rows(target, source, 1.13, "reverse", seed=0)
    related = -(rows[y] * np.log(softmax(outputs["source_logits"]))).sum(1)
    wanted = log_loss(y, outputs["logits"]) + 2.3 * related.mean()
    assert float(call.loss(y, outputs)) == pytest.approx(wanted, rel=1e-5)


def test_the_source_head_trains_and_is_not_in_the_result(world, spy, fits):
    target, source = world
    calls = spy(co_tuning)
    model = transfer(target, source, **OPTIONS)
    (fit,) = fits
    assert fit.trainable_parameters == model.count_params() + 54 + 14
    tuned = fine_tuning.transfer(target, source, **{**OPTIONS, "steps": 0})
    assert weights_of(model).keys() == weights_of(tuned).keys()
    head = calls[0].model.get_layer("source_head")
    old = [v.numpy() for v in source.model.weights[-len(head.weights) :]]
    for before, after in zip(old, head.weights, strict=True):
        assert (before != after.numpy()).any()


def test_calibration_reads_a_bounded_number_of_held_out_images(world, spy):
    _, source = world
    calls = spy(co_tuning, "predict")
    _temperature(source, 5, seed=0)
    assert sizes_of(calls) == [5]
    _, held = co_tuning.held_out(source.task, 0)
    np.testing.assert_array_equal(calls[0].args[1], held.x[:5])


def first_two(split):
    """Return one image each of two classes."""
    return split._replace(x=split.x[:2], y=split.y[:2])


def test_one_image_a_class_leaves_nothing_to_choose_by(world, fits):
    target, source = world
    task = source.task
    lone = source._replace(task=task._replace(train=first_two(task.train)))
    few = target._replace(train=first_two(target.train), num_classes=2)
    for given, options in (
        ((target, lone), {"temperature": None}),
        ((few, source), {}),
    ):
        with pytest.raises(NotApplicable, match="two labelled images"):
            transfer(*given, **options, **OPTIONS)
    assert not fits
    # What needs no such images goes on.
    transfer(target, lone, **OPTIONS)
    transfer(few, source, relationship="direct", **OPTIONS)


def test_the_head_may_have_its_own_rate(world):
    check_the_rate_of_the_head(transfer, world)


def test_the_rate_of_the_new_head_is_not_the_source_heads(world, spy):
    """The authors' train.py has ten times the rate for the new head alone."""
    calls = spy(co_tuning)
    options = {"seed": 1, "batch_size": 16, "optimizer": keras.optimizers.SGD}
    for rates in ({}, {"head_learning_rate": 10.0}):
        transfer(*world, steps=1, learning_rate=1.0, **rates, **options)
    slow, fast = (
        call.model.get_layer("source_head").get_weights() for call in calls
    )
    start = world[1].model.get_weights()[-len(slow) :]
    for old, a, b in zip(start, slow, fast, strict=True):
        np.testing.assert_allclose(b - old, a - old, atol=1e-6)
        assert np.abs(a - old).max() > 1e-3
