"""What a number depends on, as one hash: the code that can move it.

From a function, every definition of the package that it can reach is followed
name by name, through every form of import and re-export; the hash is over
their parsed text without docstrings, comments, annotations and import lines.
A change elsewhere, even in the same file, leaves it alone, so that `make`
reruns what a change touches and nothing else. No Keras import.
"""

import ast
import builtins
import functools
import os
from pathlib import Path

from ktransfer.errors import KTransferError, unknown
from ktransfer.files import sha256

_PACKAGE = Path(__file__).resolve().parent
# What is not followed: files that make arrays, which come in by their hash, or
# that name, keep and refuse things and compute nothing.
OUTSIDE = (
    *("data/archives.py", "data/digits_8x8.py", "data/division.py"),
    *("data/draw_glyphs.py", "data/folders.py", "data/glyphs.py"),
    *("data/image_report.py", "data/images.py", "data/own_data.py"),
    *("data/pictures.py", "data/shifts.py"),
    *("errors.py", "files.py", "fingerprints.py"),
    *("runs/__init__.py", "runs/records.py", "runs/run.py"),
)
# Functions that are not followed either, each in a file that is.
CUT = (
    # They make the arrays, find them by name, or hash them.
    *(("data/tasks.py", name) for name in ("_digest", "_place", "_problem")),
    # It reads the text of a method, which is in the hash itself.
    ("methods/__init__.py", "describe"),
    # `runs.code` adds what makes the sources that a run has.
    ("runs/carry_out.py", "_own_sources"),
    ("runs/carry_out.py", "_source"),
)
# Prefixes of the environment variables that numerical libraries read.
_FAMILIES = (
    *("DNNL_", "KERAS_", "MKL_", "NPY_", "ONEDNN_", "OPENBLAS_", "TF_"),
    "XLA_",
)
# Those that move no number: a test runs with each of them and compares bits.
# The numbers of threads are fixed where a worker starts, whatever they say.
HARMLESS = (
    *("KERAS_BACKEND", "KERAS_HOME", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"),
    *("TF_CPP_MAX_VLOG_LEVEL", "TF_CPP_MIN_LOG_LEVEL"),
    *("TF_NUM_INTEROP_THREADS", "TF_NUM_INTRAOP_THREADS"),
)
# Terraform's, which has the prefix of TensorFlow.
_FOREIGN = ("TF_CLI_", "TF_VAR_")
# What `import ktransfer` sets where the user has not.
_USUAL = {"TF_ENABLE_ONEDNN_OPTS": "1"}


def switches():
    """Return the environment variables that are set and may move a number.

    All of the families are, but for those that are known to be harmless.
    """
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith(_FAMILIES)
        and not name.startswith(_FOREIGN)
        and name not in HARMLESS
        and value != _USUAL.get(name)
    }


@functools.cache
def code(*starts, choices=()):
    """Return the sha256 of all code that `starts` can reach.

    Args:
        starts: pairs (file, name of a top-level definition).
        choices: pairs (name of a table, keys): of a dictionary of that name
            only the entries of these keys are followed.

    Raises:
        KTransferError: `E_UNKNOWN` for a name that is not there.
    """
    parts = reached(*starts, choices=choices).items()
    # Without the file: a definition may move to another module as it is.
    text = "\n".join(sorted(f"{name}:{text}" for (_, name), text in parts))
    return sha256(text.encode())


def reached(*starts, choices=()):
    """Return all that `starts` can reach: (file, name) -> text.

    Args, raises: as `code`.
    """
    tables = dict(choices)
    seen, pending = {}, [(Path(file), name) for file, name in starts]
    while pending:
        place = pending.pop()
        if place in seen:
            continue
        file, name = place
        seen[place], found = _parsed(file).reach(name, tables.get(name))
        pending += found
    return seen


def forget():
    """Let go of all files read; what is there now is read anew."""
    for kept in (_parsed, code):
        kept.cache_clear()


@functools.cache
def _parsed(file):
    # Once a process: what runs is what was there when it started.
    return _Module(file, _read(file))


def _read(file):
    return file.read_text(encoding="utf-8")


class _Module:
    """One source file: its top-level definitions and what they refer to.

    `imports` maps a name to the dotted names it may stand for, absolute or,
    from a leading dot on, beside this file.
    """

    def __init__(self, file, text):
        self.file = file
        tree = ast.parse(text)
        self.imports, self.stars = {}, []
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                self._take_import(node)
        self.definitions, self.always = {}, []
        for node in _Bare().visit(tree).body:
            self._take(node)

    def _take_import(self, node):
        if isinstance(node, ast.Import):
            for alias in node.names:
                short = alias.name.partition(".")[0]
                dotted = alias.name if alias.asname else short
                self._bind(alias.asname or short, dotted)
            return
        start = "." * node.level + (node.module or "")
        for alias in node.names:
            if alias.name == "*":
                self.stars.append(start)
                continue
            joint = "" if start.endswith(".") else "."
            dotted = f"{start}{joint}{alias.name}"
            self._bind(alias.asname or alias.name, dotted)

    def _bind(self, name, dotted):
        known = self.imports.setdefault(name, [])
        if dotted not in known:
            known.append(dotted)

    def _take(self, node):
        if isinstance(node, _FUNCTIONS | ast.ClassDef):
            self._define(node.name, node)
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
            for target in _targets(node):
                for part in ast.walk(target):
                    if isinstance(part, ast.Name):
                        self._define(part.id, node)
        elif not isinstance(node, ast.Pass):
            self.always.append(node)
            # `try: import x` and `if ...: def f` define as well.
            for part in ast.walk(node):
                if isinstance(part, _FUNCTIONS | ast.ClassDef):
                    self._define(part.name, part)
                elif isinstance(part, ast.Name) and _is_stored(part):
                    self._define(part.id, node)
                elif name := _caught(part):
                    self._define(name, node)

    def _define(self, name, node):
        nodes = self.definitions.setdefault(name, [])
        if node not in nodes:
            nodes.append(node)

    @functools.cache  # noqa: B019 - as many as there are files, and they stay
    def reach(self, name, keys=None):
        """Return the text of `name`, and the (file, name) that it refers to.

        Args:
            name: of a definition, or "*" for all of the module.
            keys: of the entries that count, if it is a table.
        """
        nodes = self._defining(name)
        if keys is not None:
            nodes = [_entries(node, keys) for node in nodes]
        nodes = list(dict.fromkeys([*nodes, *self.always]))
        found: dict[tuple[Path, str], None] = {}
        outside: set[str] = set()
        for node in nodes:
            for chain in _free_names(node):
                self._refer(chain, found, outside)
        found.pop((self.file, name), None)
        texts = [ast.unparse(node) for node in nodes]
        return "\n".join([*texts, *sorted(outside)]), list(found)

    def _defining(self, name):
        """Return the nodes that define `name`, or all of them for "*"."""
        if name == "*":
            return [n for found in self.definitions.values() for n in found]
        if name not in self.definitions:
            raise unknown(
                f"definition in {self.file.name}", name, self.definitions
            )
        return self.definitions[name]

    def _refer(self, chain, found, outside):
        """Add what `chain`, a name and its attributes, refers to."""
        first, *rest = chain
        if _is_cut(self.file, first):
            return
        if first in self.definitions:
            found[self.file, first] = None
        elif first in self.imports:
            for dotted in self.imports[first]:
                found |= dict.fromkeys(_places(dotted, rest, self.file))
                if not _is_followed(dotted, self.file):
                    # Else another package could take the name over.
                    outside.add(f"{first}={dotted}")
        elif not self._refer_by_star(chain, found) and not _is_built_in(first):
            known = [*self.definitions, *self.imports]
            raise unknown(f"name in {self.file.name}", first, known)

    def _refer_by_star(self, chain, found):
        """Add what `chain` refers to by `import *`; tell whether it may."""
        for dotted in self.stars:
            file, _ = _locate(dotted, self.file)
            if file is None:
                return True
            if _parsed(file).defines(chain[0]):
                found |= dict.fromkeys(_places(dotted, chain, self.file))
                return True
        return False

    def defines(self, name):
        """Tell whether the module has an attribute `name` of its own text."""
        return name in self.definitions or name in self.imports


def _is_built_in(name):
    return hasattr(builtins, name) or name in ("__file__", "__name__")


_FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef


def _targets(assignment):
    """Return what an assignment of any kind assigns to, a list."""
    several = getattr(assignment, "targets", None)
    return several or [assignment.target]


def _is_stored(name):
    return isinstance(name.ctx, ast.Store)


def _entries(node, keys):
    """Return the assignment of a table with the entries of `keys` alone."""
    targets = _targets(node)
    if not isinstance(node.value, ast.Dict) or None in node.value.keys:
        raise KTransferError(
            "E_INVARIANT",
            f"{ast.unparse(targets[0])} is no table: expected a literal "
            "dictionary, of which a run follows its own entries.",
        )
    names = [ast.literal_eval(key or "") for key in node.value.keys]
    table = dict(zip(names, zip(node.value.keys, node.value.values)))
    for key in keys:
        if key not in table:
            raise unknown(f"entry of {ast.unparse(targets[0])}", key, table)
    kept = [table[key] for key in sorted(keys)]
    values = ast.Dict([k for k, _ in kept], [v for _, v in kept])
    return ast.Assign(targets, values, lineno=node.lineno)


# Where a dotted name leads


def _places(dotted, rest, near):
    """Return the (file, name) that `dotted`, with attributes `rest`, means.

    Args:
        dotted: as in `_Module.imports`.
        rest: the attributes that are taken of it, a list.
        near: the file in which it stands.

    Raises:
        KTransferError: `E_UNKNOWN` if a module of ours lacks the name.
    """
    file, names = _locate(dotted, near, rest)
    if file is None or _is_outside(file):
        return []
    if not names:
        # A module handed on as a value may be used in any way.
        return [(file, "*")]
    name = names[0]
    module = _parsed(file)
    if _is_cut(file, name):
        return []
    if name in module.definitions:
        return [(file, name)]
    if name in module.imports:
        return [
            place
            for other in module.imports[name]
            for place in _places(other, names[1:], file)
        ]
    if file == _PACKAGE / "__init__.py" and name in _facade():
        return _places(f"ktransfer.{_facade()[name]}", names[1:], file)
    if name.startswith("__"):
        return []
    known = [*module.definitions, *module.imports]
    raise unknown(f"name in {file.name}, used by {near.name}", name, known)


def _facade():
    """Return what `ktransfer.<name>` means: name -> dotted, below it."""
    definitions = _parsed(_PACKAGE / "__init__.py").definitions
    home, modules = (
        ast.literal_eval(definitions[name][0].value)
        for name in ("_HOME", "_MODULES")
    )
    return {m: m for m in modules} | {n: f"{m}.{n}" for n, m in home.items()}


def _locate(dotted, near, rest=()):
    """Return the file of ours that `dotted` lies in, and what is left of it.

    (None, []) for what is of other packages.
    """
    folder, parts = _start(dotted, near)
    parts = [*parts, *rest]
    if folder is None:
        return None, []
    file = folder / "__init__.py"
    while parts:
        if (folder / parts[0]).is_dir():
            folder = folder / parts.pop(0)
            file = folder / "__init__.py"
        elif (folder / f"{parts[0]}.py").exists():
            return folder / f"{parts[0]}.py", parts[1:]
        else:
            break
    return (file, parts) if file.exists() else (None, [])


def _start(dotted, near):
    """Return the folder where the way of `dotted` begins, and its parts."""
    if dotted.startswith("."):
        level = len(dotted) - len(dotted.lstrip("."))
        parts = [part for part in dotted.strip(".").split(".") if part]
        return near.parents[level - 1], parts
    first, *parts = dotted.split(".")
    if first == "ktransfer":
        return _PACKAGE, parts
    if not near.is_relative_to(_PACKAGE) and (
        (near.parent / f"{first}.py").exists()
    ):
        # A method of the user's own, and what lies beside it.
        return near.parent, [first, *parts]
    return None, []


def _is_followed(dotted, near):
    return _start(dotted, near)[0] is not None


def _is_outside(file):
    return _inside(file) in OUTSIDE


def _is_cut(file, name):
    return (_inside(file), name) in CUT


def _inside(file):
    """Return the path of a file below the package, "" for one of the user."""
    own = not file.is_relative_to(_PACKAGE)
    return "" if own else file.relative_to(_PACKAGE).as_posix()


# What a definition refers to


def _free_names(node):
    """Return the names that `node` reads from outside, with attributes.

    Tuples: ("ops", "mean") for `ops.mean(x)`, x being a parameter.
    """
    reader = _Names()
    reader.visit(node)
    return list(dict.fromkeys(reader.found))


class _Names(ast.NodeVisitor):
    """Collects chains of names that no enclosing function has bound."""

    def __init__(self):
        self.found, self._bound = [], []

    def visit_Attribute(self, node):
        chain, inner = [], node
        while isinstance(inner, ast.Attribute):
            chain.append(inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name):
            self._read(inner.id, *reversed(chain))
        else:
            self.visit(inner)

    def visit_Name(self, node):
        if not _is_stored(node):
            self._read(node.id)

    def _read(self, *chain):
        if not any(chain[0] in names for names in self._bound):
            self.found.append(chain)

    def visit_FunctionDef(self, node):
        for part in [*node.decorator_list, *_defaults(node.args)]:
            self.visit(part)
        self._inside(_arguments(node.args) | _bound_in(node), node.body)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Lambda(self, node):
        for part in _defaults(node.args):
            self.visit(part)
        self._inside(_arguments(node.args), [node.body])

    def visit_ClassDef(self, node):
        for part in [*node.decorator_list, *node.bases, *node.keywords]:
            self.visit(part)
        # What a class body binds, its functions do not see.
        inner = [x for x in node.body if isinstance(x, _FUNCTIONS)]
        outer = [x for x in node.body if not isinstance(x, _FUNCTIONS)]
        self._inside(_bound_in(node), outer)
        self._inside(set(), inner)

    def _visit_comprehension(self, node):
        names = {
            part.id
            for generator in node.generators
            for part in ast.walk(generator.target)
            if isinstance(part, ast.Name)
        }
        # The first source is read outside, which may only add a name.
        self.visit(node.generators[0].iter)
        self._inside(names, ast.iter_child_nodes(node))

    visit_ListComp = visit_SetComp = visit_DictComp = _visit_comprehension
    visit_GeneratorExp = _visit_comprehension

    def _inside(self, names, nodes):
        self._bound.append(names)
        for node in nodes:
            self.visit(node)
        self._bound.pop()


def _defaults(arguments):
    found = [*arguments.defaults, *arguments.kw_defaults]
    return [default for default in found if default is not None]


def _arguments(arguments):
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    every += [x for x in (arguments.vararg, arguments.kwarg) if x]
    return {argument.arg for argument in every}


def _caught(node):
    """Return the name that an `except` or a pattern of `match` binds, or ""."""
    if isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar):
        return node.name or ""
    return (isinstance(node, ast.MatchMapping) and node.rest) or ""


def _bound_in(scope):
    """Return the names that a function or class binds, not in inner ones."""
    names, declared = set(), set()
    pending = list(scope.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Global | ast.Nonlocal):
            declared |= set(node.names)
        elif isinstance(node, _FUNCTIONS | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and _is_stored(node):
            names.add(node.id)
        elif name := _caught(node):
            names.add(name)
        elif isinstance(node, _COMPREHENSIONS):
            # `:=` binds around it.
            inner = [x for x in ast.walk(node) if isinstance(x, ast.NamedExpr)]
            names |= {part.target.id for part in inner}
        if not isinstance(node, _SCOPES):
            pending += ast.iter_child_nodes(node)
    return names - declared


_COMPREHENSIONS = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
_SCOPES = _FUNCTIONS | ast.ClassDef | ast.Lambda | _COMPREHENSIONS


class _Bare(ast.NodeTransformer):
    """Takes off what no number can depend on: docstrings, imports, types."""

    def generic_visit(self, node):
        super().generic_visit(node)
        for field in ("body", "orelse", "finalbody"):
            if isinstance(body := getattr(node, field, None), list):
                kept = [x for x in body if not _is_idle(x)]
                setattr(node, field, kept or [ast.Pass()] * bool(body))
        return node

    def visit_FunctionDef(self, node):
        node.returns = None
        return self.generic_visit(node)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_arg(self, node):
        node.annotation = None
        return node

    def visit_AnnAssign(self, node):
        # Its name stays: it may be a field.
        node.annotation = ast.Constant(None)
        return self.generic_visit(node)


def _is_idle(statement):
    """Tell whether a statement is an import or a text, as a docstring is."""
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return True
    return isinstance(statement, ast.Expr) and isinstance(
        statement.value, ast.Constant
    )
