"""WiSE-FT: a straight line from a linear probe to its fine-tuning."""

import numpy as np
import pytest
from helpers import bytes_of, check_the_statistics, defaults, small_world

from ktransfer.engine.training import fit
from ktransfer.methods.feature import linear_probe
from ktransfer.methods.parameter import fine_tuning
from ktransfer.methods.parameter.wise_ft import transfer
from ktransfer.models.surgery import copy_backbone, unfreeze
from ktransfer.seeds import stream
from ktransfer.stages.heads import probed

OPTIONS = {"steps": 4, "seed": 5, "batch_size": 16}


@pytest.fixture(scope="module")
def path():
    """The models at alpha 0, 0.25 and 1, with BatchNorm."""
    target, source = small_world(normalised=True)
    return [
        transfer(target, source, alpha=alpha, **OPTIONS)
        for alpha in (0, 0.25, 1)
    ]


def test_alpha_0_is_the_linear_probe(world, path):
    probe = linear_probe.transfer(*world, **{**OPTIONS, "steps": 2})
    assert bytes_of(path[0]) == bytes_of(probe)


def test_alpha_1_is_the_probe_fine_tuned(world, path):
    target, source = world
    backbone = copy_backbone(source.model)
    tuned = probed(target, backbone, **{**OPTIONS, "steps": 2})
    unfreeze(tuned)
    later = {"steps": 2, "seed": stream(5, "stage", 2)}
    fit(tuned, target.train, **{**OPTIONS, **later})
    assert bytes_of(path[2]) == bytes_of(tuned)


def test_the_path_is_linear_in_every_variable(path):
    for a, mixed, b in zip(*(model.weights for model in path)):
        if "moving" not in mixed.path:
            wanted = 0.75 * a.numpy().astype("float64") + 0.25 * b.numpy()
            np.testing.assert_allclose(mixed, wanted, rtol=1e-5, atol=1e-7)


def test_the_statistics_are_those_of_the_mixed_network(world, path):
    """Statistics belong to no mix of two networks' statistics."""
    check_the_statistics(path[1], world[0].train.x)


def test_the_default_is_halfway():
    assert defaults(transfer)["alpha"] == 0.5


def test_without_a_probe_alpha_1_is_fine_tuning():
    target, source = small_world()
    model = transfer(target, source, alpha=1, probe_share=0, **OPTIONS)
    tuned = fine_tuning.transfer(target, source, **OPTIONS)
    assert bytes_of(model) == bytes_of(tuned)
