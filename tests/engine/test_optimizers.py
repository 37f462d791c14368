"""Optimisers are pure functions that do what Keras's do; turns rest wholly."""

import functools

import keras
import numpy as np
import pytest
from helpers import small_classifier, small_task, weights_of

from ktransfer.engine import backend, optimizers, options
from ktransfer.engine.losses import cross_entropy
from ktransfer.engine.training import Turn, fit
from ktransfer.errors import KTransferError
from ktransfer.models.graph import leaves

SHAPES = (3, 4), (4,)


def variables():
    rng = np.random.default_rng(0)
    return [
        keras.Variable(rng.normal(size=shape).astype("float32"))
        for shape in SHAPES
    ]


def slopes_of(step):
    rng = np.random.default_rng([1, step])
    return [rng.normal(size=shape).astype("float32") for shape in SHAPES]


def by_apply(named, steps=5, rates=(0.1,), scales=(1, 1)):
    """Return the weights after some steps along fixed gradients, purely."""
    own = variables()
    update = optimizers.named(named)(own)
    state, values = update.start, [v.numpy() for v in own]
    for step in range(steps):
        rate = rates[step % len(rates)]
        state, values = update.apply(
            state, slopes_of(step), values, rate, scales
        )
    # Nothing was assigned on the way.
    for variable, fresh in zip(own, variables()):
        assert np.array_equal(variable, fresh)
    return [np.asarray(value) for value in values]


def by_backend(named, steps=5, rates=(0.1,), scales=(1, 1)):
    """Return the same, by the loop of the backend."""
    own = variables()
    if not steps:
        return [variable.numpy() for variable in own]
    table = [np.stack(x) for x in zip(*map(slopes_of, range(steps)))]

    def step_of(given, step):
        return given["loss"][step], [given[name][step] for name in ("a", "b")]

    update = optimizers.named(named)(own)
    trainer = backend.Trainer([(step_of, [0])], [(own, scales, update)])
    trainer.reset()
    trainer.run(
        {
            "a": table[0],
            "b": table[1],
            "loss": np.zeros(steps, "float32"),
            "learning_rate": np.resize(rates, steps).astype("float32"),
            "count": np.array([steps], "int32"),
        }
    )
    return [variable.numpy() for variable in own]


def by_keras(optimizer, steps=5, rates=(0.1,)):
    own = variables()
    optimizer.build(own)
    for step in range(steps):
        optimizer.learning_rate = rates[step % len(rates)]
        slopes = map(keras.ops.convert_to_tensor, slopes_of(step))
        optimizer.apply(list(slopes), own)
    return [variable.numpy() for variable in own]


def close(ours, theirs):
    for own, wanted in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(own, wanted, rtol=1e-5, atol=5e-6)


KERAS = {
    "adam": keras.optimizers.Adam,
    "sgd": functools.partial(keras.optimizers.SGD, momentum=0.9),
}


@pytest.mark.parametrize("name", options.OPTIMIZERS)
@pytest.mark.parametrize("rates", [(0.1,), (0.1, 0.01)])
@pytest.mark.parametrize("ours", [by_apply, by_backend])
def test_a_name_does_what_keras_does(name, rates, ours):
    close(ours(name, rates=rates), by_keras(KERAS[name](0.1), rates=rates))


@pytest.mark.parametrize(
    "kind",
    [
        keras.optimizers.RMSprop,
        functools.partial(keras.optimizers.AdamW, weight_decay=0.1),
        functools.partial(keras.optimizers.Adam, clipnorm=0.1),
    ],
)
def test_a_keras_optimiser_is_taken_as_it_is(kind):
    close(
        by_backend(kind, rates=(0.1, 0.01)),
        by_keras(kind(0.1), rates=(0.1, 0.01)),
    )


@pytest.mark.parametrize("named", ["adam", "sgd", keras.optimizers.RMSprop])
@pytest.mark.parametrize("ours", [by_apply, by_backend])
def test_a_weight_moves_by_its_share_of_the_rate(named, ours):
    if ours is by_apply and not isinstance(named, str):
        pytest.skip("Keras's own pure form is for another backend")
    plain = ours(named, steps=1)
    start = ours(named, steps=0)
    found = ours(named, steps=1, scales=(0, 0.25))
    np.testing.assert_array_equal(found[0], start[0])
    np.testing.assert_allclose(
        found[1] - start[1], 0.25 * (plain[1] - start[1]), rtol=1e-4
    )


def test_a_reset_starts_anew():
    own = variables()
    update = optimizers.adam(own)
    trainer = backend.Trainer(
        [(lambda given, step: (given["loss"][step], slopes_of(0)), [0])],
        [(own, (1, 1), update)],
    )
    given = {
        "loss": np.zeros(3, "float32"),
        "learning_rate": np.full(3, 0.1, "float32"),
        "count": np.array([3], "int32"),
    }
    found = []
    for _ in range(2):
        trainer.reset()
        for variable, fresh in zip(own, variables()):
            variable.assign(fresh)
        trainer.run(given)
        found.append([variable.numpy().tobytes() for variable in own])
    assert found[0] == found[1]


@pytest.mark.parametrize("optimizer", ["adam", "sgd", keras.optimizers.RMSprop])
def test_out_of_their_turn_weights_rest_moments_included(optimizer):
    """What a head does in its turns is what it does without the others."""
    task = small_task("target", 3)

    def trained(turns, steps):
        model = small_classifier()
        head = [model.get_layer("logits")]
        rest = [x for x in leaves(model) if x not in head]
        fit(
            model,
            task.train,
            steps=steps,
            seed=0,
            learning_rate=1e-2,
            batch_size=48,
            optimizer=optimizer,
            turns=turns(head, rest),
        )
        return weights_of(model)

    def bias_only(labels, logits):
        # Its gradient does not depend on any weight.
        return keras.ops.sum(keras.ops.mean(logits, axis=0) * [1.0, 2.0, 3.0])

    alone = trained(lambda head, rest: [Turn(1, bias_only, head)], 3)
    both = trained(
        lambda head, rest: [
            Turn(1, bias_only, head),
            Turn(2, cross_entropy, rest),
        ],
        9,
    )
    start = trained(lambda head, rest: [Turn(1, bias_only, head)], 0)
    (path,) = (p for p in alone if p.endswith("logits/bias"))
    assert both[path] == alone[path] != start[path]
    for name in start:
        if "block" in name:
            assert alone[name] == start[name] != both[name]


def test_gradients_may_be_combined():
    task = small_task("target", 3)
    seen = []

    def combine(variables, gradients):
        seen.append((len(variables), [len(each) for each in gradients]))
        return [a - b for a, b in zip(*gradients)]

    def losses(labels, logits):
        one = cross_entropy(labels, logits)
        return [3 * one, one]

    def trained(**given):
        model = small_classifier()
        settings = {"steps": 2, "seed": 0, "optimizer": "sgd"}
        fit(model, task.train, **settings, **given)
        return [v.numpy() for v in model.weights]

    found = trained(loss=losses, combine=combine)
    twice = trained(loss=lambda *given: 2 * cross_entropy(*given))
    for own, wanted in zip(found, twice, strict=True):
        np.testing.assert_allclose(own, wanted, atol=1e-6)
    number = len(found)
    assert seen and set(map(str, seen)) == {str((number, [number, number]))}


def test_names_are_checked():
    assert optimizers.named("adam") is optimizers.adam
    assert set(optimizers.OPTIMIZERS) == set(options.OPTIMIZERS)
    assert set(optimizers.SCHEDULES) == set(options.SCHEDULES)
    with pytest.raises(KTransferError, match="adam"):
        optimizers.named("adm")
    with pytest.raises(KTransferError, match="cosine"):
        optimizers.factor("cosin")
    with pytest.raises(KTransferError, match="frozen"):
        options.check_options(options.Options(statistics="froze"))
