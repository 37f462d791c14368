"""Relationships of classes: against scikit-learn, SciPy and counting."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from scipy.special import softmax as exact
from sklearn.linear_model import LogisticRegression

from ktransfer.measures.relationships import (
    calibrated,
    direct,
    reverse,
    softmax,
)
from ktransfer.measures.solvers import softmax_regression


def drawn(n, seed):
    """Return probabilities of five source classes, labels of three."""
    rng = np.random.default_rng([n, seed])
    theta = softmax(3 * rng.normal(size=(n, 5)))
    table = softmax(4 * np.random.default_rng(seed).normal(size=(5, 3)))
    return theta, np.array([rng.choice(3, p=p) for p in theta @ table])


def cross_entropy(logits, labels):
    return -log_softmax(logits, axis=-1)[np.arange(len(labels)), labels].mean()


def test_the_temperature_has_the_least_cross_entropy():
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(size=(400, 5))
    chosen = [rng.choice(5, p=p) for p in softmax(logits / 3)]
    found = calibrated(logits, chosen)
    best = minimize_scalar(
        lambda scale: cross_entropy(scale * logits, chosen),
        bounds=(0.05, 2),
        options={"xatol": 1e-8},
    ).x
    assert found == pytest.approx(1 / best, rel=1e-4)
    assert 2 < found < 5
    # Logits of another scale are the same beliefs.
    assert calibrated(4 * logits, chosen) == pytest.approx(4 * found)
    # A source that is never wrong has no minimum, but an end.
    assert calibrated(np.eye(3), [0, 1, 2]) == pytest.approx(0.05)
    assert calibrated(np.eye(3), [0, 1, 2], lowest=1) == pytest.approx(1)
    assert calibrated(np.eye(3), [1, 2, 0]) == pytest.approx(20)


def test_direct_is_the_mean_of_each_class():
    theta = np.array([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]])
    found = direct(theta, np.array([1, 0, 1]), 2)
    np.testing.assert_allclose(found, [[0.5, 0.5], [0.55, 0.45]])


def test_reverse_is_the_authors_procedure():
    """As in their relationship_learning.py, with its own tools."""
    theta, labels = drawn(120, 1)
    held, true = drawn(40, 1)
    best = None
    for c in (1e4, 3e3, 1e3, 3e2, 1e2, 3e1, 1e1, 3, 1, 0.3, 0.1, 0.03, 0.01):
        model = LogisticRegression(
            C=c, fit_intercept=False, tol=1e-10, max_iter=100_000
        ).fit(theta, labels)
        accuracy = model.score(held, true)
        if best is None or accuracy > best[0]:
            best = accuracy, c, model.coef_.T
    _, chosen, kernel = best
    assert 0.01 < chosen < 1e4
    scale = minimize_scalar(
        lambda scale: cross_entropy(scale * held @ kernel, true),
        bounds=(0.05, 20),
        options={"xatol": 1e-9},
    ).x
    assert 0.06 < scale < 19
    given_source = exact(scale * kernel, axis=-1)
    joint = given_source * np.concatenate([theta, held]).mean(0)[:, None]
    expected = (joint / joint.sum(0)).T
    found = reverse((theta, labels), (held, true), 3)
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-12)
    # The mean of a class is another relationship.
    assert np.abs(found - direct(theta, labels, 3)).max() > 0.05


@pytest.mark.parametrize("c", [1e2, 1.0, 1e-3])
def test_softmax_regression_without_a_bias(c):
    theta, labels = drawn(120, 2)
    kernel, bias = softmax_regression(
        theta, np.eye(3)[labels], 1 / (2 * c * 120), bias=False
    )
    model = LogisticRegression(
        C=c, fit_intercept=False, tol=1e-10, max_iter=100_000
    ).fit(theta, labels)
    np.testing.assert_allclose(kernel.T, model.coef_, atol=1e-4)
    assert (bias == 0).all()


def test_a_class_that_no_source_class_answers_with_still_has_a_row():
    """At either one-hot vector its probability underflows: it was 0 / 0."""
    first = np.repeat([0.52, 0.5, 0.48], 20)
    theta, labels = (
        np.stack([first, 1 - first], axis=1),
        np.repeat([0, 2, 1], 20),
    )
    found = reverse((theta, labels), (theta, labels), 3)
    assert np.allclose(found.sum(axis=1), 1)
    assert found[0, 0] > 0.99 and found[1, 1] > 0.99
