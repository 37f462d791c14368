"""Target oracle: it descends on the target's labels, and on nothing else."""

import keras
import numpy as np
from helpers import bytes_of, check_the_statistics, domains

from ktransfer.engine import backend
from ktransfer.engine.losses import cross_entropy
from ktransfer.methods.domain import source_only
from ktransfer.methods.domain.target_oracle import transfer
from ktransfer.models.own import Source


def test_one_step_is_the_gradient_on_all_of_the_target():
    target, source = domains()
    sgd = {"optimizer": keras.optimizers.SGD, "learning_rate": 0.1}
    options = {"seed": 0, "from_source": True, "batch_size": 48, **sgd}
    start = transfer(target, source, steps=0, **options)
    model = transfer(target, source, steps=1, **options)
    x, y = target.train
    _, slopes = backend.value_and_gradients(
        lambda: cross_entropy(y, start(x)), start.trainable_variables
    )
    for old, new, slope in zip(start.weights, model.weights, slopes):
        expected = old.numpy() - 0.1 * np.asarray(slope)
        np.testing.assert_allclose(new, expected, atol=1e-6)


def test_it_reads_the_labels_and_not_the_source():
    target, source = domains()
    options = {"steps": 2, "seed": 0, "batch_size": 4}
    model = transfer(target, source, **options)
    x, y = source.task.train
    noise = source.task.train._replace(x=255 - x, y=(y + 1) % 3)
    other = Source(source.model, source.task._replace(train=noise))
    assert bytes_of(transfer(target, other, **options)) == bytes_of(model)
    relabelled = target.train._replace(y=(target.train.y + 1) % 3)
    other = target._replace(train=relabelled)
    assert bytes_of(transfer(other, source, **options)) != bytes_of(model)


def test_it_is_the_network_of_the_family_from_the_same_start():
    target, source = domains()
    options = {"steps": 0, "seed": 4}
    model = transfer(target, source, **options)
    lowest = source_only.transfer(target, source, **options)
    assert bytes_of(model) == bytes_of(lowest)


def test_the_statistics_are_those_of_all_images_of_the_target():
    """And not a moving average, which few steps leave unfinished."""
    target, source = domains(normalised=True)
    options = {"seed": 0, "from_source": True, "batch_size": 16}
    model = transfer(target, source, steps=2, **options)
    check_the_statistics(model, target.train.x)
