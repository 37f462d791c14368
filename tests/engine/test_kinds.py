"""What a hyper-parameter may be is read from its annotation."""

import ast

import pytest

from ktransfer import methods
from ktransfer.engine import kinds
from ktransfer.errors import KTransferError


def kind(annotation):
    return kinds.read(ast.parse(annotation, mode="eval").body)


GOOD_AND_BAD = {
    "Number": ([-0.7, 0, 3], [float("nan"), float("inf"), True, "1", None]),
    "NotNegative": ([0, 0.0, 2.5], [-1e-9, False, [1]]),
    "Positive": ([1e-9, 4], [0, -1]),
    "Share": ([0, 1, 0.5], [-0.1, 1.01, True]),
    "Whole": ([0, 7], [-1, 1.0, 1.5, True]),
    "Count": ([1, 7], [0, 1.5, None]),
    "Texts": (["a", ("a", "b"), ["a"]], [1, (1,), None]),
    "Weights": ([(1, 0.5), [0, 0.0]], [0.5, (), (-1, 2), ("a",)]),
    "Layer": (["block1"], [("block1",), None]),
    "Layers": (["block1", ("block1", "block2")], [None, 3]),
    "bool": ([True, False], [1, 0, "True", None]),
    "str": (["relu"], [None, 1]),
    'Literal["a", "b"]': (["a", "b"], ["c", 1, None, ("a",)]),
    "Count | None": ([None, 3], [0, 1.5]),
    'Literal["a"] | Weights': (["a", (1, 2)], ["b", 1]),
}


def test_every_kind_is_tried():
    assert set(kinds.KINDS) < set(GOOD_AND_BAD)


@pytest.mark.parametrize("annotation", GOOD_AND_BAD)
def test_a_kind_allows_its_values_and_no_others(annotation):
    good, bad = GOOD_AND_BAD[annotation]
    for value in good:
        kind(annotation).check("given", value)
    for value in bad:
        with pytest.raises(KTransferError, match="given"):
            kind(annotation).check("given", value)


def test_a_name_beside_the_choices_is_answered_with_the_nearest():
    with pytest.raises(KTransferError, match="reverse") as caught:
        kind('Literal["direct", "reverse"]').check("relationship", "revers")
    assert caught.value.name == "E_UNKNOWN"


def test_an_annotation_that_is_no_kind_is_none():
    for text in ("Any", "list[int]", "float | Any", "Callable"):
        assert kind(text) is None
    assert kinds.read(None) is None


def test_a_hyperparameter_without_annotation_is_what_its_default_is():
    assert kinds.of_default(True) == kinds.KINDS["bool"]
    assert kinds.of_default(0.5) == kinds.KINDS["Number"]
    assert kinds.of_default("relu") is None


@pytest.mark.parametrize("name", sorted(methods.names()))
def test_every_hyperparameter_has_a_kind_and_a_default_of_it(name):
    about = methods.describe(name)
    assert set(about.kinds) == set(about.hyperparameters)
    for given, default in about.hyperparameters.items():
        about.kinds[given].check(given, default)
