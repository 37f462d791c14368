"""Feature standardization: each domain by its own moments, and no more."""

import keras
import numpy as np
import pytest
from helpers import (
    OTHERS,
    bytes_of,
    features_of,
    small_task,
    small_world,
    standardised,
    weights_of,
)
from keras import layers

from ktransfer.engine.prediction import predict
from ktransfer.errors import KTransferError, NotApplicable
from ktransfer.methods.domain import (
    correlation_alignment,
    subspace_alignment,
)
from ktransfer.methods.domain.feature_standardization import transfer
from ktransfer.models.own import Source
from ktransfer.models.surgery import (
    attach_head,
    copy_backbone,
    trainable_count,
)

OPTIONS = {"steps": 1, "seed": 0}


@pytest.fixture
def world():
    """(target, source): other images, grey and inverted."""
    return small_world(inverted=True)


def served(model, images):
    """Return the features that the classifier of `model` reads."""
    output = model.get_layer("target_align").output
    return predict(keras.Model(model.input, output), images)


def test_features_are_those_of_a_plain_reference(world, solved):
    target, source = world
    model = transfer(target, source, **OPTIONS)
    ours, theirs = served(model, target.train.x), solved[0].args[0]
    np.testing.assert_allclose(
        ours, standardised(features_of(target, source)), atol=1e-3
    )
    np.testing.assert_allclose(
        theirs, standardised(features_of(source.task, source)), atol=1e-3
    )
    # Nothing but the moments: the correlations stay each domain's own.
    apart = np.corrcoef(ours.T) - np.corrcoef(theirs.T)
    assert np.abs(apart).max() > 0.1


def test_it_is_the_control_of_both_alignments(world):
    """CORAL that hardly whitens, and SA that keeps every component."""
    target, source = world
    x = target.train.x
    wanted = predict(transfer(target, source, **OPTIONS), x)
    coral = correlation_alignment.transfer(
        target, source, regularization=1e7, **OPTIONS
    )
    np.testing.assert_allclose(predict(coral, x), wanted, atol=1e-3)
    model = subspace_alignment.transfer(
        source.task, source, num_components=8, **OPTIONS
    )
    alike = transfer(source.task, source, **OPTIONS)
    # On equal domains SA turns the features, which no penalty feels.
    x = source.task.train.x
    np.testing.assert_allclose(predict(model, x), predict(alike, x), atol=1e-3)


def test_equal_domains_change_nothing(world, solved):
    _, source = world
    model = transfer(source.task, source, **OPTIONS)
    ours = served(model, source.task.train.x)
    np.testing.assert_allclose(solved[0].args[0], ours, atol=1e-5)


def test_a_shift_and_a_scale_of_every_feature_are_undone():
    """Of pixels as features; the same images are then answered alike."""
    inputs = keras.Input((4, 4, 1), dtype="uint8", name="images")
    x = layers.Rescaling(1 / 255, name="rescale")(inputs)
    pixels = keras.Model(inputs, layers.Flatten(name="features")(x))
    task = small_task("source", 1)
    images = task.train.x[:, 2:10:2, 2:10:2] // 3
    task = task._replace(
        image_shape=(4, 4, 1), train=task.train._replace(x=images)
    )
    source = Source(attach_head(pixels, 3, seed=0), task)
    moved = task._replace(train=task.train._replace(x=2 * images + 40))
    plain, adapted = (transfer(t, source, **OPTIONS) for t in (task, moved))
    logits = predict(plain, images)
    np.testing.assert_allclose(
        predict(adapted, moved.train.x), logits, atol=1e-3
    )
    assert np.abs(predict(plain, moved.train.x) - logits).max() > 0.1


def test_target_labels_are_not_read_and_the_head_alone_is_trained(world):
    target, source = world
    turned = target.train._replace(y=target.train.y[::-1].copy())
    one, other = (
        transfer(x, source, **OPTIONS)
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
        transfer(other, source, **OPTIONS)
    with pytest.raises(KTransferError, match="penalty is 0"):
        transfer(target, source, penalty=0, **OPTIONS)
