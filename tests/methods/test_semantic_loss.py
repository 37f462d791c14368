"""Semantic loss: minus the log of the probability that is allowed."""

import numpy as np
import pytest
import tensorflow as tf
from helpers import OTHERS, defaults, small_world, softmax, weights_of

from ktransfer.engine.losses import cross_entropy
from ktransfer.errors import KTransferError
from ktransfer.methods.knowledge import semantic_loss
from ktransfer.methods.knowledge.semantic_loss import transfer
from ktransfer.methods.parameter import fine_tuning

OPTIONS = {"steps": 3, "seed": 1, "batch_size": 8}


@pytest.fixture
def world():
    return small_world(normalised=True, labels=OTHERS)


def with_unlabelled(target):
    return target._replace(unlabelled=target.train.x[::-1][:20].copy())


def outside(logits, allowed):
    return float(
        semantic_loss._outside(np.float32(logits), np.float32(allowed))
    )


def test_it_is_minus_the_log_of_the_allowed_probability():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (9, 5))
    allowed = rng.integers(0, 2, (9, 5))
    allowed[:, 0] = 1
    p = softmax(logits)
    expected = -np.log((p * allowed).sum(-1)).mean()
    assert outside(logits, allowed) == pytest.approx(expected, rel=1e-5)


def test_it_is_zero_when_all_mass_is_allowed():
    logits = np.random.default_rng(0).normal(0, 3, (9, 5))
    assert outside(logits, np.ones((9, 5))) == 0
    certain = [[50.0, 0.0, -50.0]]
    assert outside(certain, [[1, 0, 0]]) == 0


def test_it_is_finite_where_the_allowed_mass_underflows():
    variable = tf.Variable([[300.0, 0.0, -300.0]])
    with tf.GradientTape() as tape:
        loss = semantic_loss._outside(variable, np.float32([[0, 0, 1]]))
    assert float(loss) == pytest.approx(600)
    np.testing.assert_allclose(
        tape.gradient(loss, variable), [[1, 0, -1]], atol=1e-6
    )


@pytest.mark.parametrize("unlabelled", [False, True])
def test_strength_zero_is_fine_tuning(world, unlabelled):
    target, source = world
    given = with_unlabelled(target) if unlabelled else target
    model = transfer(given, source, strength=0.0, **OPTIONS)
    plain = fine_tuning.transfer(target, source, **OPTIONS)
    assert weights_of(model) == weights_of(plain)


@pytest.mark.parametrize("unlabelled", [False, True])
def test_the_loss_is_the_written_formula(world, given_to_fit, unlabelled):
    target, source = world
    target = with_unlabelled(target) if unlabelled else target
    call = given_to_fit(semantic_loss, target, source, strength=0.5)
    images = {"target": target.train.x[:8]}
    if unlabelled:
        assert call.args[1]["unlabelled"] is target.unlabelled
        images["unlabelled"] = target.unlabelled[:8]
    outputs = call.model(images)
    assert set(outputs) == set(images)
    terms = [outside(x["logits"], x["allowed"]) for x in outputs.values()]
    labels = target.train.y[:8]
    hard = float(cross_entropy(labels, outputs["target"]["logits"]))
    assert float(call.loss(labels, outputs)) == pytest.approx(
        hard + 0.5 * np.mean(terms), rel=1e-5
    )
    # Two of three classes are allowed: the half, rounded up.
    assert (outputs["target"]["allowed"].numpy().sum(-1) == 2).all()


def test_unlabelled_images_count(world, fits):
    target, source = world
    models = [
        transfer(given, source, strength=5.0, **OPTIONS)
        for given in (target, with_unlabelled(target))
    ]
    # The allowed classes of each stream are computed once.
    assert [fit.cached for fit in fits] == [3, 6]
    assert weights_of(models[0]) != weights_of(models[1])


def test_the_default_strength_is_that_of_the_authors_code():
    assert defaults(transfer)["strength"] == 0.0005


def test_a_constraint_allows_or_forbids(world):
    for wrong in ("likely_clases", "source_agreement"):
        with pytest.raises(KTransferError, match="likely_classes"):
            transfer(*world, steps=1, seed=0, constraint=wrong)
