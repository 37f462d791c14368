"""Logic rules: q is p with the rule imposed, and the network follows it."""

import keras
import numpy as np
import pytest
from helpers import (
    OTHERS,
    bytes_of,
    defaults,
    log_loss,
    small_world,
    softmax,
    weights_of,
)

from ktransfer.engine import backend
from ktransfer.engine.prediction import predict
from ktransfer.errors import KTransferError
from ktransfer.methods.baselines import scratch
from ktransfer.methods.knowledge import logic_rules
from ktransfer.methods.knowledge.logic_rules import transfer
from ktransfer.models.surgery import copy
from ktransfer.stages import rules
from ktransfer.stages.heads import small_network

OPTIONS = {"steps": 3, "seed": 1, "batch_size": 8}


@pytest.fixture(scope="module")
def world():
    target, source = small_world(labels=OTHERS, steps=0)
    # A source that is sure of what it says.
    sure = copy(source.model)
    kernel = sure.get_layer("logits").kernel
    kernel.assign(kernel * 300)
    return target, source._replace(model=sure)


def p_and_q(world, **options):
    """Return the answers of the untrained network, plain and imposed."""
    target, source = world
    imposed = transfer(target, source, steps=0, seed=1, imposed=True, **options)
    plain = small_network(target, 1)
    return (softmax(predict(m, target.train.x)) for m in (plain, imposed))


@pytest.mark.parametrize("rule", rules.RULES)
def test_q_is_p_times_the_exponential_of_the_violation(world, rule):
    p, q = p_and_q(world, rule=rule)
    values = predict(rules.read(rule, *world, 0.5), world[0].train.x)
    expected = p * np.exp(-6 * (1 - values.astype("float64")))
    expected /= expected.sum(-1, keepdims=True)
    np.testing.assert_allclose(q, expected, atol=1e-6)
    np.testing.assert_allclose(q.sum(-1), 1)
    assert np.abs(p - q).max() > 1e-3


def test_several_rules_add_up(world):
    names = ["source_agreement", "likely_classes"]
    p, q = p_and_q(world, rule=names)
    values = sum(
        predict(rules.read(name, *world, 0.5), world[0].train.x)
        for name in names
    )
    expected = p * np.exp(-6 * (2 - values.astype("float64")))
    expected /= expected.sum(-1, keepdims=True)
    np.testing.assert_allclose(q, expected, atol=1e-6)


def test_a_rule_that_always_holds_or_weighs_nothing_leaves_p(world):
    for options in (
        {"rule": "likely_classes", "allowed_share": 1.0},
        {"strictness": 0.0},
    ):
        p, q = p_and_q(world, **options)
        np.testing.assert_array_equal(p, q)


def test_a_strict_rule_leaves_no_mass_on_forbidden_classes(world):
    _, q = p_and_q(world, rule="likely_classes", strictness=100.0)
    allowed = predict(
        rules.read("likely_classes", *world, 0.5), world[0].train.x
    )
    assert allowed.min() == 0
    assert q[allowed == 0].max() < 1e-30


@pytest.mark.parametrize("options", [{"decay": 1.0}, {"imitation": 0}])
def test_without_imitation_it_is_training_from_scratch(world, options):
    target, source = world
    model = transfer(target, source, **options, **OPTIONS)
    plain = scratch.transfer(target, **OPTIONS)
    assert bytes_of(model) == bytes_of(plain)


def test_the_defaults_are_the_authors_but_for_the_cap():
    found = defaults(transfer)
    named = ("strictness", "decay", "imitation")
    assert [found[name] for name in named] == [6.0, 0.95, 0.6]


# Of 16 images each, they are 40 passes over 48.
STEPS = {"steps": 120, "batch_size": 16}


@pytest.mark.parametrize("cap", [0.3, 0.6])
def test_the_loss_is_the_written_formula(world, given_to_fit, cap):
    call = given_to_fit(logic_rules, *world, imitation=cap, **STEPS)
    rng = np.random.default_rng(0)
    z, constrained = rng.normal(size=(2, 6, 3))
    labels = rng.integers(0, 3, 6)
    p, q = softmax(z), softmax(constrained)
    hard = log_loss(labels, z)
    soft = -(q * np.log(p)).sum(-1).mean()
    for done, share in (
        (0.0, 0.0),
        (0.1, 1 - 0.95**4),
        (0.25, min(cap, 1 - 0.95**10)),
        # Uncapped it would be .79, and near 1 in a longer run.
        (0.75, cap),
    ):
        outputs = {
            "logits": np.float32(z),
            "constrained": np.float32(constrained),
            "progress": np.full((6, 1), done, "float32"),
        }
        expected = (1 - share) * hard + share * soft
        found = float(call.loss(labels, outputs))
        assert found == pytest.approx(expected, rel=1e-5)


def test_q_is_a_constant_to_the_gradient(world, given_to_fit):
    """The gradient in the logits is ((1 - pi)(p - y) + pi (p - q)) / n."""
    call = given_to_fit(logic_rules, *world, **STEPS)
    rng = np.random.default_rng(0)
    z, violation = rng.normal(size=(2, 6, 3)).astype("float32")
    labels = rng.integers(0, 3, 6)
    variable = keras.Variable(z)

    def value():
        outputs = {
            "logits": variable.value,
            "constrained": variable.value - 6 * violation,
            "progress": np.full((6, 1), 0.75, "float32"),
        }
        return call.loss(labels, outputs)

    _, (slope,) = backend.value_and_gradients(value, [variable])
    p, q = softmax(z), softmax(z - 6 * violation)
    expected = (0.4 * (p - np.eye(3)[labels]) + 0.6 * (p - q)) / 6
    np.testing.assert_allclose(slope, expected, atol=1e-6)


def test_p_and_q_come_from_one_network_and_are_told_apart(world):
    target, source = world
    plain = transfer(target, source, **OPTIONS)
    imposed = transfer(target, source, imposed=True, **OPTIONS)
    inner = imposed.get_layer("network")
    assert weights_of(inner) == weights_of(plain)
    p, q = (predict(m, target.train.x) for m in (plain, imposed))
    assert np.abs(p - q).max() > 1e-3
    # The plain result holds nothing of the source.
    start = small_network(target, 1, name="network")
    assert weights_of(plain).keys() == weights_of(start).keys()


def test_the_imposed_network_saves_after_training(world, tmp_path):
    target, source = world
    model = transfer(target, source, imposed=True, **OPTIONS)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        loaded(target.train.x), model(target.train.x), atol=1e-6
    )


@pytest.mark.parametrize("imitation", [-0.1, 1.0, 2])
def test_an_imitation_without_a_cap_is_refused(world, imitation):
    with pytest.raises(KTransferError, match="imitation is .*below 1"):
        transfer(*world, steps=1, seed=0, imitation=imitation)


def test_an_unknown_rule_names_the_nearest(world):
    with pytest.raises(KTransferError, match="'source_agreement'"):
        transfer(*world, steps=1, seed=0, rule="source_agrement")
