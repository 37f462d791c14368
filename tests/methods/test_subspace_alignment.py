"""Subspace alignment: the source's principal axes turned to the target's."""

import keras
import numpy as np
import pytest
from helpers import (
    OTHERS,
    bytes_of,
    features_of,
    small_classifier,
    small_task,
    small_world,
    softmax,
    standardised,
    weights_of,
)

from ktransfer.engine.prediction import predict
from ktransfer.errors import KTransferError, NotApplicable
from ktransfer.methods.domain.subspace_alignment import _axes, transfer
from ktransfer.models.own import Source
from ktransfer.models.surgery import (
    copy_backbone,
    trainable_count,
)
from ktransfer.stages import alignment


@pytest.fixture
def world():
    """(target, source): other images, grey and inverted."""
    return small_world(inverted=True)


def read(model, images, name):
    """Return what the layer `name` of `model` gives for raw images."""
    output = model.get_layer(name).output
    return predict(keras.Model(model.inputs[0], output), images)


def test_features_are_those_of_a_plain_reference(world, solved):
    target, source = world
    model = transfer(target, source, steps=1, seed=0, num_components=4)
    ours = read(model, target.train.x, "target_align")
    theirs = solved[0].args[0]
    z_t = standardised(features_of(target, source))
    z_s = standardised(features_of(source.task, source))
    axes_t, axes_s = (
        np.linalg.svd(z, full_matrices=False)[2][:4].T for z in (z_t, z_s)
    )
    np.testing.assert_allclose(axes_t.T @ axes_t, np.eye(4), atol=1e-12)
    wanted = z_t @ axes_t
    # The sign of an axis is free, but it is one for both domains.
    signs = np.sign(np.sum(wanted * ours, axis=0))
    np.testing.assert_allclose(ours * signs, wanted, atol=2e-4)
    wanted = z_s @ axes_s @ (axes_s.T @ axes_t)
    np.testing.assert_allclose(theirs * signs, wanted, atol=2e-4)


def test_bases_are_orthonormal_and_of_the_largest_variance():
    draws = np.random.default_rng(0).normal(size=(2, 40, 6))
    matrices = [x.T @ (x * np.arange(1, 41)[:, None]) for x in draws]
    for matrix, axes in zip(matrices, _axes(matrices, 3), strict=True):
        np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-12)
        variances = np.linalg.eigvalsh(matrix)[:2:-1]
        found = np.diag(axes.T @ matrix @ axes)
        np.testing.assert_allclose(found, variances, rtol=1e-10)
    one, other = _axes([matrices[0]] * 2, 3)
    np.testing.assert_allclose(one.T @ other, np.eye(3), atol=1e-12)


def test_equal_domains_have_equal_features(world, solved):
    _, source = world
    model = transfer(source.task, source, steps=1, seed=0, num_components=5)
    ours = read(model, source.task.train.x, "target_align")
    theirs = solved[0].args[0]
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_the_classifier_is_the_minimum_itself(world, solved):
    """A head that Adam has not brought there leans on what differs."""
    target, source = world
    model = transfer(target, source, steps=1, seed=0, penalty=0.01)
    z = solved[0].args[0]
    kernel, bias = model.get_layer("logits").get_weights()
    logits = z @ kernel + bias
    wrong = softmax(logits) - np.eye(3)[source.task.train.y]
    slope = z.T @ wrong / len(z) + 0.02 * kernel
    assert np.abs(slope).max() < 1e-5
    assert np.abs(wrong.mean(axis=0)).max() < 1e-5


def test_the_head_alone_is_trained_on_as_many_components_as_there_are(world):
    target, source = world
    for wanted, k in ((64, 8), (5, 5)):
        model = transfer(target, source, steps=1, seed=0, num_components=wanted)
        assert trainable_count(model) == (k + 1) * 3
    few = target.train._replace(x=target.train.x[:4], y=target.train.y[:4])
    model = transfer(target._replace(train=few), source, steps=1, seed=0)
    assert trainable_count(model) == (3 + 1) * 3
    reader = model.get_layer("target_reader")
    assert bytes_of(reader) == bytes_of(copy_backbone(source.model))


def test_target_labels_are_not_read(world):
    target, source = world
    turned = target.train._replace(y=target.train.y[::-1].copy())
    one, other = (
        transfer(x, source, steps=2, seed=0)
        for x in (target, target._replace(train=turned))
    )
    assert weights_of(one) == weights_of(other)


def test_a_source_with_dropout_is_read_as_it_serves():
    task = small_task("source", 3)
    network = small_classifier(dropout=0.5)
    source = Source(network, task)
    readers, images = alignment.read_domains(task, source)
    wanted = features_of(task, source).astype("float32")
    for name in ("target", "source"):
        found = readers[name](images[name], training=True)
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


def test_moments_standardise_and_leave_constants_alone():
    inputs = keras.Input((2, 2, 1), dtype="uint8")
    x = keras.layers.Rescaling(0.1)(keras.layers.Flatten()(inputs))
    reader = keras.Model(inputs, x)
    images = np.random.default_rng(0).integers(0, 256, (2100, 2, 2, 1))
    images[:, 1, 1] = 7
    mean, deviation, correlation = alignment.feature_moments(
        reader, images.astype("uint8")
    )
    values = images.reshape(-1, 4) / 10
    np.testing.assert_allclose(mean, values.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(deviation[:3], values[:, :3].std(axis=0), 1e-5)
    assert deviation[3] == 1 and not correlation[3].any()
    np.testing.assert_allclose(
        correlation[:3, :3], np.corrcoef(values[:, :3].T), atol=1e-6
    )


def test_needs_are_named(world):
    target, source = world
    other = target._replace(labels=OTHERS)
    with pytest.raises(NotApplicable, match="the target's own classes"):
        transfer(other, source, steps=1, seed=0)
    for name in ("num_components", "penalty"):
        with pytest.raises(KTransferError, match=f"{name} is 0"):
            transfer(target, source, steps=1, seed=0, **{name: 0})
    black = target.train._replace(x=np.zeros_like(target.train.x))
    with pytest.raises(NotApplicable, match="expected some that vary"):
        transfer(target._replace(train=black), source, steps=1, seed=0)
