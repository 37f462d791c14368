"""Domain shifts: what they do to pixels, and that splits stay apart."""

import sys

import numpy as np
import pytest

from ktransfer import data
from ktransfer.data import digits_8x8, shifts
from ktransfer.data.split import Problem, Split
from ktransfer.errors import KTransferError


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), "uint8")


def problem(n, size, channels, value=None, unlabelled=None):
    rng = np.random.default_rng(n)
    shape = (n, size, size, channels)
    x = rng.integers(0, 256, shape, "uint8")
    if value is not None:
        x[:] = value
    y = (np.arange(n) % 2).astype("int32")
    return Problem(Split(x, y), Split(x[:7], y[:7]), unlabelled, (0, 1), "P")


def test_inversion_twice_is_nothing(images):
    assert (shifts.inverted(images) == 255 - images.astype(int)).all()
    assert (shifts.inverted(shifts.inverted(images)) == images).all()


def test_grey_gets_three_equal_channels_and_colour_stays(images):
    found = shifts.rgb(images)
    assert found.shape == (5, 8, 8, 3) and (found == images).all()
    assert (shifts.rgb(found) == found).all()


def test_dilation_is_the_largest_neighbour(images):
    found = shifts.dilated(images)
    for row in range(8):
        for column in range(8):
            around = images[
                :, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2
            ]
            largest = around.max(axis=(1, 2))
            assert (found[:, row, column] == largest).all()


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_a_quarter_turn_is_exact(images, quarters):
    found = shifts.rotated(images, 90.0 * quarters)
    assert (found == np.rot90(images, quarters, axes=(1, 2))).all()


def test_what_turns_in_is_black():
    white = np.full((1, 9, 9, 1), 255, "uint8")
    turned = shifts.rotated(white, 45)[0, :, :, 0]
    assert turned[0, 0] == 0 and turned[4, 4] == 255


def test_blending_is_the_absolute_difference(images):
    patch = np.random.default_rng(1).integers(0, 256, (5, 8, 8, 3), "uint8")
    expected = np.abs(patch.astype(int) - images.astype(int))
    assert (shifts.blended(images, patch) == expected).all()
    # Over black nothing changes but the channels.
    plain = shifts.blended(images, np.zeros_like(patch))
    assert (plain == images).all() and plain.shape[-1] == 3


def test_patches_are_parts_of_the_images():
    images = np.arange(2 * 6 * 6, dtype="uint8").reshape(2, 6, 6, 1)
    found = shifts.patches(images, 50, (3, 4), [0])
    assert found.shape == (50, 3, 4, 3)
    corners = found[:, 0, 0, 0].astype(int)
    assert len(set(corners)) > 5
    for patch, corner in zip(found[..., 0].astype(int), corners):
        assert (patch[:, 0] == corner + 6 * np.arange(3)).all()
        assert (patch[0] == corner + np.arange(4)).all()


def test_varied_looks_vary(images):
    many = np.repeat(images[:1], 64, axis=0)
    patch = np.zeros((64, 8, 8, 3), "uint8")
    found = shifts.varied(many, patch, [0])
    assert len({look.tobytes() for look in found}) == 64
    assert (shifts.varied(many, patch, [0]) == found).all()


def test_test_digits_get_test_backgrounds():
    behind = problem(20, 10, 3)._replace(
        train=problem(20, 10, 3, value=10).train,
        test=problem(20, 10, 3, value=200).test,
    )
    black = problem(30, 8, 1, value=0, unlabelled=np.zeros((4, 8, 8, 1), "u1"))
    found = shifts.shifted(black, "over", behind)
    assert (found.train.x == 10).all() and (found.unlabelled == 10).all()
    assert (found.test.x == 200).all()
    assert (found.train.y == black.train.y).all()


def test_small_backgrounds_are_refused():
    with pytest.raises(KTransferError, match="larger backgrounds"):
        shifts.shifted(problem(4, 8, 1), "over", problem(4, 6, 3))


def test_a_name_gives_a_task_of_the_same_classes():
    plain, over = data.load("digits"), data.load("digits_over_letters")
    assert over.image_shape == (28, 28, 3)
    assert over.label_space == plain.label_space
    assert (over.train.y == plain.train.y).all()
    assert over.sha256 != plain.sha256
    assert data.digest("digits_inverted") != data.digest("digits")
    assert "digits_over_letters" in data.names()


def test_shifts_and_classes_combine_in_the_order_of_the_name():
    task = data.load("digits_5to9_inverted_dilated")
    assert task.labels == (5, 6, 7, 8, 9)
    assert task.origin.endswith("inverted, dilated")
    plain = data.load("digits_5to9")
    expected = shifts.dilated(shifts.inverted(plain.train.x))
    assert (task.train.x == expected).all()


def test_shuffled_labels_keep_the_images_and_mean_nothing():
    plain, shuffled = data.load("digits"), data.load("digits_shuffled")
    assert (shuffled.train.x == plain.train.x).all()
    counts = [np.bincount(task.train.y) for task in (plain, shuffled)]
    assert (counts[0] == counts[1]).all()
    agreement = (plain.train.y == shuffled.train.y).mean()
    assert abs(agreement - 0.1) < 0.03
    assert plain.label_space != shuffled.label_space


@pytest.mark.parametrize(
    "name",
    ["digits_inverte", "nothing_inverted", "digits_over_nothing", "inverted"],
)
def test_an_unknown_shift_or_base_is_refused(name):
    with pytest.raises(KTransferError) as caught:
        data.check_name(name)
    assert caught.value.name == "E_UNKNOWN"


def test_the_small_digits_are_1797():
    task = data.load("digits_8x8")
    test = data.test_split("digits_8x8")
    assert (len(task.train.y), len(test.y)) == (1000, 797)
    assert task.image_shape == (8, 8, 1) and task.train.x.max() == 255
    assert task.label_space == data.load("digits").label_space
    assert data.load("digits_8x8_0to4").num_classes == 5


def test_without_scikit_learn_the_small_digits_say_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(KTransferError) as caught:
        digits_8x8.load()
    assert caught.value.name == "E_MISSING_PACKAGE"


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("digits_dilated", "95742545e9824206"),
        ("digits_inverted", "a0d4bfec7419a675"),
        ("digits_over_letters", "7d583fda33b6c2d6"),
        ("digits_rotated", "ac23371ca958df54"),
        ("digits_shuffled", "2fc81391e19b5ea1"),
        ("digits_varied_over_letters", "805fe66af0001fdb"),
    ],
)
def test_a_name_means_the_same_images_everywhere(name, digest):
    assert data.digest(name).startswith(digest)
