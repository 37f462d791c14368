"""What pixels a model takes is seen in it, known of its family, or asked."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from ktransfer.errors import KTransferError
from ktransfer.models import graph, preprocessing

PIXELS = np.arange(4 * 4 * 3, dtype="float32").reshape(1, 4, 4, 3) * 5


def network(*first, dtype="float32", shape=(12, 12, 3), prepare=lambda x: x):
    inputs = keras.Input(shape, dtype=dtype)
    x = prepare(inputs)
    for layer in first:
        x = layer(x)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(2, 3)(x))
    return keras.Model(inputs, layers.Dense(3)(x))


def normalization(mean, variance):
    return layers.Normalization(mean=mean, variance=variance)


SHOWN = {
    "1 / 255": (lambda: network(layers.Rescaling(1 / 255)), "none"),
    "-1 to 1": (lambda: network(layers.Rescaling(1 / 127.5, -1)), "none"),
    "less a mean": (lambda: network(layers.Rescaling(1.0, -127)), "none"),
    "2 x - 1": (lambda: network(layers.Rescaling(2.0, -1.0)), "0..1"),
    "moments of pixels": (
        lambda: network(normalization([120.0] * 3, [4000.0] * 3)),
        "none",
    ),
    "moments of shares": (
        lambda: network(normalization([0.5] * 3, [0.06] * 3)),
        "0..1",
    ),
    "operations": (
        lambda: network(prepare=lambda x: x / 127.5 - 1.0),
        "none",
    ),
    "augmented": (
        lambda: network(layers.RandomFlip(), layers.Rescaling(1 / 255)),
        "none",
    ),
    "of any size": (
        lambda: network(layers.Rescaling(1 / 255), shape=(None, None, 3)),
        "none",
    ),
    "whole numbers": (lambda: network(dtype="uint8"), "none"),
    "nothing": (network, None),
    "a border": (lambda: network(layers.ZeroPadding2D(1)), None),
    "a batch norm": (lambda: network(layers.BatchNormalization()), None),
}


@pytest.mark.parametrize("case", SHOWN)
def test_what_stands_before_the_weights_shows_it(case):
    build, mode = SHOWN[case]
    if case == "whole numbers":
        inputs = keras.Input((12, 12, 3), dtype="uint8")
        x = layers.Flatten()(ops.cast(inputs, "float32"))
        model = keras.Model(inputs, layers.Dense(3)(x))
    else:
        model = build()
    assert preprocessing.by_graph(model) == mode


def test_a_nested_network_shows_it_too():
    inner = network(layers.Rescaling(1 / 255))
    outer = keras.Sequential([keras.Input((12, 12, 3)), inner])
    assert preprocessing.by_graph(outer) == "none"


def test_where_it_cannot_be_known_the_choices_are_named():
    with pytest.raises(KTransferError) as caught:
        preprocessing.chosen(network())
    assert caught.value.name == "E_ARGUMENT"
    for mode in preprocessing.MODES:
        assert repr(mode) in caught.value.message
    assert preprocessing.chosen(network(), "torch") == "torch"
    with pytest.raises(KTransferError, match="trch"):
        preprocessing.chosen(network(), "trch")


def test_what_the_graph_contradicts_is_refused():
    model = network(layers.Rescaling(1 / 255))
    assert preprocessing.chosen(model, "none") == "none"
    with pytest.raises(KTransferError, match="'tf'.*'none'"):
        preprocessing.chosen(model, "tf")


def test_another_mode_than_that_of_the_family_is_said_aloud(capsys):
    model = keras.applications.MobileNetV2(
        weights=None, input_shape=(32, 32, 3), include_top=False
    )
    assert preprocessing.chosen(model) == "tf"
    assert capsys.readouterr().err == ""
    assert preprocessing.chosen(model, "caffe") == "caffe"
    assert "MobileNetV2" in capsys.readouterr().err


MODULES = {"tf": "mobilenet_v2", "torch": "densenet", "caffe": "vgg16"}


@pytest.mark.parametrize("mode", preprocessing.MODES)
def test_pixels_are_those_that_keras_prepares(mode):
    inputs = keras.Input((4, 4, 3))
    model = keras.Model(inputs, preprocessing.applied(mode, inputs))
    if mode in MODULES:
        module = getattr(keras.applications, MODULES[mode])
        wanted = module.preprocess_input(PIXELS.copy())
    else:
        wanted = PIXELS / (255 if mode == "0..1" else 1)
    np.testing.assert_allclose(model(PIXELS), wanted, rtol=1e-5, atol=1e-5)
    # It can be saved, and read by Keras alone.
    again = keras.Model.from_config(model.get_config())
    np.testing.assert_array_equal(again(PIXELS), model(PIXELS))
    assert len(graph.read(model).nodes) == {"none": 0, "caffe": 2}.get(mode, 1)


FAMILIES = {
    "MobileNet": "tf",
    "MobileNetV2": "tf",
    "MobileNetV3Small": "none",
    "ResNet50": "caffe",
    "ResNet50V2": "tf",
    "EfficientNetB0": "none",
    "EfficientNetV2B0": "none",
    "DenseNet121": "torch",
    "VGG16": "caffe",
    "Xception": "tf",
    "InceptionV3": "tf",
    "InceptionResNetV2": "tf",
    "NASNetMobile": "tf",
    "ConvNeXtTiny": "none",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_of_keras_applications_is_known(name):
    build = getattr(keras.applications, name)
    model = build(weights=None, include_top=False, pooling="avg")
    inputs = keras.Input((224, 224, 3))
    renamed = keras.Model(inputs, layers.Dense(3)(model(inputs)), name="mine")
    assert preprocessing.chosen(renamed, None, 224) == FAMILIES[name]
