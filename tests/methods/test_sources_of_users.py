"""A source that a user brings: without its images, or without its head."""

import numpy as np
import pytest
from helpers import small_source, small_task

from ktransfer import methods
from ktransfer.data import Split
from ktransfer.engine import training
from ktransfer.engine.prediction import predict
from ktransfer.errors import NotApplicable
from ktransfer.models.own import NoImages, Source, load_source
from ktransfer.models.surgery import copy, cut

# Families that learn two tasks, or adapt one domain to another.
TWO_TASKS = {"multitask", "domain"}
READ_IMAGES = {"elastic_weight_consolidation", "fisher_merging"}
READ_ANSWERS = {
    *("co_tuning", "deep_transfer_network", "elastic_weight_consolidation"),
    *("fisher_merging", "label_mapping", "learning_without_forgetting"),
    *("logic_rules", "semantic_loss"),
}
# What the small network lacks, whatever its source.
LACKS = {"normalization_tuning", "stochastic_normalization"}


@pytest.fixture(scope="module")
def target():
    return small_task("target", 1)


@pytest.fixture(scope="module")
def model():
    return small_source(small_task("source", 3), steps=2).model


def outcome(name, target, source):
    """Return "ok", or why not; nothing may have been trained by then."""
    about = methods.describe(name)
    count = max(about.min_sources, 1)
    with training.recording() as fits:
        try:
            made = methods.load(name)(
                target, *[source] * count, steps=4, seed=0
            )
        except NotApplicable as error:
            assert not fits, error
            return error.message
    assert np.isfinite(predict(made, target.train.x[:2])).all()
    return "ok"


SOURCED = [n for n in methods.names() if methods.describe(n).min_sources]


@pytest.mark.slow
@pytest.mark.parametrize("name", SOURCED)
def test_without_images_it_runs_or_says_why_before_it_trains(
    name, target, model
):
    found = outcome(name, target, load_source(copy(model)))
    reads = methods.describe(name).family in TWO_TASKS or name in READ_IMAGES
    assert (found == "ok") == (not reads and name not in LACKS), found


@pytest.mark.slow
@pytest.mark.parametrize("name", SOURCED)
def test_without_a_head_it_runs_or_says_why_before_it_trains(
    name, target, model
):
    found = outcome(name, target, load_source(copy(cut(model, "features"))))
    reads = methods.describe(name).family in TWO_TASKS or name in READ_ANSWERS
    lacks = LACKS | {"dense_layers"}
    assert (found == "ok") == (not reads and name not in lacks), found


def test_reading_images_that_are_not_there_says_so():
    absent = NoImages("mine")
    for read in (
        lambda: absent.x,
        lambda: absent.y,
        lambda: [*absent],
        lambda: absent[0],
        lambda: len(absent),
    ):
        with pytest.raises(NotApplicable, match="mine came without"):
            read()


@pytest.mark.parametrize("train", ["none", "empty"])
def test_a_task_without_images_says_so_too(train, model):
    task = small_task("source", 3)
    empty = Split(task.train.x[:0], task.train.y[:0])
    given = task._replace(train=None if train == "none" else empty)
    source = Source(model, given)
    with pytest.raises(NotApplicable):
        source.task.train.x  # noqa: B018
    assert Source(source.model, source.task) == source
