"""Values of frozen graphs, computed once for the same weights and images.

All seeds, heads and label budgets of a source share them: few images in the
memory of a process; many in files of the user's cache, which every process
maps, so that they lie in memory once. A value is found by the content of what
it is computed from, so it is that which would be computed.
"""

import collections
import inspect
import io
import os
import sys
from pathlib import Path

import numpy as np

from ktransfer import files, fingerprints
from ktransfer.engine import backend, programs
from ktransfer.engine.programs import forward
from ktransfer.engine.structures import structure
from ktransfer.errors import KTransferError

# Images from which on their values become a file.
MANY = 2000
# Bytes of all values kept, in a process and on disk; the oldest go first.
MEMORY_BUDGET = 2**27
DISK_BUDGET = 2**32

_memory: collections.OrderedDict = collections.OrderedDict()
_verified: set[Path] = set()


def values(graph, images):
    """Return the outputs of `graph` for all `images`, in inference mode.

    Args:
        graph: one input, one output; what it computes is fixed by its weights.
        images: `(n, ...)`.

    Returns:
        array `(n, ...)`, not to be written to.
    """
    key = _key(graph, images)
    if key is None:
        return forward(graph, images)
    if len(images) >= MANY:
        return _mapped(key, graph, images)
    if key not in _memory:
        _memory[key] = forward(graph, images)
        _memory[key].flags.writeable = False
    _memory.move_to_end(key)
    found = _memory[key]
    while sum(array.nbytes for array in _memory.values()) > MEMORY_BUDGET:
        _memory.popitem(last=False)
    return found


def forget():
    """Let go of all values in the memory of this process."""
    _memory.clear()
    _verified.clear()


def folder():
    """Return the folder of the files; `ktransfer` makes it when needed."""
    return files.cache() / "features"


def _key(graph, images):
    """Return the sha256 of all that the values depend on, None if unknown."""
    found = structure(graph)
    if found is None:
        return None
    own = [c for c in found.classes if c.__module__.startswith("ktransfer.")]
    code = [(inspect.getsourcefile(kind), kind.__name__) for kind in own]
    parts = [
        found.key,
        backend.facts(),
        fingerprints.switches(),
        fingerprints.code((Path(programs.__file__), "forward"), *code),
        images.shape,
        images.dtype.str,
    ]
    weights = [variable.numpy() for variable in found.variables]
    contents = [np.ascontiguousarray(x).ravel() for x in (*weights, images)]
    return files.sha256(repr(parts).encode(), *contents)


def _mapped(key, graph, images):
    """Return the values of `key` from their file, which is made if need be."""
    path = folder() / f"{key}.npy"
    try:
        with files.lock(path.with_suffix(".lock")):
            if not _is_sound(path):
                _make(path, forward(graph, images))
            _verified.add(path)
            # Under the lock too, or it could be removed in between.
            os.utime(path)
            return np.load(path, mmap_mode="r")
    except (KTransferError, OSError) as error:
        print(
            f"warning: features are not kept on disk ({error})", file=sys.stderr
        )
        return forward(graph, images)


def _make(path, array):
    head = io.BytesIO()
    facts = np.lib.format.header_data_from_array_1_0(array)
    np.lib.format.write_array_header_1_0(head, facts)
    chunks = head.getvalue(), np.ascontiguousarray(array)
    files.remove_leftovers(path.parent)
    files.write(path, *chunks, lasting=False)
    sealed = files.sha256(*chunks).encode()
    files.write(path.with_suffix(".sha256"), sealed, lasting=False)
    _keep_to_budget(path)


def _is_sound(path):
    """Tell whether the file is there and whole; read through once a process.

    A damaged array would be read without a word.
    """
    seal = path.with_suffix(".sha256")
    if not path.exists() or not path.stat().st_size or not seal.exists():
        return False
    if path in _verified:
        return True
    content = np.memmap(path, "uint8", "r")
    sound = files.sha256(content) == seal.read_text(encoding="ascii")
    if not sound:
        print(f"warning: {path} is damaged; made again", file=sys.stderr)
    return sound


def _keep_to_budget(newest):
    """Remove the files that were not used for longest, never the newest."""
    found = {
        path: path.stat() for path in folder().glob("*.npy") if path != newest
    }
    size = newest.stat().st_size + sum(x.st_size for x in found.values())
    for path, facts in sorted(found.items(), key=lambda x: x[1].st_mtime):
        if size > DISK_BUDGET:
            # Whoever has mapped it keeps it until he ends.
            path.unlink(missing_ok=True)
            path.with_suffix(".sha256").unlink(missing_ok=True)
            size -= facts.st_size
