"""Files in PyTorch's old format are read to the bit, and nothing else is.

The files are written here, opcode by opcode, so that they can be wrong in one
place each.
"""

import pickle
import struct

import numpy as np
import pytest

from ktransfer.errors import KTransferError
from ktransfer.models import torch_file

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001
SIZES = {"protocol_version": 1001, "little_endian": True}
A = np.arange(24, dtype="<f4").reshape(4, 6)
B = np.arange(5, dtype="<i8")


def packed(value):
    """Return the opcodes that build `value`; bytes are opcodes already."""
    if isinstance(value, bytes):
        return value
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        number = pickle.encode_long(value)
        return b"\x8a" + bytes([len(number)]) + number
    if isinstance(value, str):
        text = value.encode()
        return b"X" + struct.pack("<I", len(text)) + text
    if isinstance(value, dict):
        return b"}(" + b"".join(map(packed, sum(value.items(), ()))) + b"u"
    start, end = (b"(", b"t") if isinstance(value, tuple) else (b"](", b"e")
    return start + b"".join(map(packed, value)) + end


def named(module, name):
    return f"c{module}\n{name}\n".encode()


def called(function, *arguments):
    return function + packed(arguments) + b"R"


def storage(key, count, kind="Float", view=None):
    name = named("torch", f"{kind}Storage")
    return packed(("storage", name, key, "cpu", count, view)) + b"Q"


def tensor(storage, size, strides, offset=0):
    function = named("torch._utils", "_rebuild_tensor_v2")
    return called(function, storage, offset, size, strides, False, DICT)


def pickled(value):
    return b"\x80\x02" + packed(value) + b"."


def stored(array, count=None):
    count = array.size if count is None else count
    return struct.pack("<q", count) + array.tobytes()


DICT = called(named("collections", "OrderedDict"))
TENSOR_A = tensor(storage("0", 24), (4, 6), (6, 1))
TENSOR_B = tensor(storage("1", 5, "Long"), (5,), (1,))
STATE = {"a": TENSOR_A, "b": TENSOR_B}
STORED = stored(A) + stored(B)


def written(
    state=STATE,
    keys=("0", "1"),
    elements=STORED,
    magic=MAGIC,
    version=VERSION,
    sizes=SIZES,
):
    values = magic, version, sizes, state, list(keys)
    return b"".join(map(pickled, values)) + elements


def read(data):
    return torch_file.read(data, "some.pth")


def of_a(*tensor_arguments, **more):
    """Return a file of one tensor, in the storage that holds `A`."""
    state = {"a": tensor(storage("0", 24), *tensor_arguments, **more)}
    return written(state, ["0"], stored(A))


def test_what_was_written_is_read():
    found = read(written())
    assert list(found) == ["a", "b"]
    for array, expected in zip(found.values(), (A, B)):
        assert array.dtype == expected.dtype
        assert not array.flags.writeable
        np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize(
    "kind, dtype",
    {
        **{"Byte": "u1", "Char": "i1", "Short": "i2", "Int": "i4"},
        **{"Long": "i8", "Half": "f2", "Float": "f4", "Double": "f8"},
    }.items(),
)
def test_every_kind_of_number(kind, dtype):
    x = np.array([0, 1, 100], f"<{dtype}")
    state = {"x": tensor(storage("k", 3, kind), (3,), (1,))}
    (found,) = read(written(state, ["k"], stored(x))).values()
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, x)


@pytest.mark.parametrize(
    "view, size, strides, offset",
    [
        (A.T, (6, 4), (1, 6), 0),
        (A[1:3, ::2], (2, 3), (6, 2), 6),
        (A[:, 5:], (4, 1), (6, 999), 5),
        (A[3, 5], (), (), 23),
        (A.reshape(-1)[24:], (0,), (1,), 24),
    ],
)
def test_views_of_a_storage(view, size, strides, offset):
    found = read(of_a(size, strides, offset=offset))["a"]
    assert found.shape == view.shape
    np.testing.assert_array_equal(found, view)


def test_tensors_that_share_a_storage():
    state = {"a": TENSOR_A, "row": tensor(storage("0", 24), (6,), (1,), 6)}
    found = read(written(state, ["0"], stored(A)))
    np.testing.assert_array_equal(found["row"], A[1])


def test_the_storages_lie_in_the_order_of_their_keys():
    found = read(written(keys=["1", "0"], elements=stored(B) + stored(A)))
    np.testing.assert_array_equal(found["a"], A)


def test_a_state_dict_as_a_module_has_it():
    # Kept in the memo and read from it, with the versions of its layers.
    versions = packed({"_metadata": {"": {"version": 1}}}) + b"b"
    items = packed("a") + TENSOR_A + b"r\x01\x01\0\0s"
    items += packed("same") + b"j\x01\x01\0\0s"
    found = read(written(DICT + b"q\0" + items + versions, ["0"], stored(A)))
    assert list(found) == ["a", "same"]
    np.testing.assert_array_equal(found["same"], A)


FITS = "does not fit"
SYSTEM = called(named("posix", "system"), "touch damage")
EVAL = called(named("builtins", "eval"), "open('damage', 'w')")
# Of each bad file the reason that its refusal gives.
BAD = {
    # Other formats
    "empty": ("exhausted", b""),
    "text": ("invalid literal", b"In the beginning was the word.\n" * 9),
    "zip": ("a zip archive", b"PK\x03\x04" + bytes(99)),
    "zeros": ("unknown", bytes(999)),
    "magic": ("does not begin", written(magic=MAGIC + 1)),
    "version": ("does not begin", written(version=1002)),
    "big-endian": (
        "little-endian",
        written(sizes={**SIZES, "little_endian": False}),
    ),
    "no sizes": ("little-endian", written(sizes=7)),
    # What names other things, or calls them
    "os.system": ("names 'posix system'", written({"a": SYSTEM})),
    "os.system first": ("names 'posix system'", SYSTEM + written()),
    "eval": ("names 'builtins eval'", written({"a": EVAL})),
    "eval in the keys": ("names 'builtins eval'", written(keys=[EVAL])),
    "another class": (
        "names 'numpy ndarray'",
        written({"a": named("numpy", "ndarray")}),
    ),
    "another storage": (
        "names 'torch BFloat16Storage'",
        written({"a": storage("0", 24, "BFloat16")}),
    ),
    "a call of a storage": (
        "calls what",
        written({"a": called(named("torch", "FloatStorage"), 3)}),
    ),
    "arguments of a dictionary": (
        "calls what",
        written(called(named("collections", "OrderedDict"), [])),
    ),
    "a call of text": (
        "calls what",
        written({"a": called(packed("eval"), "1")}),
    ),
    "a new object": (
        "opcode NEWOBJ",
        written(named("collections", "OrderedDict") + b")\x81"),
    ),
    "a name of protocol 4": (
        "opcode SHORT_BINUNICODE",
        written({"a": b"\x8c\x05posix\x8c\x06system\x93"}),
    ),
    "an extension": ("opcode EXT1", written({"a": b"\x82\x01"})),
    # Broken programs
    "an empty stack": ("more than it has", b"."),
    "too few for a tuple": ("more than it has", b"K\x01\x87."),
    "below the mark": ("more than it has", b"K\x01(\x85."),
    "no mark": ("a mark", b"t."),
    "an empty memo": ("has not kept", b"h\x07."),
    "nothing to keep": ("more than it has", b"q\x07."),
    "a huge text": ("only 4 remain", b"X\xff\xff\xff\xffabc."),
    "append to a number": ("not to a list", b"K\x01K\x02a."),
    "items of a list": ("not of a dictionary", b"]X\0\0\0\0NsN."),
    "an item too few": ("not of a dictionary", b"}(X\0\0\0\0u."),
    "a key of a number": ("no string", written({5: TENSOR_A})),
    # Dictionaries of other things
    "a number": ("no dictionary of tensors", written(7)),
    "no tensor": ("no dictionary of tensors", written({})),
    "a number beside": ("'epoch' is no", written({**STATE, "epoch": 3})),
    "one inside": ("'model' is no tensor", written({"model": STATE})),
    "a storage alone": ("'a' is no", written({"a": storage("0", 24)})),
    # Tensors
    "negative stride": (FITS, of_a((4, 6), (-6, 1), offset=18)),
    "negative offset": (FITS, of_a((4, 6), (6, 1), offset=-1)),
    "negative size": (FITS, of_a((-4, 6), (6, 1))),
    "too large": (FITS, of_a((5, 6), (6, 1))),
    "too wide a stride": (FITS, of_a((4, 6), (7, 1))),
    "too far an offset": (FITS, of_a((4, 6), (6, 1), offset=1)),
    "an offset beyond": (FITS, of_a((0,), (1,), offset=25)),
    "huge by strides of 0": (FITS, of_a((1 << 40, 1 << 20), (0, 0))),
    "huge and empty": (FITS, of_a((0, 1 << 80), (1, 1))),
    "a stride too few": (FITS, of_a((4, 6), (6,))),
    "many dimensions": (FITS, of_a((1,) * 99, (1,) * 99)),
    "a size of lists": (FITS, of_a([4, 6], [6, 1])),
    "a size of text": (FITS, of_a(("4", "6"), (6, 1))),
    "a size of a truth value": (FITS, of_a((True,), (1,))),
    "a tensor of a number": (
        FITS,
        written({"a": tensor(packed(3), (1,), (1,))}),
    ),
    "arguments missing": (
        FITS,
        written({"a": called(named("torch._utils", "_rebuild_tensor_v2"), 1)}),
    ),
    # Storages
    "an id of text": ("unknown way", written({"a": packed("0") + b"Q"})),
    "a view": (
        "unknown way",
        written({"a": storage("0", 24, view=("1", 0, 24))}),
    ),
    "a negative count": ("unknown way", written({"a": storage("0", -1)})),
    "a huge count": (
        "ends within",
        written({"a": tensor(storage("0", 1 << 70), (1,), (1,))}, ["0"]),
    ),
    "two counts": (
        "in two ways",
        written({**STATE, "c": tensor(storage("0", 23), (1,), (1,))}),
    ),
    "a count that differs": (
        "of 24 elements has 23",
        written(elements=stored(A, 23) + stored(B)),
    ),
    "a count below 0": (
        "of 24 elements has -24",
        written(elements=stored(A, -24) + stored(B)),
    ),
    "storages swapped": ("of 5 elements has 24", written(keys=["1", "0"])),
    "a key missing": ("not those of", written(keys=["0"])),
    "a key too many": ("not those of", written(keys=["0", "1", "2"])),
    "a key twice": ("not those of", written(keys=["0", "1", "1"])),
    "a key that is a number": ("no list of names", written(keys=[0, 1])),
    "no elements": ("ends within", written(elements=b"")),
    "a byte too few": ("ends within", written()[:-1]),
    "a byte too many": ("1 bytes are left over", written() + b"\0"),
    "twice": ("left over", written() * 2),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_in_a_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    reason, data = BAD[name]
    with pytest.raises(KTransferError, match=reason) as caught:
        read(data)
    assert caught.value.name == "E_WEIGHTS"
    assert caught.value.message.startswith("some.pth cannot be read")
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 300
    assert not list(tmp_path.iterdir())


def test_the_bad_files_that_call_something_would_do_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickled(SYSTEM))
    assert (tmp_path / "damage").exists()


def test_a_file_cut_anywhere_is_refused():
    data = written()
    for length in range(len(data)):
        with pytest.raises(KTransferError, match="E_WEIGHTS"):
            read(data[:length])


def test_a_changed_byte_raises_nothing_else():
    data = written()
    for place in range(len(data)):
        for value in (0, 0xFF, data[place] ^ 1, ord("P"), ord("R")):
            changed = data[:place] + bytes([value]) + data[place + 1 :]
            try:
                found = read(changed)
            except KTransferError as error:
                assert error.name == "E_WEIGHTS"
            else:
                assert sum(x.size for x in found.values()) <= 29


def test_tuples_in_tuples_end():
    # Hashed, they would take for ever or overflow the stack of C.
    deep = packed(()) + b"\x85" * 200_000
    wide = packed(()) + b"q\x00h\x00\x86" * 60
    for key in (deep, wide):
        for state in ({key: TENSOR_A}, {"a": key}, key, called(key)):
            with pytest.raises(KTransferError, match="E_WEIGHTS"):
                read(written(state))
        with pytest.raises(KTransferError, match="E_WEIGHTS"):
            read(written(keys=[key]))
