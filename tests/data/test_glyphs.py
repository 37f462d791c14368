"""The embedded sets: their bytes, and that they are what they claim to be."""

import subprocess
import sys
import time

import numpy as np
import pytest

from ktransfer import data
from ktransfer.data import glyphs
from ktransfer.data.split import sha256

# Bytes of version 1. Other ones make every committed record stale.
TRAIN = {
    "digits": (
        "edb7be25f11f0309606bace7a04e25554d1588140c853a33215bc9c20342d9dc"
    ),
    "letters": (
        "8a6b981dc000febcabd2aa03ee7137d034c79df764fc561850e2e762e73d37c2"
    ),
}
ALL = {
    "digits": (
        "7f6578f715d40520ab42320787472f23f63d1d6626d8f28cf3b1740377e4f70a"
    ),
    "letters": (
        "5cd9d683522891afa2bb0663127dc5652e1eb02d0ff909a6b89195e30152a99b"
    ),
}
SHAPES = {"digits": (28, 28, 1), "letters": (32, 32, 3)}
NAMES = sorted(SHAPES)


@pytest.mark.parametrize("name", NAMES)
def test_bytes_are_the_golden_ones(name):
    assert data.load(name).sha256 == TRAIN[name]
    assert data.digest(name) == ALL[name]


@pytest.mark.parametrize("name", NAMES)
def test_shapes_types_and_balance(name):
    task, test = data.load(name), data.test_split(name)
    assert task.image_shape == SHAPES[name]
    assert task.num_classes == 10
    assert task.unlabelled is None
    for split, num_images in ((task.train, 5000), (test, 1000)):
        assert split.x.shape == (num_images, *SHAPES[name])
        assert (split.x.dtype, split.y.dtype) == ("uint8", "int32")
        assert (np.bincount(split.y) == num_images // 10).all()
        assert len(set(split.y[:100].tolist())) == 10, "not shuffled"


@pytest.mark.parametrize("name", NAMES)
def test_arrays_cannot_be_changed_in_place(name):
    for array in (*data.load(name).train, *data.test_split(name)):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


@pytest.mark.parametrize("name", NAMES)
def test_no_image_occurs_twice(name):
    images = [*data.load(name).train.x, *data.test_split(name).x]
    assert len({image.tobytes() for image in images}) == 6000


@pytest.mark.parametrize("name", NAMES)
def test_rendering_depends_on_name_and_part_alone(name):
    first = glyphs.rendered.__wrapped__(name, "test")
    glyphs.rendered.__wrapped__("digits", "test")
    assert sha256(*first) == sha256(*glyphs.rendered(name, "test"))


def test_six_thousand_images_take_little_time():
    start = time.process_time()
    for part in ("train", "test"):
        glyphs.rendered.__wrapped__("letters", part)
    assert time.process_time() - start < 3.0, "twice the goal, for slow hosts"


def test_digits_do_not_render_letters():
    code = (
        "import sys; from ktransfer import data; data.load('digits')\n"
        "from ktransfer.data import glyphs\n"
        "assert glyphs.rendered.cache_info().currsize == 2\n"
        "assert not {'keras', 'tensorflow', 'matplotlib', 'PIL'} "
        "& set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nearest_template_beats_chance_but_does_not_solve_digits():
    # A sanity check of image against label without any training.
    task, test = data.load("digits"), data.test_split("digits")
    means = np.stack(
        [task.train.x[task.train.y == k].mean(axis=0) for k in range(10)]
    ).reshape(10, -1)
    images = test.x.reshape(len(test.y), -1).astype(float)
    images -= images.mean(axis=1, keepdims=True)
    means -= means.mean(axis=1, keepdims=True)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    accuracy = np.mean((images @ means.T).argmax(axis=1) == test.y)
    assert 0.3 < accuracy < 0.65
