"""Several teachers: their probabilities are averaged, and then distilled."""

import numpy as np
import pytest
from helpers import idle, renamed, small_source, small_task, softmax, weights_of

from ktransfer.engine.prediction import predict
from ktransfer.errors import KTransferError, NotApplicable
from ktransfer.methods.knowledge import distillation, multi_teacher
from ktransfer.methods.knowledge.multi_teacher import transfer
from ktransfer.models.surgery import freeze
from ktransfer.stages import fusion, teachers

OPTIONS = {"steps": 2, "seed": 1, "batch_size": 8}


def loud_source(seed, channels=3, size=12):
    """Return a source whose logits differ enough to matter."""
    task = small_task("source", channels, size=size)
    source = small_source(task, seed=seed)
    kernel = source.model.get_layer("logits").kernel
    kernel.assign(kernel * 100)
    return source


@pytest.fixture(scope="module")
def target():
    return small_task("target", 1)


def close(first, second):
    """Assert equal weights, up to what Adam makes of a rounding error."""
    for a, b in zip(first.weights, second.weights):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_one_teacher_is_distillation(target):
    source = loud_source(0)
    one = transfer(target, source, **OPTIONS)
    assert weights_of(one) == weights_of(
        distillation.transfer(target, source, **OPTIONS)
    )
    # A weight of 0 leaves a teacher out.
    chosen = transfer(
        target, loud_source(5), source, weights=[0, 2.0], **OPTIONS
    )
    assert weights_of(one) == weights_of(chosen)


def test_one_teacher_that_must_be_tuned_is_distillation(target):
    source = loud_source(0)
    other = renamed(source)
    options = {"steps": 4, "seed": 1, "batch_size": 8}
    assert weights_of(transfer(target, other, **options)) == weights_of(
        distillation.transfer(target, other, **options)
    )


def test_teachers_that_must_be_tuned_divide_their_steps(target, spy):
    source = loud_source(0)
    other = renamed(source)
    calls = spy(teachers, instead=idle)
    transfer(target, other, source, other, steps=12, seed=1)
    assert [call.kwargs["steps"] for call in calls] == [2, 2, 8]
    # Each of them, and the student, in an epoch order of its own.
    seeds = [call.kwargs["seed"] for call in calls]
    assert len(set(seeds)) == 3 and seeds[2] == 1


def test_the_mean_is_of_softened_probabilities(target):
    sources = [loud_source(seed, channels=1) for seed in (0, 1)]
    teachers = [source.model for source in sources]
    for teacher in teachers:
        freeze(teacher)
    teachers[1].name = "another"
    mixed = fusion.mixture(teachers, [0.25, 0.75], 4.0)
    x = target.train.x
    one, two = (predict(t, x) for t in teachers)
    expected = 0.25 * softmax(one / 4) + 0.75 * softmax(two / 4)
    found = softmax(predict(mixed, x) / 4)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    of_logits = softmax((0.25 * one + 0.75 * two) / 4)
    assert np.abs(found - of_logits).max() > 1e-3


@pytest.mark.parametrize("temperature", [4.0, 2.0])
def test_the_student_is_given_the_mean_at_its_temperature(
    target, spy, temperature
):
    sources = [loud_source(seed, channels=1) for seed in (0, 1)]
    calls = spy(multi_teacher, "distill", instead=idle)
    options = {} if temperature == 4.0 else {"temperature": temperature}
    transfer(target, *sources, weights=[1, 3], **options, **OPTIONS)
    (call,) = calls
    assert call.kwargs["temperature"] == temperature
    x = target.train.x
    one, two = (softmax(predict(s.model, x) / temperature) for s in sources)
    found = softmax(predict(call.args[2], x) / temperature)
    np.testing.assert_allclose(found, 0.25 * one + 0.75 * two, atol=1e-6)


def test_copies_of_one_teacher_are_that_teacher(target):
    source = loud_source(0)
    close(
        transfer(target, source, source, source, **OPTIONS),
        transfer(target, source, **OPTIONS),
    )


def test_the_order_of_teachers_does_not_matter(target):
    # The second takes images of another shape.
    one, two = loud_source(0), loud_source(1, channels=1, size=16)
    close(
        transfer(target, one, two, **OPTIONS),
        transfer(target, two, one, **OPTIONS),
    )


def test_weights_may_follow_the_accuracy_on_images_held_out(
    target, monkeypatch
):
    class Split:
        x, y = np.arange(4), np.array([0, 1, 0, 1])

    guesses = {"right": [0, 1, 0, 1], "half": [0, 0, 0, 0]}
    monkeypatch.setattr(
        multi_teacher, "predict", lambda t, x: np.eye(2)[guesses[t]]
    )
    found = multi_teacher._shares(
        "validation_accuracy", ["right", "half"], Split
    )
    np.testing.assert_allclose(found, [5 / 8, 3 / 8])


def test_images_held_out_train_no_teacher(target, spy):
    source = loud_source(0)
    other = renamed(source)
    calls = spy(multi_teacher, "teacher")
    model = transfer(
        target, other, source, weights="validation_accuracy", **OPTIONS
    )
    assert [len(call.args[0].train.y) for call in calls] == [39, 39]
    assert model.output.shape == (None, 3)


def test_what_cannot_be_is_refused(target):
    source = loud_source(0)
    with pytest.raises(NotApplicable, match="at least one"):
        transfer(target, **OPTIONS)
    with pytest.raises(NotApplicable, match="2 teachers"):
        transfer(target, source, source, weights=[1.0], **OPTIONS)
    with pytest.raises(KTransferError, match="'uniform'"):
        transfer(target, source, weights="unifrm", **OPTIONS)
