"""Uncertainty weighting: the weights follow the losses and are not decayed."""

import functools

import keras
import numpy as np
import pytest
from helpers import bytes_of, small_world

from ktransfer.engine import backend
from ktransfer.engine.normalization import reestimate_statistics
from ktransfer.methods.multitask import hard_sharing, uncertainty_weighting
from ktransfer.models.graph import leaves

OPTIONS = {"seed": 3, "batch_size": 16, "from_source": True}


def log_variances(joint):
    return [
        float(joint.get_layer(f"{name}_scale").log_variance)
        for name in ("target", "source")
    ]


@pytest.mark.parametrize("log_variance", [-0.5, 0.7, 2.0])
def test_a_weight_rests_where_it_equals_the_loss(log_variance):
    variable = keras.Variable(log_variance)
    rest = np.exp(log_variance)
    for loss in (0.5 * rest, rest, 2 * rest):
        value, (slope,) = backend.value_and_gradients(
            functools.partial(uncertainty_weighting._weighted, loss, variable),
            [variable],
        )
        assert float(value) == pytest.approx(
            loss / (2 * rest) + log_variance / 2, rel=1e-5
        )
        assert float(slope) == pytest.approx((1 - loss / rest) / 2, abs=1e-6)


def test_fixed_at_zero_it_is_hard_sharing_with_halves(world):
    model = uncertainty_weighting.transfer(
        *world, steps=5, initial=0.0, learned=False, **OPTIONS
    )
    halves = hard_sharing.transfer(
        *world, steps=5, source_weight=0.5, target_weight=0.5, **OPTIONS
    )
    assert bytes_of(model) == bytes_of(halves)


def test_the_weights_start_as_in_libmtl_are_learned_and_left_behind(world, spy):
    calls = spy(uncertainty_weighting)
    uncertainty_weighting.transfer(*world, steps=0, **OPTIONS)
    assert log_variances(calls[0].model) == [-0.5, -0.5]
    model = uncertainty_weighting.transfer(*world, steps=2, **OPTIONS)
    # The losses start near ln 3, above exp(-0.5): both tasks are uncertain.
    assert min(log_variances(calls[1].model)) > -0.5
    kinds = {type(leaf).__name__ for leaf in leaves(model)}
    assert "_LogVariance" not in kinds
    assert not [v.path for v in model.variables if "log_variance" in v.path]


def test_the_weights_are_not_decayed(world, spy):
    calls = spy(uncertainty_weighting)
    plain, decayed = (
        uncertainty_weighting.transfer(
            *world,
            steps=1,
            optimizer=functools.partial(
                keras.optimizers.AdamW, weight_decay=decay
            ),
            **OPTIONS,
        )
        for decay in (0.0, 50.0)
    )
    assert log_variances(calls[0].model) == log_variances(calls[1].model)
    kernels = [m.get_layer("logits").kernel.numpy() for m in (plain, decayed)]
    assert not np.array_equal(*kernels)


def test_batch_normalisation_ends_with_the_targets_statistics():
    target, source = small_world(normalised=True)
    model = uncertainty_weighting.transfer(target, source, steps=2, **OPTIONS)
    before = bytes_of(model)
    reestimate_statistics(model, target.train.x)
    assert bytes_of(model) == before
