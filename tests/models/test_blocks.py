"""Blocks end where the graph narrows, and have names that a reader knows."""

import keras
import numpy as np
import pytest
from helpers import small_backbone, small_classifier
from keras import layers

from ktransfer.errors import KTransferError
from ktransfer.models import backbones, graph
from ktransfer.models.blocks import MANY, blocks, in_graph, select
from ktransfer.models.surgery import attach_head, cut, inline

SHAPE = (96, 96, 3)
KNOWN = {
    "MobileNetV2": ("Conv1", "expanded_conv", "block_1", "block_16", "Conv_1"),
    "ResNet50": ("conv1", "conv2_block1", "conv5_block3"),
    "EfficientNetB0": ("stem", "block1a", "block7a", "top"),
    "DenseNet121": ("conv1", "conv2", "pool2", "conv5"),
    "ConvNeXtTiny": (
        "convnext_tiny_stem",
        "convnext_tiny_stage_0",
        "convnext_tiny_downsampling_0",
        "convnext_tiny_stage_3",
    ),
    "VGG16": ("block1", "block5", "fc1", "fc2"),
}


@pytest.fixture(scope="module", params=KNOWN)
def known(request):
    build = getattr(keras.applications, request.param)
    return request.param, build(weights=None, input_shape=SHAPE)


def test_networks_of_keras_have_few_blocks_with_names(known):
    name, model = known
    found = blocks(model)
    assert 4 <= len(found) <= MANY
    assert set(KNOWN[name]) <= set(found)
    # Every layer with weights is of one block, but for adapted ones.
    grouped = [x.name for own in found.values() for x in own]
    weighted = [
        x.name
        for x in graph.leaves(model)
        if x.weights and not graph.is_adapted(x)
    ]
    assert sorted(grouped) == sorted(weighted)
    assert not any(graph.is_adapted(x) for own in found.values() for x in own)


def test_a_network_can_be_cut_behind_each_block(known):
    _, model = known
    flat = graph.read(model)
    ends = [block.end for block in in_graph(flat).values()]
    assert len(set(ends)) == len(ends)
    for end in ends:
        # All that stands above reads this tensor, and none below it.
        number = next(
            k for k, n in enumerate(flat.nodes) if end in graph.made_by(n)
        )
        below = {x for n in flat.nodes[:number] for x in graph.made_by(n)}
        above = {x for n in flat.nodes[number + 1 :] for x in graph.read_by(n)}
        assert not below & above


@pytest.mark.parametrize("name", backbones.BUILDERS)
def test_blocks_of_our_networks_are_those_that_layers_name(name):
    found = blocks(backbones.BUILDERS[name]())
    for block, own in found.items():
        assert all(
            x.name == block or x.name.startswith(f"{block}_") for x in own
        )
    assert len(found) == len(
        {x.name.partition("_")[0] for own in found.values() for x in own}
    )


def test_a_block_ends_with_its_pool_and_not_with_what_feeds_the_head():
    model = attach_head(backbones.vgg(), 3, seed=0)
    shapes = {
        name: cut(model, name).output.shape[1:]
        for name in ("block1", "block2", "block3")
    }
    assert shapes == {
        "block1": (16, 16, 32),
        "block2": (8, 8, 64),
        "block3": (8, 8, 128),
    }


def test_a_name_of_a_layer_and_a_block_is_the_blocks():
    """MobileNet's `conv1` was cut before its normalisation."""
    model = keras.applications.MobileNet(weights=None, input_shape=SHAPE)
    chosen = [x.name for x in select(model, "conv1")]
    assert chosen == ["conv1", "conv1_bn"]
    flat = inline(model, tap=["conv1"])
    producer = graph.node_of(flat.output["conv1"]).operation
    assert producer.name == "conv1_relu"


def test_what_normalises_or_activates_belongs_to_what_it_follows():
    inputs = keras.Input((8, 8, 3), name="images")
    x = layers.Conv2D(4, 3, name="first")(inputs)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.ReLU(name="relu")(x)
    x = layers.MaxPooling2D(name="pool")(x)
    x = layers.Conv2D(4, 3, name="second")(x)
    model = keras.Model(inputs, x)
    found = in_graph(graph.read(model))
    assert {k: [x.name for x in b.layers] for k, b in found.items()} == {
        "first": ["first", "norm"],
        "second": ["second"],
    }
    assert cut(model, "first").output.shape[1:] == (6, 6, 4)


def test_a_branch_is_within_one_block_named_by_what_joins_it():
    inputs = keras.Input((8, 8, 3), name="images")
    x = layers.Conv2D(4, 1, name="conv2d_7")(inputs)
    left = layers.Conv2D(4, 1, name="conv2d_8")(x)
    right = layers.Conv2D(4, 1, name="conv2d_9")(x)
    x = layers.Add(name="mixed")([left, right])
    model = keras.Model(inputs, layers.Conv2D(2, 1, name="conv2d_10")(x))
    found = {k: [x.name for x in own] for k, own in blocks(model).items()}
    assert found == {
        "conv2d_7": ["conv2d_7"],
        "mixed": ["conv2d_8", "conv2d_9"],
        "conv2d_10": ["conv2d_10"],
    }


def test_nested_and_flat_networks_have_the_same_blocks():
    model = small_classifier(normalised=True)
    names = {k: [x.name for x in own] for k, own in blocks(model).items()}
    flat = {
        k: [x.name for x in own] for k, own in blocks(inline(model)).items()
    }
    assert names == flat and list(names)[-1] == "logits"


def test_an_unknown_name_lists_the_candidates():
    with pytest.raises(KTransferError, match="block2_conv"):
        select(small_backbone(), "block9")


def test_reading_a_large_network_takes_milliseconds():
    model = keras.applications.DenseNet121(weights=None, input_shape=SHAPE)
    seconds = []
    for _ in range(3):
        start = __import__("time").perf_counter()
        blocks(model)
        seconds.append(__import__("time").perf_counter() - start)
    assert np.min(seconds) < 0.5
