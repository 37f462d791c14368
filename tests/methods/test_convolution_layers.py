"""Convolution layers: a new convolution reads the source's last map."""

import numpy as np
import pytest
from helpers import bytes_of, small_source, small_task

from ktransfer.errors import NotApplicable
from ktransfer.methods.feature.convolution_layers import transfer
from ktransfer.models import backbones
from ktransfer.models.graph import node_of
from ktransfer.models.own import Source
from ktransfer.models.surgery import (
    adapt_input,
    attach_head,
    cut,
    trainable_count,
)


def test_the_pretrained_layers_are_the_sources_bit_for_bit(world):
    target, source = world
    model = transfer(target, source, steps=4, seed=0, batch_size=16)
    ours, theirs = cut(model, "block3_pool"), cut(source.model, "block3_pool")
    assert bytes_of(ours) == bytes_of(theirs)
    seen = adapt_input(theirs, target.image_shape)(target.train.x)
    np.testing.assert_array_equal(ours(target.train.x), seen)
    assert trainable_count(model) == 8 * 9 * 8 + 8 + (8 + 1) * 3


def map_below(model):
    layer = model.get_layer("new_conv")
    (reached,) = node_of(layer.output).input_tensors
    return tuple(reached.shape[1:])


@pytest.mark.parametrize(
    ("name", "shape"),
    [("convnet", (4, 4, 64)), ("vgg", (8, 8, 128)), ("resnet20", (8, 8, 64))],
)
def test_the_new_convolution_reads_the_last_map(name, shape):
    backbone = getattr(backbones, name)()
    task = small_task("source", 3, size=32)
    source = Source(attach_head(backbone, 3, seed=0, hidden_units=6), task)
    model = transfer(task, source, steps=0, seed=0)
    assert map_below(model) == shape
    kernel = model.get_layer("new_conv").kernel
    assert kernel.shape == (3, 3, shape[-1], shape[-1])


def test_the_head_reads_the_mean_of_a_rectified_convolution():
    """One position wide, the convolution is a product of matrices."""
    task = small_task("source", 3, size=24)
    source = small_source(task, steps=2)
    model = transfer(task, source, steps=0, seed=0, kernel_size=1)
    maps = np.asarray(cut(source.model, "block3_pool")(task.train.x))
    assert maps.shape[1:] == (3, 3, 8)
    (kernel, bias), (v, c) = (
        model.get_layer(name).get_weights() for name in ("new_conv", "logits")
    )
    values = np.maximum(maps @ kernel[0, 0] + bias, 0)
    expected = values.mean(axis=(1, 2)) @ v + c
    np.testing.assert_allclose(model(task.train.x), expected, atol=1e-5)


def test_filters_and_size_are_what_is_asked_for(world):
    model = transfer(*world, steps=0, seed=0, filters=5, kernel_size=1)
    assert map_below(model) == (1, 1, 8)
    assert model.get_layer("new_conv").kernel.shape == (1, 1, 8, 5)


def test_a_source_without_a_map_is_refused():
    task = small_task("source", 3)
    backbone = backbones.mlp(task.image_shape, units=(6, 4))
    source = Source(attach_head(backbone, 3, seed=0), task)
    with pytest.raises(NotApplicable, match="no feature map"):
        transfer(small_task("target", 1), source, steps=1, seed=0)
