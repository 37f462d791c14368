"""Functional-API builders, raw uint8 images -> features, with named layers.

A layer is named `block<number>_<what>`, and `features` feeds the head. The
builders return fresh weights under their seed; nothing is trained here.
"""

from collections.abc import Callable

import keras
from keras import layers

from ktransfer.models.surgery import fresh


def convnet(
    input_shape=(32, 32, 3),
    *,
    seed=0,
    filters=(32, 64, 64),
    dropout=0.0,
    extra_block=False,
):
    """Return the article's network without its head: conv 32-64-64.

    Three valid 3x3 convolutions with two poolings; `features` is the last map
    flattened, 1,024 values for 32x32 images. With a hidden layer of 64 and ten
    classes on top it has 122,570 parameters.
    Source: article 002, section 4 (the TensorFlow tutorial's CIFAR-10 CNN).

    Args:
        input_shape: `(height, width, channels)` of the uint8 images.
        seed: of the initial weights.
        filters: of the three convolutions.
        dropout: share of the last map's values that training drops.
        extra_block: add a fourth, same-sized convolution (the `layers`
            experiment needs one more cut point).
    """
    inputs, x = _input(input_shape)
    for block, width in enumerate(filters, start=1):
        if block > 1:
            x = layers.MaxPooling2D(name=f"block{block - 1}_pool")(x)
        x = _convolution(width, f"block{block}_conv", "valid", "relu")(x)
    if extra_block:
        x = _convolution(filters[-1], "block4_conv", "same", "relu")(x)
    if dropout:
        x = layers.Dropout(dropout, name="block3_dropout")(x)
    outputs = layers.Flatten(name="features")(x)
    return fresh(keras.Model(inputs, outputs, name="convnet"), seed)


def narrow_convnet(input_shape=(32, 32, 3), *, seed=0):
    """Return `convnet` with half the filters, 512 features."""
    return convnet(input_shape, seed=seed, filters=(16, 32, 32))


def wide_convnet(input_shape=(32, 32, 3), *, seed=0):
    """Return `convnet` with twice the filters, 2,048 features."""
    return convnet(input_shape, seed=seed, filters=(64, 128, 128))


def dropout_convnet(input_shape=(32, 32, 3), *, seed=0):
    """Return `convnet` whose last map loses half its values in training."""
    return convnet(input_shape, seed=seed, dropout=0.5)


def lenet(input_shape=(28, 28, 3), *, seed=0):
    """Return a LeNet-like network with BatchNorm, 4 million multiply-adds.

    Two 5x5 convolutions of 32 and 48 filters, each normalised and pooled, and
    a Dense layer of 100 units, `features`; the sizes are ours.
    Source: LeCun et al. 1998, with the normalisation of Ioffe and Szegedy
    2015, arXiv:1502.03167.
    """
    inputs, x = _input(input_shape)
    for block, filters in enumerate((32, 48), start=1):
        name = f"block{block}"
        x = layers.Conv2D(filters, 5, name=f"{name}_conv")(x)
        x = layers.BatchNormalization(name=f"{name}_norm")(x)
        x = layers.ReLU(name=f"{name}_relu")(x)
        x = layers.MaxPooling2D(name=f"{name}_pool")(x)
    x = layers.Flatten(name="flatten")(x)
    outputs = layers.Dense(100, activation="relu", name="features")(x)
    return fresh(keras.Model(inputs, outputs, name="lenet"), seed)


def mlp(input_shape=(32, 32, 3), *, seed=0, units=(256, 128)):
    """Return a multi-layer perceptron of Dense blocks on the scaled pixels."""
    inputs, x = _input(input_shape)
    x = layers.Flatten(name="flatten")(x)
    for block, width in enumerate(units, start=1):
        last = block == len(units)
        name = "features" if last else f"block{block}_dense"
        x = layers.Dense(width, activation="relu", name=name)(x)
    return fresh(keras.Model(inputs, x, name="mlp"), seed)


def vgg(input_shape=(32, 32, 3), *, seed=0, filters=(32, 64, 128)):
    """Return a VGG-like network with BatchNorm: two convolutions a block.

    `features` is the mean over positions of the last map, `filters[-1]` values.
    Source: Simonyan and Zisserman 2015, arXiv:1409.1556, with the
    normalisation of Ioffe and Szegedy 2015, arXiv:1502.03167.
    """
    inputs, x = _input(input_shape)
    for block, width in enumerate(filters, start=1):
        for half in (1, 2):
            x = _convolution(width, f"block{block}_conv{half}", "same")(x)
            x = layers.BatchNormalization(name=f"block{block}_norm{half}")(x)
            x = layers.ReLU(name=f"block{block}_relu{half}")(x)
        if block < len(filters):
            x = layers.MaxPooling2D(name=f"block{block}_pool")(x)
    outputs = layers.GlobalAveragePooling2D(name="features")(x)
    return fresh(keras.Model(inputs, outputs, name="vgg"), seed)


def resnet20(input_shape=(32, 32, 3), *, seed=0, filters=(16, 32, 64)):
    """Return ResNet-20 for CIFAR: three stages of three residual blocks.

    Blocks 2 to 10 are the residual ones, block 1 the stem. The shortcut of a
    block that changes shape is a 1x1 convolution (option B).
    Source: He et al. 2016, arXiv:1512.03385, section 4.2.
    """
    inputs, x = _input(input_shape)
    x = _convolution(filters[0], "block1_conv", "same", bias=False)(x)
    x = layers.BatchNormalization(name="block1_norm")(x)
    x = layers.ReLU(name="block1_relu")(x)
    block = 1
    for stage, width in enumerate(filters):
        for unit in range(3):
            block += 1
            strides = 2 if stage > 0 and unit == 0 else 1
            x = _residual(x, width, strides, f"block{block}")
    outputs = layers.GlobalAveragePooling2D(name="features")(x)
    return fresh(keras.Model(inputs, outputs, name="resnet20"), seed)


def _residual(x, filters, strides, block):
    shortcut = x
    if strides > 1 or x.shape[-1] != filters:
        shortcut = layers.Conv2D(
            filters, 1, strides, use_bias=False, name=f"{block}_shortcut"
        )(x)
    for half, step in ((1, strides), (2, 1)):
        x = layers.Conv2D(
            filters,
            3,
            step,
            padding="same",
            use_bias=False,
            kernel_initializer="he_normal",
            name=f"{block}_conv{half}",
        )(x)
        x = layers.BatchNormalization(name=f"{block}_norm{half}")(x)
        if half == 1:
            x = layers.ReLU(name=f"{block}_relu1")(x)
    x = layers.Add(name=f"{block}_add")([x, shortcut])
    return layers.ReLU(name=f"{block}_relu2")(x)


def _input(input_shape):
    inputs = keras.Input(input_shape, dtype="uint8", name="images")
    return inputs, layers.Rescaling(1 / 255, name="rescale")(inputs)


def _convolution(filters, name, padding, activation=None, bias=True):
    return layers.Conv2D(
        filters,
        3,
        padding=padding,
        activation=activation,
        use_bias=bias,
        name=name,
    )


# A run's hash follows the one that is asked for, so the table is literal.
BUILDERS: dict[str, Callable[..., keras.Model]] = {
    "convnet": convnet,
    "dropout_convnet": dropout_convnet,
    "lenet": lenet,
    "mlp": mlp,
    "narrow_convnet": narrow_convnet,
    "resnet20": resnet20,
    "vgg": vgg,
    "wide_convnet": wide_convnet,
}
