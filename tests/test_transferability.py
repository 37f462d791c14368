"""LEEP and its map: closed forms, bounds, and classes that are never seen."""

import numpy as np
import pytest

from ktransfer.transferability import label_map, leep


@pytest.fixture
def world():
    """Return source probabilities `(60, 5)` and labels of three classes."""
    rng = np.random.default_rng(0)
    theta = rng.dirichlet(np.ones(5), 60)
    return theta, rng.integers(0, 3, 60)


def test_the_map_is_the_joint_frequency_given_the_sources_class(world):
    theta, labels = world
    rows = label_map(theta, labels)
    np.testing.assert_allclose(rows.sum(axis=1), 1, atol=1e-12)
    for z in range(5):
        for y in range(3):
            share = theta[labels == y, z].sum() / theta[:, z].sum()
            assert rows[z, y] == pytest.approx(share, abs=1e-12)


def test_leep_is_its_formula_and_never_above_zero(world):
    theta, labels = world
    rows = label_map(theta, labels)
    summed = [
        np.log(sum(rows[z, y] * theta[i, z] for z in range(5)))
        for i, y in enumerate(labels)
    ]
    assert leep(theta, labels) == pytest.approx(np.mean(summed), abs=1e-12)
    assert leep(theta, labels) < 0


def test_a_relabelling_scores_zero_and_an_independent_source_minus_entropy():
    labels = np.tile([0, 0, 1, 2], 10)
    renamed = np.eye(4)[np.array([3, 1, 0])[labels]]
    assert leep(renamed, labels) == pytest.approx(0, abs=1e-12)
    flat = np.tile([0.1, 0.2, 0.7], (40, 1))
    entropy = np.log(2) / 2 + np.log(4) / 2
    assert leep(flat, labels) == pytest.approx(-entropy, abs=1e-12)


def test_the_order_of_the_sources_classes_does_not_matter(world):
    theta, labels = world
    shuffled = theta[:, [3, 0, 4, 1, 2]]
    assert leep(shuffled, labels) == pytest.approx(
        leep(theta, labels), abs=1e-12
    )


def test_a_class_that_the_source_never_answers_is_guarded(world):
    theta, labels = world
    empty = np.concatenate([theta, np.zeros((60, 1))], axis=1)
    rows = label_map(empty, labels)
    np.testing.assert_allclose(rows[5], np.bincount(labels) / 60)
    assert leep(empty, labels) == pytest.approx(leep(theta, labels), abs=1e-12)


def test_a_target_class_without_labels_gets_an_empty_column(world):
    theta, labels = world
    rows = label_map(theta, labels, num_classes=4)
    assert rows.shape == (5, 4) and (rows[:, 3] == 0).all()
