"""One method a module: `methods/<family>/<method>.py` with one `transfer`.

A module that is there is found; there is no list. What is asked of a method
before it runs (its sources, its hyper-parameters, its citation) is read from
its source text, so that nothing here imports Keras.

A folder named in KTRANSFER_METHODS adds families and methods of one's own.
"""

import ast
import functools
import importlib.util
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from ktransfer.engine import kinds
from ktransfer.engine.options import OPTION_KINDS, Options
from ktransfer.errors import unknown

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
    """Return the methods that are there, name -> family, sorted by family."""
    return {name: path.parent.name for name, path in _paths().items()}


def path(name):
    """Return the file of the method `name`.

    Raises:
        KTransferError: `E_UNKNOWN` with the valid names and the nearest.
    """
    paths = _paths()
    if name not in paths:
        raise unknown("method", name, paths)
    return paths[name]


def _paths():
    own = os.environ.get("KTRANSFER_METHODS")
    folders = [_HERE, *map(Path, own.split(os.pathsep) if own else [])]
    return {
        file.stem: file
        for folder in folders
        for file in sorted(folder.glob("*/*.py"))
        if not file.name.startswith("_")
    }


def load(name):
    """Import the method `name` and return its function `transfer`."""
    file = path(name)
    if file.is_relative_to(_HERE):
        full = f"{__name__}.{file.parent.name}.{name}"
        return importlib.import_module(full).transfer
    spec = importlib.util.spec_from_file_location(f"own_methods.{name}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.transfer


def describe(name):
    """Return the `Description` of the method `name` from its source text."""
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
    tree = ast.parse(file.read_text(encoding="utf-8"))
    text = ast.get_docstring(tree) or ""
    transfer = next(
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name == "transfer"
    )
    arguments = transfer.args
    required = len(arguments.args) - 1 - len(arguments.defaults)
    most = None if arguments.vararg else len(arguments.args) - 1
    own = [
        (argument.arg, argument.annotation, default and _literal(default))
        for argument, default in zip(
            arguments.kwonlyargs, arguments.kw_defaults, strict=True
        )
        if argument.arg not in _ARRANGED
    ]
    defaults = {name: default for name, _, default in own}
    allowed = {
        name: kinds.read(annotation) or kinds.of_default(default)
        for name, annotation, default in own
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
