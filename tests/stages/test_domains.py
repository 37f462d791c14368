"""One network for two domains: what trains it, and whose statistics it has."""

import pytest
from helpers import domains, small_task, weights_of

from ktransfer.engine.normalization import reestimate_statistics
from ktransfer.stages.domains import (
    train_on_domains,
    train_on_source,
    two_domains,
    without_labels,
)

OPTIONS = {"steps": 2, "seed": 0, "batch_size": 8}


def apart(outputs):
    """Return a penalty on the means of the features of both domains."""
    from keras import ops

    means = [
        ops.mean(outputs[f"{name}_features"], axis=0)
        for name in ("target", "source")
    ]
    return ops.sum(ops.square(means[0] - means[1]))


@pytest.mark.parametrize("unlabelled", [False, True])
def test_the_statistics_end_as_those_of_the_target(unlabelled):
    target, source = domains(normalised=True)
    if unlabelled:
        target = target._replace(unlabelled=small_task("new", 1).train.x)
    network, both = two_domains(target, source, seed=0)
    train_on_domains(network, both, target, source, apart, **OPTIONS)
    before = weights_of(network)
    reestimate_statistics(network, without_labels(target))
    assert weights_of(network) == before
    reestimate_statistics(network, source.task.train.x)
    assert weights_of(network) != before


def test_without_a_penalty_it_is_the_source_alone():
    target, source = domains(normalised=True)
    found = []
    for train in (
        lambda n, b: train_on_domains(n, b, target, source, None, **OPTIONS),
        lambda n, b: train_on_source(b, source, **OPTIONS),
    ):
        network, both = two_domains(target, source, seed=0)
        train(network, both)
        found.append(weights_of(network))
    assert found[0] == found[1]
