"""CORAL: source features get the covariance of the target's."""

import keras
import numpy as np
import pytest
from helpers import (
    OTHERS,
    bytes_of,
    features_of,
    small_world,
    standardised,
    weights_of,
)

from ktransfer.engine.prediction import predict
from ktransfer.errors import KTransferError, NotApplicable
from ktransfer.methods.domain.correlation_alignment import _power, transfer
from ktransfer.models.surgery import copy_backbone, trainable_count


@pytest.fixture
def world():
    """(target, source): other images, grey and inverted."""
    return small_world(inverted=True)


def aligned(target, source, solved, **options):
    """Return aligned features of the target and of the source."""
    model = transfer(target, source, steps=0, seed=0, **options)
    output = model.get_layer("target_align").output
    ours = predict(keras.Model(model.input, output), target.train.x)
    return ours, solved.pop().args[0]


def whitening_by_svd(covariance):
    u, s, _ = np.linalg.svd(covariance)
    return u @ np.diag(s**-0.5) @ u.T, u @ np.diag(s**0.5) @ u.T


@pytest.mark.parametrize("strength", [1.0, 0.1])
def test_features_are_those_of_a_plain_reference(world, solved, strength):
    target, source = world
    ours, theirs = aligned(target, source, solved, regularization=strength)
    z_t, z_s = (
        standardised(features_of(target, source)),
        standardised(features_of(source.task, source)),
    )
    np.testing.assert_allclose(ours, z_t, atol=1e-3)
    covariances = [
        np.cov(z.T, bias=True) + strength * np.eye(8) for z in (z_t, z_s)
    ]
    whiten = whitening_by_svd(covariances[1])[0]
    colour = whitening_by_svd(covariances[0])[1]
    np.testing.assert_allclose(theirs, z_s @ whiten @ colour, atol=1e-3)


def test_the_covariance_is_the_target_s_as_regularization_vanishes(
    world, solved
):
    target, source = world
    ours, theirs = aligned(target, source, solved, regularization=1e-9)
    wanted = np.cov(ours.T, bias=True)
    found = np.cov(theirs.T.astype("float64"), bias=True)
    np.testing.assert_allclose(found, wanted, atol=2e-3)
    np.testing.assert_allclose(theirs.mean(axis=0), 0, atol=1e-3)
    before = np.cov(standardised(features_of(source.task, source)).T, bias=True)
    assert np.abs(before - wanted).max() > 0.1


def test_equal_domains_change_nothing(world, solved):
    _, source = world
    ours, theirs = aligned(source.task, source, solved)
    np.testing.assert_allclose(theirs, ours, atol=1e-4)
    np.testing.assert_allclose(
        ours, standardised(features_of(source.task, source)), atol=1e-3
    )


def test_powers_invert_each_other_where_the_correlation_is_singular():
    x = np.random.default_rng(0).normal(size=(3, 5))
    singular = x.T @ x
    root, inverse = (_power(singular, 1.0, p) for p in (0.5, -0.5))
    np.testing.assert_allclose(root @ inverse, np.eye(5), atol=1e-12)
    np.testing.assert_allclose(root @ root, singular + np.eye(5), atol=1e-12)


def test_target_labels_are_not_read_and_the_head_alone_is_trained(world):
    target, source = world
    turned = target.train._replace(y=target.train.y[::-1].copy())
    one, other = (
        transfer(x, source, steps=2, seed=0)
        for x in (target, target._replace(train=turned))
    )
    assert weights_of(one) == weights_of(other)
    assert trainable_count(one) == (8 + 1) * 3
    reader = one.get_layer("target_reader")
    assert bytes_of(reader) == bytes_of(copy_backbone(source.model))


def test_needs_are_named(world):
    target, source = world
    other = target._replace(labels=OTHERS)
    with pytest.raises(NotApplicable, match="the target's own classes"):
        transfer(other, source, steps=1, seed=0)
    with pytest.raises(KTransferError, match="regularization is 0"):
        transfer(target, source, steps=1, seed=0, regularization=0)
