"""A user's model as a text: read, hashed, or refused in one line."""

import shutil
import zipfile

import keras
import numpy as np
import pytest
from helpers import small_classifier
from keras import layers

from ktransfer import cli
from ktransfer.errors import KTransferError
from ktransfer.models import named, own


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of models, sound and broken ones."""
    place = tmp_path_factory.mktemp("models")
    small_classifier().save(place / "mine.keras")
    content = (place / "mine.keras").read_bytes()
    (place / "cut.keras").write_bytes(content[: len(content) // 2])
    (place / "empty.keras").write_bytes(b"")
    (place / "text.keras").write_text("a model", encoding="utf-8")
    (place / "mine.txt").write_bytes(content)
    (place / "folder.keras").mkdir()
    small_classifier().save_weights(place / "small.weights.h5")
    with zipfile.ZipFile(place / "other.keras", "w") as archive:
        archive.writestr("readme.txt", "no model")
    with zipfile.ZipFile(place / "json.keras", "w") as archive:
        archive.writestr("config.json", "{")
        archive.writestr("metadata.json", "{}")
        archive.writestr("model.weights.h5", b"")
    x = keras.Input((12, 12, 3))
    twice = layers.Lambda(lambda z: z * 2, output_shape=(12, 12, 3))(x)
    end = layers.Dense(3)(layers.Flatten()(twice))
    keras.Model(x, end).save(place / "lambda.keras")
    y = layers.Dense(3)(layers.Flatten()(Halved()(x)))
    keras.Model(x, y).save(place / "own_class.keras")
    z = layers.Dense(3)(layers.Flatten()(layers.Conv2D(2, 3)(x)))
    keras.Model(x, z).save(place / "unknown_pixels.keras")
    four = keras.Input((12, 12, 4), dtype="uint8")
    end = layers.Dense(3)(layers.Flatten()(layers.Rescaling(1.0)(four)))
    keras.Model(four, end).save(place / "four_channels.keras")
    vector = keras.Input((12,))
    keras.Model(vector, layers.Dense(3)(vector)).save(place / "vector.keras")
    pair = layers.Flatten()(x)
    keras.Model(x, [layers.Dense(3)(pair), layers.Dense(2)(pair)]).save(
        place / "two_outputs.keras"
    )
    keras.Model(x, layers.Dense(3, activation="relu")(pair)).save(
        place / "relu.keras"
    )
    return place


class Halved(keras.layers.Layer):
    """Of a user, and registered nowhere."""

    def call(self, inputs):
        return inputs / 2


BAD = {
    "cut.keras": ("E_WEIGHTS", 3),
    "empty.keras": ("E_WEIGHTS", 3),
    "text.keras": ("E_WEIGHTS", 3),
    "other.keras": ("E_WEIGHTS", 3),
    "json.keras": ("E_WEIGHTS", 3),
    "mine.txt": ("E_ARGUMENT", 2),
    "small.weights.h5": ("E_ARGUMENT", 2),
    "folder.keras": ("E_UNKNOWN", 2),
    "absent.keras": ("E_UNKNOWN", 2),
    "mine.keras:tff": ("E_UNKNOWN", 2),
    "mine.keras:tf": ("E_ARGUMENT", 2),
    "lambda.keras": ("E_ARGUMENT", 2),
    "own_class.keras": ("E_ARGUMENT", 2),
    "unknown_pixels.keras": ("E_ARGUMENT", 2),
    "four_channels.keras:none": ("E_ARGUMENT", 2),
    "vector.keras:none": ("E_ARGUMENT", 2),
    "two_outputs.keras:none": ("E_ARGUMENT", 2),
    "relu.keras:none": ("E_ARGUMENT", 2),
    "MobileNetV9": ("E_UNKNOWN", 2),
    "MobileNetV2@absent.weights.h5": ("E_WEIGHTS", 3),
    "MobileNetV2@small.weights.h5": ("E_WEIGHTS", 3),
    "imagenet_lite1": ("E_UNKNOWN", 2),
}


@pytest.mark.parametrize("text", BAD)
def test_a_bad_model_is_refused_in_one_line(folder, text, monkeypatch):
    monkeypatch.chdir(folder)
    name, code = BAD[text]
    with pytest.raises(KTransferError) as caught:
        own.load_source(text, image_size=32)
    assert caught.value.name == name, caught.value
    assert caught.value.exit_code == code
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 900


@pytest.mark.parametrize("text", ["absent.keras", "mine.keras:tff", "mine.txt"])
def test_the_command_refuses_it_before_tensorflow(
    folder, text, monkeypatch, capsys, tmp_path
):
    monkeypatch.chdir(folder)
    arguments = ["run", "--method", "linear_probe", "--source-model", text]
    arguments += ["--target", "digits", "--results", str(tmp_path)]
    assert cli.main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_text_is_model_and_pixels(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert named.parsed("mine.keras") == ("mine.keras", None)
    assert named.parsed("mine.keras:0..1") == ("mine.keras", "0..1")
    assert named.parsed("MobileNetV2@none:tf") == ("MobileNetV2@none", "tf")
    # A file of that name is that file.
    shutil.copy("mine.keras", "b:tf")
    assert named.parsed("b:tf") == ("b:tf", None)


def test_the_hash_is_of_architecture_weights_and_pixels(folder, tmp_path):
    model = small_classifier()
    texts = [str(tmp_path / f"{name}.keras") for name in "abc"]
    model.save(texts[0])
    model.save(texts[1])
    model.layers[-1].bias.assign([1.0, 0.0, 0.0])
    model.save(texts[2])
    first, again, other = map(named.digest, texts)
    assert first == again != other
    assert named.digest(f"{texts[0]}:none") != first
    assert named.digest("MobileNetV2@none") != named.digest("MobileNetV2")
    weights = folder / "small.weights.h5"
    assert named.digest(f"MobileNetV2@{weights}") != named.digest("MobileNetV2")


@pytest.mark.slow
def test_random_weights_rest_on_the_seed():
    first, again, other = (
        own.load_source("MobileNetV2@none", image_size=32, seed=seed)
        for seed in (0, 0, 1)
    )
    kernels = [
        source.model.get_layer("Conv1").kernel.numpy()
        for source in (first, again, other)
    ]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert (kernels[0] != kernels[2]).any()
    assert first.task.num_classes == 1000


@pytest.mark.slow
@pytest.mark.parametrize("top", [True, False])
def test_weights_come_from_a_file(top, tmp_path):
    """As Keras would download them, with the head or without."""
    model = keras.applications.MobileNetV2(weights=None, include_top=top)
    path = tmp_path / "mobile.weights.h5"
    model.save_weights(path)
    source = own.load_source(f"MobileNetV2@{path}", image_size=224)
    found = source.model.get_layer("Conv1").kernel
    np.testing.assert_array_equal(found, model.get_layer("Conv1").kernel)
    assert own.has_head(source.model) == top


def test_what_is_stated_twice_agrees(folder):
    text = str(folder / "mine.keras")
    source = own.load_source(text)
    assert source.task.name == "mine.keras"
    assert source.task.sha256 == named.digest(text)
    other = own.load_source(small_classifier())
    assert other.task.label_space != source.task.label_space
