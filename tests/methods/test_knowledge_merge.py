"""Knowledge merge: between two networks, and each of them at the ends."""

import numpy as np
import pytest
from helpers import small_world, weights_of

from ktransfer.errors import KTransferError, NotApplicable
from ktransfer.methods.knowledge import knowledge_merge
from ktransfer.methods.knowledge.knowledge_merge import transfer
from ktransfer.methods.parameter import fine_tuning
from ktransfer.models.graph import leaves
from ktransfer.models.surgery import copy_backbone, cut
from ktransfer.stages.weights import refresh_statistics

OPTIONS = {"steps": 2, "seed": 1, "batch_size": 8}


@pytest.fixture
def world():
    return small_world(2, normalised=True)


def backbone_of(model):
    return [v.numpy() for v in cut(model, "features").weights]


def same(first, second):
    return all(a.tobytes() == b.tobytes() for a, b in zip(first, second))


@pytest.mark.parametrize(("share", "which"), [(1.0, 1), (0.0, 2)])
def test_the_ends_are_fine_tuning(world, share, which):
    merged = transfer(*world, share=share, **OPTIONS)
    plain = fine_tuning.transfer(world[0], world[which], **OPTIONS)
    assert weights_of(merged) == weights_of(plain)


@pytest.mark.parametrize("operator", knowledge_merge._OPERATORS)
def test_the_ends_of_every_operator_are_the_networks(world, operator):
    for share, which in ((1, 1), (0, 2)):
        merged = transfer(
            *world, steps=0, seed=1, share=share, operator=operator
        )
        assert same(backbone_of(merged), backbone_of(world[which].model))


@pytest.mark.parametrize("operator", knowledge_merge._OPERATORS)
def test_halfway_it_is_neither(world, operator):
    target, source, between = world
    merged = transfer(*world, steps=0, seed=1, operator=operator)
    for kernel, one, two in zip(
        backbone_of(merged),
        backbone_of(source.model),
        backbone_of(between.model),
    ):
        if kernel.ndim == 4:
            assert (kernel != one).any() and (kernel != two).any()


@pytest.mark.parametrize("operator", knowledge_merge._OPERATORS)
def test_a_model_merged_with_itself_is_itself(operator):
    target, source = small_world()
    merged = transfer(
        target, source, source, steps=0, seed=1, operator=operator
    )
    for a, b in zip(backbone_of(merged), backbone_of(source.model)):
        np.testing.assert_allclose(a, b, rtol=1e-6)
        if operator != "geometric":
            assert a.tobytes() == b.tobytes()


def test_by_default_it_is_the_mean(world):
    default, mean, other = (
        backbone_of(transfer(*world, steps=0, seed=1, **options))
        for options in (
            {},
            {"operator": "mean", "share": 0.5},
            {"operator": "geometric"},
        )
    )
    assert same(default, mean) and not same(default, other)


def test_the_operators_by_hand():
    one, two = np.array([4.0, -4.0, 0.0, 1.0]), np.array([9.0, 9.0, 5.0, -8.0])
    merge = knowledge_merge._OPERATORS
    np.testing.assert_allclose(
        merge["mean"](one, two, 0.25), [7.75, 5.75, 3.75, -5.75]
    )
    np.testing.assert_allclose(
        merge["maximum_magnitude"](one, two, 0.7), [4, -4, 5, -8]
    )
    np.testing.assert_allclose(merge["geometric"](one, two, 0.5), [6, 0, 0, 0])


def test_statistics_are_those_of_the_merged_network(world):
    target, source, between = world
    merged = transfer(*world, steps=0, seed=1)
    expected = copy_backbone(merged)
    norms = [x for x in leaves(expected) if hasattr(x, "moving_mean")]
    for norm in norms:
        norm.moving_mean.assign(norm.moving_mean + 3)
    refresh_statistics(target, expected)
    for a, b in zip(backbone_of(merged), expected.weights):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert all((x.moving_variance.numpy() > 0).all() for x in norms)
    means = [
        np.concatenate([v.ravel() for v in backbone_of(s.model)])
        for s in (source, between)
    ]
    found = np.concatenate([v.ravel() for v in backbone_of(merged)])
    assert not np.allclose(found, np.mean(means, axis=0), atol=1e-4)


def test_what_cannot_be_merged_is_refused(world):
    target, source, _ = world
    _, plain = small_world()
    with pytest.raises(NotApplicable, match="one architecture"):
        transfer(target, source, plain, **OPTIONS)
    with pytest.raises(KTransferError, match="'geometric'"):
        transfer(*world, operator="geometrc", **OPTIONS)
