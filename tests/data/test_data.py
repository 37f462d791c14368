"""Tasks: names, checks of the user's data, subsets, downloads, sealing."""

import contextlib
import functools
import gzip
import hashlib
import http.server
import io
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ktransfer import data
from ktransfer.data import archives, tasks
from ktransfer.data.split import sha256
from ktransfer.errors import KTransferError

REAL = Path(os.environ.get("KTRANSFER_DATA") or "/nonexistent")


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    """Point data and cache at folders of this test, and keep proxies out."""
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("KTRANSFER_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    problem = tasks._problem
    yield
    problem.cache_clear()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "data"


def sample(num_images=60, num_classes=3, shape=(4, 4, 3), seed=0):
    rng = np.random.default_rng(seed)
    return {
        "x_train": rng.integers(0, 256, (num_images, *shape), "uint8"),
        "y_train": np.arange(num_images) % num_classes,
        "x_test": rng.integers(0, 256, (12, *shape), "uint8"),
        "y_test": np.arange(12) % num_classes,
    }


def save(folder, name="mine", **changes):
    arrays = {**sample(), **changes}
    kept = {key: value for key, value in arrays.items() if value is not None}
    np.savez(folder / f"{name}.npz", **kept)
    return kept


@contextlib.contextmanager
def refused(name, *words):
    """Expect a `KTransferError` of this name, whose one line has the words."""
    with pytest.raises(KTransferError) as caught:
        yield
    assert caught.value.name == name, caught.value
    assert "\n" not in caught.value.message
    for word in words:
        assert str(word) in caught.value.message, caught.value.message


# Names ----------------------------------------------------------------------


def test_import_is_light():
    code = (
        "import sys; import ktransfer.data\n"
        "assert not {'keras', 'tensorflow', 'matplotlib', 'PIL'} "
        "& set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "name",
    ["../../x", "a/b", "a\0b", "-rf", "CON", "", "_a", "a-b", "x" * 65, "é", 3]
    + ["digits\n", None, ["digits"]],
)
def test_names_that_break_the_grammar(name):
    with refused("E_ARGUMENT"):
        data.check_name(name)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("mnsit", "mnist"),
        ("lettres", "letters"),
        ("cifar10_animal", "_animals"),
    ],
)
def test_unknown_names_give_the_nearest(name, near):
    with refused("E_UNKNOWN", "Did you mean", near):
        data.check_name(name)


@pytest.mark.parametrize("name", ["digits_animals", "digits_", "digits_01_2"])
def test_unknown_subsets(name):
    with refused("E_UNKNOWN"):
        data.check_name(name)


@pytest.mark.parametrize(
    "name",
    ["digits_3", "digits_3_3", "digits_5to3", "digits_3to3", "digits_0to10"]
    + ["mnist_8_12", "digits_0to9999"],
)
def test_subsets_that_pick_no_classes(name):
    with refused("E_ARGUMENT"):
        data.check_name(name)


def test_check_name_reads_no_image(folder, monkeypatch):
    (folder / "broken.npz").write_bytes(b"not an archive")
    monkeypatch.setattr(tasks, "_problem", None)
    for name in ("broken", "broken_0to4", "digits", "cifar10_animals"):
        data.check_name(name)


def test_names_lists_every_kind(folder):
    save(folder, "mine")
    save(folder, "Not-A-Name")
    (folder / "photos" / "train").mkdir(parents=True)
    found = data.names()
    assert found == sorted(found)
    assert {"digits", "letters", "mine", "photos"} <= set(found)
    assert {"mnist", "cifar100", "cifar10_vehicles"} <= set(found)
    assert "Not-A-Name" not in found
    for name in found:
        data.check_name(name)


def test_a_data_folder_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setenv("KTRANSFER_DATA", str(tmp_path / "nowhere"))
    with refused("E_ARGUMENT", "KTRANSFER_DATA"):
        data.load("mnist")
    # Also for what needs no folder: a misspelt one would be silent.
    with refused("E_ARGUMENT", "KTRANSFER_DATA"):
        data.load("digits")


def test_several_data_folders_of_which_the_first_wins(
    folder, tmp_path, monkeypatch
):
    other, own = tmp_path / "other", tmp_path / "own"
    for place, num_classes in ((folder, 2), (other, 3)):
        place.mkdir(exist_ok=True)
        save(place, "both", **sample(num_classes=num_classes))
    save(other, "there")
    photos(other)
    save(folder, "here")
    named = os.pathsep.join(["", str(folder), str(other), ""])
    monkeypatch.setenv("KTRANSFER_DATA", named)
    assert data.load("both").num_classes == 2
    assert data.load("there").num_classes == 3
    assert {"both", "here", "there", "photos"} <= set(data.names())
    assert len(data.load("photos").train.y) == 4
    monkeypatch.setenv("KTRANSFER_DATA", f"{folder}{os.pathsep}{own}")
    with refused("E_ARGUMENT", "KTRANSFER_DATA", repr(str(own))):
        data.load("here")


def test_a_name_of_an_embedded_set_is_refused(folder):
    save(folder, "digits")
    with refused("E_ARGUMENT", "embedded data set 'digits'"):
        data.load("digits")


def test_the_longest_base_wins(folder):
    save(folder, "my")
    save(folder, "my_set", **sample(num_classes=4))
    assert data.load("my_set").num_classes == 4
    assert data.load("my_set_1_3").labels == (1, 3)
    assert data.load("my_0_2").labels == (0, 2)


# Classes --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "classes", "origin"),
    [
        ("digits_5to9", (5, 6, 7, 8, 9), "embedded glyphs, classes 5-9"),
        ("digits_7_0_3", (7, 0, 3), "embedded glyphs, classes 7, 0, 3"),
    ],
)
def test_label_maps_there_and_back(name, classes, origin):
    task, test = data.load(name), data.test_split(name)
    assert (task.labels, task.origin) == (classes, origin)
    assert task.num_classes == len(classes)
    whole = data.load("digits").train, data.test_split("digits")
    for part, full in zip((task.train, test), whole, strict=True):
        back = np.array(task.labels)[part.y]
        kept = np.isin(full.y, classes)
        assert (back == full.y[kept]).all()
        assert (part.x == full.x[kept]).all()
        assert set(part.y.tolist()) == set(range(len(classes)))


def test_letters_keep_their_names():
    assert "".join(data.load("letters").labels) == "BCDEFGOPQR"
    assert data.load("letters_0_9").labels == ("B", "R")


def test_halves_of_one_domain_share_no_image():
    low, high = data.load("digits_0to4"), data.load("digits_5to9")
    images = [{i.tobytes() for i in half.train.x} for half in (low, high)]
    assert not images[0] & images[1]
    assert low.sha256 != high.sha256
    assert data.digest("digits_0to4") != data.digest("digits_5to9")


def test_named_subsets_of_cifar10(folder):
    save(folder, "cifar10", **sample(num_classes=10))
    animals, vehicles = (
        data.load(f"cifar10_{part}") for part in ("animals", "vehicles")
    )
    assert animals.labels == (2, 3, 4, 5, 6, 7)
    assert vehicles.labels == (0, 1, 8, 9)
    assert vehicles.origin.endswith("classes 0, 1, 8, 9")


def test_classes_that_the_users_data_lack(folder):
    save(folder)
    data.check_name("mine_0_5")
    with refused("E_ARGUMENT", "no class 5"):
        data.load("mine_0_5")


def test_subsets_drop_unlabelled_images(folder):
    save(folder, x_unlabelled=sample(seed=1)["x_train"])
    assert len(data.load("mine").unlabelled) == 60
    assert data.load("mine_0_1").unlabelled is None


def test_a_subset_without_test_images(folder):
    save(folder, y_test=np.zeros(12, int))
    with refused("E_SUBSET", "test"):
        data.load("mine_1_2")


# Labels per class and validation --------------------------------------------


def images_of(split):
    return {image.tobytes() for image in split.x}


def shuffled(split, seed):
    order = np.random.default_rng(seed).permutation(len(split.y))
    return data.Split(split.x[order], split.y[order])


def by_class(split):
    order = np.argsort(split.y, kind="stable")
    return data.Split(split.x[order], split.y[order])


def test_subset_bytes_are_the_golden_ones():
    assert data.load("digits", 10).sha256 == (
        "44f2a58310fd8d2dcac0c44a3b2f3118c81c70838014d5c13153240357af2b76"
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_subsets_are_exact_stratified_and_nested(seed):
    whole = data.load("letters")
    smaller = set()
    for labels_per_class in (1, 5, 10, 50, 500):
        task = data.load("letters", labels_per_class, seed)
        assert (np.bincount(task.train.y) == labels_per_class).all()
        assert smaller < images_of(task.train) <= images_of(whole.train)
        smaller = images_of(task.train)
        assert task.sha256 == sha256(*task.train)


def test_subsets_depend_on_the_seed():
    first, second = (data.load("digits", 10, seed) for seed in (0, 1))
    assert first.sha256 != second.sha256
    assert len(images_of(first.train) & images_of(second.train)) < 20


def test_subsets_and_validation_ignore_the_order_of_rows():
    split = data.load("digits", 30).train
    for other in (shuffled(split, 1), by_class(split)):
        assert sha256(*data.subset(other, 7, 3)) == sha256(
            *data.subset(split, 7, 3)
        )
        for mine, theirs in zip(
            data.validation_split(split),
            data.validation_split(other),
            strict=True,
        ):
            assert sha256(*mine) == sha256(*theirs)


def test_subsets_do_not_come_sorted_by_class():
    labels = data.load("digits", 10).train.y
    assert len(set(labels[:10].tolist())) > 3


@pytest.mark.parametrize("labels_per_class", [0, -1, 2.5, True, "5"])
def test_labels_per_class_that_are_no_whole_number(labels_per_class):
    with refused("E_ARGUMENT", "labels_per_class"):
        data.load("digits", labels_per_class)


def test_a_seed_that_is_no_whole_number():
    with refused("E_ARGUMENT", "seed"):
        data.load("digits", 5, seed=0.5)


def test_more_labels_than_there_are(folder):
    save(folder, y_train=np.array([0] * 30 + [1] * 26 + [2] * 4))
    with refused("E_SUBSET", "0: 30, 1: 26, 2: 4", "at most 4"):
        data.load("mine", 5)


@pytest.mark.parametrize("share", [0.01, 0.2, 0.33, 0.5, 0.99])
@pytest.mark.parametrize(
    "arrange", [by_class, functools.partial(shuffled, seed=5)]
)
def test_validation_is_disjoint_and_stratified(share, arrange):
    task = data.load("digits")
    counts = np.array([2, 3, 5, 10, 20, 50, 2, 100, 7, 400])
    rows = [np.flatnonzero(task.train.y == k)[:n] for k, n in enumerate(counts)]
    split = arrange(data.Split(*(a[np.concatenate(rows)] for a in task.train)))
    training, validation = data.validation_split(split, share, seed=2)
    assert not images_of(training) & images_of(validation)
    assert images_of(training) | images_of(validation) == images_of(split)
    kept, taken = np.bincount(training.y), np.bincount(validation.y)
    assert (kept + taken == counts).all()
    assert (kept > 0).all() and (taken > 0).all()
    assert (np.abs(taken - share * counts) <= 1).all()


def test_a_single_image_of_a_class_stays_in_training():
    split = data.Split(
        sample()["x_train"][:5], np.array([0, 0, 0, 0, 1], "int32")
    )
    training, validation = data.validation_split(split, 0.9)
    assert np.bincount(training.y).tolist() == [1, 1]
    assert np.bincount(validation.y).tolist() == [3]


def test_validation_depends_on_its_seed_and_not_on_that_of_the_subset():
    split = data.load("digits", 50, seed=0).train
    parts = [images_of(data.validation_split(split, seed=s)[1]) for s in (0, 1)]
    assert parts[0] != parts[1]
    assert parts[0] != images_of(data.subset(split, 10, 0))


@pytest.mark.parametrize("share", [0, 1, -0.1, 2, float("nan"), True, "a"])
def test_shares_that_are_none(share):
    with refused("E_ARGUMENT", "share"):
        data.validation_split(data.load("digits", 5).train, share)


# The user's arrays ----------------------------------------------------------


def with_value(array, index, value, dtype):
    array = array.astype(dtype)
    array[index] = value
    return array


X, Y = sample()["x_train"], sample()["y_train"]


def test_a_good_npz(folder):
    unlabelled = sample(seed=3)["x_train"][:7]
    arrays = save(folder, x_unlabelled=unlabelled)
    task, test = data.load("mine"), data.test_split("mine")
    assert (task.train.x == arrays["x_train"]).all()
    assert (task.train.y == arrays["y_train"]).all()
    assert (test.x == arrays["x_test"]).all()
    assert (task.unlabelled == unlabelled).all()
    assert (task.labels, task.image_shape) == ((0, 1, 2), (4, 4, 3))
    assert task.origin.startswith("mine.npz (sha256 ")
    assert str(folder) not in str(task.origin)
    assert task.sha256 == sha256(*task.train, task.unlabelled)


@pytest.mark.parametrize(
    "labels", [Y[:, None], Y.astype(float), Y.astype("uint8"), Y.astype(">i8")]
)
def test_good_labels(folder, labels):
    save(folder, y_train=labels)
    train = data.load("mine").train
    assert train.y.dtype == "int32"
    assert (train.y == Y).all()


def test_grey_images_get_a_channel(folder):
    save(folder, x_train=X[..., 0], x_test=sample()["x_test"][..., 0])
    assert data.load("mine").image_shape == (4, 4, 1)


def test_arrays_in_the_order_of_fortran(folder):
    save(folder, x_train=np.asfortranarray(X))
    assert (data.load("mine").train.x == X).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x_train": X / 255.0}, ["x_train", "float64", "* 255"]),
        ({"x_test": X[:12].astype("float32")}, ["x_test", "float32"]),
        (
            {"x_train": with_value(X, (5, 1, 2, 0), np.nan, float)},
            ["nan", "(5, 1, 2, 0)"],
        ),
        (
            {"x_train": with_value(X, (9, 0, 0, 2), np.inf, float)},
            ["inf", "(9, 0, 0, 2)"],
        ),
        ({"x_train": X.astype(int)}, ["int64", "astype"]),
        ({"x_train": X > 7}, ["bool"]),
        ({"x_train": X[..., :2]}, ["(60, 4, 4, 2)"]),
        ({"x_train": X.transpose(0, 3, 1, 2)}, ["(60, 3, 4, 4)"]),
        ({"x_train": X.reshape(60, -1)}, ["(60, 48)"]),
        ({"x_train": X[:0], "y_train": Y[:0]}, ["(0, 4, 4, 3)"]),
        ({"x_train": X[:, :0]}, ["(60, 0, 4, 3)"]),
        ({"x_train": np.full_like(X, 7)}, ["every pixel", "7"]),
        ({"x_test": X[:12, :3]}, ["(3, 4, 3)", "(4, 4, 3)"]),
        ({"x_unlabelled": X[:, :3]}, ["x_unlabelled", "(3, 4, 3)"]),
        ({"x_unlabelled": X / 255}, ["x_unlabelled", "float64"]),
        ({"x_test": None}, ["no array x_test"]),
    ],
)
def test_bad_images(folder, changes, words):
    save(folder, **changes)
    with refused("E_IMAGES", "mine.npz", *words):
        data.load("mine")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"y_train": with_value(Y, 7, -1, int)}, ["-1", "index 7"]),
        ({"y_train": with_value(Y, 8, 1.5, float)}, ["1.5", "index 8"]),
        ({"y_train": with_value(Y, 9, np.nan, float)}, ["nan", "index 9"]),
        ({"y_train": with_value(Y, 2, np.inf, float)}, ["inf", "index 2"]),
        ({"y_train": with_value(Y, 2, 2**40, int)}, [2**40, "index 2"]),
        ({"y_test": np.arange(12) % 4}, ["3", "index 3", "0 to 2"]),
        ({"y_train": np.eye(3)[Y]}, ["(60, 3)", "argmax"]),
        ({"y_train": Y[:-1]}, ["59", "60"]),
        ({"y_train": Y[None]}, ["(1, 60)"]),
        ({"y_train": Y.astype(str)}, ["<U"]),
        ({"y_train": Y > 0}, ["bool"]),
        ({"y_train": np.array(1)}, ["()"]),
        ({"y_test": None}, ["no array y_test"]),
    ],
)
def test_bad_labels(folder, changes, words):
    save(folder, **changes)
    with refused("E_LABELS", *words):
        data.load("mine")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.where(Y == 1, 3, Y), ["class 1", "3 of 4"]),
        (Y + 1, ["class 0"]),
        (Y * 0, ["one class"]),
        (with_value(Y, 0, 10**9, int), ["class 3"]),
    ],
)
def test_bad_sets_of_classes(folder, labels, words):
    save(folder, y_train=labels)
    with refused("E_SUBSET", *words):
        data.load("mine")


NAMES = np.array(["ant", "bee", "猫"])


@pytest.mark.parametrize("names", [NAMES, NAMES.astype(">U9")])
def test_names_of_classes(folder, names):
    plain = save(folder, "plain")
    save(folder, classes=names)
    assert data.load("mine").labels == ("ant", "bee", "猫")
    assert data.load("mine_2_0").labels == ("猫", "ant")
    assert data.load("plain").labels == (0, 1, 2)
    assert data.load("plain").sha256 == data.load("mine").sha256
    assert set(plain) == {"x_train", "y_train", "x_test", "y_test"}


def code_points(*values):
    return np.array(values, "uint32").view("<U1")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (NAMES[:2], ["<U3 in shape (2,)", "3 texts"]),
        (np.array([*NAMES, "dog"]), ["shape (4,)"]),
        (NAMES[:, None], ["shape (3, 1)"]),
        (np.array("ant"), ["shape ()"]),
        (np.arange(3), ["int64"]),
        (np.array([b"a", b"b", b"c"]), ["S1"]),
        (np.array(["ant", "bee", "ant"]), ["'ant' is there twice"]),
        (np.array(["ant", "", "bee"]), ["name 1 is ''"]),
        (np.array(["ant", "bee", "  "]), ["name 2 is '  '"]),
        (np.array(["ant", "b\nee", "cat"]), ["name 1", "printed"]),
        (np.array(["\x1b[2J", "b", "c"]), ["name 0", "printed"]),
        (np.array(["a", "b\u202e", "c"]), ["name 1", "printed"]),
        (code_points(97, 0xDCFF, 99), ["name 1", "printed"]),
        (code_points(97, 0x7FFFFFFF, 99), ["no text"]),
        (NAMES.astype(object), ["Python objects"]),
    ],
)
def test_bad_names_of_classes(folder, names, words):
    save(folder, classes=names)
    with refused("E_LABELS", "classes", "mine.npz", *words):
        data.load("mine")


class Marker:
    """What unpickling would run."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    ("key", "name"), [("x_train", "E_IMAGES"), ("y_train", "E_LABELS")]
)
def test_a_pickled_array_is_refused_and_not_run(folder, tmp_path, key, name):
    marker = tmp_path / "marker"
    planted = np.empty(1, object)
    planted[0] = Marker(marker)
    save(folder, **{key: planted})
    with refused(name, key, "Python objects"):
        data.load("mine")
    assert not marker.exists()


def member(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def write_zip(path, members, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in members:
            archive.writestr(name, content)


def test_a_bare_pickle_is_refused_and_not_run(folder, tmp_path):
    (folder / "mine.npz").write_bytes(pickle.dumps(Marker(tmp_path / "marker")))
    with refused("E_DATA_HASH", "mine.npz"):
        data.load("mine")
    assert not (tmp_path / "marker").exists()


def test_damaged_archives(folder):
    save(folder)
    whole = (folder / "mine.npz").read_bytes()
    bad = {
        "empty": b"",
        "cut": whole[:-100],
        "half": whole[: len(whole) // 2],
        "flipped": whole[:500] + bytes([whole[500] ^ 1]) + whole[501:],
        "text": b"<html>",
    }
    for name, content in bad.items():
        (folder / f"{name}.npz").write_bytes(content)
        with refused("E_DATA_HASH", name):
            data.load(name)


def test_headers_that_lie(folder):
    header = member(X).replace(b"(60, 4, 4, 3)", b"(9**99, 4, 3)")
    huge = member(X).replace(b"(60, 4, 4, 3), }  ", b"(60000000, 4, 4), }")
    assert header != member(X) != huge
    for content in (header, huge, b"\x93NUMPY\x09\x00", b"x" * 100, b""):
        write_zip(folder / "mine.npz", [("x_train.npy", content)])
        with refused("E_DATA_HASH", "mine.npz"):
            data.load("mine")


def test_bombs_and_doubled_names(folder):
    start = time.process_time()
    zeros = member(np.zeros((80 << 20,), "uint8"))
    packed = {"compression": zipfile.ZIP_DEFLATED}
    write_zip(folder / "bomb.npz", [("x_train.npy", zeros)], **packed)
    with refused("E_DATA_HASH", "expand"):
        data.load("bomb")
    with pytest.warns(UserWarning, match="Duplicate name"):
        write_zip(folder / "twice.npz", [("x_train.npy", member(X))] * 2)
    with refused("E_DATA_HASH", "same name"):
        data.load("twice")
    assert time.process_time() - start < 2


def test_digest_covers_training_test_and_unlabelled(folder):
    arrays = sample()
    changed = {
        "a": {},
        "b": {"x_test": arrays["x_test"] ^ 1},
        "c": {"y_test": arrays["y_test"][::-1]},
        "d": {"x_train": X ^ 1},
        "e": {"x_unlabelled": X},
    }
    for name, changes in changed.items():
        save(folder, name, **changes)
    assert len({data.digest(name) for name in changed}) == 5
    assert data.load("a").sha256 == data.load("b").sha256
    assert data.digest("a") == data.digest("a")


def test_a_poisoned_test_split_leaves_the_task_as_it_was(folder):
    save(folder, "clean")
    noise = sample(seed=9)
    save(
        folder,
        "poisoned",
        x_test=noise["x_test"],
        y_test=np.arange(12)[::-1] % 3,
    )
    clean, poisoned = (data.load(name, 3) for name in ("clean", "poisoned"))
    assert clean.sha256 == poisoned.sha256
    assert (
        data.test_split("clean").x.sum() != data.test_split("poisoned").x.sum()
    )


# Image folders --------------------------------------------------------------


def picture(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def photos(folder, grey=False):
    """Write five pictures, whose first pixel tells class and number."""
    for part, name, number in [
        ("train", "cat", 2),
        ("train", "ant", 2),
        ("train", "cat", 1),
        ("train", "ant", 1),
        ("test", "cat", 1),
    ]:
        pixels = np.full((6, 5) if grey else (6, 5, 3), 200, "uint8")
        pixels[0, 0] = {"ant": 10, "cat": 20}[name] + number
        picture(folder / "photos" / part / name / f"{number}.png", pixels)
    return folder / "photos"


@pytest.mark.parametrize("grey", [False, True])
def test_images_keep_their_labels(folder, grey):
    photos(folder, grey)
    task, test = data.load("photos"), data.test_split("photos")
    assert task.train.x[:, 0, 0, 0].tolist() == [11, 12, 21, 22]
    assert task.train.y.tolist() == [0, 0, 1, 1]
    assert test.y.tolist() == [1]
    assert task.labels == ("ant", "cat")
    assert task.image_shape == (6, 5, 1 if grey else 3)
    assert task.origin.startswith("folder photos (sha256 ")


def test_one_colour_image_makes_all_of_them_colour(folder):
    root = photos(folder, grey=True)
    pixels = np.zeros((6, 5, 4), "uint8")
    pixels[..., 1:] = 255
    picture(root / "train" / "ant" / "3.PNG", pixels)
    (root / "train" / "ant" / "notes.txt").write_text("no image")
    (root / "train" / ".hidden").mkdir()
    task = data.load("photos")
    assert task.train.x[2, 3, 3].tolist() == [0, 255, 255]
    assert task.train.x[0, 0, 0].tolist() == [11, 11, 11]


def test_npz_wins_over_a_folder(folder):
    photos(folder)
    save(folder, "photos")
    assert data.load("photos").origin.startswith("photos.npz")


def test_images_of_another_size(folder):
    root = photos(folder)
    picture(root / "train" / "cat" / "3.png", np.zeros((5, 6, 3), "uint8"))
    with refused("E_IMAGES", "train/cat/3.png", "6 x 5", "5 x 6"):
        data.load("photos")


@pytest.mark.parametrize("content", [b"", b"<html>", None])
def test_broken_image_files(folder, content):
    root = photos(folder)
    path = root / "train" / "cat" / "3.png"
    if content is None:
        content = (root / "train" / "cat" / "1.png").read_bytes()[:60]
    path.write_bytes(content)
    with refused("E_IMAGES", "train/cat/3.png"):
        data.load("photos")


def test_images_of_sixteen_bits(folder):
    root = photos(folder, grey=True)
    picture(root / "train" / "cat" / "3.png", np.full((6, 5), 999, "uint16"))
    assert (data.load("photos").train.x[-1] == 3).all()


def test_images_of_floats(folder):
    root = photos(folder, grey=True)
    picture(root / "train" / "cat" / "3.tif", np.full((6, 5), 0.5, "float32"))
    with refused("E_IMAGES", "train/cat/3.tif", "neither grey nor colour"):
        data.load("photos")


def test_folders_without_images_or_with_unknown_classes(folder):
    root = photos(folder)
    (root / "train" / "dog").mkdir()
    with refused("E_SUBSET", "dog"):
        data.load("photos")
    picture(root / "test" / "emu" / "1.png", np.eye(6, 5, dtype="uint8"))
    (root / "train" / "dog").rmdir()
    with refused("E_LABELS", "emu"):
        data.load("photos")
    (folder / "bare" / "train").mkdir(parents=True)
    with refused("E_SUBSET", "bare/train/<class>/"):
        data.load("bare")


# Sealing --------------------------------------------------------------------


def test_the_test_split_is_sealed_while_a_method_runs():
    with data.sealed():
        with refused("E_INVARIANT", "a method may not open the test split"):
            data.test_split("digits")
        with data.sealed():
            pass
        with refused("E_INVARIANT"):
            data.test_split("digits")
        data.load("digits", 5)
        data.digest("digits")
    assert len(data.test_split("digits").y) == 1000


def test_an_error_breaks_the_seal_of_its_own_block():
    with contextlib.suppress(RuntimeError), data.sealed():
        raise RuntimeError
    data.test_split("digits")


# Downloads ------------------------------------------------------------------


@contextlib.contextmanager
def server(pages):
    """Serve `pages`, {path: bytes}; yield the address and what was asked."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            content = pages.get(self.path)
            if content is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as host:
        thread = threading.Thread(target=host.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{host.server_port}", asked
        finally:
            host.shutdown()
            thread.join()


def tarred(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def cifar(num_classes):
    """Return random arrays and the CIFAR archive that holds them."""
    arrays = sample(50, num_classes, (32, 32, 3))
    rows = {}
    for part in ("train", "test"):
        images, labels = arrays[f"x_{part}"], arrays[f"y_{part}"]
        planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
        columns = [labels.astype("uint8")[:, None], planes]
        if num_classes == 25:
            columns.insert(0, np.full((len(images), 1), 99, "uint8"))
        rows[part] = np.hstack(columns)
    if num_classes == 25:
        members = {
            f"cifar-100-binary/{p}.bin": r.tobytes() for p, r in rows.items()
        }
    else:
        home = "cifar-10-batches-bin"
        members = {
            f"{home}/data_batch_{n + 1}.bin": rows["train"][10 * n :][
                :10
            ].tobytes()
            for n in range(5)
        }
        members[f"{home}/test_batch.bin"] = rows["test"].tobytes()
        members["../../escape"] = b"never written"
    return arrays, tarred(members)


def idx(array):
    shape = struct.pack(f">{array.ndim}i", *array.shape)
    head = bytes([0, 0, 8, array.ndim])
    return gzip.compress(head + shape + array.astype("uint8").tobytes())


def pin(monkeypatch, name, address, contents):
    """Point `name` at the `contents` on a local server."""
    public = archives.PUBLIC[name]
    pinned = tuple(
        archives.Archive(
            f"{address}/{old.url.rsplit('/', 1)[1]}",
            len(content),
            hashlib.sha256(content).hexdigest(),
        )
        for old, content in zip(public.archives, contents, strict=True)
    )
    monkeypatch.setitem(archives.PUBLIC, name, public._replace(archives=pinned))


CIFAR10 = "/cifar-10-binary.tar.gz"


def assert_holds(name, arrays):
    task, test = data.load(name), data.test_split(name)
    images = arrays["x_train"]
    assert (task.train.x == images.reshape(task.train.x.shape)).all()
    assert (task.train.y == arrays["y_train"]).all()
    assert (test.x.reshape(arrays["x_test"].shape) == arrays["x_test"]).all()
    assert (test.y == arrays["y_test"]).all()


@pytest.mark.parametrize(
    ("name", "num_classes", "origin"),
    [("cifar10", 10, "CIFAR-10"), ("cifar100", 25, "CIFAR-100")],
)
def test_cifar_is_converted(monkeypatch, tmp_path, name, num_classes, origin):
    arrays, archive = cifar(num_classes)
    page = f"/{archives.PUBLIC[name].archives[0].url.rsplit('/', 1)[1]}"
    with server({page: archive}) as (address, asked):
        pin(monkeypatch, name, address, [archive])
        assert_holds(name, arrays)
        tasks._problem.cache_clear()
        assert_holds(name, arrays)
    assert asked == [page]
    assert data.load(name).origin == origin
    kept = {p.name for p in tmp_path.rglob("*") if p.is_file()}
    assert kept == {f"{name}.npz", f"{name}.lock"}


def test_fashion_mnist_is_converted(monkeypatch):
    arrays = sample(50, 10, (28, 28))
    contents = [idx(array) for array in arrays.values()]
    pages = [
        f"/{archive.url.rsplit('/', 1)[1]}"
        for archive in archives.PUBLIC["fashion_mnist"].archives
    ]
    with server(dict(zip(pages, contents, strict=True))) as (address, asked):
        pin(monkeypatch, "fashion_mnist", address, contents)
        assert_holds("fashion_mnist", arrays)
    assert sorted(asked) == sorted(pages)
    assert (
        data.load("fashion_mnist_0_7").origin == "Fashion-MNIST, classes 0, 7"
    )


def test_mnist_is_converted(monkeypatch):
    arrays = sample(50, 10, (28, 28))
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    with server({"/mnist.npz": buffer.getvalue()}) as (address, _):
        pin(monkeypatch, "mnist", address, [buffer.getvalue()])
        assert_holds("mnist", arrays)
    assert data.load("mnist").origin == "MNIST"


def test_conversion_gives_the_same_bytes_twice(monkeypatch, tmp_path):
    _, archive = cifar(10)
    with server({CIFAR10: archive}) as (address, _):
        pin(monkeypatch, "cifar10", address, [archive])
        first = bytes(archives._convert("cifar10"))
        assert first == bytes(archives._convert("cifar10"))


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda whole: whole[:-100], "sha256"),
        (lambda whole: whole[:-1] + b"x", "sha256"),
        (lambda whole: whole + b"more", "more than"),
        (lambda whole: b"<!doctype html><HTML>sign in", "an HTML page"),
        (lambda whole: b"", "0 bytes"),
    ],
)
def test_wrong_downloads_are_set_aside(monkeypatch, tmp_path, damage, word):
    arrays, archive = cifar(10)
    pages = {CIFAR10: damage(archive)}
    with server(pages) as (address, asked):
        pin(monkeypatch, "cifar10", address, [archive])
        pinned = archives.PUBLIC["cifar10"].archives[0]
        with refused("E_DATA_HASH", word, pinned.sha256, pinned.size, ".bad"):
            data.load("cifar10")
        names = {p.name for p in tmp_path.rglob("*") if p.is_file()}
        assert names == {"cifar10.lock", "cifar-10-binary.tar.gz.bad"}
        pages[CIFAR10] = archive
        assert_holds("cifar10", arrays)
    assert len(asked) == 2


def test_offline_names_address_cache_and_alternative(monkeypatch, tmp_path):
    with server({}) as (address, _):
        pass
    pin(monkeypatch, "cifar10", address, [b"x"])
    copy = tmp_path / "cache/ktransfer/downloads/cifar10/cifar-10-binary.tar.gz"
    with refused("E_OFFLINE", address, copy, "KTRANSFER_DATA"):
        data.load("cifar10_animals")


def test_an_address_without_the_file(monkeypatch):
    with server({}) as (address, _):
        pin(monkeypatch, "cifar10", address, [b"x"])
        with refused("E_OFFLINE", "404"):
            data.load("cifar10")


def test_a_copy_in_the_cache_needs_no_network(monkeypatch, tmp_path, capsys):
    arrays, archive = cifar(10)
    pin(monkeypatch, "cifar10", "http://127.0.0.1:9", [archive])
    copy = tmp_path / "cache/ktransfer/downloads/cifar10/cifar-10-binary.tar.gz"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(archive[:-1])
    with refused("E_OFFLINE"):
        data.load("cifar10")
    assert "set aside" in capsys.readouterr().err
    assert [path.suffix for path in copy.parent.iterdir()] == [".bad"]
    copy.write_bytes(archive)
    assert_holds("cifar10", arrays)


@pytest.mark.parametrize("place", [300, 5000, -800, -300, -1])
def test_a_damaged_conversion_is_made_again(monkeypatch, place):
    arrays, archive = cifar(10)
    with server({CIFAR10: archive}) as (address, asked):
        pin(monkeypatch, "cifar10", address, [archive])
        assert_holds("cifar10", arrays)
        path = archives.cached("cifar10")
        content = bytearray(path.read_bytes())
        content[place] ^= 1
        path.write_bytes(content)
        tasks._problem.cache_clear()
        assert_holds("cifar10", arrays)
    # Not every byte of a directory matters; every byte of an array does.
    assert len(asked) == 2 or place < 0


def test_a_planted_conversion_is_not_believed(monkeypatch):
    arrays, archive = cifar(10)
    path = archives.cached("cifar10")
    path.parent.mkdir(parents=True)
    other = sample(50, 10, (32, 32, 3), seed=4)
    with server({CIFAR10: archive}) as (address, _):
        pin(monkeypatch, "cifar10", address, [archive])
        np.savez(path, **other, seal=np.array("0" * 64))
        assert_holds("cifar10", arrays)


def test_the_real_set_never_falls_back_to_the_embedded_one(monkeypatch):
    with server({}) as (address, _):
        pin(monkeypatch, "mnist", address, [b"x"])
        for name in ("mnist", "mnist_0to4"):
            with refused("E_OFFLINE"):
                data.load(name)


def test_three_processes_share_one_download(tmp_path):
    arrays, archive = cifar(10)
    script = tmp_path / "load.py"
    with server({CIFAR10: archive}) as (address, asked):
        pinned = (
            f"{address}{CIFAR10}",
            len(archive),
            hashlib.sha256(archive).hexdigest(),
        )
        script.write_text(
            "from ktransfer import data\n"
            "from ktransfer.data import archives\n"
            "public = archives.PUBLIC['cifar10']\n"
            f"archive = archives.Archive(*{pinned!r})\n"
            "public = public._replace(archives=(archive,))\n"
            "archives.PUBLIC['cifar10'] = public\n"
            "print(data.digest('cifar10'))\n"
        )
        root = str(Path(data.__file__).parents[2])
        command = [sys.executable, str(script)]
        environment = {**os.environ, "PYTHONPATH": root}
        processes = [
            subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
            for _ in range(3)
        ]
        digests = {process.communicate()[0] for process in processes}
    assert all(process.returncode == 0 for process in processes)
    assert len(digests) == 1
    assert asked == [CIFAR10]


def test_pins_are_whole_sha256():
    for public in archives.PUBLIC.values():
        for archive in public.archives:
            assert len(archive.sha256) == 64
            assert set(archive.sha256) <= set("0123456789abcdef")
            assert archive.url.startswith("https://")


# Real data, where KTRANSFER_DATA holds them -----------------------------------


def needs(name):
    there = (REAL / f"{name}.npz").exists()
    return pytest.mark.skipif(not there, reason=f"no {name}.npz")


@needs("mnist")
def test_real_mnist_is_recognised(monkeypatch):
    monkeypatch.setenv("KTRANSFER_DATA", str(REAL))
    task = data.load("mnist", 10)
    assert task.origin == "MNIST"
    assert task.image_shape == (28, 28, 1)
    assert data.load("mnist_5to9").origin == "MNIST, classes 5-9"
    assert len(data.load("mnist_0to4").train.y) == 30596


@needs("cifar10")
def test_real_cifar10_is_recognised(monkeypatch):
    monkeypatch.setenv("KTRANSFER_DATA", str(REAL))
    animals = data.load("cifar10_animals")
    assert animals.origin in (
        "CIFAR-10-q75, classes 2-7",
        "CIFAR-10, classes 2-7",
    )
    assert len(animals.train.y) == 30000


def test_equal_numbers_are_not_equal_classes():
    spaces = {
        name: data.load(name).label_space for name in ("digits", "letters")
    }
    assert spaces["digits"] != spaces["letters"]
    assert data.load("digits_0to4").label_space == spaces["digits"]


@pytest.mark.parametrize("name", ["digits", "digits_0to4", "letters_inverted"])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_data_of_ones_own_under_an_embedded_name_are_not_ignored(
    folder, name, kind
):
    base = name.partition("_")[0]
    if kind == "file":
        np.savez(folder / f"{base}.npz", **sample())
    else:
        (folder / base / "train").mkdir(parents=True)
    with refused("E_ARGUMENT", base, "embedded", "Rename"):
        data.check_name(name)
