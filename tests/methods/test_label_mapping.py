"""Label mapping: the source's answers through P(y given z), and no fit."""

import keras
import numpy as np
import pytest
from helpers import small_source, small_task, small_world
from keras import layers

from ktransfer.engine.prediction import predict
from ktransfer.measures.transferability import label_map, leep
from ktransfer.methods.structure.label_mapping import transfer
from ktransfer.models.own import Source
from ktransfer.models.surgery import adapt_input, trainable_count


def probabilities_of(source, target):
    logits = predict(
        adapt_input(source.model, target.image_shape), target.train.x
    )
    shares = np.exp(logits.astype("float64"))
    return shares / shares.sum(axis=1, keepdims=True)


def test_the_log_likelihood_on_the_labelled_images_is_leep(fits):
    target = small_task("target", 1)
    source = small_source(small_task("source", 3), steps=20, num_classes=5)
    model = transfer(target, source, steps=8, seed=0)
    assert not fits and trainable_count(model) == 0
    logits = predict(model, target.train.x).astype("float64")
    theta = probabilities_of(source, target)
    np.testing.assert_allclose(
        np.exp(logits), theta @ label_map(theta, target.train.y), rtol=1e-4
    )
    likelihood = logits[np.arange(48), target.train.y].mean()
    assert likelihood == pytest.approx(leep(theta, target.train.y), abs=1e-5)


def bright_rows(order):
    """Return a source that knows each class of `small_task`, in `order`.

    With 4 source classes the last is never answered: its probability is 0.
    """
    inputs = keras.Input((12, 12, 1), dtype="uint8", name="images")
    x = layers.Rescaling(1 / 255, name="rescale")(inputs)
    x = layers.AveragePooling2D((4, 12), name="pool")(x)
    x = layers.Flatten(name="features")(x)
    head = layers.Dense(4, name="logits")
    model = keras.Model(inputs, head(x))
    kernel = np.zeros((3, 4))
    for row, label in enumerate(order):
        kernel[row, label] = 1e3
    head.set_weights([kernel, np.array([0.0, 0.0, 0.0, -1e4])])
    return Source(model, small_task("source", 1))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_a_perfect_source_is_right_under_any_names_of_its_classes(order):
    target = small_task("target", 1)
    source = bright_rows(order)
    theta = probabilities_of(source, target)
    assert (theta[:, 3] == 0).all()
    model = transfer(target, source, steps=0, seed=0)
    logits = predict(model, target.train.x)
    np.testing.assert_array_equal(logits.argmax(axis=1), target.train.y)
    assert np.isfinite(logits).all()
    rows = model.get_layer("label_map").kernel.numpy()
    assert rows.shape == (4, 3)
    np.testing.assert_allclose(rows.sum(axis=1), 1, rtol=1e-6)
    # An answer that never came says no more than the class frequencies.
    np.testing.assert_allclose(rows[3], 1 / 3, rtol=1e-6)


def test_a_class_without_labels_gets_a_finite_logit():
    target = small_task("target", 1)._replace(num_classes=4)
    _, source = small_world()
    logits = predict(transfer(target, source, steps=0, seed=0), target.train.x)
    assert logits.shape == (48, 4) and np.isfinite(logits).all()
