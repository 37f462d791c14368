"""Deep transfer network: the whole source, and one linear layer on it."""

import numpy as np
import pytest
from helpers import bytes_of, small_world

from ktransfer.methods.structure.deep_transfer_network import transfer
from ktransfer.models.surgery import adapt_input, cut, trainable_count


@pytest.fixture
def world():
    return small_world(normalised=True, num_classes=4)


def test_under_an_identity_it_is_the_source():
    target, source = small_world()
    model = transfer(target, source, steps=0, seed=0)
    model.get_layer("target_logits").set_weights([np.eye(3), np.zeros(3)])
    x = target.train.x
    expected = adapt_input(source.model, target.image_shape)(x)
    np.testing.assert_allclose(model(x), expected, atol=1e-6)
    # A model, not a fresh draw at every call.
    np.testing.assert_array_equal(model(x), model(x))


def test_a_frozen_source_stays_bit_for_bit(world):
    target, source = world
    model = transfer(target, source, steps=4, seed=0, batch_size=16)
    assert bytes_of(cut(model, "logits")) == bytes_of(source.model)
    assert trainable_count(model) == (4 + 1) * 3


def test_a_tuned_source_moves_everywhere(world):
    target, source = world
    model = transfer(
        target, source, steps=4, seed=0, batch_size=16, tune_source=True
    )
    ours, theirs = bytes_of(cut(model, "logits")), bytes_of(source.model)
    assert len(ours) == len(theirs)
    assert all(a != b for a, b in zip(ours, theirs))
