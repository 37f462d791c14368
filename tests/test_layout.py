"""The layout of the package: imports go only downward, files have places."""

import ast
from pathlib import Path

import pytest

import ktransfer

PACKAGE = Path(ktransfer.__file__).parent
GROUND = ("errors", "files", "fingerprints", "seeds", "__init__")
# From the top down: each imports from itself and from what stands below it.
LAYERS = (
    *("cli", "report", "runs", "methods", "stages", "measures", "engine"),
    *("models", "data", "plots", "analysis", "ground"),
)
FILES = sorted(PACKAGE.rglob("*.py"))


def layer(parts):
    first = parts[0] if parts else "__init__"
    if first == "__main__":
        return "cli"
    own = first in GROUND or first.startswith("__")
    return "ground" if own else first


def place(file):
    return file.relative_to(PACKAGE).with_suffix("").parts


def imported(file):
    """Return the dotted parts, below the package, of all that is imported."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            module = (node.module or "").split(".")
            found += [[*module, alias.name] for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [alias.name.split(".") for alias in node.names]
    return [parts[1:] for parts in found if parts[0] == "ktransfer"]


def module_of(parts):
    """Return the file that the imported `parts` lie in."""
    folder = PACKAGE
    for part in parts:
        if (folder / f"{part}.py").exists():
            return folder / f"{part}.py"
        if not (folder / part).is_dir():
            break
        folder = folder / part
    return folder / "__init__.py"


@pytest.mark.parametrize("file", FILES, ids=lambda f: "/".join(place(f)))
def test_imports_go_only_downward(file):
    own = LAYERS.index(layer(place(file)))
    for parts in imported(file):
        other = LAYERS.index(layer(parts))
        assert other >= own, f"{file} imports {'.'.join(parts)} from above"


def test_no_file_imports_itself_through_others():
    reaches = {
        file: {module_of(parts) for parts in imported(file)} - {file}
        for file in FILES
        if file.name != "__init__.py"
    }
    done = set()

    def follow(file, way):
        assert file not in way, [x.name for x in (*way, file)]
        if file not in done:
            for other in reaches.get(file, ()):
                follow(other, (*way, file))
            done.add(file)

    for file in reaches:
        follow(file, ())


def test_at_the_top_stand_the_command_and_the_ground():
    found = {file.stem for file in PACKAGE.glob("*.py")}
    assert found == {"__main__", "cli", *GROUND}
    folders = {x.name for x in PACKAGE.iterdir() if x.is_dir()}
    assert folders - {"__pycache__"} <= set(LAYERS)


def test_every_folder_says_what_is_in_it():
    for folder in {file.parent for file in FILES} - {PACKAGE}:
        if folder.parent.name == "methods":
            continue
        text = ast.get_docstring(
            ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))
        )
        assert text and text.partition("\n")[0].endswith("."), folder


def test_functions_are_short():
    """With docstrings, and those inside others."""
    lengths = sorted(
        node.end_lineno - node.lineno + 1
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    assert lengths[len(lengths) // 2] <= 9
    assert lengths[int(0.9 * len(lengths))] <= 24
    assert lengths[-1] <= 60
