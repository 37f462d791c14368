"""Self-supervision: turned images first, without labels, then fine-tuning."""

import numpy as np
import pytest
from helpers import idle, moved_names, small_task, weights_of

from ktransfer.data import Split
from ktransfer.errors import NotApplicable
from ktransfer.methods.baselines import scratch, self_supervised
from ktransfer.methods.baselines.self_supervised import transfer


def test_four_quarter_turns_return_the_image_and_labels_are_balanced():
    images = small_task("target", 3, n=10).train.x
    turned = self_supervised._turned(images)
    assert turned.x.shape == (40, 12, 12, 3) and turned.x.dtype == "uint8"
    np.testing.assert_array_equal(np.bincount(turned.y), [10] * 4)
    again = images
    for quarters in range(4):
        np.testing.assert_array_equal(turned.x[turned.y == quarters], again)
        again = self_supervised._turned(again).x[10:20]
    np.testing.assert_array_equal(again, images)


def test_without_a_pretext_it_is_training_from_scratch(fits):
    task = small_task("target", 1)
    options = {"steps": 3, "seed": 2, "batch_size": 4}
    ours = transfer(task, pretext_share=0.0, **options)
    assert len(fits) == 1
    theirs = scratch.transfer(task, **options)
    assert weights_of(ours) == weights_of(theirs)


def test_the_pretext_reads_no_label():
    task = small_task("target", 1)
    reversed_labels = Split(task.train.x, task.train.y[::-1].copy())
    options = {"steps": 2, "seed": 2, "batch_size": 4, "pretext_share": 1.0}
    plain, other = (
        weights_of(transfer(given, **options))
        for given in (task, task._replace(train=reversed_labels))
    )
    assert plain == other
    untrained = weights_of(scratch.transfer(task, steps=0, seed=2))
    moved = moved_names(untrained, plain)
    assert moved == {path for path in plain if "block" in path}


def test_the_stages_share_steps_and_backbone_but_no_data(spy):
    calls = spy(self_supervised, instead=idle)
    task = small_task("target", 1)
    unlabelled = 255 - task.train.x
    model = transfer(task._replace(unlabelled=unlabelled), steps=5, seed=0)
    assert [call.kwargs["steps"] for call in calls] == [2, 3]
    (pretext, turned), (tuned, labelled) = (call.args for call in calls)
    every = np.concatenate([task.train.x, unlabelled])
    np.testing.assert_array_equal(turned.x[turned.y == 0], every)
    assert labelled is task.train and tuned is model
    assert pretext.output.shape == (None, 4)
    shared = {id(v) for v in pretext.variables} & {
        id(v) for v in model.variables
    }
    assert len(shared) == 6


def test_images_that_are_not_square_are_refused():
    task = small_task("target", 1)
    train = Split(task.train.x[:, :10], task.train.y)
    task = task._replace(train=train, image_shape=(10, 12, 1))
    with pytest.raises(NotApplicable, match="square"):
        transfer(task, steps=2, seed=0)
