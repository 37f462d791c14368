"""Cross-stitch: two towers, mixed after each block, served together."""

import keras
import numpy as np
import pytest
from helpers import bytes_of, defaults, layer_of, small_task, small_world
from keras import layers

from ktransfer.engine.normalization import reestimate_statistics
from ktransfer.methods.multitask import cross_stitch, soft_sharing
from ktransfer.methods.parameter import fine_tuning
from ktransfer.models import backbones
from ktransfer.models.graph import leaves
from ktransfer.models.own import Source
from ktransfer.models.surgery import attach_head, inline

OPTIONS = {"seed": 3, "batch_size": 16, "from_source": True}


@pytest.fixture
def world():
    """The source has two classes, the target three."""
    return small_world(num_classes=2)


def by_layer(model, suffix=""):
    """Return the weights of the layers named `..._source`, or of the others."""
    return {
        leaf.name.removesuffix("_source"): bytes_of(leaf)
        for leaf in leaves(model)
        if leaf.weights
        and "_stitch_" not in leaf.name
        and (leaf.name == "logits" or leaf.name.endswith(suffix))
        and (suffix or not leaf.name.endswith("_source"))
    }


def test_the_identity_is_two_single_task_networks(world, spy):
    stitched, towers = spy(cross_stitch), spy(soft_sharing)
    model = cross_stitch.transfer(
        *world, steps=5, own_share=1, learned=False, **OPTIONS
    )
    options = {k: v for k, v in OPTIONS.items() if k != "from_source"}
    tuned = fine_tuning.transfer(*world, steps=5, **options)
    assert by_layer(model) == by_layer(tuned)

    soft_sharing.transfer(*world, steps=5, strength=0, **OPTIONS)
    other = stitched[0].model.get_layer("source_network")
    alone = towers[0].model.get_layer("source_network")
    assert by_layer(other, "_source") == by_layer(alone)


def shares_of(model, block):
    """Return the shares of a block, `(2, 2, channels)`, own ones first."""
    kernels = {
        leaf.name: leaf.kernel.numpy().ravel()
        for leaf in leaves(model)
        if f"{block}_stitch_" in leaf.name and leaf.weights
    }
    names = ("target", "source")
    return np.array(
        [[kernels[f"{block}_stitch_{a}_{b}"] for b in names] for a in names]
    )


def test_the_shares_start_as_given_and_are_learned_by_channel(world):
    start, model = (
        cross_stitch.transfer(*world, steps=steps, **OPTIONS)
        for steps in (0, 3)
    )
    # The last block's stitch serves the target by its own row alone.
    for block, channels in (("block1", 4), ("block2", 6)):
        before, after = (shares_of(m, block) for m in (start, model))
        wanted = np.stack([[[0.9, 0.1], [0.1, 0.9]]] * channels, axis=-1)
        np.testing.assert_allclose(before, wanted, rtol=1e-6)
        assert (before != after).all()
        # Every channel has shares of its own.
        assert np.ptp(after, axis=-1).min() > 0
    # Two towers of 112 + 222 + 440, shares of 4 and 6 channels and of 8 for
    # the target alone, a head of 8 to 3.
    stitches = 4 * (4 + 6) + 2 * 8
    assert model.count_params() == 2 * 774 + stitches + 8 * 3 + 3


def test_the_stitches_may_have_a_rate_of_their_own(world):
    def moved(**rates):
        given = {**OPTIONS, "optimizer": keras.optimizers.SGD}
        start = cross_stitch.transfer(*world, steps=0, **given)
        model = cross_stitch.transfer(
            *world, steps=1, learning_rate=1e-3, **rates, **given
        )
        pairs = zip(start.weights, model.weights, strict=True)
        return {a.path: b - a for a, b in pairs}

    assert defaults(cross_stitch.transfer)["stitch_learning_rate"] is None
    slow, fast = moved(), moved(stitch_learning_rate=0.1)
    for path, change in slow.items():
        ratio = 100.0 if "_stitch_" in path else 1.0
        np.testing.assert_allclose(fast[path], ratio * change, atol=1e-6)
        assert np.abs(change).max() > 0


def test_every_stitch_keeps_the_shape_of_its_block(world):
    model = cross_stitch.transfer(*world, steps=0, **OPTIONS)
    plain = inline(world[1].model, tap=["block1", "block2", "block3"])
    names = [f"{block}_stitch_target" for block in plain.output]
    stitched = inline(model, tap=names)
    for block, expected in plain.output.items():
        mixture = stitched.output[f"{block}_stitch_target"]
        assert mixture.shape == expected.shape


@pytest.mark.parametrize("shape", [(3, 3, 5), (5,)])
def test_a_stitch_mixes_both_towers_channel_by_channel(shape):
    first, second = keras.Input(shape), keras.Input(shape)
    mixed = cross_stitch._mixed([first, second], "source", 0.7, True, "here")
    model = keras.Model([first, second], mixed)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 4, *shape)).astype("float32")
    np.testing.assert_allclose(model([x, y]), 0.3 * x + 0.7 * y, atol=1e-6)
    a, b = rng.normal(size=(2, 5)).astype("float32")
    for tower, values in (("target", a), ("source", b)):
        scale = model.get_layer(f"here_source_{tower}")
        scale.kernel.assign(values.reshape(1, 1, 5, 1))
    np.testing.assert_allclose(model([x, y]), a * x + b * y, atol=1e-6)


def test_a_block_that_gives_the_features_is_stitched_too():
    """The last Dense layer of `mlp` is a block and the output."""
    task = small_task("source", 3)
    network = attach_head(backbones.mlp((12, 12, 3), units=(7, 5)), 3, seed=0)
    model = cross_stitch.transfer(
        small_task("target", 1), Source(network, task), steps=2, **OPTIONS
    )
    assert shares_of(model, "block1").shape == (2, 2, 7)
    names = [leaf.name for leaf in leaves(model)]
    assert "features_stitch_target_source" in names


def test_what_is_saved_is_made_of_layers_of_keras(world):
    model = cross_stitch.transfer(*world, steps=1, **OPTIONS)
    own = {
        type(leaf).__name__
        for leaf in leaves(model)
        if type(leaf).__module__.startswith("ktransfer")
    }
    # What adapts the images is the suite's.
    assert own <= {"EqualChannels"}


def test_the_result_holds_both_towers_and_one_head(world):
    target, _ = world
    model = cross_stitch.transfer(*world, steps=0, **OPTIONS)
    dense = [x for x in leaves(model) if isinstance(x, layers.Dense)]
    assert [x.units for x in dense] == [target.num_classes]
    before = np.asarray(model(target.train.x))
    other = layer_of(model, "block1_conv_source")
    other.kernel.assign(other.kernel + 1)
    assert not np.allclose(model(target.train.x), before)


def test_batch_normalisation_ends_with_the_targets_statistics():
    target, source = small_world(normalised=True)
    model = cross_stitch.transfer(target, source, steps=2, **OPTIONS)
    before = bytes_of(model)
    reestimate_statistics(model, target.train.x)
    assert bytes_of(model) == before


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
    sums = [x for x in leaves(stitched) if isinstance(x, layers.Add)]
    # The last stitch serves the target by its own row alone.
    assert {x.name for x in sums} == {
        "block1_stitch_target",
        "block1_stitch_source",
        "block2_stitch_target",
    }
