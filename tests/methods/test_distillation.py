"""Distillation: Hinton's loss to the digit, and nothing but the student."""

import numpy as np
import pytest
import tensorflow as tf
from helpers import (
    bytes_of,
    defaults,
    idle,
    log_loss,
    renamed,
    small_classifier,
    small_source,
    small_task,
    softmax,
    weights_of,
)

from ktransfer.engine import batches, training
from ktransfer.engine.losses import softened_divergence
from ktransfer.methods.baselines import scratch
from ktransfer.methods.knowledge.distillation import transfer
from ktransfer.models.blocks import blocks
from ktransfer.models.layers import InferenceMode
from ktransfer.models.surgery import copy, freeze
from ktransfer.stages import heads, teachers


def written_out(labels, teacher, student, temperature, strength):
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    soft = (p * np.log(p / q)).sum(-1).mean() * temperature**2
    return (1 - strength) * log_loss(labels, student) + strength * soft


def test_strength_zero_is_training_from_scratch(world):
    target, source = world
    model = transfer(
        target, source, steps=3, seed=2, strength=0.0, batch_size=8
    )
    plain = scratch.transfer(target, steps=3, seed=2, batch_size=8)
    assert bytes_of(model) == bytes_of(plain)


def test_a_teacher_of_other_classes_takes_its_share_of_the_steps(world, fits):
    target, source = world
    other = renamed(source)
    model = transfer(target, other, steps=5, seed=2, strength=0.0, batch_size=8)
    assert [fit.steps for fit in fits] == [2, 3]
    plain = scratch.transfer(target, steps=3, seed=2, batch_size=8)
    assert bytes_of(model) == bytes_of(plain)


def test_teacher_and_student_have_epoch_orders_of_their_own(world, spy):
    target, source = world
    other = renamed(source)
    calls = spy(teachers, instead=idle)
    transfer(target, other, steps=6, seed=2)
    seeds = [call.kwargs["seed"] for call in calls]
    taught, learned = (batches.epoch_order(48, 3, 8, s) for s in seeds)
    assert seeds[1] == 2 and not np.array_equal(taught, learned)


def test_the_defaults_are_those_of_repdistiller():
    found = defaults(transfer)
    assert (found["temperature"], found["strength"]) == (4.0, 0.9)


def test_the_teachers_answers_are_constants_to_the_gradient():
    rng = np.random.default_rng(1)
    teacher, student = rng.normal(0, 3, (2, 6, 5)).astype("float32")
    variable = tf.Variable(teacher)
    with tf.GradientTape() as tape:
        loss = softened_divergence(variable, student, 4.0)
    assert float(loss) > 0 and tape.gradient(loss, variable) is None


@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_the_loss_is_the_written_formula(world, spy, strength):
    calls = spy(teachers, instead=idle)
    transfer(*world, steps=1, seed=0, strength=strength)
    rng = np.random.default_rng(0)
    teacher, student = rng.normal(0, 3, (2, 7, 3))
    labels = rng.integers(0, 3, 7)
    given = {
        "teacher": teacher.astype("float32"),
        "logits": student.astype("float32"),
    }
    expected = written_out(labels, teacher, student, 4.0, strength)
    assert float(calls[0].loss(labels, given)) == pytest.approx(
        expected, rel=1e-5
    )


def test_a_constant_on_all_logits_changes_neither_loss_nor_gradient():
    rng = np.random.default_rng(1)
    teacher, student = rng.normal(0, 3, (2, 6, 5)).astype("float32")

    def value_and_gradient(teacher, student):
        z = tf.Variable(student)
        with tf.GradientTape() as tape:
            loss = softened_divergence(teacher, z, 4.0)
        return float(loss), tape.gradient(loss, z).numpy()

    loss, gradient = value_and_gradient(teacher, student)
    for shift in (-10, 8):
        moved = value_and_gradient(teacher + shift, student - shift)
        assert moved[0] == pytest.approx(loss, rel=1e-5)
        np.testing.assert_allclose(moved[1], gradient, atol=1e-6)
    # T (q - p) / n: averaged over the batch and not over the classes.
    expected = 4 * (softmax(student / 4) - softmax(teacher / 4)) / 6
    np.testing.assert_allclose(gradient, expected, atol=1e-6)
    assert float(softened_divergence(student, student, 4.0)) == 0


def test_the_teacher_is_the_source_computed_once_and_untouched(
    world, spy, fits
):
    target, source = world
    calls = spy(teachers)
    model = transfer(target, source, steps=3, seed=0, batch_size=8)
    (fit,) = fits
    assert fit.cached == 3 and fit.steps == 3
    teacher = calls[0].model.get_layer("teacher")
    assert isinstance(teacher, InferenceMode)
    values = bytes_of(teacher)
    assert values == bytes_of(source.model)
    assert (
        weights_of(model).keys()
        == weights_of(heads.small_network(target, 0)).keys()
    )


def test_the_student_runs_once_a_step(world):
    target, _ = world
    teach = small_classifier(seed=4, shape=(12, 12, 1))
    freeze(teach)
    start = small_classifier(shape=(12, 12, 1), normalised=True)
    taught, plain = copy(start, "student"), copy(start)
    options = {"steps": 1, "seed": 0, "batch_size": 8, "statistics": "trained"}
    teachers.distill(
        taught, target, teach, temperature=4.0, strength=0.9, **options
    )
    training.fit(plain, target.train, learning_rate=1e-3, **options)
    for name in ("block1", "block2", "block3"):
        one, two = blocks(taught)[name][1], blocks(plain)[name][1]
        np.testing.assert_allclose(one.moving_mean, two.moving_mean, rtol=1e-5)
        assert np.abs(one.moving_mean.numpy()).max() > 0


def test_a_teacher_of_other_images_is_adapted(world):
    target, _ = world
    larger = small_source(small_task("larger", 3, size=16))
    model = transfer(target, larger, steps=1, seed=0, batch_size=8)
    assert model.input.shape == (None, 12, 12, 1)
