"""The Fisher information of many classes: one drawn label an image."""

import keras
import numpy as np
import pytest
from keras import layers

from ktransfer.engine import backend
from ktransfer.measures import fisher


def many_classes(count):
    """Return a network of `count` classes, sure of some and not of others."""
    inputs = keras.Input((2, 2, 1), dtype="uint8")
    x = layers.Flatten()(layers.Rescaling(1 / 255)(inputs))
    start = keras.initializers.RandomNormal(stddev=2.0, seed=count)
    return keras.Model(inputs, layers.Dense(count, kernel_initializer=start)(x))


IMAGES = np.random.default_rng(0).integers(0, 256, (400, 2, 2, 1), "uint8")


def information(model, seed=0, images=IMAGES):
    (found,) = fisher.diagonal_fisher(
        model, images, [model.layers[-1].kernel], num_images=400, seed=seed
    )
    return found


@pytest.mark.slow
def test_what_is_drawn_is_the_expectation_in_the_mean(monkeypatch):
    """Were the label always the first, or always all, it would be another."""
    model = many_classes(21)
    drawn = np.mean([information(model, seed) for seed in range(6)], axis=0)
    monkeypatch.setattr(fisher, "_FEW", 21)
    exact = information(model)
    apart = np.abs(drawn - exact).sum() / exact.sum()
    assert 0 < apart < 0.1


@pytest.mark.parametrize("count", [20, 21])
def test_images_are_read_by_their_rows_and_never_copied(count, monkeypatch):
    """256 images of 224 x 224 and 1,000 classes would be 38 GB."""
    given = []

    def noted(weighted, variables, images, places, labels):
        given.append((images, places, labels))
        return [np.zeros(v.shape) for v in variables]

    monkeypatch.setattr(backend, "squared_gradients", noted)
    information(many_classes(count))
    ((images, places, labels),) = given
    assert len(images) == 400
    # Above 20 classes an image has one backward pass, not one a class.
    assert len(places) == len(labels) == (400 * 20 if count == 20 else 400)
    assert set(places) == set(range(400))
