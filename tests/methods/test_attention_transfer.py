"""Attention transfer: maps of where, blind to scale and to channel order."""

import numpy as np
import pytest
from helpers import (
    bytes_of,
    defaults,
    log_loss,
    small_classifier,
    small_source,
    small_task,
    weights_of,
)

from ktransfer.engine import losses
from ktransfer.errors import NotApplicable
from ktransfer.methods.baselines import scratch
from ktransfer.methods.knowledge import attention_transfer
from ktransfer.methods.knowledge.attention_transfer import transfer
from ktransfer.models import backbones
from ktransfer.models.own import Source
from ktransfer.models.surgery import adapt_input, attach_head, freeze, inline
from ktransfer.stages import heads, teachers


def attention(maps):
    energy = losses.attention_energy(np.asarray(maps, "float32"))
    return np.asarray(losses.attention_map(energy))


def written_out(maps):
    flat = (np.asarray(maps, "float64") ** 2).mean(-1).reshape(len(maps), -1)
    return flat / np.sqrt((flat**2).sum(-1, keepdims=True))


def test_attention_is_the_normalised_mean_of_squares():
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(4, 5, 3, 6))
    found = attention(maps)
    np.testing.assert_allclose(found, written_out(maps), atol=1e-6)
    shuffled = maps[..., rng.permutation(6)] * -7
    np.testing.assert_allclose(attention(shuffled), found, atol=1e-6)
    np.testing.assert_allclose((found**2).sum(-1), 1, rtol=1e-5)
    # Not the map itself, flattened: other positions, other attention.
    assert not np.allclose(attention(maps[:, ::-1]), found)


def test_a_map_of_zeros_is_harmless():
    assert (attention(np.zeros((2, 3, 3, 4))) == 0).all()


def test_the_loss_is_the_written_formula(world, given_to_fit):
    target, _ = world
    call = given_to_fit(attention_transfer, *world)
    outputs = call.model(target.train.x)
    assert len(outputs["student"]) == len(outputs["teacher"]) == 3
    hard = log_loss(target.train.y, outputs["logits"])
    apart = [
        ((a.numpy().astype("float64") - b.numpy()) ** 2).mean()
        for a, b in zip(outputs["student"], outputs["teacher"])
    ]
    found = float(call.loss(target.train.y, outputs))
    assert found == pytest.approx(hard + 1000 * sum(apart), rel=1e-4)
    # Equal maps leave the cross-entropy alone.
    equal = {**outputs, "student": outputs["teacher"]}
    assert float(call.loss(target.train.y, equal)) == pytest.approx(
        hard, rel=1e-5
    )


def test_the_default_strength_belongs_to_the_mean():
    assert defaults(transfer)["strength"] == 1000.0


@pytest.mark.parametrize("size", [12, 48])
def test_both_maps_are_those_of_their_networks(given_to_fit, size):
    """Squares first, then means over areas, then each by its own norm."""
    target = small_task("target", 1)
    source = small_source(small_task("source", 3, size=size), steps=2)
    call = given_to_fit(attention_transfer, target, source, blocks=["block2"])
    outputs = call.model(target.train.x)
    networks = {
        "student": heads.small_network(target, 0),
        "teacher": adapt_input(source.model, target.image_shape),
    }
    # The student's map has 6 x 6 positions; the source's 3 x 3, or 12 x 12.
    shared = min(6, size // 4)
    for name, network in networks.items():
        maps = inline(network, tap=["block2"])(target.train.x)["block2"]
        energy = (maps.numpy().astype("float64") ** 2).mean(-1)
        side = energy.shape[1] // shared
        cells = energy.reshape(48, shared, side, shared, side).mean((2, 4))
        flat = cells.reshape(48, -1)
        flat = flat / np.linalg.norm(flat, axis=1, keepdims=True)
        (found,) = outputs[name]
        np.testing.assert_allclose(found, flat, atol=1e-5)


def test_a_teacher_with_dropout_is_read_as_it_serves(world):
    target, _ = world
    network = small_classifier(shape=(12, 12, 1), dropout=0.5)
    freeze(network)
    student = heads.small_network(target, 0)
    both = attention_transfer._compared(student, network, ["block2"])
    (training,), (serving,) = (
        both(target.train.x, training=flag)["teacher"] for flag in (True, False)
    )
    np.testing.assert_array_equal(training, serving)


def test_strength_zero_is_training_from_scratch(world):
    target, source = world
    options = {"steps": 2, "seed": 2, "batch_size": 8}
    model = transfer(target, source, strength=0.0, **options)
    plain = scratch.transfer(target, **options)
    assert bytes_of(model) == bytes_of(plain)


def test_the_teachers_maps_are_computed_once(world, fits):
    target, source = world
    model = transfer(target, source, steps=2, seed=0, batch_size=8)
    (fit,) = fits
    # Pooled, the small source's maps have 6x6, 3x3 and 1x1 positions.
    assert fit.cached == 36 + 9 + 1
    start = heads.small_network(target, 0, name="student")
    assert weights_of(model).keys() == weights_of(start).keys()


def test_the_larger_map_is_averaged_over_areas():
    maps = np.random.default_rng(0).normal(size=(2, 6, 5, 3)).astype("float32")
    found = np.asarray(teachers._pooled(maps, (3, 2)))
    rows = maps.reshape(2, 3, 2, 5, 3).mean(2)
    left = (rows[:, :, 0] + rows[:, :, 1] + rows[:, :, 2] / 2) / 2.5
    np.testing.assert_allclose(found[:, :, 0], left, atol=1e-6)
    np.testing.assert_allclose(found.mean((1, 2)), maps.mean((1, 2)), atol=1e-6)


def test_a_source_without_maps_is_refused_before_training(world, fits):
    target, source = world
    dense = Source(
        attach_head(backbones.mlp((12, 12, 3)), 3, seed=0), source.task
    )
    with pytest.raises(NotApplicable, match="no 4-D feature map"):
        transfer(target, dense, steps=2, seed=0)
    with pytest.raises(NotApplicable, match="block9.*block1"):
        transfer(target, source, steps=2, seed=0, blocks=["block9"])
    assert not fits
