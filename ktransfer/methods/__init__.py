"""One method a module: `methods/<family>/<method>.py` with one `transfer`.

A module that is there is found; there is no list. What is asked of a method
before it runs (its sources, its hyper-parameters, its citation) is read from
its source text, so that nothing here imports Keras.

A folder named in KTRANSFER_METHODS adds families and methods of one's own,
see `own`.
"""

import ast
import functools
import importlib
import re
from pathlib import Path
from typing import Any, NamedTuple

from ktransfer.engine import kinds
from ktransfer.engine.options import OPTION_KINDS, Options
from ktransfer.errors import KTransferError, unknown
from ktransfer.methods import own

_HERE = Path(__file__).resolve().parent
_ARRANGED = ("steps", "seed")
# What a method hands on to `fit`, with the defaults there.
TRAINING = Options._field_defaults


class Description(NamedTuple):
    """What a method's source text says of it.

    `min_sources` and `max_sources` bound the number of sources (None: any
    number); `hyperparameters` maps each name to its default, and `kinds` those
    that say so to what they may be.
    """

    name: str
    family: str
    summary: str
    row: str
    citation: str
    min_sources: int
    max_sources: int | None
    hyperparameters: dict[str, Any]
    kinds: dict[str, kinds.Kind]


def names():
    """Return the methods that are there, name -> family, sorted by family.

    Raises:
        KTransferError: `E_ARGUMENT` for a wrong folder of one's own.
    """
    return {name: path.parent.name for name, path in _paths().items()}


def path(name):
    """Return the file of the method `name`.

    Raises:
        KTransferError: `E_UNKNOWN` with the valid names and the nearest,
            and what `names` raises.
    """
    paths = _paths()
    if name not in paths:
        raise unknown("method", name, paths)
    return paths[name]


def _paths():
    suite = {file.stem: file for file in own.in_folder(_HERE)}
    return suite | own.found(suite)


def load(name):
    """Import the method `name` and return its function `transfer`.

    Raises:
        KTransferError: what `path` and `own.load` raise.
    """
    file = path(name)
    if not file.is_relative_to(_HERE):
        return own.load(file)
    full = f"{__name__}.{file.parent.name}.{name}"
    return importlib.import_module(full).transfer


def describe(name):
    """Return the `Description` of the method `name` from its source text.

    Raises:
        KTransferError: what `path` raises, and `E_ARGUMENT`, with file and
            line, for a text that is no method.
    """
    file = path(name)
    return _describe(name, file, file.stat().st_mtime_ns)


def sources_for(name, first, second):
    """Return the source names for `name` out of two tasks.

    A method of one source gets `first`; one of several gets both. A method
    that merges what was trained from a common base (one source by position,
    then any number) gets `first` and `second` trained on from it.
    """
    about = describe(name)
    if about.max_sources is None and about.min_sources > 1:
        return (first, f"{second}_after_{first}")
    several = about.max_sources is None or about.max_sources > 1
    return (first, second) if several else (first,)[: about.max_sources]


@functools.cache
def _describe(name, file, _version):
    tree = _parsed(file)
    text = ast.get_docstring(tree) or ""
    arguments = _arguments(tree, file)
    num_sources = len(arguments.posonlyargs + arguments.args) - 1
    required = num_sources - len(arguments.defaults)
    most = None if arguments.vararg else num_sources
    given = [
        (argument.arg, argument.annotation, default and _literal(default))
        for argument, default in zip(
            arguments.kwonlyargs, arguments.kw_defaults, strict=True
        )
        if argument.arg not in _ARRANGED
    ]
    defaults = {name: default for name, _, default in given}
    allowed = {
        name: kinds.read(annotation) or kinds.of_default(default)
        for name, annotation, default in given
    }
    if arguments.kwarg:
        defaults, allowed = TRAINING | defaults, OPTION_KINDS | allowed
    least = required + (1 if arguments.vararg else 0)
    return Description(
        name,
        file.parent.name,
        text.partition("\n")[0],
        _line("Row", text),
        _line("Source", text),
        least,
        most,
        defaults,
        {name: kind for name, kind in allowed.items() if kind},
    )


def _parsed(file):
    try:
        return ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        text = getattr(error, "msg", error)
        raise _no_method(file, line, f"it is no Python ({text})") from error


def _arguments(tree, file):
    """Return the arguments of `transfer`, which must be those of a method."""
    found = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name == "transfer"
    ]
    if not found:
        why = "it has no `transfer`; a file that is no method starts with _"
        raise _no_method(file, 1, why)
    if fault := _fault(found[-1].args):
        raise _no_method(file, found[-1].lineno, fault)
    return found[-1].args


def _fault(arguments):
    """Return what keeps a function from being a method, "" if nothing does."""
    by_place = [x.arg for x in arguments.posonlyargs + arguments.args]
    named = [x.arg for x in arguments.kwonlyargs]
    if not by_place:
        return "it takes no target"
    for name in _ARRANGED:
        if name in by_place or not (name in named or arguments.kwarg):
            return f"its {name} is not keyword-only"
    for name, default in zip(named, arguments.kw_defaults, strict=True):
        if default is None and name not in _ARRANGED:
            return f"its {name} has no default"
    return ""


def _no_method(file, line, why):
    return KTransferError(
        "E_ARGUMENT",
        f"{file}:{line}: {' '.join(why.split())}; expected `def transfer("
        "target, *sources, steps, seed, name=default, ...)`.",
    )


def _literal(node):
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)


def _line(label, text):
    found = re.search(
        rf"^{label}: (.*?)(?:\n\n|\n[A-Z]\w*: |\Z)", text, re.M | re.S
    )
    return " ".join(found.group(1).split()) if found else ""
