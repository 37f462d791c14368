"""MCD: the three steps of the paper; who rests, rests to the bit."""

import keras
import numpy as np
import pytest
from helpers import bytes_of, domains, softmax, weights_of
from keras import ops

from ktransfer import methods
from ktransfer.engine import backend
from ktransfer.engine.batches import epoch_order
from ktransfer.engine.losses import cross_entropy
from ktransfer.engine.normalization import reestimate_statistics
from ktransfer.errors import KTransferError
from ktransfer.methods.domain import classifier_discrepancy, source_only
from ktransfer.methods.domain.classifier_discrepancy import (
    _discrepancy,
    transfer,
)
from ktransfer.models.graph import leaves
from ktransfer.models.surgery import copy

OPTIONS = {
    "seed": 0,
    "batch_size": 8,
    "from_source": True,
    # Linear heads, of whose gradients a test can do the sums.
    "head_units": None,
}


def trained(spy, steps, world=None, **options):
    """Return the network of both classifiers after `steps`, and the result."""
    calls = spy(classifier_discrepancy)
    world = world or domains()
    result = transfer(*world, steps=steps, **{**OPTIONS, **options})
    return calls[-1].model, result


def parts(model):
    """Return the bytes of G, of F1 and of F2."""
    values = weights_of(model)
    named = [
        [path for path in values if f"/{name}" in f"/{path}"]
        for name in ("logits/", "second_logits/")
    ]
    found = [tuple(values[path] for path in paths) for paths in named]
    heads = [path for paths in named for path in paths]
    own = tuple(v for path, v in values.items() if path not in heads)
    assert [len(own), *map(len, found)] == [6, 2, 2]
    return own, *found


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_in_b_the_backbone_rests_and_in_c_the_classifiers(spy, optimizer):
    options = {"num_generator_updates": 1, "optimizer": optimizer}
    states = [parts(trained(spy, steps, **options)[0]) for steps in range(7)]
    # From the second cycle on, there is momentum to move a weight by.
    for step, phase in enumerate("ABCABC"):
        moved = [a != b for a, b in zip(states[step], states[step + 1])]
        assert moved == [phase != "B", phase != "C", phase != "C"], step


def test_a_reads_no_target_image_and_b_does(spy):
    target, source = domains()
    noise = np.random.default_rng(0).integers(0, 256, target.train.x.shape)
    other = target._replace(unlabelled=noise.astype("uint8"))
    for steps, same in ((1, True), (2, False)):
        one, two = (
            bytes_of(trained(spy, steps, (task, source))[0])
            for task in (target, other)
        )
        assert (one == two) == same


def train_by_hand(model, world, steps, num_generator_updates, factor):
    """Train `model` by the paper's algorithm, with an optimiser a part.

    `factor` is that of the learning rate by the share of all steps done.
    """
    target, source = world
    orders = {
        name: epoch_order(48, steps, 8, 0, name)
        for name in ("target", "source")
    }
    variables = model.trainable_variables
    heads = [v for v in variables if "logits/" in v.path]
    own = [v for v in variables if "logits/" not in v.path]
    for_own, for_heads = (keras.optimizers.Adam() for _ in range(2))
    for step in range(steps):
        turn = min(step % (2 + num_generator_updates), 2)
        rows = orders["source"][step]
        images = {
            "source": source.task.train.x[rows],
            "target": target.train.x[orders["target"][step]],
        }

        def loss(turn=turn, images=images, y=source.task.train.y[rows]):
            outputs = model(images, training=True)
            task = sum(cross_entropy(y, z) for z in outputs["source"])
            first, second = map(ops.softmax, outputs["target"])
            apart = ops.mean(ops.abs(first - second))
            return [task, task - apart, apart][turn]

        _, slopes = backend.value_and_gradients(loss, own + heads)
        for optimizer in (for_own, for_heads):
            optimizer.learning_rate = 1e-3 * factor(step / steps)
        if turn in (0, 2):
            for_own.apply(slopes[: len(own)], own)
        if turn in (0, 1):
            for_heads.apply(slopes[len(own) :], heads)


@pytest.mark.parametrize(
    ("schedule", "factor"),
    [("constant", lambda p: 1), ("annealed", lambda p: (1 + 10 * p) ** -0.75)],
)
def test_traced_it_is_the_algorithm_of_the_paper(spy, traced, schedule, factor):
    options = {"num_generator_updates": 3, "schedule": schedule}
    start, _ = trained(spy, 0, **options)
    model, _ = trained(spy, 10, **options)
    train_by_hand(start, domains(), 10, 3, factor)
    for expected, found in zip(start.weights, model.weights, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_cycle_is_six_steps_of_one_fit(spy, fits):
    # Six steps, then A again: the classifiers rest in steps 3 to 6.
    states = [parts(trained(spy, steps)[0]) for steps in (2, 6, 7)]
    assert [fit.steps for fit in fits] == [2, 6, 7]
    moved = [a != b for a, b in zip(states[0], states[1])]
    assert moved == [True, False, False]
    assert all(a != b for a, b in zip(states[1], states[2]))


def test_the_discrepancy_is_the_mean_and_0_for_equal_classifiers():
    first, second = np.random.default_rng(0).normal(0, 3, (2, 6, 4))
    p, q = softmax(first), softmax(second)
    found = _discrepancy(first.astype("float32"), second.astype("float32"))
    assert float(found) == pytest.approx(np.abs(p - q).mean(), rel=1e-5)
    assert float(_discrepancy(first, first)) == 0


def test_the_classifiers_differ_at_the_start_and_one_is_left(spy):
    model, result = trained(spy, 0)
    _, first, second = parts(model)
    assert first[0] != second[0]
    options = {k: v for k, v in OPTIONS.items() if k != "head_units"}
    plain = source_only.transfer(*domains(), steps=0, **options)
    assert weights_of(result).keys() == weights_of(plain).keys()
    # It starts where all of the family do.
    assert bytes_of(result) == bytes_of(plain)


def test_the_heads_are_those_of_the_authors_in_form(spy):
    model, result = trained(spy, 6, head_units=7)
    names = [x.name for x in leaves(result)][-7:]
    kinds = ("dense", "norm", "relu")
    hidden = [f"head{n}_{kind}" for n in (1, 2) for kind in kinds]
    assert names == [*hidden, "logits"]
    second = [x.name for x in leaves(model) if x.name.startswith("second_")]
    assert second == [f"second_{name}" for name in names]
    assert not any(name.startswith("second") for name in weights_of(result))


def test_the_default_heads_are_not_linear():
    assert methods.describe("classifier_discrepancy").hyperparameters == {
        **methods.TRAINING,
        "num_generator_updates": 4,
        "head_units": 256,
        "from_source": False,
    }


@pytest.mark.parametrize("units", [None, 5])
def test_batch_normalisation_ends_with_the_targets_statistics(units):
    target, source = domains(normalised=True)
    options = {**OPTIONS, "head_units": units}
    result = transfer(target, source, steps=6, **options)
    twin = copy(result)
    reestimate_statistics(twin, target.train.x)
    assert bytes_of(twin) == bytes_of(result)
    others = copy(result)
    reestimate_statistics(others, source.task.train.x)
    assert bytes_of(others) != bytes_of(result)


def test_a_cycle_without_c_is_refused():
    with pytest.raises(KTransferError, match="num_generator_updates"):
        transfer(*domains(), steps=1, num_generator_updates=0, **OPTIONS)
