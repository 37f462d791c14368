"""A program is traced once for an architecture and moves no bit."""

import threading

import keras
import numpy as np
import pytest
from helpers import (
    adapted,
    bytes_of,
    layer_of,
    small_backbone,
    small_classifier,
)
from keras import layers, ops

from ktransfer.engine import backend, programs
from ktransfer.engine.losses import cross_entropy
from ktransfer.engine.prediction import predict
from ktransfer.engine.training import fit
from ktransfer.errors import Diverged
from ktransfer.models.surgery import attach_head, copy, freeze


@pytest.fixture
def traces(spy):
    """The list that grows with every trace of a training."""
    return spy(backend.Trainer, "_steps")


def train(model, task, **options):
    settings = {"steps": 3, "seed": 0, "batch_size": 16, **options}
    fit(model, task.train, **settings)
    return bytes_of(model)


def test_one_trace_for_all_seeds_budgets_rates_schedules_and_steps(
    task, traces
):
    train(small_classifier(), task)
    train(small_classifier(seed=1), task, seed=1)
    few = task._replace(train=task.train._replace(**first(task, 9)))
    train(small_classifier(), few)
    train(small_classifier(), task, learning_rate=1e-2, schedule="cosine")
    train(small_classifier(), task, steps=120)
    assert len(traces) == 1


def first(task, n):
    return {"x": task.train.x[:n], "y": task.train.y[:n]}


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": "sgd"},
        {"batch_size": 8},
        {"loss": lambda labels, logits: 2 * cross_entropy(labels, logits)},
    ],
)
def test_another_training_is_another_program(task, traces, change):
    train(small_classifier(), task)
    train(small_classifier(), task, **change)
    assert len(traces) == 2


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_program_used_again_gives_the_bits_of_a_fresh_one(task, optimizer):
    options = {"normalised": True, "dropout": 0.5}
    train(small_classifier(**options), task, optimizer=optimizer)
    later = {"seed": 1, "steps": 7, "optimizer": optimizer}
    again = train(small_classifier(seed=1, **options), task, **later)
    programs.forget()
    assert train(small_classifier(seed=1, **options), task, **later) == again


def test_another_batch_size_leaves_a_program_alone(task):
    """Traced anew, it would be so in the precision of the day."""
    low = {"precision": "mixed_bfloat16"}
    train(small_classifier(), task, batch_size=8, **low)
    found = train(small_classifier(), task, **low)
    programs.forget()
    assert train(small_classifier(), task, **low) == found
    assert train(small_classifier(), task) != found
    assert len(programs._programs) == 2


def test_rates_of_layers_go_along(task, traces):
    def by_layer(seed, rate):
        model = small_classifier(seed=seed)
        rates = [([layer_of(model, "block1_conv")], rate)]
        return train(model, task, learning_rate=1e-2, rates=rates)

    by_layer(0, 1e-3)
    again = by_layer(1, 1e-3)
    assert len(traces) == 1
    programs.forget()
    assert by_layer(1, 1e-3) == again
    by_layer(0, 1e-4)
    assert len(traces) == 3


def test_the_model_of_the_first_training_stays_as_it_was(task):
    model = small_classifier()
    weights = train(model, task)
    logits = predict(model, task.train.x)
    train(small_classifier(seed=1), task, seed=1)
    assert bytes_of(model) == weights
    assert (predict(model, task.train.x) == logits).all()


def test_models_may_share_layers(task):
    def second():
        backbone = small_backbone()
        train(attach_head(backbone, 3, seed=1), task)
        return train(attach_head(backbone, 3, seed=2), task)

    again = second()
    programs.forget()
    backbone = small_backbone()
    train(attach_head(backbone, 3, seed=1), task)
    programs.forget()
    assert train(attach_head(backbone, 3, seed=2), task) == again


def test_losses_may_hold_models_arrays_and_numbers(task, traces):
    def run(seed, start, strength):
        model = small_classifier(seed=seed)
        kernel = layer_of(model, "block1_conv").kernel

        def loss(labels, logits):
            far = ops.sum(ops.square(kernel - start))
            return cross_entropy(labels, logits) + strength * far

        return train(model, task, loss=loss)

    zeros, ones = np.zeros((1,), "float32"), np.ones((1,), "float32")
    run(0, zeros, 0.5)
    again = run(1, zeros, 0.5)
    assert len(traces) == 1
    assert run(1, ones, 0.5) != again
    assert run(1, zeros, 0.7) != again
    programs.forget()
    assert run(1, zeros, 0.5) == again


def test_what_is_not_understood_is_compiled_anew(task, traces):
    strength = object()

    def loss(labels, logits):
        return cross_entropy(labels, logits) * (2 if strength else 1)

    train(small_classifier(), task, loss=loss)
    train(small_classifier(), task, loss=loss)
    assert len(traces) == 2


def test_a_training_that_diverges_leaves_nothing_behind(task):
    weights = train(small_classifier(), task)
    with pytest.raises(Diverged):
        train(small_classifier(), task, learning_rate=1e30, steps=9)
    assert train(small_classifier(), task) == weights


def test_a_frozen_model_is_another_one(task, traces):
    train(small_classifier(), task)
    model = small_classifier()
    freeze(layer_of(model, "block1_conv"))
    train(model, task)
    assert len(traces) == 2


def test_few_programs_are_kept(task, monkeypatch):
    monkeypatch.setattr(programs, "KEPT", 2)
    for units in (2, 3, 4):
        inputs = keras.Input((12, 12, 3), name="images")
        x = layers.Flatten()(inputs)
        x = layers.Dense(units)(x)
        fit(
            keras.Model(inputs, layers.Dense(3)(x)),
            task.train,
            steps=1,
            seed=0,
        )
    assert len(programs._programs) == 2


def test_a_program_never_answers_with_the_constants_of_another(task):
    x = task.train.x
    first, second = adapted(x), adapted(x // 3 + 100)
    wanted = [np.asarray(model(x)) for model in (first, second)]
    assert np.abs(wanted[0] - wanted[1]).max() > 1
    for model, logits in zip((first, second), wanted):
        np.testing.assert_allclose(
            predict(model, x), logits, rtol=1e-4, atol=1e-5
        )
    trained = [train(copy(model), task) for model in (first, second)]
    programs.forget()
    assert train(copy(second), task) == trained[1] != trained[0]


def test_threads_wait_for_each_other(task):
    """Two models of one architecture would swap their weights."""
    models = [small_classifier(seed=seed) for seed in range(4)]
    alone = [train(copy(model), task, steps=30) for model in models]
    threads = [
        threading.Thread(target=train, args=(model, task), kwargs={"steps": 30})
        for model in models
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [bytes_of(model) for model in models] == alone


def test_a_prediction_is_traced_once(task, spy):
    calls = spy(layers.LeakyReLU, "call")
    models = [small_classifier(seed=seed, normalised=True) for seed in range(3)]
    calls.clear()
    found = [predict(model, task.train.x) for model in models]
    assert len(calls) == 3
    for model, logits in zip(models, found):
        programs.forget()
        assert (predict(model, task.train.x) == logits).all()
