"""Non-linear interpolation: a function of the whole mix, not of BatchNorm."""

import numpy as np
import pytest
from helpers import (
    bytes_of,
    check_the_statistics,
    defaults,
    layer_of,
    small_world,
)

from ktransfer.errors import KTransferError
from ktransfer.methods.parameter import interpolation
from ktransfer.methods.parameter.nonlinear_interpolation import transfer
from ktransfer.models.blocks import blocks
from ktransfer.models.surgery import copy_backbone, fresh


@pytest.fixture
def world():
    return small_world()


def kernels(model):
    return [
        x.kernel.numpy()
        for layers in blocks(model).values()
        for x in layers
        if hasattr(x, "kernel") and x.name != "logits"
    ]


def test_the_identity_is_interpolation(world):
    options = {"steps": 3, "seed": 5, "batch_size": 16, "alpha": 0.3}
    model = transfer(*world, function="identity", **options)
    assert bytes_of(model) == bytes_of(
        interpolation.transfer(*world, **options)
    )


@pytest.mark.parametrize(
    "options",
    [
        {"function": "soft_threshold", "threshold": 0.0},
        {"function": "keep_largest", "share": 1.0},
    ],
)
def test_threshold_0_and_share_1_are_the_identity(world, options):
    model = transfer(*world, steps=0, seed=5, **options)
    linear = interpolation.transfer(*world, steps=0, seed=5)
    assert bytes_of(model) == bytes_of(linear)


def test_scaled_tanh_tends_to_the_identity_as_the_scale_grows(world):
    linear = kernels(interpolation.transfer(*world, steps=0, seed=5))
    distances = []
    for scale in (1.0, 3.0, 30.0, 1e4):
        model = transfer(
            *world, steps=0, seed=5, function="scaled_tanh", scale=scale
        )
        distances.append(
            max(abs(a - b).max() for a, b in zip(kernels(model), linear))
        )
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > 0.05 and distances[-1] < 1e-6


@pytest.mark.parametrize(
    ("options", "function"),
    [
        ({}, np.tanh),
        (
            {"function": "scaled_tanh"},
            lambda w: 3 * w.std() * np.tanh(w / (3 * w.std())),
        ),
        (
            {"function": "soft_threshold", "threshold": 0.05},
            lambda w: np.sign(w) * np.maximum(abs(w) - 0.05, 0),
        ),
        (
            {"function": "keep_largest", "share": 0.25},
            lambda w: np.where(abs(w) >= np.quantile(abs(w), 0.75), w, 0),
        ),
    ],
)
def test_f_goes_over_the_whole_mix_in_every_kernel(world, options, function):
    target, source = world
    model = transfer(target, source, steps=0, seed=5, alpha=0.7, **options)
    theirs = copy_backbone(source.model)
    pairs = zip(kernels(theirs), kernels(fresh(theirs, 5)))
    for mine, (old, new) in zip(kernels(model), pairs, strict=True):
        mix = 0.7 * old.astype("float64") + 0.3 * new
        np.testing.assert_allclose(mine, function(mix), rtol=1e-4, atol=1e-6)


def test_batchnorm_does_not_pass_through_f():
    target, source = small_world(normalised=True)
    norm = copy_backbone(source.model).get_layer("block1_norm")
    model = transfer(target, source, steps=0, seed=5, alpha=1.0)
    mine = layer_of(model, "block1_norm")
    np.testing.assert_array_equal(mine.gamma, norm.gamma)
    np.testing.assert_array_equal(mine.beta, norm.beta)
    assert abs(norm.gamma.numpy()).min() > 0.5, "tanh would have moved them"
    # Its statistics are those of the changed weights.
    check_the_statistics(model, target.train.x)


def test_equal_weights_stay_under_scaled_tanh(world):
    """A fresh bias is all zero: it has no spread to scale by."""
    model = transfer(*world, steps=0, seed=5, alpha=0.0, function="scaled_tanh")
    assert all(np.isfinite(v.numpy()).all() for v in model.weights)


def test_an_unknown_function_names_the_nearest(world):
    with pytest.raises(KTransferError, match="'tanh'"):
        transfer(*world, steps=1, seed=0, function="tan")


def test_the_defaults_are_the_articles_and_ours():
    found = defaults(transfer)
    assert (found["alpha"], found["function"]) == (0.5, "tanh")
    ours = [found[name] for name in ("scale", "threshold", "share")]
    assert ours == [3.0, 0.01, 0.5]
