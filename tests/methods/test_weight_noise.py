"""Weight noise: each variable moves a little, by its own scale."""

import numpy as np
import pytest
from helpers import defaults, small_task, small_transformer, weights_of

from ktransfer.methods.parameter import fine_tuning
from ktransfer.methods.structure import weight_noise
from ktransfer.methods.structure.weight_noise import transfer
from ktransfer.models.own import Source
from ktransfer.models.surgery import attach_head, copy, cut


def test_strength_zero_is_fine_tuning_bit_for_bit(world):
    options = {"steps": 4, "seed": 1, "batch_size": 16}
    ours = transfer(*world, strength=0.0, **options)
    theirs = fine_tuning.transfer(*world, **options)
    assert weights_of(ours) == weights_of(theirs)


def test_all_that_trains_moves_by_at_most_half_the_strength_of_its_std(world):
    target, source = world
    # Variables of unequal scale: one noise for all would be out of bounds.
    unequal, rng = copy(source.model), np.random.default_rng(0)
    for number, variable in enumerate(unequal.trainable_variables):
        spread = rng.normal(size=variable.shape)
        variable.assign(variable + 10.0 ** (number % 3 - 3) * spread)
    source = source._replace(model=unequal)
    model = transfer(target, source, steps=0, seed=1, strength=0.3)
    kinds = []
    for ours, theirs in zip(
        cut(model, "features").weights, cut(unequal, "features").weights
    ):
        old, new = theirs.numpy(), ours.numpy()
        if "moving" in ours.path:
            assert new.tobytes() == old.tobytes(), ours.path
            continue
        kinds.append(ours.name)
        # Over n - 1, as torch.std in the authors' snippet.
        share = (new - old.astype("float64")) / old.std(ddof=1)
        assert np.abs(share).max() <= 0.15 * (1 + 1e-4)
        assert np.abs(share).max() > 0.09
        if old.ndim > 1:
            assert np.abs(share).max() > 0.14
            assert share.mean() == pytest.approx(0, abs=0.02)
            assert np.abs(share).mean() == pytest.approx(0.075, rel=0.2)
    assert kinds == ["kernel", "bias", "gamma", "beta"] * 3


def test_the_bounds_are_half_the_strength_of_the_std_over_n_less_one(
    world, monkeypatch, spy
):
    """As torch.std in the authors' snippet; of four values it is seen."""
    target, source = world

    class Highest:
        def __init__(self, seed):
            pass

        def uniform(self, low, high, shape):
            assert low == -high
            return np.full(shape, high)

    calls = spy(weight_noise, "stream")
    monkeypatch.setattr(weight_noise.np.random, "default_rng", Highest)
    model = weight_noise._perturbed(source.model, 0.3, 1)
    monkeypatch.undo()
    for ours, theirs in zip(
        model.trainable_variables, source.model.trainable_variables
    ):
        old = theirs.numpy().astype("float64")
        wanted = old + 0.15 * old.std(ddof=1)
        np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-7)
    # No two variables have a stream in common.
    names = [call.args for call in calls]
    assert len(set(names)) == len(names) == len(model.trainable_variables)


def test_the_matrices_of_one_layer_have_noises_of_their_own():
    model = attach_head(small_transformer(), 3, seed=0)
    source = Source(model, small_task("source", 3))
    found = transfer(small_task("target", 1), source, steps=0, seed=1)
    shares = {}
    for ours, theirs in zip(
        cut(found, "features").weights, cut(model, "features").weights
    ):
        if ours.path.endswith(("query/kernel", "key/kernel", "value/kernel")):
            old = theirs.numpy()
            shares[ours.path] = (ours.numpy() - old) / old.std(ddof=1)
    query, key, value = shares.values()
    for one, other in ((query, key), (query, value), (key, value)):
        assert np.abs(one - other).max() > 0.05


def test_the_default_is_the_papers():
    assert defaults(transfer)["strength"] == 0.15


def test_another_seed_is_another_noise_and_the_head_is_as_ever(world):
    one, two = (
        weights_of(transfer(*world, steps=0, seed=seed)) for seed in (0, 1)
    )
    plain = weights_of(fine_tuning.transfer(*world, steps=0, seed=0))
    assert one["logits/kernel"] == plain["logits/kernel"]
    assert one["block1_conv/kernel"] != two["block1_conv/kernel"]
