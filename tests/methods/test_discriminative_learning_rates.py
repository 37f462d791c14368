"""Discriminative learning rates: each block's update is the one above / d."""

import keras
import numpy as np
import pytest
from helpers import bytes_of, defaults, small_world

from ktransfer.errors import KTransferError
from ktransfer.methods.finetuning.discriminative_learning_rates import transfer
from ktransfer.methods.parameter import fine_tuning
from ktransfer.models.blocks import blocks

# From the bottom: by how many powers of the decay a block's rate is smaller.
POWERS = {"block1": 3, "block2": 2, "block3": 1, "logits": 0}


@pytest.fixture
def world():
    return small_world()


def weights(model):
    """Return block -> its weights, concatenated, as float64."""
    return {
        name: np.concatenate(
            [
                v.numpy().astype("float64").ravel()
                for x in found
                for v in x.weights
            ]
        )
        for name, found in blocks(model).items()
    }


@pytest.mark.parametrize("optimizer", [keras.optimizers.SGD, None])
def test_the_first_update_has_the_rate_of_its_block(world, optimizer):
    # The update and not the gradient is scaled: so with Adam as with SGD.
    options = {"seed": 5, "batch_size": 16, "learning_rate": 1.0}
    options |= {"optimizer": optimizer} if optimizer else {}
    start = weights(transfer(*world, steps=0, **options))
    plain = weights(fine_tuning.transfer(*world, steps=1, **options))
    model = weights(transfer(*world, steps=1, **options))
    assert list(model) == list(POWERS)
    for name, power in POWERS.items():
        # With SGD and a rate of 1, plain - start is the negative gradient.
        wanted = (plain[name] - start[name]) / 2.6**power
        change = model[name] - start[name]
        np.testing.assert_allclose(change, wanted, rtol=1e-3, atol=2e-7)
        assert np.abs(change).max() > 1e-5


def test_decay_1_is_fine_tuning():
    target, source = small_world(normalised=True)
    options = {"steps": 3, "seed": 5, "batch_size": 16}
    model = transfer(target, source, decay=1, **options)
    same = fine_tuning.transfer(target, source, **options)
    assert bytes_of(model) == bytes_of(same)


@pytest.mark.parametrize("decay", [1e30, 1e300])
def test_a_huge_decay_leaves_lower_blocks_unmoved(world, decay):
    options = {"steps": 3, "seed": 5, "batch_size": 16}
    start = weights(transfer(*world, **{**options, "steps": 0}))
    model = weights(transfer(*world, decay=decay, **options))
    for name in POWERS:
        assert (model[name] != start[name]).all() == (name == "logits")
        assert (model[name] == start[name]).all() == (name != "logits")


@pytest.mark.parametrize("decay", [0, -2.6, float("nan"), float("inf")])
def test_a_decay_that_gives_no_rates_is_refused(world, decay):
    with pytest.raises(KTransferError, match="decay is .* above 0"):
        transfer(*world, steps=1, seed=5, decay=decay)


def test_the_default_is_the_authors():
    assert defaults(transfer)["decay"] == 2.6
