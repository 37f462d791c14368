"""Feature extraction: the source's features as they are, a head on them."""

import numpy as np
import pytest
from helpers import bytes_of

from ktransfer.errors import KTransferError
from ktransfer.methods.feature.feature_extraction import transfer
from ktransfer.models.graph import leaves
from ktransfer.models.surgery import adapt_input, cut, trainable_count


def test_the_backbone_is_the_sources_bit_for_bit(world):
    target, source = world
    model = transfer(target, source, steps=4, seed=0, batch_size=16)
    backbone, original = cut(model, "features"), cut(source.model, "features")
    assert bytes_of(backbone) == bytes_of(original)
    seen = adapt_input(original, target.image_shape)(target.train.x)
    np.testing.assert_array_equal(backbone(target.train.x), seen)


@pytest.mark.parametrize(
    ("layer", "width"), [("features", 8), ("block2", 3 * 3 * 6)]
)
def test_the_head_is_what_is_trained(world, layer, width):
    target, source = world
    model = transfer(
        target, source, steps=2, seed=0, layer=layer, hidden_units=7
    )
    assert model.count_params() > trainable_count(model)
    assert trainable_count(model) == (width + 1) * 7 + (7 + 1) * 3
    assert leaves(model)[-1].name == "logits"


def test_the_head_is_that_of_the_article(world):
    """Dense(512, relu), then the logits."""
    target, source = world
    model = transfer(target, source, steps=0, seed=0)
    z = np.asarray(cut(model, "features")(target.train.x))
    (w, b), (v, c) = (
        model.get_layer(name).get_weights()
        for name in ("head_hidden", "logits")
    )
    assert w.shape == (8, 512)
    expected = np.maximum(z @ w + b, 0) @ v + c
    np.testing.assert_allclose(model(target.train.x), expected, atol=1e-5)


def test_an_unknown_layer_names_the_nearest(world):
    with pytest.raises(KTransferError, match="'features'"):
        transfer(*world, steps=1, seed=0, layer="feature")
