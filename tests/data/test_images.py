"""Folders of images: what is read, left out, split, fitted and reported."""

import hashlib
import itertools
import os
import shutil
import socket
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image
from test_data import refused

import ktransfer
from ktransfer import cli, data
from ktransfer.data import folders, image_report, pictures, tasks
from ktransfer.data.division import divided


@pytest.fixture(autouse=True)
def no_other_data(monkeypatch):
    monkeypatch.delenv("KTRANSFER_DATA", raising=False)
    problem = tasks._problem
    yield
    problem.cache_clear()


@pytest.fixture
def folder(tmp_path):
    return photos(tmp_path / "photos")


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, "uint8")


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def photos(root, classes=("ant", "bee"), count=5, size=(6, 5), start=0):
    """Write `count` different images of each class; return the folder."""
    numbers = itertools.count(start)
    for name in classes:
        for number in range(count):
            pixels = noise(*size, 3, seed=next(numbers))
            save(root / name / f"{number}.png", pixels)
    return root


def own_split(root, test="test", **options):
    photos(root / "train", **options)
    photos(root / test, count=2, start=1000)
    return root


def by_name(images):
    """Return class -> bytes of all its images, of both parts."""
    found = {name: set() for name in images.task.labels}
    for split in (images.task.train, images.test):
        for x, y in zip(*split):
            found[images.task.labels[y]].add(x.tobytes())
    return found


# What comes out --------------------------------------------------------------


def test_a_folder_becomes_a_task_a_test_part_and_a_report(folder):
    images = ktransfer.load_images(folder)
    assert isinstance(images.task, data.Task)
    assert images.task.labels == ("ant", "bee")
    assert (images.task.name, images.task.label_space) == ("photos", "photos")
    assert images.task.image_shape == (6, 5, 3)
    assert np.bincount(images.task.train.y).tolist() == [4, 4]
    assert np.bincount(images.test.y).tolist() == [1, 1]
    assert images.task.origin.startswith("folder photos (sha256 ")
    assert images.task.unlabelled is None
    for part in (*images.task.train, *images.test):
        assert not part.flags.writeable
    expected = {
        name: {
            np.asarray(Image.open(file)).tobytes()
            for file in (folder / name).iterdir()
        }
        for name in ("ant", "bee")
    }
    assert by_name(images) == expected


def test_classes_and_files_come_in_the_order_of_their_names(tmp_path):
    root = tmp_path / "photos"
    for place, value in (
        *(("train/b/2", 22), ("train/a/10", 11), ("train/b/1", 21)),
        *(("train/a/9", 12), ("test/b/1", 31), ("test/a/1", 30)),
    ):
        pixels = noise(4, 4)
        pixels[0, 0] = value
        save(root / f"{place}.png", pixels)
    images = data.load_images(root)
    assert images.task.train.x[:, 0, 0, 0].tolist() == [11, 12, 21, 22]
    assert images.task.train.y.tolist() == [0, 0, 1, 1]
    assert images.test.x[:, 0, 0, 0].tolist() == [30, 31]


def test_any_kind_of_path_leads_to_the_folder(folder, monkeypatch):
    expected = data.load_images(folder).report.manifest
    monkeypatch.chdir(folder)
    for place in (".", str(folder), f"{folder}/", folder / "ant" / ".."):
        report = data.load_images(place).report
        assert (report.folder, report.manifest) == ("photos", expected)
    (folder.parent / "link").symlink_to(folder)
    assert data.load_images(folder.parent / "link").report.folder == "link"


@pytest.mark.parametrize("name", folders.TESTS)
def test_the_split_of_the_folder_is_kept(tmp_path, name):
    images = data.load_images(own_split(tmp_path / "photos", name))
    assert (len(images.task.train.y), len(images.test.y)) == (10, 4)
    assert not images.report.split_made
    (note,) = images.report.notes
    assert note.startswith(f"the test part is the folder {name}")
    assert ("none called test" in note) == (name != "test")


def test_test_wins_over_validation_and_what_is_not_read_is_named(tmp_path):
    root = own_split(tmp_path / "photos")
    photos(root / "val", start=2000)
    photos(root / "extra")
    images = data.load_images(root)
    assert len(images.test.y) == 4
    assert "not read: val, extra" in images.report.lines()


def test_a_training_folder_alone_is_split(tmp_path):
    photos(tmp_path / "photos" / "train")
    images = data.load_images(tmp_path / "photos")
    assert (len(images.task.train.y), len(images.test.y)) == (8, 2)
    assert images.report.split_made
    assert "beside train there is no folder test" in images.report.lines()


def test_a_class_may_be_called_train(tmp_path):
    root = photos(tmp_path / "vehicles", ("car", "test", "train"))
    assert data.load_images(root).task.labels == ("car", "test", "train")


def test_classes_may_have_any_printable_name(tmp_path):
    names = ("-rf", "=1+1", "a b", "CON", "café", "猫", "🐝", "x" * 200)
    root = photos(tmp_path / "odd", names, 2)
    images = data.load_images(root)
    assert images.task.labels == tuple(sorted(names))
    assert "猫" in str(images.report)


# The test part ---------------------------------------------------------------


def drawn(rng):
    """Return labels and keys, some of them equal within and across classes."""
    num_classes = int(rng.integers(2, 6))
    counts = rng.integers(2, 30, num_classes)
    labels = np.repeat(np.arange(num_classes), counts)
    keys = [f"own {row}" for row in range(len(labels))]
    for label in range(num_classes):
        # Two of each class stay as they are, so that it can be split.
        rows = np.flatnonzero(labels == label)[2:]
        for row in rows[rng.random(len(rows)) < 0.3]:
            keys[row] = f"shared {rng.integers(len(labels) // 4 + 1)}"
    return labels, keys


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.99])
def test_no_content_is_on_both_sides_and_every_class_is(share):
    rng = np.random.default_rng(int(100 * share))
    for case in range(60):
        labels, keys = drawn(rng)
        names = [f"class {k}" for k in range(labels.max() + 1)]
        mask = divided(labels.tolist(), keys, share, case, names)
        held = {key for key, m in zip(keys, mask) if m}
        assert not held & {key for key, m in zip(keys, mask) if not m}
        for label in range(labels.max() + 1):
            assert 0 < mask[labels == label].sum() < (labels == label).sum()
        # Neither the order nor a second call changes it.
        order = rng.permutation(len(labels))
        again = divided(
            labels[order].tolist(), [keys[i] for i in order], share, case, names
        )
        assert (again == mask[order]).all()


@pytest.mark.parametrize("share", [0.01, 0.1, 0.25, 0.5, 0.9])
def test_it_is_stratified_to_the_image(share):
    counts = np.array([2, 3, 7, 50, 101])
    labels = np.repeat(np.arange(5), counts).tolist()
    keys = [str(row) for row in range(len(labels))]
    mask = divided(labels, keys, share, 0, list("abcde"))
    held = np.bincount(np.array(labels)[mask], minlength=5)
    wanted = np.clip(np.floor(counts * share + 0.5), 1, counts - 1)
    assert held.tolist() == wanted.tolist()


def test_it_depends_on_the_seed():
    labels, keys = [0, 1] * 50, [str(row) for row in range(100)]
    first, second = (
        divided(labels, keys, 0.2, seed, ["a", "b"]) for seed in (0, 1)
    )
    assert (first != second).any()


def test_groups_larger_than_a_share_still_leave_every_class_a_test_image():
    labels = [0] * 6 + [1] * 6
    keys = ["a"] * 3 + ["b"] * 3 + list("cdefgh")
    mask = divided(labels, keys, 0.2, 0, ["x", "y"])
    assert mask[:6].sum() == 3 and mask[6:].sum() == 1


def test_the_names_of_files_have_no_say(folder, tmp_path):
    images = data.load_images(folder, seed=3)
    for number, file in enumerate(sorted(folder.glob("*/*.png"))):
        file.rename(file.parent / f"{-number}{file.name}")
    other = data.load_images(folder, seed=3)
    for split, renamed in (
        (images.task.train, other.task.train),
        (images.test, other.test),
    ):
        assert {x.tobytes() for x in split.x} == {
            x.tobytes() for x in renamed.x
        }
    assert images.report.manifest != other.report.manifest


def test_nothing_is_lost_or_told_twice(folder):
    for seed, share in itertools.product((0, 1), (0.2, 0.5)):
        images = data.load_images(folder, seed=seed, test_share=share)
        assert sum(map(len, by_name(images).values())) == 10
        assert len(images.task.train.y) + len(images.test.y) == 10


def test_equal_images_stay_on_one_side(tmp_path):
    for seed in range(5):
        root = photos(tmp_path / f"p{seed}", count=8)
        for name in ("x", "y", "z"):
            shutil.copy(root / "ant" / "1.png", root / "ant" / f"{name}.png")
        shutil.copy(root / "ant" / "2.png", root / "bee" / "same.png")
        # The same pixels in another file.
        save(root / "bee" / "2.bmp", np.asarray(Image.open(root / "bee/2.png")))
        images = data.load_images(root, test_share=0.3, seed=seed)
        report = images.report
        assert not report.equal_across_parts
        sides = [
            {x.tobytes() for x in split.x}
            for split in (images.task.train, images.test)
        ]
        assert not sides[0] & sides[1]
        assert set(report.equal_within) == {
            ("ant/1.png", "ant/x.png", "ant/y.png", "ant/z.png"),
            ("bee/2.bmp", "bee/2.png"),
        }
        assert report.equal_across_classes == (("ant/2.png", "bee/same.png"),)


# Sizes -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(6, 5)] * 4, (6, 5)),
        ([(224, 100)] * 4, (224, 100)),
        ([(225, 100)] * 4, (96, 96)),
        ([(40, 60), (50, 41), (45, 45), (200, 43)], (42, 42)),
        ([(300, 400), (400, 300), (90, 90), (500, 500)], (96, 96)),
    ],
)
def test_the_size_where_none_is_asked_for(tmp_path, sizes, expected):
    for number, size in enumerate(sizes):
        place = tmp_path / "photos" / "ab"[number % 2] / f"{number}.png"
        save(place, noise(*size, 3, seed=number))
    report = data.load_images(tmp_path / "photos").report
    assert report.image_size == expected
    assert sum(report.sizes.values()) == len(sizes)
    assert set(report.sizes) == set(sizes)


@pytest.mark.parametrize(
    ("asked", "shape"),
    [(8, (8, 8)), ((4, 9), (4, 9)), ([7, 3], (7, 3)), (np.int64(8), (8, 8))],
)
@pytest.mark.parametrize("fit", pictures.FITS)
def test_the_size_that_is_asked_for(folder, asked, shape, fit):
    images = data.load_images(folder, image_size=asked, fit=fit)
    assert images.task.image_shape == (*shape, 3)
    assert images.test.x.shape[1:] == (*shape, 3)
    assert images.report.image_size == shape


def test_a_damaged_file_has_no_say_in_the_size(folder):
    before = data.load_images(folder)
    whole = folder / "ant" / "large.png"
    save(whole, noise(500, 500, 3))
    whole.write_bytes(whole.read_bytes()[:3000])
    images = data.load_images(folder)
    assert images.task.sha256 == before.task.sha256
    assert images.report.skipped == {pictures.DAMAGED: ("ant/large.png",)}


def picture(tmp_path, pixels, to, fit, name="one.png", **options):
    save(tmp_path / name, pixels, **options)
    return pictures.read(tmp_path / name, to, fit).pixels.astype(int)


def halves(height, width):
    """Return an image, left half red and right half green."""
    pixels = np.zeros((height, width, 3), "uint8")
    pixels[:, : width // 2, 0] = 200
    pixels[:, width // 2 :, 1] = 100
    return pixels


@pytest.mark.parametrize("grow", [1, 5])
def test_pad_keeps_all_between_black_bars(tmp_path, grow):
    found = picture(tmp_path, halves(20, 40), (10 * grow, 10 * grow), "pad")
    bar, middle = 5 * grow // 2, 5 * grow
    assert not found[:bar].any() and not found[bar + middle :].any()
    inside = found[bar : bar + middle]
    assert np.abs(inside[:, : 3 * grow] - (200, 0, 0)).max() <= 1
    assert np.abs(inside[:, -3 * grow :] - (0, 100, 0)).max() <= 1


def test_pad_of_a_tall_image_has_bars_at_its_sides(tmp_path):
    found = picture(tmp_path, halves(60, 20) | 50, (30, 31), "pad")
    assert np.flatnonzero(found.any(axis=(0, 2))).tolist() == list(
        range(10, 20)
    )


def test_crop_cuts_the_middle_out(tmp_path):
    pixels = np.zeros((30, 90), "uint8")
    pixels[:, 30:60] = 180
    found = picture(tmp_path, pixels, (15, 15), "crop")
    assert np.abs(found[:, 2:-2] - 180).max() <= 1
    found = picture(tmp_path, pixels.T, (15, 15), "crop")
    assert np.abs(found[2:-2] - 180).max() <= 1


def test_stretch_changes_the_proportions(tmp_path):
    found = picture(tmp_path, halves(20, 80), (40, 16), "stretch")
    assert np.abs(found[:, :6] - (200, 0, 0)).max() <= 1
    assert np.abs(found[:, 10:] - (0, 100, 0)).max() <= 1


@pytest.mark.parametrize("fit", pictures.FITS)
def test_small_patterns_are_averaged(tmp_path, fit):
    board = np.indices((64, 64)).sum(axis=0) % 2 * 255
    found = picture(tmp_path, board.astype("uint8"), (8, 8), fit)
    assert np.abs(found - 127.5).max() < 12


@pytest.mark.parametrize("fit", pictures.FITS)
def test_an_image_of_the_size_is_left_as_it_is(tmp_path, fit):
    pixels = noise(9, 7, 3)
    assert (picture(tmp_path, pixels, (9, 7), fit) == pixels).all()


@pytest.mark.parametrize("fit", pictures.FITS)
@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1), (3, 2)])
def test_odd_shapes_have_the_size_too(tmp_path, fit, size):
    for to in ((8, 8), (1, 1), (5, 31)):
        assert picture(tmp_path, noise(*size), to, fit).shape == to


@pytest.mark.parametrize("fit", pictures.FITS)
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_photo_is_read_as_if_in_full(tmp_path, fit, orientation):
    small = Image.fromarray(noise(9, 12, 3))
    large = small.resize((1200, 900), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / "large.jpg"
    large.save(file, exif=exif, quality=95)
    found = pictures.read(file, (48, 64), fit)
    turned = np.asarray(large) if orientation == 1 else np.rot90(large, -1)
    assert found.size == turned.shape[:2] == pictures.size(file)
    whole = pictures.fitted(
        Image.fromarray(np.ascontiguousarray(turned)), (48, 64), fit
    )
    difference = np.abs(found.pixels.astype(int) - np.asarray(whole))
    assert difference.mean() < 2


# Pixels ----------------------------------------------------------------------

FROM_UPRIGHT = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: np.rot90(x),
    7: lambda x: np.rot90(x.transpose(1, 0, 2), 2),
    8: lambda x: np.rot90(x, -1),
}


@pytest.mark.parametrize("kind", ["png", "tiff", "webp", "jpg"])
@pytest.mark.parametrize("orientation", FROM_UPRIGHT)
def test_a_rotation_mark_is_followed(tmp_path, kind, orientation):
    blocks = np.repeat(np.repeat(noise(3, 2, 3), 16, axis=0), 16, axis=1)
    stored = np.ascontiguousarray(FROM_UPRIGHT[orientation](blocks))
    exif = Image.Exif()
    exif[0x0112] = orientation
    fine = {
        "webp": {"lossless": True},
        "jpg": {"quality": 95, "subsampling": 0},
    }
    file = tmp_path / f"one.{kind}"
    save(file, stored, exif=exif, **fine.get(kind, {}))
    found = pictures.read(file, None, "pad")
    assert found.size == blocks.shape[:2] == pictures.size(file)
    bound = 6 if kind == "jpg" else 0
    assert np.abs(found.pixels.astype(int) - blocks).max() <= bound


def test_a_strange_rotation_mark_is_none(tmp_path):
    for mark in (0, 9, 77):
        exif = Image.Exif()
        exif[0x0112] = mark
        pixels = noise(4, 6, 3)
        save(tmp_path / "one.png", pixels, exif=exif)
        found = pictures.read(tmp_path / "one.png", None, "pad")
        assert (found.pixels == pixels).all()


def test_what_is_transparent_lies_on_white(tmp_path):
    pixels = noise(4, 4, 4)
    pixels[..., 3] = [0, 255, 0, 255]
    found = picture(tmp_path, pixels, None, "pad")
    assert (found[:, ::2] == 255).all()
    assert (found[:, 1::2] == pixels[:, 1::2, :3]).all()
    pixels[..., 3] = 51
    half = picture(tmp_path, pixels, None, "pad")
    expected = 0.2 * pixels[..., :3] + 0.8 * 255
    assert np.abs(half - expected).max() <= 1
    grey = picture(tmp_path, pixels[..., [0, 3]], None, "pad")
    assert np.abs(grey - expected[..., 0]).max() <= 1


def test_palettes_and_their_transparency(tmp_path):
    image = Image.new("P", (4, 2))
    image.putpalette([200, 0, 0, 0, 100, 0, 0, 0, 50])
    image.putdata([0, 1, 2, 0, 1, 2, 0, 1])
    for name, options, first in (
        ("plain.png", {}, (200, 0, 0)),
        ("clear.png", {"transparency": 0}, (255, 255, 255)),
        ("clear.gif", {"transparency": 0}, (255, 255, 255)),
        ("half.png", {"transparency": b"\x00\xff\xff"}, (255, 255, 255)),
    ):
        image.save(tmp_path / name, **options)
        found = pictures.read(tmp_path / name, None, "pad").pixels
        assert found.shape == (2, 4, 3), name
        assert tuple(found[0, 0]) == first, name
        assert tuple(found[0, 1]) == (0, 100, 0), name


def test_sixteen_bits_become_eight(tmp_path):
    values = np.array([[0, 255, 256, 999], [32768, 65279, 65280, 65535]])
    expected = [[0, 0, 1, 3], [128, 254, 255, 255]]
    for name in ("one.png", "one.tiff"):
        found = picture(
            tmp_path, values.astype("uint16"), None, "pad", name=name
        )
        assert found.tolist() == expected
    body = values.astype(">u2").tobytes()
    (tmp_path / "one.pgm").write_bytes(b"P5 4 2 65535\n" + body)
    found = pictures.read(tmp_path / "one.pgm", None, "pad").pixels
    assert found.tolist() == expected


def test_other_kinds_of_pixels(tmp_path):
    black = Image.new("CMYK", (4, 4), (0, 0, 0, 255))
    black.save(tmp_path / "cmyk.jpg")
    bits = Image.fromarray(np.eye(4, dtype="uint8") * 255).convert("1")
    bits.save(tmp_path / "bits.png")
    Image.new("YCbCr", (4, 4), (200, 128, 128)).save(tmp_path / "grey.jpg")
    found = {
        name: pictures.read(tmp_path / name, None, "pad").pixels
        for name in ("cmyk.jpg", "bits.png", "grey.jpg")
    }
    assert found["cmyk.jpg"].shape == (4, 4, 3)
    assert found["cmyk.jpg"].max() < 10
    assert (found["bits.png"] == np.eye(4) * 255).all()
    assert np.abs(found["grey.jpg"].astype(int) - 200).max() <= 2


@pytest.mark.parametrize("name", ["one.gif", "one.webp", "one.png", "one.tiff"])
def test_of_an_animation_the_first_frame_is_taken(tmp_path, name):
    frames = [
        Image.fromarray(np.full((4, 5, 3), value, "uint8"))
        for value in (250, 120, 0)
    ]
    lossless = {"lossless": True} if name.endswith("webp") else {}
    frames[0].save(
        tmp_path / name, save_all=True, append_images=frames[1:], **lossless
    )
    found = pictures.read(tmp_path / name, None, "pad").pixels
    assert (found == 250).all() and found.shape == (4, 5, 3)


def test_the_ending_of_a_name_need_not_be_that_of_its_format(folder):
    (folder / "ant" / "0.png").rename(folder / "ant" / "0.JPG")
    images = data.load_images(folder)
    assert images.report.num_read == 10


def test_all_grey_has_one_channel_and_grey_among_colour_three(tmp_path):
    root = tmp_path / "photos"
    for number in range(4):
        save(
            root / "ab"[number % 2] / f"{number}.png", noise(4, 4, seed=number)
        )
    grey = data.load_images(root)
    assert grey.task.image_shape == (4, 4, 1)
    assert (grey.report.grey, grey.report.colour) == (4, 0)
    save(root / "a" / "9.png", noise(4, 4, 3))
    both = data.load_images(root)
    assert both.task.image_shape == (4, 4, 3)
    assert (both.report.grey, both.report.colour) == (4, 1)
    assert "1 in colour, 4 grey, which are RGB now" in str(both.report)
    x = np.concatenate([both.task.train.x, both.test.x])
    assert (x == x[..., :1]).all(axis=(1, 2, 3)).sum() == 4


# The report ------------------------------------------------------------------


def test_the_report_counts_what_there_is(tmp_path):
    root = own_split(tmp_path / "photos", size=(8, 8))
    photos(root / "train", ("cat",), 40, start=3000)
    shutil.copy(root / "train/ant/1.png", root / "test/ant/again.png")
    shutil.copy(root / "train/ant/1.png", root / "train/bee/wrong.png")
    report = data.load_images(root, image_size=8).report
    assert report.classes == {"ant": (5, 3), "bee": (6, 2), "cat": (40, 0)}
    assert report.sizes == {(8, 8): 12, (6, 5): 44}
    assert (report.num_read, report.num_skipped) == (56, 0)
    assert report.missing_from_test == ("cat",)
    assert report.imbalance == 8.0
    everywhere = (
        *("train/ant/1.png", "test/ant/again.png", "train/bee/wrong.png"),
    )
    assert set(report.equal_across_parts[0]) == set(everywhere)
    assert set(report.equal_across_classes[0]) == set(everywhere)
    assert report.equal_within == (("train/ant/1.png", "test/ant/again.png"),)
    text = " ".join(str(report).split())
    for words in (
        "56 images read, 3 classes; 0 left out",
        "2 sizes, from 6 x 5 to 8 x 8; all are 8 x 8 now, 44 of them by pad",
        "the test accuracy will be too high",
        "no model can be right on equal images of different labels",
        "no test image of cat",
        "the largest class has 8.0 times the images of the smallest",
        "at most 5 labels per class",
    ):
        assert words in text, words


def test_a_good_folder_gets_no_advice(folder):
    report = data.load_images(folder).report
    assert not image_report._advice(report)
    assert "no equal images" in report.lines()
    assert not report.skipped


def test_its_lines_fit_a_terminal(tmp_path):
    classes = [f"class {number}" for number in range(50)]
    root = photos(tmp_path / "photos", classes, 2)
    for number in range(30):
        (root / classes[0] / f"a note of some length {number}.txt").touch()
    lines = data.load_images(root).report.lines()
    assert max(map(len, lines)) <= image_report.WIDTH
    assert "... and 10 more classes" in lines
    assert any("and 27 more" in line for line in lines)


def test_names_cannot_write_to_the_terminal(folder):
    (folder / "ant" / "\x1b[2Jred\n.txt").touch()
    (folder / "ant" / "b\udcffd.txt").touch()
    save(folder / "ant" / "t\x1bwo.png", noise(6, 5, 3, seed=99))
    shutil.copy(folder / "ant" / "t\x1bwo.png", folder / "bee" / "\x07.png")
    text = str(data.load_images(folder).report)
    text.encode()
    assert not {"\x1b", "\x07", "\udcff"} & set(text)


def test_the_manifest_is_of_names_and_contents(folder, tmp_path):
    lines = sorted(
        f"{file.relative_to(folder).as_posix()}\0"
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}\n"
        for file in folder.glob("*/*.png")
    )
    expected = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert data.load_images(folder).report.manifest == expected
    (folder / "ant" / "notes.txt").write_text("no image", encoding="utf-8")
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert data.load_images(moved, seed=1).report.manifest == expected
    save(moved / "ant" / "1.png", noise(6, 5, 3, seed=77))
    assert data.load_images(moved).report.manifest != expected


# Odd and bad folders, as the command line meets them --------------------------


def header(width, height, depth=8, kind=2):
    """Return a PNG without pixels, that says it has many."""

    def chunk(name, content):
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    size = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(*part)
        for part in ((b"IHDR", size), (b"IDAT", pixels), (b"IEND", b""))
    )


def written(content, name="odd.png"):
    return lambda root: (root / "ant" / name).write_bytes(content)


def linked(target, name="odd.png"):
    return lambda root: (root / "ant" / name).symlink_to(target)


def cut(root):
    file = root / "ant" / "odd.png"
    save(file, noise(50, 50, 3))
    file.write_bytes(file.read_bytes()[:-200])


def a_socket(root):
    here = os.getcwd()
    os.chdir(root / "ant")
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind("odd.png")
    finally:
        os.chdir(here)


def sparse(root):
    with (root / "ant" / "odd.png").open("wb") as file:
        file.truncate(257 << 20)


def flat_bomb(root):
    # All of one value, so that 25 million pixels are 25 thousand bytes.
    Image.new("L", (5000, 5000)).save(root / "ant" / "odd.png")


def floats(root):
    save(root / "ant" / "odd.tiff", np.eye(6, 5, dtype="float32"))


def wide_integers(root):
    save(root / "ant" / "odd.tiff", np.eye(6, 5, dtype="int32"))


def beside(name):
    def plant(root):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")

    return plant


ODD = {
    "no image": (written(b"<html></html>"), "damaged, or no image"),
    "half a header": (written(b"\xff\xd8\xff\xe0"), "damaged, or no image"),
    "cut off": (cut, "damaged, or no image"),
    "a program": (
        written(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 5\n"),
        "damaged, or no image",
    ),
    "empty": (written(b""), "empty"),
    "a text": (written(b"notes", "odd.txt"), "not named as an image"),
    "a camera's own format": (
        written(b"ftypheic", "odd.heic"),
        "not named as an image",
    ),
    "hidden": (written(b"x", ".odd.png"), "hidden"),
    "a pipe": (
        lambda root: os.mkfifo(root / "ant" / "odd.png"),
        "no regular file",
    ),
    "a socket": (a_socket, "no regular file"),
    "a device": (linked("/dev/zero"), "no regular file"),
    "a link to itself": (linked("odd.png"), "a link that leads nowhere"),
    "a link to nothing": (linked("nothing"), "a link that leads nowhere"),
    "a folder": (
        lambda root: (root / "ant" / "odd.png").mkdir(),
        "a folder inside a class",
    ),
    "a link to the folder": (
        lambda root: (root / "odd").symlink_to(root),
        "a link to a folder around it",
    ),
    "a link above it": (
        lambda root: (root / "odd").symlink_to(root.parent),
        "a link to a folder around it",
    ),
    "a bomb": (written(header(60_000, 60_000)), "more than 89 million pixels"),
    "a large one": (
        written(header(10_000, 9_000)),
        "more than 89 million pixels",
    ),
    "a header that lies": (
        written(header(9_000, 9_000)),
        "grows beyond reason when decoded",
    ),
    "a flat bomb": (flat_bomb, "grows beyond reason when decoded"),
    "a long file": (sparse, "more than 256 MiB"),
    "floats": (floats, "pixels neither grey nor colour"),
    "wide integers": (wide_integers, "pixels neither grey nor colour"),
    "a file at the top": (beside("odd.csv"), "in no class folder"),
    "an archiver's folder": (beside("__MACOSX/ant/._0.png"), "hidden"),
    "a hidden folder": (beside(".odd/0.png"), "hidden"),
}


@pytest.mark.parametrize("odd", ODD)
def test_what_is_odd_is_named_and_left_out(folder, capsys, odd):
    before = data.load_images(folder)
    plant, reason = ODD[odd]
    plant(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cli.main(["images", str(folder)]) == 0
    out, error = capsys.readouterr()
    assert not error
    assert "10 images read, 2 classes; 1 left out" in out
    (line,) = [x for x in out.splitlines() if x.startswith(f"  1 {reason}: ")]
    assert "odd" in line or "__MACOSX" in line
    after = data.load_images(folder)
    assert after.task.sha256 == before.task.sha256
    assert list(after.report.skipped) == [reason]


def emptied(name):
    def plant(root):
        for file in (root / name).iterdir():
            file.unlink()

    return plant


def all_damaged(root):
    for file in (root / "bee").iterdir():
        file.write_bytes(b"<html>")


def all_equal(root):
    for file in (root / "bee").iterdir():
        shutil.copy(root / "ant" / "0.png", file)


def one_left(root):
    for number in range(1, 5):
        (root / "bee" / f"{number}.png").unlink()


def flat(root):
    for file in list(root.glob("*/*.png")):
        file.rename(root / f"{file.parent.name}{file.name}")
    for place in list(root.iterdir()):
        if place.is_dir():
            place.rmdir()


def entangled(root):
    """Leave three images, each in two classes: no split suits all."""
    shutil.rmtree(root)
    for name, numbers in (("ant", (1, 2)), ("bee", (2, 3)), ("cat", (3, 1))):
        for number in numbers:
            save(root / name / f"{number}.png", noise(6, 5, 3, seed=number))


def constant(root):
    for file in root.glob("*/*.png"):
        save(file, np.full((6, 5, 3), 9, "uint8"))
        file.rename(file.with_suffix(".bmp"))
    moved(root)


def moved(root, part="train"):
    """Make the folder one of training and test images."""
    images = shutil.copytree(root, root.parent / "copied")
    shutil.rmtree(root)
    shutil.copytree(images, root / "train")
    shutil.copytree(images, root / "test")


def strange_test_class(root):
    moved(root)
    (root / "test" / "ant").rename(root / "test" / "emu")


def no_test_images(root):
    moved(root)
    for file in (root / "test").glob("*/*"):
        file.write_bytes(b"")


def no_test_classes(root):
    moved(root)
    shutil.rmtree(root / "test")
    (root / "test").mkdir()


def flat_train(root):
    images = list((root / "ant").iterdir())
    (root / "train").mkdir()
    for file in images:
        file.rename(root / "train" / file.name)
    shutil.rmtree(root / "ant")
    shutil.rmtree(root / "bee")


BAD = {
    "nothing in it": (
        lambda root: [shutil.rmtree(root / x) for x in ("ant", "bee")],
        "E_SUBSET",
        "photos has no images; expected a folder a class, photos/<class>/",
    ),
    "no class folders": (flat, "E_SUBSET", "photos/<class>/"),
    "train without classes": (
        flat_train,
        "E_SUBSET",
        "photos has no images in train/; expected a folder a class, "
        "photos/train/<class>/",
    ),
    "one class": (
        lambda root: shutil.rmtree(root / "bee"),
        "E_SUBSET",
        "photos has one class",
    ),
    "an empty class": (
        emptied("bee"),
        "E_SUBSET",
        "photos/bee holds no image that can be read (nothing is in it)",
    ),
    "a class of texts": (
        lambda root: [
            file.rename(file.with_suffix(".txt"))
            for file in list((root / "bee").iterdir())
        ],
        "E_SUBSET",
        "photos/bee holds no image that can be read (5 not named as an image: "
        "bee/0.txt, bee/1.txt, bee/2.txt and 2 more); expected files ending in",
    ),
    "a class all damaged": (
        all_damaged,
        "E_SUBSET",
        "photos/bee holds no image that can be read (5 damaged, or no image",
    ),
    "a class of one image": (
        one_left,
        "E_SUBSET",
        "class 'bee' has 1 image; expected at least two",
    ),
    "a class of one content": (
        all_equal,
        "E_SUBSET",
        "class 'bee' has 5 images, all with equal pixels; expected",
    ),
    "classes of the same images": (
        entangled,
        "E_SUBSET",
        "cannot be split: its images are equal to those of other classes",
    ),
    "a name that rings": (
        lambda root: (root / "bee").rename(root / "b\x07"),
        "E_LABELS",
        "name 1 is 'b\\x07'; expected letters that can be printed",
    ),
    "a name of no encoding": (
        lambda root: (root / "bee").rename(root / "b\udcff"),
        "E_LABELS",
        "name 1 is 'b\\udcff'",
    ),
    "a blank name": (
        lambda root: (root / "bee").rename(root / " "),
        "E_LABELS",
        "name 0 is ' '",
    ),
    "a test class without training images": (
        strange_test_class,
        "E_LABELS",
        "photos/test has a class 'emu' that photos/train has not; expected "
        "some of ant, bee",
    ),
    "test images that are none": (
        no_test_images,
        "E_SUBSET",
        "photos has no images in its test part that can be read",
    ),
    "a test part without classes": (
        no_test_classes,
        "E_SUBSET",
        "photos has no images in test/",
    ),
    "images of one value": (constant, "E_IMAGES", "every pixel of photos"),
}


def fails(capsys, arguments, name, words):
    code = cli.main(["images", *arguments])
    out, error = capsys.readouterr()
    assert error.startswith(f"ktransfer: error[{name}]: "), error
    assert len(error.splitlines()) == 1 and not out
    assert words in error, error
    return code


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_folder_is_refused_in_one_line(folder, capsys, bad):
    plant, name, words = BAD[bad]
    plant(folder)
    file = folder.parent / "mine.npz"
    arguments = [str(folder), "--into", str(file)]
    assert fails(capsys, arguments, name, words) == 3
    assert not file.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "'nowhere' is no folder; expected one with a folder"),
        (["photos/ant/0.png"], "is no folder"),
        (["pho\0tos"], "is no folder"),
        (["photos", "--image-size", "0"], "image_size is 0"),
        (["photos", "--image-size", "-3"], "image_size is -3"),
        (["photos", "--image-size", "1025"], "image_size is 1025"),
        (["photos", "--test-share", "0"], "test_share is 0.0"),
        (["photos", "--test-share", "1"], "test_share is 1.0"),
        (["photos", "--test-share", "nan"], "test_share is nan"),
        (["photos", "--seed", "-1"], "seed is -1"),
        (["photos", "--into", "mine"], "'mine'; expected a name that ends in"),
        (["photos", "--into", "Mine.npz"], "'Mine' is no valid name"),
        (["photos", "--into", "my-own.npz"], "'my-own' is no valid name"),
        (["photos", "--into", "letters.npz"], "name of embedded data"),
    ],
)
def test_bad_arguments(folder, capsys, monkeypatch, arguments, words):
    monkeypatch.chdir(folder.parent)
    assert fails(capsys, arguments, "E_ARGUMENT", words) == 2
    assert not list(folder.parent.glob("*.npz"))


@pytest.mark.parametrize(
    ("options", "name", "words"),
    [
        ({"image_size": True}, "E_ARGUMENT", "image_size is True"),
        ({"image_size": 8.0}, "E_ARGUMENT", "image_size is 8.0"),
        ({"image_size": "8"}, "E_ARGUMENT", "image_size is '8'"),
        ({"image_size": (8, 8, 3)}, "E_ARGUMENT", "image_size is (8, 8, 3)"),
        ({"image_size": ()}, "E_ARGUMENT", "image_size is ()"),
        ({"image_size": (8, None)}, "E_ARGUMENT", "image_size is None"),
        ({"fit": "pda"}, "E_UNKNOWN", "Did you mean 'pad'?"),
        ({"test_share": True}, "E_ARGUMENT", "test_share is True"),
        ({"test_share": "0.2"}, "E_ARGUMENT", "test_share is '0.2'"),
        ({"seed": 0.5}, "E_ARGUMENT", "seed is 0.5"),
        ({"folder": 3}, "E_ARGUMENT", "'3' is no folder"),
        ({"folder": None}, "E_ARGUMENT", "is no folder"),
    ],
)
def test_bad_options_in_python(folder, options, name, words):
    with refused(name, words):
        data.load_images(**{"folder": folder, **options})


def test_a_size_that_no_memory_holds(folder, monkeypatch):
    monkeypatch.setattr(os, "sysconf", lambda name: 1000)
    with refused("E_MEMORY", "10 images of 1000 x 1000", "smaller"):
        data.load_images(folder, image_size=1000)


def test_running_out_of_memory_is_said(folder, monkeypatch):
    def large(*args):
        raise MemoryError

    monkeypatch.setattr(pictures, "_decoded", large)
    with refused("E_MEMORY", "ant/0.png"):
        data.load_images(folder)


def test_what_may_not_be_opened_is_named(folder, monkeypatch):
    real = os.open

    def closed(path, *args, **options):
        if str(path).endswith("ant/3.png"):
            raise PermissionError(13, "Permission denied")
        return real(path, *args, **options)

    monkeypatch.setattr(os, "open", closed)
    report = data.load_images(folder).report
    assert report.skipped == {pictures.CLOSED: ("ant/3.png",)}


def test_a_file_that_becomes_a_pipe_is_not_waited_for(folder, monkeypatch):
    monkeypatch.setattr(pictures, "check_entry", lambda name, path: None)
    os.mkfifo(folder / "ant" / "pipe.png")
    report = data.load_images(folder).report
    assert report.skipped == {pictures.NOT_REGULAR: ("ant/pipe.png",)}


def test_a_class_folder_that_cannot_be_listed(folder, monkeypatch):
    real = os.scandir

    def closed(path):
        if str(path).endswith("bee"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", closed)
    with refused("E_SUBSET", "photos/bee"):
        data.load_images(folder)


def test_links_to_images_are_followed(folder):
    before = data.load_images(folder)
    elsewhere = folder.parent / "elsewhere"
    (folder / "ant").rename(elsewhere)
    (folder / "ant").symlink_to(elsewhere)
    (elsewhere / "0.png").rename(folder.parent / "stored.bin")
    (elsewhere / "0.png").symlink_to(folder.parent / "stored.bin")
    assert data.load_images(folder).task.sha256 == before.task.sha256


def test_random_bytes_and_flips_never_break_it(tmp_path):
    rng = np.random.default_rng(0)
    files = []
    for kind in ("png", "jpg", "gif", "bmp", "tiff", "webp", "ppm"):
        save(tmp_path / f"whole.{kind}", noise(9, 8, 3))
        files.append((tmp_path / f"whole.{kind}").read_bytes())
    for number in range(400):
        content = bytearray(files[number % len(files)])
        for place in rng.integers(0, len(content), 1 + number % 4):
            content[place] = rng.integers(256)
        if number % 5 == 0:
            content = content[: rng.integers(len(content))]
        file = tmp_path / "odd.png"
        file.write_bytes(bytes(content))
        try:
            pictures.size(file)
            found = pictures.read(file, (8, 8), "pad")
        except pictures.Unusable:
            continue
        assert found.pixels.shape[:2] == (8, 8)
        assert found.pixels.dtype == "uint8"


# Packed ----------------------------------------------------------------------


def test_a_packed_folder_is_a_data_set_of_its_name(
    folder, tmp_path, monkeypatch, capsys
):
    file = tmp_path / "own" / "mine.npz"
    arguments = ["images", str(folder), "--image-size", "8", "--fit", "crop"]
    assert cli.main([*arguments, "--into", str(file)]) == 0
    assert f"written: {file}" in capsys.readouterr().out
    images = data.load_images(folder, image_size=8, fit="crop")
    monkeypatch.setenv("KTRANSFER_DATA", str(file.parent))
    task, test = data.load("mine"), data.test_split("mine")
    assert task.sha256 == images.task.sha256
    assert task.labels == ("ant", "bee")
    assert (test.x == images.test.x).all() and (test.y == images.test.y).all()
    assert task.origin.startswith("mine.npz (sha256 ")
    assert data.load("mine_1_0").labels == ("bee", "ant")
    assert cli.main(["data", "mine"]) == 0
    out = capsys.readouterr().out
    assert "labels ant, bee\n" in out
    assert "train 8 images, a class ant: 4, bee: 4\n" in out
    assert "test 2 images, a class ant: 1, bee: 1\n" in out


def test_the_same_folder_gives_the_same_bytes(folder, tmp_path):
    found = []
    for name in ("one", "two"):
        data.pack(folder, tmp_path / f"{name}.npz", seed=2)
        found.append((tmp_path / f"{name}.npz").read_bytes())
        # Neither times nor the order on the disk are in it.
        for file in sorted(folder.glob("*/*"), reverse=True):
            copied = shutil.copy(file, file.with_suffix(".tmp"))
            os.replace(copied, file)
    assert found[0] == found[1]
    data.pack(folder, tmp_path / "two.npz", seed=3)
    assert (tmp_path / "two.npz").read_bytes() != found[0]
    with np.load(tmp_path / "two.npz", allow_pickle=False) as archive:
        assert sorted(archive.files) == sorted(
            ["x_train", "y_train", "x_test", "y_test", "classes"]
        )
        assert archive["classes"].dtype.kind == "U"


def test_a_file_that_cannot_be_written(folder, tmp_path):
    (tmp_path / "file").touch()
    with refused("E_RESULTS_DIR"):
        data.pack(folder, tmp_path / "file" / "mine.npz")


# As a data set without being packed -------------------------------------------


def test_a_plain_folder_has_the_arrays_it_always_had(tmp_path, monkeypatch):
    """The hash is that of the reader before this one."""
    rng = np.random.default_rng(5)
    for part, name, count in (
        *(("train", "b", 3), ("train", "a", 4)),
        *(("test", "a", 2), ("test", "b", 1)),
    ):
        for number in range(count):
            pixels = rng.integers(0, 256, (6, 5, 3), "uint8")
            save(tmp_path / "plain" / part / name / f"{number}.png", pixels)
    monkeypatch.setenv("KTRANSFER_DATA", str(tmp_path))
    assert data.digest("plain") == (
        "4bb9c4f2decbb6c57100b4e60a10af25cc29400db862b37e5eff18ed786d8c97"
    )
    assert data.load("plain").origin == "folder plain (sha256 4bb9c4f2)"
    images = data.load_images(tmp_path / "plain")
    assert images.task.sha256 == data.load("plain").sha256
    assert images.task.origin == data.load("plain").origin


def test_a_plain_folder_keeps_a_large_size(tmp_path, monkeypatch):
    own_split(tmp_path / "photos", size=(300, 301))
    for file in (tmp_path / "photos").rglob("*.png"):
        save(file, noise(300, 301, 3))
    monkeypatch.setenv("KTRANSFER_DATA", str(tmp_path))
    assert data.load("photos").image_shape == (300, 301, 3)


def test_a_plain_folder_is_refused_where_a_report_would_say_it(
    tmp_path, monkeypatch
):
    root = own_split(tmp_path / "photos")
    monkeypatch.setenv("KTRANSFER_DATA", str(tmp_path))
    os.mkfifo(root / "train" / "ant" / "pipe.png")
    with refused("E_IMAGES", "photos/train/ant/pipe.png", "no regular file"):
        data.load("photos")
    (root / "train" / "ant" / "pipe.png").unlink()
    save(root / "train" / "ant" / "9.png", noise(7, 7, 3))
    with refused("E_IMAGES", "9.png has 7 x 7", "ktransfer images"):
        data.load("photos")
    shutil.rmtree(root / "test")
    with refused("E_SUBSET", "no images in test/", "ktransfer images"):
        data.load("photos")
