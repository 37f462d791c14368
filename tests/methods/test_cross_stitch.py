"""Cross-stitch: two towers, mixed after each block, served together."""

import keras
import numpy as np
import pytest
from conftest import small_source, small_task
from keras import layers

from ktransfer.methods.multitask import cross_stitch, soft_sharing
from ktransfer.methods.parameter import fine_tuning
from ktransfer.models.graph import leaves
from ktransfer.models.layers import CrossStitch
from ktransfer.models.own import Source
from ktransfer.models.surgery import attach_head, inline

OPTIONS = {"seed": 3, "batch_size": 16, "from_source": True}


@pytest.fixture(scope="module")
def world():
    source = small_source(small_task("source", 3, num_classes=2), steps=3)
    return small_task("target", 1), source


def by_layer(model, suffix=""):
    """Return the weights of the layers named `..._source`, or of the others."""
    return {
        leaf.name.removesuffix("_source"): [
            v.numpy().tobytes() for v in leaf.weights
        ]
        for leaf in leaves(model)
        if leaf.weights
        and not leaf.name.endswith("_stitch")
        and (leaf.name == "logits" or leaf.name.endswith(suffix))
        and (suffix or not leaf.name.endswith("_source"))
    }


def test_the_identity_is_two_single_task_networks(world, fitted):
    stitched, towers = fitted(cross_stitch), fitted(soft_sharing)
    model = cross_stitch.transfer(
        *world, steps=5, own_share=1, learned=False, **OPTIONS
    )
    options = {k: v for k, v in OPTIONS.items() if k != "from_source"}
    tuned = fine_tuning.transfer(*world, steps=5, **options)
    assert by_layer(model) == by_layer(tuned)

    soft_sharing.transfer(*world, steps=5, strength=0, **OPTIONS)
    other = stitched[0].get_layer("source_network")
    alone = towers[0].get_layer("source_network")
    assert by_layer(other, "_source") == by_layer(alone)


def test_the_shares_start_as_given_and_are_learned(world):
    start, model = (
        cross_stitch.transfer(*world, steps=steps, **OPTIONS)
        for steps in (0, 3)
    )
    for block in ("block1", "block2", "block3"):
        before, after = (
            next(
                leaf.shares.numpy()
                for leaf in leaves(m)
                if leaf.name == f"{block}_stitch"
            )
            for m in (start, model)
        )
        np.testing.assert_allclose(before, [[0.9, 0.1], [0.1, 0.9]], rtol=1e-6)
        assert (before != after).all()
    # Two towers of 112 + 222 + 440, three 2x2 matrices, a head of 8 to 3.
    assert model.count_params() == 2 * 774 + 3 * 4 + 8 * 3 + 3


def test_every_stitch_keeps_the_shape_of_its_block(world):
    model = cross_stitch.transfer(*world, steps=0, **OPTIONS)
    plain = inline(world[1].model, tap=["block1", "block2", "block3"])
    names = [f"{block}_stitch" for block in plain.output]
    stitched = inline(model, tap=names)
    for block, expected in plain.output.items():
        for mixture in stitched.output[f"{block}_stitch"]:
            assert mixture.shape == expected.shape


def test_a_stitch_mixes_both_towers():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 4, 3, 3, 2)).astype("float32")
    stitch = CrossStitch(0.7)
    stitch.build([first.shape, second.shape])
    shares = rng.normal(size=(2, 2)).astype("float32")
    stitch.shares.assign(shares)
    expected = np.einsum("ij,j...->i...", shares, [first, second])
    found = np.stack(stitch([first, second]))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    again = CrossStitch.from_config(stitch.get_config())
    assert again.own_share == 0.7


def test_the_result_holds_both_towers_and_one_head(world):
    target, _ = world
    model = cross_stitch.transfer(*world, steps=0, **OPTIONS)
    dense = [x for x in leaves(model) if isinstance(x, layers.Dense)]
    assert [x.units for x in dense] == [target.num_classes]
    before = np.asarray(model(target.train.x))
    (other,) = [x for x in leaves(model) if x.name == "block1_conv_source"]
    other.kernel.assign(other.kernel + 1)
    assert not np.allclose(model(target.train.x), before)


def test_a_branch_is_within_a_block(world):
    target, source = world
    inputs = keras.Input((12, 12, 3), dtype="uint8", name="images")
    x = layers.Rescaling(1 / 255)(inputs)
    low = layers.Conv2D(3, 3, padding="same", name="block1_conv")(x)
    high = layers.Conv2D(3, 3, padding="same", name="block2_conv")(low)
    x = layers.Concatenate(name="joined")([low, high])
    x = layers.Flatten(name="features")(x)
    model = attach_head(keras.Model(inputs, x, name="branches"), 2, seed=0)
    stitched = cross_stitch.transfer(
        target, Source(model, source.task), steps=1, **OPTIONS
    )
    names = [x.name for x in leaves(stitched) if x.name.endswith("_stitch")]
    assert names == ["block1_stitch", "block2_stitch"]
