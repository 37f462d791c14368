"""The family `domain`: one label space, and no label of the target."""

import functools

import numpy as np
import pytest
from helpers import OTHERS, bytes_of, domains, small_world

from ktransfer import methods
from ktransfer.errors import NotApplicable

NAMES = [name for name, family in methods.names().items() if family == "domain"]
BLIND = [name for name in NAMES if name != "target_oracle"]


def run(name, target, source):
    options = {"steps": 2, "seed": 0}
    # Some go to the minimum of a classifier, in no batches.
    if "batch_size" in methods.describe(name).hyperparameters:
        options["batch_size"] = 8
    return bytes_of(methods.load(name)(target, source, **options))


@functools.cache
def untouched(name):
    return run(name, *domains(normalised=True))


def relabelled(target):
    """Return `target` with its labels permuted, and with labels of no class."""
    labels = np.random.default_rng(0).permutation(target.train.y)
    assert (labels != target.train.y).any()
    poison = np.full_like(labels, -1)
    return [
        target._replace(train=target.train._replace(y=y))
        for y in (labels, poison)
    ]


@pytest.mark.parametrize("name", BLIND)
def test_target_labels_change_no_bit(name):
    target, source = domains(normalised=True)
    for other in relabelled(target):
        assert run(name, other, source) == untouched(name)


@pytest.mark.parametrize("name", BLIND)
def test_with_unlabelled_images_the_labelled_ones_change_no_bit(name):
    target, source = domains(normalised=True)
    noise = np.random.default_rng(3).integers(0, 256, (30, 12, 12, 1))
    target = target._replace(unlabelled=noise.astype("uint8"))
    expected = run(name, target, source)
    # They are read in place of the labelled ones.
    assert (expected == untouched(name)) == (name == "source_only")
    _, poisoned = relabelled(target)
    other = poisoned.train._replace(x=255 - poisoned.train.x)
    assert run(name, poisoned._replace(train=other), source) == expected


@pytest.mark.parametrize("name", NAMES)
def test_other_classes_are_refused_before_any_training(name, fits):
    target, source = small_world(normalised=True, labels=OTHERS)
    ours, theirs = domains(normalised=True)
    renamed = ours._replace(label_space="other")
    reordered = ours._replace(labels=ours.labels[::-1])
    for pair in ((target, source), (renamed, theirs), (reordered, theirs)):
        with pytest.raises(NotApplicable, match="classes"):
            run(name, *pair)
    assert not fits
