"""Methods of the user's own: `<family>/<method>.py` in KTRANSFER_METHODS.

What is wrong with such a file is said in one line, with its place.
"""

import importlib
import os
import sys
import types
from pathlib import Path

from ktransfer import files
from ktransfer.errors import KTransferError, place_of


def found(taken):
    """Return name -> file of the user's methods.

    Args:
        taken: name -> file of the methods that are there already.

    Raises:
        KTransferError: `E_ARGUMENT` for a folder without methods, and for a
            name that is taken.
    """
    mine: dict[str, Path] = {}
    names = os.environ.get("KTRANSFER_METHODS")
    for folder in map(Path, names.split(os.pathsep) if names else []):
        listed = in_folder(folder)
        if not listed:
            raise KTransferError(
                "E_ARGUMENT",
                f"KTRANSFER_METHODS names {str(folder)!r}, which holds no "
                "method; expected a folder with <family>/<method>.py.",
            )
        for file in listed:
            if other := {**taken, **mine}.get(file.stem):
                raise KTransferError(
                    "E_ARGUMENT",
                    f"{file} has the name of the method {other}; expected a "
                    "name of its own. Rename the file.",
                )
            mine[file.stem] = file
    return mine


def in_folder(folder):
    """Return the sorted files of all methods in a folder of families."""
    return [
        file
        for file in sorted(folder.glob("*/*.py"))
        if not file.name.startswith("_")
    ]


def load(file):
    """Import the user's method in `file` and return its `transfer`.

    It may import what lies beside it, `from . import other`. All of it is read
    anew, since it may have been edited since.

    Raises:
        KTransferError: `E_ARGUMENT` for a file that cannot be imported.
    """
    folder = file.absolute().parents[1]
    root = f"own_methods_{files.sha256(str(folder).encode())[:8]}"
    for name in [n for n in sys.modules if n.partition(".")[0] == root]:
        del sys.modules[name]
    package = types.ModuleType(root)
    package.__path__ = [str(folder)]
    sys.modules[root] = package
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(
            f"{root}.{file.parent.name}.{file.stem}"
        )
    except (Exception, SystemExit) as error:
        raise _unloadable(file, folder, error) from error
    return module.transfer


def _unloadable(file, folder, error):
    text = " ".join(str(error).split())
    place = place_of(error, folder)
    where = folder / place if place else f"{file}:1"
    hint = ""
    name = getattr(error, "name", None) or ""
    if isinstance(error, ImportError) and (file.parent / f"{name}.py").exists():
        hint = f" Write `from . import {name}`."
    return KTransferError(
        "E_ARGUMENT",
        f"{where}: it cannot be imported ({type(error).__name__}: {text})."
        f"{hint}",
    )
