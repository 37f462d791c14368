"""Whose classes a source answers: those of one name, and no others."""

import pytest
from helpers import small_source, small_task

from ktransfer.errors import NotApplicable
from ktransfer.stages.domains import require_same_classes
from ktransfer.stages.teachers import answers


@pytest.fixture
def pair():
    """A target and a source of the same classes."""
    return small_task("target", 3), small_source(small_task("source", 3))


def renamed(source, label_space):
    return source._replace(task=source.task._replace(label_space=label_space))


def test_a_source_answers_the_classes_of_one_label_space_alone(pair):
    target, source = pair
    assert answers(source, target)
    assert not answers(renamed(source, "other"), target)


def test_a_label_space_without_a_name_equals_nothing(pair):
    """Two tasks made by hand, cats and cars, both have labels 0, 1 and 2."""
    target, source = pair
    unnamed = target._replace(label_space="")
    assert not answers(renamed(source, ""), unnamed)
    with pytest.raises(NotApplicable, match="label_space"):
        require_same_classes(unnamed, renamed(source, ""))
