"""Knowledge transfer network: frozen sources beside a branch that learns."""

import numpy as np
import pytest
from helpers import bytes_of, small_world

from ktransfer.engine.prediction import predict
from ktransfer.errors import KTransferError, NotApplicable
from ktransfer.methods.knowledge.knowledge_transfer_network import transfer
from ktransfer.methods.structure import structure_transfer
from ktransfer.models.surgery import copy_backbone, trainable_count

OPTIONS = {"steps": 3, "seed": 1, "batch_size": 8}


@pytest.fixture
def world():
    return small_world(2, normalised=True)


def test_strength_zero_is_structure_transfer(world):
    target, source, _ = world
    alone = transfer(target, source, strength=0.0, **OPTIONS)
    plain = structure_transfer.transfer(target, source, **OPTIONS)
    assert bytes_of(alone) == bytes_of(plain)


def test_the_branch_starts_as_structure_transfer_does(world):
    target, *sources = world
    model = transfer(target, *sources, steps=0, seed=1)
    plain = structure_transfer.transfer(target, sources[0], steps=0, seed=1)
    branch = next(x for x in model.layers if x.name.endswith("_with_head"))
    assert bytes_of(branch) == bytes_of(plain)


def test_the_sources_stay_and_the_rest_is_trained(world):
    target, *sources = world
    model = transfer(target, *sources, **OPTIONS)
    for number, source in enumerate(sources, start=1):
        kept = model.get_layer(f"source_{number}")
        assert bytes_of(kept) == bytes_of(copy_backbone(source.model))
        assert not kept.trainable_variables
    branch = next(x for x in model.layers if x.name.endswith("_with_head"))
    each = (8 + 1) * 64 + 64 * 3
    assert trainable_count(model) == trainable_count(branch) + 2 * each


def test_the_logits_are_a_sum_over_branches(world):
    target, source, _ = world
    options = {"steps": 0, "seed": 1}
    half = predict(
        transfer(target, source, strength=0.5, **options), target.train.x
    )
    whole = predict(transfer(target, source, **options), target.train.x)
    alone = predict(
        transfer(target, source, strength=0.0, **options), target.train.x
    )
    np.testing.assert_allclose(half, (whole + alone) / 2, atol=1e-5)
    assert np.abs(whole - alone).max() > 1e-3


def test_a_source_is_read_by_rectified_units(world):
    target, source, _ = world
    model = transfer(target, source, steps=0, seed=1, strength=0.5)
    x = target.train.x
    branch = next(x for x in model.layers if x.name.endswith("_with_head"))
    known = np.asarray(model.get_layer("source_1")(x))
    kernel, bias = model.get_layer("project_1").get_weights()
    (head,) = model.get_layer("logits_1").get_weights()
    units = np.maximum(known @ kernel + bias, 0)
    assert (units == 0).any() and (units > 0).any()
    wanted = predict(branch, x) + 0.5 * units @ head
    np.testing.assert_allclose(predict(model, x), wanted, atol=1e-5)


def test_swapping_two_sources_permutes_columns_only(world):
    target, *sources = world
    one = transfer(target, *sources, steps=0, seed=1)
    two = transfer(target, *reversed(sources), steps=0, seed=1)
    names = {"project_1": "project_2", "logits_1": "logits_2"}
    for name, other in {**names, **{b: a for a, b in names.items()}}.items():
        two.get_layer(other).set_weights(one.get_layer(name).get_weights())
    np.testing.assert_allclose(
        predict(one, target.train.x), predict(two, target.train.x), atol=1e-5
    )


def test_it_may_read_the_sources_logits(world):
    target, source, _ = world
    model = transfer(target, source, layer="logits", steps=0, seed=1)
    kept = model.get_layer("source_1")
    colour = np.repeat(target.train.x, 3, axis=-1)
    np.testing.assert_allclose(
        kept(target.train.x), predict(source.model, colour), atol=1e-5
    )
    assert model.get_layer("project_1").kernel.shape == (3, 64)


def test_two_calls_agree(world):
    target, *sources = world
    model = transfer(target, *sources, steps=0, seed=1)
    np.testing.assert_array_equal(model(target.train.x), model(target.train.x))


def test_what_cannot_be_is_refused(world):
    target, source, _ = world
    with pytest.raises(NotApplicable, match="at least one"):
        transfer(target, **OPTIONS)
    with pytest.raises(KTransferError, match="'features'"):
        transfer(target, source, layer="feature", **OPTIONS)
