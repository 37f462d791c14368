"""What a number depends on, as one hash: the code that can move it.

From a function, every definition of the package that it can reach is followed
name by name; the hash is over their parsed text without docstrings and
comments. A change elsewhere, even in the same file, leaves it alone, so that
`make` reruns what a change touches and nothing else. No Keras import.
"""

import ast
import functools
import os
from pathlib import Path

from ktransfer.files import sha256

_PACKAGE = Path(__file__).resolve().parent
# Data come in by the hash of their arrays; these rooms move no number.
_OUTSIDE = ("ktransfer.data", "ktransfer.errors", "ktransfer.files")
_SWITCHES = (
    "KERAS_FLOATX",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
    "TF_ENABLE_ONEDNN_OPTS",
    "TF_SET_ONEDNN_FPMATH_MODE",
    "TF_XLA_FLAGS",
    "XLA_FLAGS",
)
# What `import ktransfer` sets where the user has not.
_USUAL = {"TF_ENABLE_ONEDNN_OPTS": "1"}


def switches():
    """Return the environment variables that are set and can move a number."""
    return {
        name: os.environ[name]
        for name in _SWITCHES
        if os.environ.get(name, _USUAL.get(name)) != _USUAL.get(name)
    }


def code(*starts):
    """Return the sha256 of all code that `starts` can reach.

    Args:
        starts: pairs (file, name of a top-level definition).
    """
    seen, pending = {}, [(Path(file), name) for file, name in starts]
    while pending:
        file, name = pending.pop()
        if (file, name) in seen:
            continue
        module = _parsed(file)
        text, reached = module.reach(name)
        seen[file, name] = text
        pending += reached
    # Without the file: a definition may move to another room as it is.
    parts = sorted(f"{name}:{text}" for (_, name), text in seen.items())
    return sha256("\n".join(parts).encode())


@functools.cache
def _parsed(file):
    # Once a process: what runs is what was there when it started.
    return _Module(file)


class _Module:
    """One source file: its top-level definitions and what they refer to."""

    def __init__(self, file):
        self.file = file
        tree = _without_docstrings(ast.parse(file.read_text(encoding="utf-8")))
        self.definitions, self.imports, self.always = {}, {}, []
        for node in tree.body:
            self._take(node)

    def _take(self, node):
        if isinstance(node, ast.Import | ast.ImportFrom):
            self._take_import(node)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            self.definitions.setdefault(node.name, []).append(node)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = getattr(node, "targets", None) or [node.target]
            for target in targets:
                for part in ast.walk(target):
                    if isinstance(part, ast.Name):
                        self.definitions.setdefault(part.id, []).append(node)
        else:
            self.always.append(node)

    def _take_import(self, node):
        if not isinstance(node, ast.ImportFrom):
            return
        for alias in node.names:
            place = _place(node.module or "", alias.name)
            if place:
                self.imports[alias.asname or alias.name] = place

    @functools.cache  # noqa: B019 - as many as there are files, and they stay
    def reach(self, name):
        """Return the text of `name` and the (file, name) that it refers to."""
        if name == "*":
            nodes = [n for found in self.definitions.values() for n in found]
        else:
            nodes = self.definitions.get(name, [])
        reached = []
        for node in [*nodes, *self.always]:
            reached += self._references(node)
        text = "\n".join(ast.unparse(node) for node in [*nodes, *self.always])
        return text, [x for x in reached if x != (self.file, name)]

    def _references(self, node):
        found, inside = [], set()
        for part in ast.walk(node):
            if isinstance(part, ast.Attribute) and isinstance(
                part.value, ast.Name
            ):
                place = self.imports.get(part.value.id)
                if place and place[1] is None:
                    found.append((place[0], part.attr))
                    inside.add(id(part.value))
        for part in ast.walk(node):
            if not isinstance(part, ast.Name) or id(part) in inside:
                continue
            if part.id in self.definitions:
                found.append((self.file, part.id))
            elif part.id in self.imports:
                file, name = self.imports[part.id]
                # A module handed on as a value may be used in any way.
                found.append((file, name or "*"))
        return found


def _place(module, name):
    """Return the (file, name) that `from module import name` means here."""
    if module.split(".")[0] != "ktransfer":
        return None
    if f"{module}.{name}".startswith(_OUTSIDE) or module.startswith(_OUTSIDE):
        return None
    folder = _PACKAGE.joinpath(*module.split(".")[1:])
    if (folder / f"{name}.py").exists():
        return folder / f"{name}.py", None
    if (folder / name / "__init__.py").exists():
        return folder / name / "__init__.py", None
    file = folder.with_suffix(".py")
    return (file if file.exists() else folder / "__init__.py"), name


def _without_docstrings(tree):
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            node.body = body[1:] or [ast.Pass()]
    return tree
