"""Source only: it descends on the source's labels, and knows no target."""

import keras
import numpy as np
import pytest
from helpers import bytes_of, domains

from ktransfer.engine import backend
from ktransfer.engine.losses import cross_entropy
from ktransfer.methods.domain.source_only import transfer
from ktransfer.models import surgery
from ktransfer.models.blocks import blocks
from ktransfer.models.surgery import copy_backbone

OPTIONS = {"steps": 3, "seed": 0, "batch_size": 8}


@pytest.mark.parametrize("normalised", [False, True])
def test_noise_in_place_of_target_images_changes_no_bit(normalised):
    target, source = domains(normalised)
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (20, 12, 12, 1)).astype("uint8")
    train = target.train._replace(x=noise, y=target.train.y[:20])
    models = [
        transfer(task, source, from_source=True, **OPTIONS)
        for task in (target, target._replace(train=train, unlabelled=noise))
    ]
    assert bytes_of(models[0]) == bytes_of(models[1])


def test_one_step_is_the_gradient_on_all_of_the_source():
    target, source = domains()
    sgd = {"optimizer": keras.optimizers.SGD, "learning_rate": 0.1}
    options = {"seed": 0, "from_source": True, "batch_size": 48, **sgd}
    start = transfer(target, source, steps=0, **options)
    model = transfer(target, source, steps=1, **options)
    x, y = source.task.train
    _, slopes = backend.value_and_gradients(
        lambda: cross_entropy(y, start(x)), start.trainable_variables
    )
    for old, new, slope in zip(start.weights, model.weights, slopes):
        expected = old.numpy() - 0.1 * np.asarray(slope)
        np.testing.assert_allclose(new, expected, atol=1e-6)


def test_the_statistics_are_those_of_all_images_of_the_source():
    """And not a moving average, which few steps leave unfinished."""
    target, source = domains(normalised=True)
    options = {"seed": 0, "from_source": True, "batch_size": 16}
    model = transfer(target, source, steps=2, **options)
    convolution, norm = blocks(model)["block1"]
    scaled = source.task.train.x.astype("float32") / 255
    values = np.asarray(convolution(scaled))
    np.testing.assert_allclose(
        norm.moving_mean, values.mean((0, 1, 2)), atol=1e-6
    )
    np.testing.assert_allclose(
        norm.moving_variance, values.var((0, 1, 2)), rtol=1e-4
    )


def test_it_starts_fresh_or_from_the_source():
    target, source = domains()
    options = {"steps": 0, "seed": 0}
    copied = transfer(target, source, from_source=True, **options)
    assert bytes_of(copied)[:-2] == bytes_of(source.model)[:-4]
    initial = transfer(target, source, **options)
    expected = surgery.fresh(copy_backbone(source.model), 0)
    assert bytes_of(initial)[:-2] == bytes_of(expected)
