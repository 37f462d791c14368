"""Relational distillation: the geometry counts, not where or how large."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from helpers import bytes_of, defaults, small_classifier, weights_of

from ktransfer.engine import losses
from ktransfer.methods.baselines import scratch
from ktransfer.methods.knowledge import relational_distillation as rkd
from ktransfer.methods.knowledge.relational_distillation import transfer
from ktransfer.models.surgery import cut, freeze
from ktransfer.stages import heads


def huber(a, b):
    error = np.abs(a - b)
    return np.where(error < 1, error**2 / 2, error - 0.5).mean()


def written_distances(f):
    n = len(f)
    lengths = np.array([[np.linalg.norm(a - b) for b in f] for a in f])
    return lengths / (lengths.sum() / (n * n - n))


def written_angles(f):
    n = len(f)
    found = np.zeros((n, n, n))
    for j, i, k in itertools.product(range(n), repeat=3):
        a, b = f[i] - f[j], f[k] - f[j]
        if i != j and k != j:
            found[j, i, k] = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    return found


def apart(student, teacher):
    """Return both terms of the method on arrays."""
    student, teacher = np.float32(student), np.float32(teacher)
    return [
        float(losses.huber(relation(student), relation(teacher)))
        for relation in (losses.relative_distances, losses.triplet_angles)
    ]


def test_both_terms_are_the_written_formulas():
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(6, 4)), 9 * rng.normal(size=(6, 7))
    teacher[0] += 60
    expected = [
        huber(relation(student), relation(teacher))
        for relation in (written_distances, written_angles)
    ]
    assert apart(student, teacher) == pytest.approx(expected, rel=1e-4)
    assert min(expected) > 0


def test_a_turned_scaled_and_shifted_copy_is_at_zero():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(8, 5))
    turn, _ = np.linalg.qr(rng.normal(size=(9, 9)))
    moved = 3 * features @ turn[:5] + rng.normal(size=9)
    assert apart(moved, features) == pytest.approx([0, 0], abs=1e-9)
    assert min(apart(rng.normal(size=(8, 9)), features)) > 1e-3


def test_features_far_from_zero_keep_their_angles():
    """In float32 the products of values near 1,000 would hide them."""
    features = np.random.default_rng(0).normal(size=(8, 5))
    found = losses.triplet_angles(np.float32(features + 1000))
    np.testing.assert_allclose(found, written_angles(features), atol=1e-3)


def test_the_teachers_geometry_is_a_constant_to_the_gradient():
    own, given = np.random.default_rng(0).normal(size=(2, 6, 4))
    variable = tf.Variable(np.float32(given))
    with tf.GradientTape() as tape:
        loss = losses.huber(np.float32(own), variable)
    assert float(loss) > 0 and tape.gradient(loss, variable) is None


@pytest.mark.parametrize("repeats", [2, 8])
def test_repeated_images_are_finite_and_so_is_their_gradient(repeats):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(8, 5)).astype("float32")
    features[:repeats] = features[0]
    teacher = rng.normal(size=(8, 3)).astype("float32")
    variable = tf.Variable(features)
    with tf.GradientTape() as tape:
        loss = sum(
            losses.huber(relation(variable), relation(teacher))
            for relation in (losses.relative_distances, losses.triplet_angles)
        )
    assert np.isfinite(float(loss))
    assert np.isfinite(tape.gradient(loss, variable).numpy()).all()


def test_the_default_strengths_are_those_of_repdistiller():
    found = defaults(transfer)
    assert found["distance_strength"] == 25.0
    assert found["angle_strength"] == 50.0


def test_a_teacher_with_dropout_is_read_as_it_serves(world):
    target, _ = world
    teach = small_classifier(shape=(12, 12, 1), dropout=0.5)
    freeze(teach)
    both = rkd._compared(heads.small_network(target, 0), teach)
    found = both(target.train.x, training=True)["teacher"]
    wanted = cut(teach, "features")(target.train.x)
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_both_strengths_zero_are_training_from_scratch(world):
    target, source = world
    options = {"steps": 2, "seed": 2, "batch_size": 8}
    model = transfer(
        target, source, distance_strength=0.0, angle_strength=0.0, **options
    )
    plain = scratch.transfer(target, **options)
    assert bytes_of(model) == bytes_of(plain)


def test_the_strengths_weigh_the_terms(world, given_to_fit):
    x, y = (part[:9] for part in world[0].train)
    losses = {}
    for strengths in ((25.0, 50.0), (25.0, 0.0), (0.0, 50.0), (50.0, 100.0)):
        call = given_to_fit(
            rkd,
            *world,
            distance_strength=strengths[0],
            angle_strength=strengths[1],
        )
        outputs = call.model(x)
        losses[strengths] = float(call.loss(y, outputs))
    given, own = outputs["teacher"].numpy(), outputs["student"].numpy()
    assert given.shape == (9, 8) and own.shape == (9, 1024)
    distances, angles = apart(own, given)
    both = losses[25.0, 50.0]
    assert both - losses[0.0, 50.0] == pytest.approx(25 * distances, rel=1e-3)
    assert both - losses[25.0, 0.0] == pytest.approx(50 * angles, rel=1e-3)
    assert losses[50.0, 100.0] - both == pytest.approx(
        25 * distances + 50 * angles, rel=1e-3
    )


def test_the_teachers_features_are_computed_once(world, fits):
    target, source = world
    model = transfer(target, source, steps=2, seed=0, batch_size=8)
    (fit,) = fits
    assert fit.cached == 8
    start = heads.small_network(target, 0, name="student")
    assert weights_of(model).keys() == weights_of(start).keys()
