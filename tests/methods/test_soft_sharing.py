"""Soft sharing: two towers, pulled together and nothing else in common."""

import keras
import numpy as np
import pytest
from helpers import bytes_of, small_world

from ktransfer.engine.losses import summed_cross_entropy
from ktransfer.engine.training import fit
from ktransfer.methods.multitask import soft_sharing
from ktransfer.methods.parameter import fine_tuning
from ktransfer.models.surgery import cut
from ktransfer.stages.streams import first_backbone, two_streams

TOWERS = ("target_network", "source_network")


@pytest.fixture
def world():
    """The source has two classes, the target three."""
    return small_world(num_classes=2)


def backbones(both):
    """Return the arrays of the target's and of the source's backbone."""
    return [
        [v.numpy() for v in cut(both.get_layer(name), "features").weights]
        for name in TOWERS
    ]


def distance(both):
    pairs = zip(*backbones(both), strict=True)
    return np.sqrt(sum(((a - b) ** 2).sum() for a, b in pairs))


def test_without_strength_it_is_two_single_task_networks(world, spy):
    target, source = world
    calls = spy(soft_sharing)
    options = {"steps": 5, "seed": 3, "batch_size": 16}
    model = soft_sharing.transfer(
        target, source, strength=0, from_source=True, **options
    )
    tuned = fine_tuning.transfer(target, source, **options)
    assert bytes_of(model) == bytes_of(tuned)

    towers = [first_backbone(source, seed=3, from_source=True)] * 2
    both = two_streams(target, source, *towers, seed=3)
    inputs = {"source": both.input["source"]}
    alone = keras.Model(inputs, {"source": both.output["source"]})
    fit(
        alone,
        {"source": source.task.train},
        learning_rate=1e-3,
        loss=summed_cross_entropy,
        **options,
    )
    assert bytes_of(calls[0].model.get_layer("source_network")) == bytes_of(
        both.get_layer("source_network")
    )


def test_both_towers_start_alike_and_share_nothing(world, spy):
    calls = spy(soft_sharing)
    model = soft_sharing.transfer(*world, steps=0, seed=0)
    assert distance(calls[0].model) == 0
    other = calls[0].model.get_layer("source_network")
    assert not {id(v) for v in model.weights} & {id(v) for v in other.weights}


def test_the_distance_falls_with_strength(world, spy):
    calls = spy(soft_sharing)
    for strength in (0.0, 1.0, 10.0):
        soft_sharing.transfer(
            *world,
            steps=30,
            seed=0,
            strength=strength,
            learning_rate=0.02,
            optimizer=keras.optimizers.SGD,
            batch_size=16,
            from_source=True,
        )
    free, pulled, tied = (distance(call.model) for call in calls)
    assert free > pulled > tied > 0
    assert tied < free / 3


def test_the_default_pull_is_weak(world, spy):
    calls = spy(soft_sharing)
    for options in ({}, {"strength": 1e-3}, {"strength": 1e-2}):
        soft_sharing.transfer(*world, steps=3, seed=0, **options)
    default, same, stronger = (bytes_of(call.model) for call in calls)
    assert default == same != stronger


def test_the_pull_is_the_gradient_of_the_squared_distance(world, spy):
    calls = spy(soft_sharing)
    rate, strength = 0.1, 0.5
    # The towers are equal at the first step, so the pull shows at the second.
    for steps, given in ((1, strength), (2, 0.0), (2, strength)):
        soft_sharing.transfer(
            *world,
            steps=steps,
            seed=0,
            strength=given,
            learning_rate=rate,
            optimizer=keras.optimizers.SGD,
            batch_size=16,
            from_source=True,
        )
    first, free, pulled = (backbones(call.model) for call in calls)
    for w_t, w_s, *after in zip(*first, *free, *pulled, strict=True):
        free_t, free_s, pulled_t, pulled_s = after
        step = rate * strength * 2 * (w_t - w_s)
        np.testing.assert_allclose(pulled_t - free_t, -step, atol=1e-6)
        np.testing.assert_allclose(pulled_s - free_s, step, atol=1e-6)
        assert np.abs(step).max() > 1e-5
