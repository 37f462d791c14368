"""Hard sharing: one backbone, two losses, and nothing of a task left out."""

import keras
import numpy as np
import pytest
from helpers import bytes_of, small_world

from ktransfer.engine.batches import epoch_order
from ktransfer.engine.normalization import reestimate_statistics
from ktransfer.methods.baselines import scratch
from ktransfer.methods.multitask.hard_sharing import transfer
from ktransfer.methods.parameter import fine_tuning
from ktransfer.models.graph import leaves
from ktransfer.models.own import Source
from ktransfer.stages.streams import first_backbone, two_streams


@pytest.fixture
def world():
    """The source has two classes, the target three."""
    return small_world(num_classes=2)


def of_another_task(source, rows):
    """Return `source` with other images and labels in `rows` of its task."""
    x, y = source.task.train.x.copy(), source.task.train.y.copy()
    x[rows], y[rows] = 255 - x[rows], 1 - y[rows]
    train = source.task.train._replace(x=x, y=y)
    return Source(source.model, source.task._replace(train=train))


def test_without_the_source_it_is_scratch(world):
    target, source = world
    options = {"steps": 2, "seed": 3, "batch_size": 4}
    model = transfer(target, source, source_weight=0, **options)
    assert bytes_of(model) == bytes_of(scratch.transfer(target, **options))


def test_without_the_source_it_is_fine_tuning_if_it_starts_there(world):
    target, source = world
    options = {"steps": 5, "seed": 3, "batch_size": 16}
    model = transfer(
        target, source, source_weight=0, from_source=True, **options
    )
    tuned = fine_tuning.transfer(target, source, **options)
    assert bytes_of(model) == bytes_of(tuned)


def test_only_the_images_of_a_batch_count(world):
    target, source = world
    options = {"steps": 2, "seed": 1, "batch_size": 8, "from_source": True}
    order = epoch_order(48, 2, 8, 1, "source")
    beyond = np.setdiff1d(np.arange(48), order)
    model = transfer(target, source, **options)
    same = transfer(target, of_another_task(source, beyond), **options)
    other = transfer(target, of_another_task(source, order[0]), **options)
    assert bytes_of(model) == bytes_of(same)
    assert bytes_of(model) != bytes_of(other)


def test_the_loss_is_the_weighted_sum_of_two_means(world, fits):
    target, source = world
    backbone = first_backbone(source, seed=1, from_source=True)
    both = two_streams(target, source, backbone, backbone, seed=1)
    rows = {name: epoch_order(48, 1, 16, 1, name)[0] for name in both.input}
    splits = {"target": target.train, "source": source.task.train}
    given = {name: splits[name].x[rows[name]] for name in splits}
    outputs = both(given)
    expected = 0.0
    for name, weight in (("target", 0.5), ("source", 2.0)):
        logits = np.asarray(outputs[name], "float64")
        chosen = logits[np.arange(16), splits[name].y[rows[name]]]
        norm = np.log(np.exp(logits).sum(axis=-1))
        expected += weight * np.mean(norm - chosen)
    transfer(
        target,
        source,
        steps=1,
        seed=1,
        batch_size=16,
        from_source=True,
        source_weight=2.0,
        target_weight=0.5,
    )
    (done,) = fits
    assert done.curve[0][1] == pytest.approx(expected, rel=1e-5)


def test_the_source_moves_the_backbone_and_not_the_targets_head(world):
    target, source = world
    options = {"steps": 1, "seed": 1, "from_source": True}
    options |= {"optimizer": keras.optimizers.SGD, "learning_rate": 0.1}
    plain, once, twice = (
        transfer(target, source, source_weight=weight, **options)
        for weight in (0, 1, 2)
    )
    for a, b, c in zip(plain.weights, once.weights, twice.weights, strict=True):
        np.testing.assert_allclose(c - a, 2 * (b - a), atol=1e-6)
        assert np.array_equal(a, b) == ("logits" in a.path)


def test_the_two_heads_start_from_weights_of_their_own():
    target, source = small_world()
    backbone = first_backbone(source, seed=1, from_source=True)
    both = two_streams(target, source, backbone, backbone, seed=1)
    one, other = (
        both.get_layer(f"{name}_network").get_layer("logits").kernel
        for name in both.output
    )
    assert one.shape == other.shape and (one.numpy() != other.numpy()).all()


def test_the_sources_head_is_not_in_the_result(world):
    model = transfer(*world, steps=0, seed=0, from_source=True)
    heads = [x for x in leaves(model) if isinstance(x, keras.layers.Dense)]
    assert [head.units for head in heads] == [3]


def test_batch_normalisation_ends_with_the_targets_statistics():
    target, source = small_world(normalised=True)
    model = transfer(
        target, source, steps=2, seed=0, batch_size=4, from_source=True
    )
    before = bytes_of(model)
    reestimate_statistics(model, target.train.x)
    assert bytes_of(model) == before
