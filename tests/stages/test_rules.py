"""Rules: what a source says of the target's classes, checked by NumPy."""

import numpy as np
import pytest
from helpers import OTHERS, small_backbone, small_task, small_world, softmax

from ktransfer.data import Split
from ktransfer.engine.prediction import predict
from ktransfer.errors import KTransferError
from ktransfer.models.own import Source
from ktransfer.models.surgery import attach_head
from ktransfer.stages import rules

BELIEFS = np.array(
    [[0.5, 0.3, 0.15, 0.05], [0.1, 0.1, 0.1, 0.7]], dtype="float32"
)


@pytest.fixture
def world():
    return small_world(labels=OTHERS)


def test_agreement_is_relative_to_the_likeliest_class():
    values = np.asarray(rules.source_agreement(BELIEFS, 0.5))
    np.testing.assert_allclose(values[0], [1, 0.6, 0.3, 0.1], rtol=1e-6)
    assert values[1].max() == 1


@pytest.mark.parametrize(
    ("share", "allowed"),
    [(0.01, [1, 0, 0, 0]), (0.5, [1, 1, 0, 0]), (0.6, [1, 1, 1, 0])],
)
def test_likely_classes_are_a_share_rounded_up(share, allowed):
    values = np.asarray(rules.likely_classes(BELIEFS, share))
    assert values[0].tolist() == allowed
    assert np.asarray(rules.likely_classes(BELIEFS, 1.0)).min() == 1


@pytest.mark.parametrize(
    ("share", "allowed"),
    [(0.4, [1, 0, 0, 0]), (0.6, [1, 1, 0, 0]), (0.9, [1, 1, 1, 0])],
)
def test_likely_mass_is_the_fewest_classes_that_hold_it(share, allowed):
    values = np.asarray(rules.likely_mass(BELIEFS, share))
    assert values[0].tolist() == allowed
    # The surer source allows fewer.
    assert np.asarray(rules.likely_mass(BELIEFS, 0.6))[1].sum() == 1


def test_beliefs_translate_the_sources_classes(world):
    target, source = world
    given = predict(rules.beliefs(target, source), target.train.x)
    np.testing.assert_allclose(given.sum(-1), 1, rtol=1e-5)
    colour = np.repeat(target.train.x, 3, axis=-1)
    theta = softmax(predict(source.model, colour))
    joint = np.stack([theta[target.train.y == k].sum(0) for k in range(3)])
    expected = theta @ (joint / joint.sum(0)).T
    np.testing.assert_allclose(given, expected, atol=1e-5)


def test_a_source_of_the_same_classes_is_not_translated():
    target, source = small_world(channels=1)
    given = predict(rules.beliefs(target, source), target.train.x)
    logits = predict(source.model, target.train.x)
    np.testing.assert_allclose(given, softmax(logits), atol=1e-6)
    # No label is read, so none can leak into the rule.
    other = Split(target.train.x, target.train.y[::-1].copy())
    again = rules.beliefs(target._replace(train=other), source)
    np.testing.assert_array_equal(predict(again, target.train.x), given)


@pytest.mark.parametrize("labels", [(0, 1, 2), ("a", "b", "c")])
def test_a_source_with_dropout_is_read_as_it_serves(labels):
    task = small_task("source", 1)._replace(labels=labels)
    network = attach_head(
        small_backbone((12, 12, 1), dropout=0.5), 3, seed=0, hidden_units=6
    )
    target = small_task("target", 1)
    found = rules.beliefs(target, Source(network, task))
    images = target.train.x
    np.testing.assert_allclose(
        found(images, training=True), predict(found, images), atol=1e-6
    )


@pytest.mark.parametrize("name", rules.RULES)
def test_a_rule_is_frozen_and_between_zero_and_one(world, name):
    target, source = world
    rule = rules.read(name, target, source, 0.5)
    values = predict(rule, target.train.x)
    assert values.shape == (48, 3)
    assert values.min() >= 0 and values.max() == 1
    assert not rule.trainable_variables
    own = {id(v) for v in rule.variables}
    assert not own & {id(v) for v in source.model.variables}


def test_an_unknown_rule_names_the_nearest():
    with pytest.raises(KTransferError, match="'likely_mass'"):
        rules.check("likely_mas", rules.RULES)
