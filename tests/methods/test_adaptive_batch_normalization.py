"""AdaBN: source only, whose BatchNorm statistics become the target's."""

import numpy as np
import pytest
from helpers import (
    OTHERS,
    bytes_of,
    domains,
    layer_of,
    norms_of,
    small_backbone,
    small_task,
    small_world,
)

from ktransfer.engine.prediction import predict
from ktransfer.errors import NotApplicable
from ktransfer.methods.domain import source_only
from ktransfer.methods.domain.adaptive_batch_normalization import transfer
from ktransfer.models.own import Source
from ktransfer.models.surgery import attach_head, cut

OPTIONS = {"steps": 3, "seed": 1, "batch_size": 16}


@pytest.fixture
def world():
    return domains(normalised=True)


@pytest.mark.parametrize("options", [{}, {"from_source": True}])
def test_only_the_statistics_differ_from_source_only(world, options):
    ours = transfer(*world, **OPTIONS, **options)
    theirs = source_only.transfer(*world, **OPTIONS, **options)
    for mine, other in zip(ours.weights, theirs.weights, strict=True):
        same = mine.numpy().tobytes() == other.numpy().tobytes()
        assert same != mine.name.startswith("moving_"), mine.path


def test_statistics_are_those_of_the_target_s_images(world):
    target, _ = world
    model = transfer(*world, **OPTIONS)
    for block in (1, 2, 3):
        inputs = predict(cut(model, f"block{block}_conv"), target.train.x)
        inputs = inputs.reshape(-1, inputs.shape[-1]).astype("float64")
        layer = layer_of(model, f"block{block}_norm")
        np.testing.assert_allclose(
            layer.moving_mean, inputs.mean(axis=0), rtol=1e-4, atol=1e-6
        )
        np.testing.assert_allclose(
            layer.moving_variance, inputs.var(axis=0), rtol=1e-4
        )


def test_unlabelled_images_come_first_and_labels_play_no_part(world):
    target, source = world
    images = target.train.x
    one = transfer(target, source, **OPTIONS)
    train = target.train._replace(
        x=np.zeros_like(images), y=target.train.y[::-1].copy()
    )
    other = target._replace(train=train, unlabelled=images)
    two = transfer(other, source, **OPTIONS)
    assert bytes_of(one) == bytes_of(two)


def test_source_images_as_target_leave_predictions_nearly_unchanged():
    """Moving statistics of no memory, of batches of all images."""
    task = small_task("source", 3)
    backbone = small_backbone(task.image_shape, normalised=True)
    for layer in norms_of(backbone):
        layer.momentum = 0.0
    source = Source(attach_head(backbone, 3, seed=0), task)
    options = {"steps": 3, "seed": 0, "batch_size": 48, "learning_rate": 1e-5}
    ours = predict(transfer(task, source, **options), task.train.x)
    theirs = source_only.transfer(task, source, **options)
    theirs = predict(theirs, task.train.x)
    np.testing.assert_allclose(ours, theirs, atol=2e-3 * np.ptp(theirs))
    inverted = task._replace(train=task.train._replace(x=255 - task.train.x))
    moved = predict(transfer(inverted, source, **options), task.train.x)
    assert np.abs(moved - theirs).max() > 0.05 * np.ptp(theirs)


def test_a_network_without_batch_normalization_is_refused_at_once(fits):
    with pytest.raises(NotApplicable, match="no BatchNorm layer"):
        transfer(*domains(), **OPTIONS)
    assert not fits


def test_other_classes_are_refused():
    world = small_world(normalised=True, labels=OTHERS)
    with pytest.raises(NotApplicable, match="the target's own classes"):
        transfer(*world, **OPTIONS)
