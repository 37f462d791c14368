"""Weight noise: each kernel moves a little, by its own scale."""

import numpy as np
import pytest
from conftest import small_source, small_task, weights_of

from ktransfer.methods.parameter import fine_tuning
from ktransfer.methods.structure.weight_noise import transfer
from ktransfer.models.surgery import copy, cut


@pytest.fixture(scope="module")
def world():
    source = small_source(small_task("source", 3), normalised=True, steps=3)
    return small_task("target", 1), source


def test_strength_zero_is_fine_tuning_bit_for_bit(world):
    options = {"steps": 4, "seed": 1, "batch_size": 16}
    ours = transfer(*world, strength=0.0, **options)
    theirs = fine_tuning.transfer(*world, **options)
    assert weights_of(ours) == weights_of(theirs)


def test_a_kernel_moves_by_at_most_half_the_strength_of_its_own_std(world):
    target, source = world
    # Kernels of unequal scale: one noise for all would be out of bounds.
    unequal = copy(source.model)
    first = next(v for v in unequal.weights if len(v.shape) > 1)
    first.assign(first.numpy() * 1e-3)
    source = source._replace(model=unequal)
    model = transfer(target, source, steps=0, seed=1, strength=0.3)
    kernels = 0
    for ours, theirs in zip(
        cut(model, "features").weights, cut(unequal, "features").weights
    ):
        old, new = theirs.numpy(), ours.numpy()
        if old.ndim == 1:
            assert new.tobytes() == old.tobytes(), ours.path
            continue
        kernels += 1
        change = np.abs(new - old) / old.std()
        assert change.max() <= 0.15 * (1 + 1e-5)
        assert change.max() > 0.12
        assert change.mean() == pytest.approx(0.075, rel=0.2)
    assert kernels == 3


def test_another_seed_is_another_noise_and_the_head_is_as_ever(world):
    one, two = (
        weights_of(transfer(*world, steps=0, seed=seed)) for seed in (0, 1)
    )
    plain = weights_of(fine_tuning.transfer(*world, steps=0, seed=0))
    assert one["logits/kernel"] == plain["logits/kernel"]
    assert one["block1_conv/kernel"] != two["block1_conv/kernel"]
