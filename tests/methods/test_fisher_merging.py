"""Fisher merging: weights averaged by how much they matter to each source."""

import json

import keras
import numpy as np
import pytest
from helpers import bytes_of, defaults, layer_of, norms_of, small_world
from keras import ops

from ktransfer.engine.normalization import reestimate_statistics
from ktransfer.errors import NotApplicable
from ktransfer.measures.fisher import diagonal_fisher
from ktransfer.methods.fusion import fisher_merging
from ktransfer.methods.fusion.fisher_merging import _weighted_mean, transfer
from ktransfer.models import backbones
from ktransfer.models.own import Source
from ktransfer.models.surgery import attach_head, copy, copy_backbone, cut

START = {"steps": 0, "seed": 5, "num_images": 3}


@pytest.fixture
def world():
    return small_world(2, normalised=True)


def in_float64(model):
    config = json.dumps(model.get_config()).replace("float32", "float64")
    twin = keras.Model.from_config(json.loads(config))
    for mine, theirs in zip(twin.variables, model.variables):
        mine.assign(theirs.numpy().astype("float64"))
    return twin


def test_the_fisher_is_the_expected_squared_gradient(world):
    """By differences of log p in float64, so small that no kink counts."""
    model = copy(world[1].model)
    names, images = ("logits", "block1_conv"), world[1].task.train.x[:4]
    variables = [layer_of(model, name).bias for name in names]
    found = diagonal_fisher(model, images, variables, num_images=9, seed=0)
    twin = in_float64(model)

    def log_chances():
        logits = np.asarray(twin(images))
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

    chances = np.exp(log_chances())
    for name, fisher in zip(names, found):
        variable = layer_of(twin, name).bias
        assert fisher.shape == tuple(variable.shape)
        assert (fisher >= 0).all() and fisher.dtype == "float64"
        start = variable.numpy()
        for k in range(3):
            step = 1e-8 * np.eye(len(start))[k]
            variable.assign(start + step)
            slopes = log_chances()
            variable.assign(start - step)
            slopes = (slopes - log_chances()) / 2e-8
            variable.assign(start)
            wanted = (chances * slopes**2).sum(axis=1).mean()
            assert fisher[k] == pytest.approx(wanted, rel=1e-4)


def test_a_softmax_has_its_closed_form(world):
    """With respect to the head's bias F_k is the mean of p_k (1 - p_k)."""
    model = copy(world[1].model)
    images = world[1].task.train.x
    head = layer_of(model, "logits")
    (found,) = diagonal_fisher(
        model, images, [head.bias], num_images=48, seed=0
    )
    p = np.asarray(ops.softmax(model(images)))
    np.testing.assert_allclose(found, (p * (1 - p)).mean(axis=0), rtol=1e-4)


def test_the_labels_of_the_data_play_no_part(world):
    target, *sources = world
    turned = [
        source._replace(
            task=source.task._replace(
                train=source.task.train._replace(y=2 - source.task.train.y)
            )
        )
        for source in sources
    ]
    one, other = (transfer(target, *x, **START) for x in (sources, turned))
    assert bytes_of(one) == bytes_of(other)


def test_floor_and_norm_are_the_authors_defaults():
    """Worked by hand: a Fisher by its norm, floored before, not after."""
    assert defaults(transfer)["floor"] == 1e-6
    ones, zeros = [np.ones(1), np.ones(2)], [np.zeros(1), np.zeros(2)]
    # Norms 5 and 200: unnormalised the second would have the first weight.
    fishers = [
        [np.array([3.0]), np.array([0.0, 4.0])],
        [np.array([160.0]), np.array([120.0, 0.0])],
    ]
    first, second = _weighted_mean([ones, zeros], fishers, 1e-6)
    np.testing.assert_allclose(first, [0.6 / 1.4], rtol=1e-12)
    floors = [1e-6 / 5, 1e-6 / 200]
    wanted = [floors[0] / (floors[0] + 0.6), 0.8 / (0.8 + floors[1])]
    np.testing.assert_allclose(second, wanted, rtol=1e-12)


def test_the_scale_of_a_fisher_does_not_matter():
    rng = np.random.default_rng(0)
    members, fishers = rng.uniform(0.1, 1, (2, 3, 2, 4))
    scaled = fishers * np.array([1.0, 1e3, 1e-2])[:, None, None]
    found, wanted = (_weighted_mean(members, x, 0.0) for x in (scaled, fishers))
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_the_mean_is_weighted_by_the_fishers():
    rng = np.random.default_rng(0)
    members = rng.normal(size=(3, 2, 4, 5)).astype("float32")
    equal = np.full((3, 2, 4, 5), 0.7)
    plain = np.mean(members.astype("float64"), axis=0)
    np.testing.assert_allclose(
        _weighted_mean(members, equal, 1e-8), plain, rtol=1e-6
    )
    # No information anywhere is equal information.
    np.testing.assert_allclose(
        _weighted_mean(members, 0 * equal, 1e-8), plain, rtol=1e-6
    )
    single = np.zeros((3, 2, 4, 5))
    single[1] = 1.0
    np.testing.assert_allclose(
        _weighted_mean(members, single, 1e-8), members[1], atol=1e-6
    )
    any_weights = rng.uniform(size=(3, 2, 4, 5))
    alike = np.broadcast_to(members[:1], members.shape)
    np.testing.assert_allclose(
        _weighted_mean(alike, any_weights, 1e-8), members[0], rtol=1e-6
    )
    norms = np.sqrt((any_weights**2).sum(axis=(1, 2, 3), keepdims=True))
    scaled = any_weights / norms
    np.testing.assert_allclose(
        _weighted_mean(members, any_weights, 1e-8),
        (scaled * members).sum(0) / scaled.sum(0),
        rtol=1e-6,
    )


def test_all_weight_on_one_source_gives_it(world, spy):
    target, *sources = world
    sizes = iter([0.0, 1.0])

    def fisher(model, images, variables, **_):
        size = next(sizes)
        return [np.full(v.shape, size) for v in variables]

    calls = spy(fisher_merging, "diagonal_fisher", instead=fisher)
    model = transfer(target, *sources, floor=1e-12, **START)
    # Each source is measured on images of its own.
    for call, source in zip(calls, sources, strict=True):
        assert call.args[1] is source.task.train.x
    backbone, wanted = cut(model, "features"), copy_backbone(sources[1].model)
    for mine, theirs in zip(
        backbone.trainable_variables, wanted.trainable_variables, strict=True
    ):
        np.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=1e-7)


def test_equal_sources_give_themselves(world):
    target, source, _ = world
    wanted = copy_backbone(source.model)
    alone = cut(transfer(target, source, **START), "features")
    assert bytes_of(alone) == bytes_of(wanted)
    twice = cut(transfer(target, source, source, **START), "features")
    for mine, theirs in zip(
        twice.trainable_variables, wanted.trainable_variables
    ):
        np.testing.assert_array_equal(mine, theirs)
    for layer in norms_of(twice):
        assert (layer.moving_variance.numpy() > 0).all()


def test_the_statistics_are_those_of_the_target(world):
    target, *sources = world
    merged = cut(transfer(target, *sources, **START), "features")
    before = bytes_of(merged)
    reestimate_statistics(merged, target.train.x)
    assert bytes_of(merged) == before
    other = target._replace(train=target.train._replace(x=255 - target.train.x))
    moved = cut(transfer(other, *sources, **START), "features")
    assert bytes_of(moved) != before


def test_needs_are_named(world):
    target, source, _ = world
    other = attach_head(backbones.mlp((12, 12, 3)), 3, seed=0)
    with pytest.raises(NotApplicable, match="one architecture"):
        transfer(target, source, Source(other, source.task), **START)
    with pytest.raises(NotApplicable, match="no source"):
        transfer(target, **START)
