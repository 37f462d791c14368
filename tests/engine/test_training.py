"""`fit`: its order, its checks before and after, freezing, rates, resets."""

import gc
import weakref

import keras
import numpy as np
import pytest
from helpers import (
    bytes_of,
    small_backbone,
    small_classifier,
    small_source,
    small_task,
    weights_of,
)
from keras import layers, ops

from ktransfer.data import Split
from ktransfer.engine import backend, batches, optimizers
from ktransfer.engine.batches import epoch_order
from ktransfer.engine.losses import cross_entropy
from ktransfer.engine.normalization import reestimate_statistics
from ktransfer.engine.prediction import predict
from ktransfer.engine.training import fit
from ktransfer.errors import Diverged, KTransferError
from ktransfer.models.blocks import blocks
from ktransfer.models.graph import leaves
from ktransfer.models.surgery import attach_head, classifier, freeze, unfreeze


def train(model, task, steps=4, **options):
    settings = {"learning_rate": 1e-2, "seed": 0, "batch_size": 16, **options}
    fit(model, task.train, steps=steps, **settings)
    return model


def test_every_epoch_has_its_own_order_and_every_seed_its_own():
    first = epoch_order(10, 6, 5, seed=0).reshape(3, 10)
    assert all(sorted(epoch) == list(range(10)) for epoch in first.tolist())
    assert len({tuple(epoch) for epoch in first.tolist()}) == 3
    assert (first.ravel() == epoch_order(10, 6, 5, seed=0).ravel()).all()
    assert (first.ravel() != epoch_order(10, 6, 5, seed=1).ravel()).any()
    other = epoch_order(10, 6, 5, seed=0, name="source")
    assert (first.ravel() != other.ravel()).any()


def test_batches_are_full_even_when_they_outnumber_the_images():
    order = epoch_order(3, 2, 8, seed=0)
    assert order.shape == (2, 8)
    assert np.bincount(order.ravel()).max() <= 6


def test_one_trace_a_fit(task, spy):
    traces = spy(backend.Trainer, "_steps")
    train(small_classifier(), task, steps=100)
    assert len(traces) == 1


def test_the_images_are_let_go(task, monkeypatch):
    kept, run = [], backend.Trainer.run

    def watched(self, given):
        images = given["inputs"]["target"]["values"]
        kept.append(weakref.ref(images))
        return run(self, given)

    monkeypatch.setattr(backend.Trainer, "run", watched)
    train(small_classifier(), task)
    monkeypatch.undo()
    assert kept
    backend.clear_session()
    gc.collect()
    assert [ref() for ref in kept] == [None] * len(kept)


def test_the_same_call_gives_the_same_bits_and_another_seed_others(task):
    first = weights_of(train(small_classifier(dropout=0.5), task))
    assert weights_of(train(small_classifier(dropout=0.5), task)) == first
    assert (
        weights_of(train(small_classifier(dropout=0.5), task, seed=1)) != first
    )


def test_the_weights_do_not_depend_on_the_steps_a_call_takes(task, monkeypatch):
    first = weights_of(train(small_classifier(dropout=0.5), task, steps=6))
    monkeypatch.setattr(batches, "CHUNK", 1)
    assert (
        weights_of(train(small_classifier(dropout=0.5), task, steps=6)) == first
    )


def test_one_step_of_sgd_is_the_gradient_times_the_rate(task):
    model = small_classifier()
    before = [v.numpy() for v in model.trainable_variables]
    rows = epoch_order(48, 1, 16, seed=0)[0]
    x, y = task.train.x[rows], task.train.y[rows]
    train(model, task, steps=1, optimizer=keras.optimizers.SGD)
    after = [v.numpy() for v in model.trainable_variables]
    changes = [(b - a) / 1e-2 for b, a in zip(before, after)]
    # An independent slope: finite differences of the loss at the start.
    twin = small_classifier()
    bias = twin.get_layer("logits").bias
    start = bias.numpy()
    for k in range(3):
        losses = []
        for step in (-1e-2, 1e-2):
            bias.assign(start + step * np.eye(3, dtype="float32")[k])
            losses.append(float(cross_entropy(y, twin(x))))
        slope = (losses[1] - losses[0]) / 2e-2
        assert changes[-1][k] == pytest.approx(slope, abs=2e-3)


@pytest.mark.parametrize("normalised", [False, True])
def test_frozen_is_frozen_and_trained_is_trained(task, normalised):
    model = small_classifier(normalised=normalised)
    freeze(blocks(model)["block1"])
    before = weights_of(model)
    train(model, task)
    after = weights_of(model)
    for path in before:
        assert (before[path] == after[path]) == ("block1" in path), path


def test_thawing_between_two_fits_takes_effect(task):
    model = small_classifier()
    freeze(model.layers[1])
    frozen = weights_of(model)
    train(model, task)
    middle = weights_of(model)
    assert all(frozen[p] == middle[p] for p in frozen if "block" in p)
    unfreeze(model.layers[1])
    train(model, task)
    last = weights_of(model)
    assert all(middle[p] != last[p] for p in middle)
    freeze(model.layers[1])
    train(model, task)
    again = weights_of(model)
    assert all(again[p] == last[p] for p in last if "block" in p)


def test_a_broken_promise_is_an_error(task):
    model = small_classifier()
    freeze(blocks(model)["block1"])
    thief = blocks(model)["block1"][0].kernel

    def loss(labels, logits):
        thief.assign(thief + 1.0)
        return cross_entropy(labels, logits)

    with pytest.raises(KTransferError, match="moved although frozen"):
        train(model, task, loss=loss)

    def unconnected(labels, logits):
        return cross_entropy(labels, ops.stop_gradient(logits)) + ops.sum(
            ops.square(model.get_layer("logits").bias - 1)
        )

    with pytest.raises((KTransferError, ValueError)):
        train(small_classifier(), task, loss=unconnected)


def test_a_run_that_blows_up_is_diverged(task):
    with pytest.raises(Diverged):
        train(
            small_classifier(),
            task,
            steps=8,
            learning_rate=1e30,
            optimizer=keras.optimizers.SGD,
        )


@pytest.mark.parametrize(
    "bad",
    [
        {"steps": -1},
        {"steps": 1.5},
        {"steps": True},
        {"learning_rate": -1.0},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"learning_rate": "1e-3"},
        {"batch_size": 0},
    ],
)
def test_bad_numbers_are_refused(task, bad):
    with pytest.raises(KTransferError) as caught:
        train(small_classifier(), task, **bad)
    assert caught.value.name == "E_ARGUMENT"
    assert next(iter(bad)) in caught.value.message


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1, 1, 1, 1]),
        ("cosine", [1, 0.853553, 0.5, 0.146447]),
        ("annealed", [1, 3.5**-0.75, 6**-0.75, 8.5**-0.75]),
    ],
)
def test_a_schedule_scales_each_step(task, schedule, expected):
    """The sum of the logits moves a bias by the rate of each step."""
    moved = []
    for steps in (1, 4):
        model = small_classifier()
        train(
            model,
            task,
            steps=steps,
            learning_rate=0.5,
            schedule=schedule,
            optimizer=keras.optimizers.SGD,
            loss=lambda labels, logits: ops.sum(ops.mean(logits, axis=0)),
        )
        moved.append(-float(model.get_layer("logits").bias.numpy()[0]))
    np.testing.assert_allclose(moved, [0.5, 0.5 * sum(expected)], rtol=1e-5)
    factors = optimizers.SCHEDULES[schedule](np.arange(4) / 4)
    np.testing.assert_allclose(factors, expected, rtol=1e-5)


def test_names_of_optimisers_and_schedules_are_checked(task):
    for wrong in ({"optimizer": "sdg"}, {"schedule": "cosin"}):
        with pytest.raises(KTransferError) as caught:
            train(small_classifier(), task, **wrong)
        assert caught.value.name == "E_UNKNOWN"
    by_name = weights_of(train(small_classifier(), task, optimizer="sgd"))
    by_class = weights_of(
        train(
            small_classifier(),
            task,
            optimizer=lambda rate: keras.optimizers.SGD(rate, momentum=0.9),
        )
    )
    assert by_name == by_class


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_rates_and_schedules_go_together(task, schedule):
    plain, scaled = small_classifier(), small_classifier()
    train(plain, task, steps=1, schedule=schedule)
    chosen = [scaled.get_layer("logits")]
    train(scaled, task, steps=1, schedule=schedule, rates=[(chosen, 1e-3)])
    start = small_classifier().get_layer("logits").kernel.numpy()
    full = plain.get_layer("logits").kernel.numpy() - start
    tenth = scaled.get_layer("logits").kernel.numpy() - start
    np.testing.assert_allclose(tenth, full / 10, atol=1e-6)


def test_steps_and_seed_have_no_default(task):
    for given in ({"steps": 1}, {"seed": 0}):
        with pytest.raises(TypeError):
            fit(small_classifier(), task.train, **given)


@pytest.mark.parametrize(
    ("x", "y", "name"),
    [
        (np.zeros((4, 9, 9, 3), "uint8"), np.zeros(4, "int32"), "E_IMAGES"),
        (np.zeros((0, 12, 12, 3), "uint8"), np.zeros(0, "int32"), "E_IMAGES"),
        (np.full((4, 12, 12, 3), np.nan), np.zeros(4, "int32"), "E_IMAGES"),
        (np.zeros((4, 12, 12, 3), "uint8"), np.full(4, 3), "E_LABELS"),
        (np.zeros((4, 12, 12, 3), "uint8"), np.full(4, -1), "E_LABELS"),
        (np.zeros((4, 12, 12, 3), "uint8"), np.full(4, 1.5), "E_LABELS"),
        (np.zeros((4, 12, 12, 3), "uint8"), np.zeros(5, int), "E_LABELS"),
    ],
)
def test_bad_data_are_refused(x, y, name):
    with pytest.raises(KTransferError) as caught:
        fit(
            small_classifier(), Split(x, y), steps=1, learning_rate=1e-3, seed=0
        )
    assert caught.value.name == name


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_a_layer_with_its_own_rate_moves_by_that_rate(task, optimizer):
    kind = getattr(keras.optimizers, optimizer)
    plain, scaled = small_classifier(), small_classifier()
    start = {v.path: v.numpy() for v in plain.variables}
    train(plain, task, steps=1, optimizer=kind)
    chosen = blocks(scaled)["block2"]
    train(scaled, task, steps=1, optimizer=kind, rates=[(chosen, 1e-3)])
    for v, w in zip(plain.variables, scaled.variables):
        ratio = 0.1 if "block2" in v.path else 1.0
        first, second = v.numpy() - start[v.path], w.numpy() - start[v.path]
        np.testing.assert_allclose(second, ratio * first, atol=1e-7)


def test_a_rate_for_no_layer_is_refused(task):
    with pytest.raises(KTransferError, match="no layer"):
        train(small_classifier(), task, rates=[([], 1e-3)])


def test_an_input_named_progress_is_fed_the_share_done(task, fits):
    images = keras.Input((12, 12, 3), dtype="uint8", name="target")
    progress = keras.Input((1,), name="progress")
    logits = small_classifier()(images)
    outputs = {"logits": logits, "progress": layers.Identity()(progress)}
    model = keras.Model({"target": images, "progress": progress}, outputs)

    def loss(labels, outputs):
        tiny = 1e-9 * cross_entropy(labels, outputs["logits"])
        return tiny + ops.mean(outputs["progress"])

    fit(
        model,
        {"target": task.train},
        steps=5,
        learning_rate=1e-2,
        seed=0,
        loss=loss,
    )
    ((_, mean),) = fits[0].curve
    assert mean == pytest.approx(np.mean([0, 0.2, 0.4, 0.6, 0.8]))


def test_a_remainder_of_steps_is_trained_too(task, monkeypatch, fits):
    first = weights_of(train(small_classifier(), task, steps=7))
    monkeypatch.setattr(batches, "CHUNK", 4)
    fits.clear()
    assert weights_of(train(small_classifier(), task, steps=7)) == first
    assert [step for step, _ in fits[0].curve] == [4, 7]


def test_two_streams_keep_the_order_of_the_first(task):
    """A second data set leaves the batches of the target as they were."""
    other = small_task("source", 3)
    alone = train(small_classifier(), task)
    images = {
        name: keras.Input((12, 12, 3), dtype="uint8", name=name)
        for name in ("target", "source")
    }
    paired = small_classifier()
    second = attach_head(small_backbone(seed=5), 3, seed=5, name="second")
    both = keras.Model(
        images,
        {
            "target": paired(images["target"]),
            "source": second(images["source"]),
        },
    )

    def loss(labels, outputs):
        return sum(cross_entropy(labels[n], outputs[n]) for n in outputs)

    fit(
        both,
        {"target": task.train, "source": other.train},
        steps=4,
        learning_rate=1e-2,
        seed=0,
        batch_size=16,
        loss=loss,
    )
    assert bytes_of(alone) == bytes_of(paired)


def test_predict_does_not_depend_on_the_number_of_images(task):
    model = small_source(task).model
    x = np.concatenate([task.train.x] * 6)[:261]
    whole = predict(model, x)
    assert whole.shape == (261, 3)
    for n in (1, 7, 250):
        assert predict(model, x[:n]).tobytes() == whole[:n].tobytes()


def test_the_curve_is_the_loss_of_the_chunks(task, fits):
    train(small_classifier(), task, steps=4)
    (done,) = fits
    assert [step for step, _ in done.curve] == [4]
    assert 0.5 < done.curve[0][1] < 2.0
    assert done.steps == 4 and done.cached == 0


def test_no_steps_change_nothing(task):
    model = small_classifier()
    before = weights_of(model)
    train(model, task, steps=0)
    assert weights_of(model) == before


def test_a_classifier_takes_raw_images_of_its_target():
    target = small_task("target", 1)
    model = classifier(small_backbone(), target, seed=0)
    assert model.input.shape == (None, 12, 12, 1)
    assert model.input.dtype == "uint8"
    assert model.output.shape == (None, 3)


def test_statistics_are_those_of_the_images(task):
    model = small_classifier(normalised=True)
    train(model, task)
    reestimate_statistics(model, task.train.x)
    norms = [x for x in leaves(model) if hasattr(x, "moving_mean")]
    x = task.train.x / 255.0
    # The first layer's input by hand: a 3x3 convolution, same padding.
    first = blocks(model)["block1"][0]
    padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    kernel, out = first.kernel.numpy(), first.bias.numpy()
    maps = np.zeros((*x.shape[:3], 4)) + out
    for i in range(3):
        for j in range(3):
            maps += padded[:, i : i + 12, j : j + 12] @ kernel[i, j]
    np.testing.assert_allclose(
        norms[0].moving_mean, maps.mean((0, 1, 2)), atol=1e-5
    )
    np.testing.assert_allclose(
        norms[0].moving_variance, maps.var((0, 1, 2)), atol=1e-5
    )
    # With the right statistics, training and inference mode agree.
    np.testing.assert_allclose(
        model(task.train.x, training=True), model(task.train.x), atol=1e-2
    )


def test_layers_compute_in_bfloat16_and_all_that_stays_is_float32(task):
    seen = {}

    class Watched(layers.Layer):
        def call(self, inputs):
            seen[self.name] = keras.backend.standardize_dtype(inputs.dtype)
            return inputs

    def trained(precision):
        keras.utils.set_random_seed(0)
        backbone = small_backbone(normalised=True)
        x = Watched(name="low")(backbone.output)
        outputs = layers.Dense(3, name="logits")(x)
        model = keras.Model(backbone.input, Watched(name="high")(outputs))
        return train(model, task, precision=precision, loss=watched_loss)

    def watched_loss(labels, logits):
        seen["loss"] = keras.backend.standardize_dtype(logits.dtype)
        return cross_entropy(labels, logits)

    plain = weights_of(trained("float32"))
    assert set(seen.values()) == {"float32"}
    model = trained("mixed_bfloat16")
    assert seen["low"] == "bfloat16"
    assert seen["loss"] == "float32"
    assert {str(v.dtype) for v in model.weights} == {"float32"}
    assert {x.compute_dtype for x in leaves(model)} == {"float32"}
    assert predict(model, task.train.x).dtype == "float32"
    # Near the other, and another.
    for name, weights in weights_of(model).items():
        found, wanted = (
            np.frombuffer(w, "float32") for w in (weights, plain[name])
        )
        np.testing.assert_allclose(found, wanted, atol=0.1)
    assert weights_of(model) != plain


def test_frozen_layers_are_evaluated_in_float32_all_the_same(task):
    def trained(**options):
        backbone = small_backbone()
        freeze(backbone)
        return train(attach_head(backbone, 3, seed=0), task, **options)

    plain, low = trained(), trained(precision="mixed_bfloat16")
    # The head is in float32 too, so nothing is left that could differ.
    assert weights_of(plain) == weights_of(low)


def test_another_precision_is_refused(task):
    with pytest.raises(KTransferError, match="mixed_bfloat16"):
        train(small_classifier(), task, precision="float16")
