"""State dicts in the file format of PyTorch before 1.6, read without PyTorch.

A file is five pickles: a magic number, a version, the sizes of the machine,
the state dict, and the keys of its storages. Then follow, for each key, the
number of elements as int64 and the elements.

A pickle is a program. Here the few opcodes are carried out that build numbers,
strings, tuples, lists and dictionaries, as PyTorch's own `weights_only` does.
Three kinds of names may occur in it; they stand for records of this module,
so that nothing which a file names is imported or called.

Source: `_legacy_save` and `_legacy_load` of torch/serialization.py.
"""

import io
import math
import pickletools
from typing import Any, NamedTuple

import numpy as np

from ktransfer.errors import KTransferError

_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
_MAX_DIMENSIONS = 32

# The names that a pickle may have, as `pickletools` gives them.
_DICTIONARY = "collections OrderedDict"
_TENSOR = "torch._utils _rebuild_tensor_v2"
_DTYPES = {
    "torch ByteStorage": "u1",
    "torch CharStorage": "i1",
    "torch ShortStorage": "<i2",
    "torch IntStorage": "<i4",
    "torch LongStorage": "<i8",
    "torch HalfStorage": "<f2",
    "torch FloatStorage": "<f4",
    "torch DoubleStorage": "<f8",
}


class _Name(NamedTuple):
    """A class or function that the file names; it is never looked up."""

    name: str


class _Storage(NamedTuple):
    dtype: np.dtype
    key: str
    length: int


class _Tensor(NamedTuple):
    """A view of a storage; offset and strides are counted in elements."""

    storage: _Storage
    offset: int
    size: tuple
    strides: tuple


def read(data, name):
    """Return the tensors of a state dict, name -> array.

    The arrays are read-only views of `data`, with the strides of the file.

    Args:
        data: the bytes of the file.
        name: what messages call it.

    Raises:
        KTransferError: `E_WEIGHTS` for a file that is damaged, of another
            format, or holds anything but tensors.
    """
    try:
        return _arrays(data)
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise KTransferError(
            "E_WEIGHTS",
            f"{name} cannot be read as a state dict ({reason:.100}); expected "
            "tensors alone, in the format of torch.save before PyTorch 1.6. "
            "Fetch the file again.",
        ) from error


def _arrays(data):
    file = io.BytesIO(data)
    _check_format(file)
    tensors, keys = _checked_state(_value(file)), _value(file)
    storages = {x.storage.key: x.storage for x in tensors.values()}
    if any(x.storage != storages[x.storage.key] for x in tensors.values()):
        raise ValueError("a storage is described in two ways")
    if type(keys) is not list or any(type(key) is not str for key in keys):
        raise ValueError("the keys of its storages are no list of names")
    if sorted(keys) != sorted(storages):
        raise ValueError("its storages are not those of its tensors")
    parts = _parts(memoryview(data), file.tell(), [storages[k] for k in keys])
    return {
        name: _array(tensor, parts[tensor.storage.key])
        for name, tensor in tensors.items()
    }


def _check_format(file):
    if file.getvalue()[:2] == b"PK":
        raise ValueError("it is a zip archive, as newer ones are")
    if _value(file) != _MAGIC or _value(file) != _VERSION:
        raise ValueError("it does not begin as such a file")
    sizes = _value(file)
    if type(sizes) is not dict or sizes.get("little_endian") is not True:
        raise ValueError("its numbers are not little-endian")


def _checked_state(state):
    if type(state) is not dict or not state:
        raise ValueError("it holds no dictionary of tensors")
    for name, value in state.items():
        if type(value) is not _Tensor:
            raise ValueError(f"{name!r} is no tensor")
    return state


def _parts(data, start, storages):
    """Return key -> the bytes of that storage; they fill `data` to its end."""
    found = {}
    for storage in storages:
        count = int.from_bytes(data[start : start + 8], "little", signed=True)
        start += 8
        end = start + storage.length * storage.dtype.itemsize
        if end > len(data):
            raise ValueError("it ends within its storages")
        if count != storage.length:
            raise ValueError(
                f"a storage of {storage.length} elements has {count}"
            )
        found[storage.key] = data[start:end]
        start = end
    if start < len(data):
        raise ValueError(f"{len(data) - start} bytes are left over")
    return found


def _array(tensor, part):
    width = tensor.storage.dtype.itemsize
    # The stride of a dimension of one is never used and may be any number.
    strides = [
        width * stride if n > 1 else 0
        for n, stride in zip(tensor.size, tensor.strides)
    ]
    return np.ndarray(
        tensor.size,
        tensor.storage.dtype,
        part,
        width * tensor.offset,
        strides,
    )


# The pickles

# What puts a value on the stack, a function of the opcode's argument.
_VALUES: dict[str, Any] = {
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1"), int),
    "BINUNICODE": str,
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    "EMPTY_TUPLE": lambda _: (),
    "EMPTY_LIST": lambda _: [],
    "EMPTY_DICT": lambda _: {},
    "GLOBAL": lambda name: _known(name),
}
# How many values an opcode takes from the stack; None: all above the mark.
_TAKEN = {
    "TUPLE": None,
    "TUPLE1": 1,
    "TUPLE2": 2,
    "TUPLE3": 3,
    "BINPERSID": 1,
    "REDUCE": 2,
    "APPEND": 1,
    "APPENDS": None,
    "SETITEM": 2,
    "SETITEMS": None,
    "BUILD": 1,
}


def _value(file):
    """Return what the pickle at the place of `file` builds."""
    program = _Program()
    for opcode, argument, _ in pickletools.genops(file):
        program.step(opcode.name, argument)
    return program.take(1)[0]


class _Program:
    """The state of a pickle: its stack, the marks in it, and its memo."""

    def __init__(self):
        self.stack: list = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def step(self, name, argument):
        if name in _VALUES:
            self.stack.append(_VALUES[name](argument))
        elif name in _TAKEN:
            self._combine(name, self.take(_TAKEN[name]))
        elif name == "MARK":
            self.marks.append(len(self.stack))
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self._top()
        elif name in ("BINGET", "LONG_BINGET"):
            if argument not in self.memo:
                raise ValueError("a pickle reads what it has not kept")
            self.stack.append(self.memo[argument])
        elif name not in ("PROTO", "STOP"):
            raise ValueError(f"a pickle has the opcode {name}")

    def take(self, count):
        """Remove and return the top `count` values; None: those above a mark.

        A value below the last mark cannot be taken.
        """
        floor = self.marks[-1] if self.marks else 0
        if count is None and not self.marks:
            raise ValueError("a pickle looks for a mark that it has not set")
        start = self.marks.pop() if count is None else len(self.stack) - count
        if start < floor:
            raise ValueError("a pickle takes more than it has")
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def _top(self):
        if not self.stack:
            raise ValueError("a pickle takes more than it has")
        return self.stack[-1]

    def _combine(self, name, values):
        if name.startswith("TUPLE"):
            self.stack.append(tuple(values))
        elif name == "BINPERSID":
            self.stack.append(_storage(*values))
        elif name == "REDUCE":
            self.stack.append(_called(*values))
        elif name.startswith("APPEND"):
            _append(self._top(), values)
        elif name.startswith("SETITEM"):
            _set_items(self._top(), values)
        # BUILD is left out: it gives a state dict the versions of its layers.


def _known(name):
    if name not in (_DICTIONARY, _TENSOR, *_DTYPES):
        raise ValueError(f"a pickle names {name!r}")
    return _Name(name)


def _append(target, values):
    if type(target) is not list:
        raise ValueError("a pickle appends, and not to a list")
    target += values


def _set_items(target, values):
    names = values[::2]
    if type(target) is not dict or len(values) % 2:
        raise ValueError("a pickle sets items, and not of a dictionary")
    # A tuple of tuples of tuples could take for ever to be hashed.
    if any(type(name) is not str for name in names):
        raise ValueError("a dictionary has a key that is no string")
    target.update(zip(names, values[1::2]))


def _called(function, arguments):
    """Return the dictionary or the `_Tensor` that a call stands for."""
    if type(function) is _Name and type(arguments) is tuple:
        if function.name == _DICTIONARY and not arguments:
            return {}
        if function.name == _TENSOR:
            return _tensor(arguments)
    raise ValueError("a pickle calls what no state dict calls")


def _storage(identity):
    match identity:
        case ("storage", _Name(name), str(key), str(), int(count), None):
            if name in _DTYPES and count >= 0:
                return _Storage(np.dtype(_DTYPES[name]), key, count)
    raise ValueError("a storage is described in an unknown way")


def _tensor(arguments):
    """Return the checked `_Tensor` of the arguments of its function."""
    if len(arguments) == 6:
        # The last two tell the gradient, which is of no use here.
        storage, offset, size, strides, *_ = arguments
        tensor = _Tensor(storage, offset, size, strides)
        if _fits(tensor):
            return tensor
    raise ValueError("a tensor does not fit its storage")


def _fits(tensor):
    """Tell whether a tensor lies in its storage, and is no larger than it.

    With strides of 0 a file of some bytes could else be an array of any size.
    """
    storage, offset, size, strides = tensor
    kinds = type(storage), type(size), type(strides)
    if kinds != (_Storage, tuple, tuple):
        return False
    numbers = (offset, *size, *strides)
    if any(type(n) is not int or n < 0 for n in numbers):
        return False
    if len(size) != len(strides) or len(size) > _MAX_DIMENSIONS:
        return False
    if max(0, *size, math.prod(size)) > storage.length:
        return False
    last = offset + sum((n - 1) * s for n, s in zip(size, strides))
    return offset <= storage.length if 0 in size else last < storage.length
