"""What a value may be: the annotations of a method's hyper-parameters.

A method says what it takes, `alpha: Share = 0.5` or
`solver: Literal["adam", "direct"] = "adam"`. The annotation is read as text,
so that a run of any other value is refused before Keras is loaded.
"""

import ast
import math
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, NamedTuple, TypeAlias

from ktransfer.errors import KTransferError, unknown

# The names to annotate with; `KINDS` says what each allows.
Number: TypeAlias = float
NotNegative: TypeAlias = float
Positive: TypeAlias = float
Share: TypeAlias = float
Whole: TypeAlias = int
Count: TypeAlias = int
Texts: TypeAlias = str | tuple[str, ...]
Weights: TypeAlias = tuple[float, ...]
Layer: TypeAlias = str
Layers: TypeAlias = str | tuple[str, ...]


class Kind(NamedTuple):
    """What a value of one kind is.

    Fields:
        expected: the kind in words: "a number above 0".
        allows: function value -> whether it is of the kind.
        choices: the names of which the value may be one.
        layers: whether the value names layers of a backbone.
    """

    expected: str
    allows: Callable[[Any], bool]
    choices: tuple[str, ...] = ()
    layers: bool = False

    def check(self, name: str, value: Any) -> None:
        """Refuse a value that is of another kind.

        Raises:
            KTransferError: `E_UNKNOWN` for a name beside `choices`, else
                `E_ARGUMENT`, with the name, the value and what was expected.
        """
        if self.allows(value):
            return
        if self.choices and isinstance(value, str):
            raise unknown(name, value, self.choices)
        raise KTransferError(
            "E_ARGUMENT", f"{name} is {value!r}; expected {self.expected}."
        )


def check(kind: str, **values: Any) -> None:
    """Refuse values, given by name, that are not of the kind `kind`.

    Raises:
        KTransferError: as `Kind.check`.
    """
    for name, value in values.items():
        KINDS[kind].check(name, value)


def one_of(choices: tuple[str, ...]) -> Kind:
    """Return the kind of the names `choices`."""
    return Kind(" or ".join(map(repr, choices)), choices.__contains__, choices)


def read(annotation: ast.expr | None) -> Kind | None:
    """Return the kind that an annotation names, None for any other one.

    It names one of `KINDS`, `Literal[...]` of texts, None, or an alternative
    `a | b` of such.
    """
    match annotation:
        case ast.Name(id=name):
            return KINDS.get(name)
        case ast.Constant(value=None):
            return _NONE
        case ast.Subscript(value=ast.Name(id="Literal"), slice=names):
            texts = ast.literal_eval(names)
            return one_of((texts,) if isinstance(texts, str) else texts)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            first, second = read(left), read(right)
            return first and second and _either(first, second)
    return None


def of_default(value: Any) -> Kind | None:
    """Return the kind of a hyper-parameter that names none, by its default."""
    if isinstance(value, bool):
        return KINDS["bool"]
    return KINDS["Number"] if isinstance(value, int | float) else None


def _either(first, second):
    return Kind(
        f"{first.expected} or {second.expected}",
        lambda value: first.allows(value) or second.allows(value),
        first.choices + second.choices,
        first.layers or second.layers,
    )


def _is_number(value):
    real = isinstance(value, Real) and not isinstance(value, bool)
    return real and math.isfinite(value)


def _number(expected, within):
    return Kind(expected, lambda value: _is_number(value) and within(value))


def _whole(least):
    return Kind(
        f"a whole number, at least {least}",
        lambda value: (
            _is_number(value) and isinstance(value, Integral) and value >= least
        ),
    )


def _is_text(value):
    return isinstance(value, str)


def _all(values, allowed):
    listed = isinstance(values, tuple | list) and len(values) > 0
    return listed and all(map(allowed, values))


def _is_texts(value):
    return _is_text(value) or _all(value, _is_text)


def _is_weights(value):
    return _all(value, lambda x: _is_number(x) and x >= 0)


_NONE = Kind("None", lambda value: value is None)
KINDS = {
    "Number": _number("a finite number", lambda value: True),
    "NotNegative": _number(
        "a finite number, not negative", lambda value: value >= 0
    ),
    "Positive": _number("a finite number above 0", lambda value: value > 0),
    "Share": _number("a number from 0 to 1", lambda value: 0 <= value <= 1),
    "Whole": _whole(0),
    "Count": _whole(1),
    "Texts": Kind("a name, or several", _is_texts),
    "Weights": Kind("a list of numbers, not negative", _is_weights),
    "Layer": Kind("the name of a layer", _is_text, layers=True),
    "Layers": Kind("the name of a layer, or several", _is_texts, layers=True),
    "bool": Kind("True or False", lambda value: isinstance(value, bool)),
    "str": Kind("a name", _is_text),
}
