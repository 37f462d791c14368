"""The suite's optimisers do what Keras's do, and rest where they should."""

import keras
import numpy as np
import pytest
from keras import ops

from ktransfer.engine import optimizers
from ktransfer.errors import KTransferError


def moved(optimizer, steps=5, rates=(0.1,)):
    """Return two variables after some steps along fixed gradients."""
    rng = np.random.default_rng(0)
    variables = [
        keras.Variable(rng.normal(size=shape).astype("float32"))
        for shape in ((3, 4), (4,))
    ]
    optimizer.build(variables)
    for step in range(steps):
        optimizer.learning_rate = rates[step % len(rates)]
        slopes = [
            ops.convert_to_tensor(rng.normal(size=v.shape).astype("float32"))
            for v in variables
        ]
        optimizer.apply(slopes, variables)
    return [variable.numpy() for variable in variables]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"beta_1": 0.5, "beta_2": 0.9, "epsilon": 1e-2},
        {"clipnorm": 0.1},
        {"amsgrad": True},
    ],
)
@pytest.mark.parametrize("rates", [(0.1,), (0.1, 0.01)])
def test_adam_is_the_adam_of_keras(options, rates):
    ours = moved(optimizers.Adam(0.1, **options), rates=rates)
    theirs = moved(keras.optimizers.Adam(0.1, **options), rates=rates)
    for own, wanted in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(own, wanted, rtol=1e-5, atol=1e-6)


def test_a_scale_of_1_changes_nothing_and_one_of_0_stops():
    def scaled(*scales):
        kept = []

        class Kept(optimizers.Adam):
            def build(self, variables):
                super().build(variables)
                if not kept:
                    kept.extend(variables)
                    optimizers.scaled(self, variables, scales)

        return moved(Kept(0.1))

    plain = moved(optimizers.Adam(0.1))
    for own, wanted in zip(scaled(1, 1), plain, strict=True):
        np.testing.assert_array_equal(own, wanted)
    start = moved(optimizers.Adam(0.1), steps=0)
    found = scaled(0, 1)
    np.testing.assert_array_equal(found[0], start[0])
    np.testing.assert_array_equal(found[1], plain[1])


def test_one_of_two_rests():
    clock = keras.Variable(0, dtype="int32", trainable=False)
    rng = np.random.default_rng(0)
    own, head = (
        keras.Variable(rng.normal(size=3).astype("float32")) for _ in range(2)
    )
    whole = optimizers.InTurns(
        optimizers.Adam, [head], lambda: clock % 3, clock, 0.1
    )
    whole.build([own, head])
    trace = []
    for _ in range(3):
        before = own.numpy(), head.numpy()
        whole.apply([ops.ones(3), ops.ones(3)], [own, head])
        trace.append(
            tuple(
                bool((a != b.numpy()).any())
                for a, b in zip(before, (own, head))
            )
        )
    # Turn 0 moves both, turn 1 the heads alone, turn 2 all else.
    assert trace == [(True, True), (False, True), (True, False)]
    # What is set back for the next training is state, and no weight.
    assert not {id(own), id(head)} & {id(v) for v in whole.variables}


def test_names_are_checked():
    assert optimizers.named("adam") is optimizers.Adam
    assert optimizers.named(keras.optimizers.SGD) is keras.optimizers.SGD
    with pytest.raises(KTransferError, match="adam"):
        optimizers.named("adm")
    with pytest.raises(KTransferError, match="cosine"):
        optimizers.factor("cosin")
