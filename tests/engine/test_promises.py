"""What training must have moved is told from what could not move."""

import keras
import numpy as np
import pytest
from helpers import small_source, small_task, weights_of
from keras import layers

from ktransfer.engine.training import fit
from ktransfer.errors import KTransferError, NotApplicable
from ktransfer.methods.feature import feature_extraction


def network(normalised=True, scale=1.0):
    inputs = keras.Input((12, 12, 3), dtype="uint8")
    x = layers.Rescaling(1 / 255)(inputs)
    x = layers.Conv2D(4, 3, name="conv")(x)
    if normalised:
        x = layers.BatchNormalization(name="norm")(x)
    x = layers.Flatten()(layers.ReLU()(x))
    model = keras.Model(inputs, layers.Dense(3, name="logits")(x))
    bias = model.get_layer("conv").bias
    bias.assign(np.full(4, scale, "float32"))
    return model


@pytest.mark.parametrize("scale", [0.0, 0.1, 3.0])
def test_a_bias_under_a_normalisation_may_rest(task, scale):
    """It has no gradient but rounding; the training was lost for it."""
    model = network(scale=scale)
    fit(
        model,
        task.train,
        steps=2,
        seed=0,
        optimizer=keras.optimizers.SGD,
        learning_rate=1e-3,
    )
    assert np.isfinite(model.get_layer("conv").bias.numpy()).all()


def test_a_kernel_with_a_gradient_may_not(task):
    model = network()
    with pytest.raises(KTransferError, match="did not move") as caught:
        fit(
            model,
            task.train,
            steps=2,
            seed=0,
            optimizer=keras.optimizers.SGD,
            learning_rate=1e-30,
        )
    assert caught.value.name == "E_INVARIANT"


def test_dead_units_are_called_dead(task):
    model = network(normalised=False, scale=-100.0)
    before = weights_of(model)
    with pytest.raises(NotApplicable, match="units have died"):
        fit(model, task.train, steps=3, seed=0)
    assert weights_of(model).keys() == before.keys()


def test_a_head_whose_few_units_die_says_so(task):
    """Three units of a head can all be dead at the start."""
    source = small_source(small_task("source", 3))
    seen = set()
    for seed in range(12):
        try:
            feature_extraction.transfer(
                task, source, steps=2, seed=seed, hidden_units=1
            )
            seen.add("alive")
        except NotApplicable as error:
            assert "units have died" in error.message
            seen.add("dead")
    assert seen == {"alive", "dead"}
