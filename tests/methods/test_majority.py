"""Majority: constant logits, the log of the add-one class frequencies."""

import numpy as np
from helpers import small_task

from ktransfer.data import Split
from ktransfer.engine.prediction import predict
from ktransfer.methods.baselines.majority import transfer


def test_logits_are_the_frequencies_of_the_labels():
    task = small_task("target", 1, n=12)
    keep = [0, 3, 6, 9, 1, 4]
    train = Split(task.train.x[keep], task.train.y[keep])
    model = transfer(task._replace(train=train), steps=0, seed=0)
    logits = predict(model, task.train.x)
    assert (logits == logits[0]).all()
    # Four images of class 0, two of class 1, none of class 2, one added each.
    expected = np.array([5, 3, 1]) / 9
    np.testing.assert_allclose(np.exp(logits[0]), expected, rtol=1e-6)


def test_accuracy_on_balanced_classes_is_one_in_k():
    task = small_task("target", 1, n=48)
    logits = predict(transfer(task, steps=0, seed=0), task.train.x)
    assert (logits.argmax(-1) == task.train.y).mean() == 1 / 3
