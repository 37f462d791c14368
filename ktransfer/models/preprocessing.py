"""What pixels a user's model expects: shown by its graph, by its family, asked.

A model that is given pixels of another range answers worse and says nothing.
So the range is read off what stands before the first weights, or it is that of
the family in `keras.applications`, or the user names one of `MODES`.
"""

import sys

import numpy as np
from keras import layers, ops

from ktransfer.errors import KTransferError, unknown
from ktransfer.models import graph
from ktransfer.models.named import MODES, sides

_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_BLUE_GREEN_RED_MEAN = (103.939, 116.779, 123.68)

# Layers by which a family of keras.applications is told, and its mode. Those
# that scale pixels themselves show it.
_FAMILIES = {
    "MobileNetV2": ({"Conv1", "bn_Conv1", "expanded_conv_depthwise"}, "tf"),
    "MobileNet": ({"conv1", "conv1_bn", "conv_dw_1"}, "tf"),
    "ResNetV2": ({"conv1_conv", "conv2_block1_preact_bn"}, "tf"),
    "ResNet": (
        {"conv1_bn", "conv2_block1_1_conv", "conv2_block1_add"},
        "caffe",
    ),
    "DenseNet": ({"conv1_conv", "conv2_block1_concat"}, "torch"),
    "VGG": ({"block1_conv1", "block1_conv2", "block5_conv3"}, "caffe"),
    "Xception": ({"block1_conv1_bn", "block14_sepconv2"}, "tf"),
    "InceptionResNetV2": ({"mixed_5b", "block35_1_mixed"}, "tf"),
    "InceptionV3": ({"mixed0", "mixed10"}, "tf"),
    "NASNet": ({"stem_conv1", "stem_bn1"}, "tf"),
}
# A range of pixels that is narrower has been scaled.
_SCALED = 32


def chosen(model, given=None, image_size=None):
    """Return the mode of `model`, given or found.

    Args:
        model: the user's, functional or Sequential.
        given: a name of `MODES`, or None.
        image_size: height and width of a model of images of any size.

    Raises:
        KTransferError: `E_UNKNOWN` for another name; `E_ARGUMENT` where the
            mode cannot be known, or the graph shows another one.
    """
    if given is not None and given not in MODES:
        raise unknown("preprocessing", given, MODES)
    shown = by_graph(model, image_size)
    family, usual = by_family(model)
    if given and shown and given != shown:
        raise KTransferError(
            "E_ARGUMENT",
            f"preprocessing is {given!r}, and the first layers of "
            f"{model.name!r} show that it takes {shown!r} "
            f"({MODES[shown]}). Leave it out.",
        )
    if given and not shown and usual and given != usual:
        print(
            f"warning: {model.name!r} is a {family} of keras.applications, "
            f"whose weights take {usual!r} and not {given!r}",
            file=sys.stderr,
        )
    mode = given or shown or usual
    if mode is None:
        raise KTransferError(
            "E_ARGUMENT",
            f"what pixels {model.name!r} takes cannot be seen in it; say how "
            "pixels x from 0 to 255 reach it: "
            + "; ".join(f"{name!r} for {text}" for name, text in MODES.items())
            + ".",
        )
    return mode


def by_family(model):
    """Return the family of keras.applications, and its mode; or two Nones."""
    names = {node.operation.name for node in graph.read(model).nodes}
    for family, (marks, mode) in _FAMILIES.items():
        if marks <= names:
            return family, mode
    return None, None


def by_graph(model, image_size=None):
    """Return the mode that what stands before the first weights shows, or None.

    It is given all pixel values, and then those divided by 255. What comes out
    in a narrow range has been scaled, and what comes out unchanged has not.
    """
    flat = graph.read(model)
    pixels = flat.tensors[flat.inputs.number]
    if pixels.dtype == "uint8":
        return "none"
    low, high = _range(flat, 255.0, image_size)
    if (low, high) == (0, 255):
        return None
    if high - low <= _SCALED or low < -_SCALED:
        # Scaled, or shifted by a mean.
        return "none"
    low, high = _range(flat, 1.0, image_size)
    return "0..1" if high - low <= _SCALED else None


def range_of(model):
    """Return the ends of what reaches the first weights of pixels 0 to 255."""
    return _range(graph.read(model), 255.0, None)


def _range(flat, top, image_size):
    """Return the ends of what reaches the first weights, of 0 to `top`."""
    first = next((i for i, n in enumerate(flat.nodes) if _is_trained(n)), None)
    if first is None:
        return 0, top
    ends = graph.read_by(flat.nodes[first])
    before = flat._replace(nodes=flat.nodes[:first], outputs=ends[0])
    shape = flat.tensors[flat.inputs.number].shape[1:]
    size = [
        n or m for n, m in zip(shape, (*(sides(image_size) or (64, 64)), 3))
    ]
    images = np.resize(np.linspace(0, top, 256), (1, *size[::-1]))
    # Every value in every channel.
    images = np.ascontiguousarray(np.moveaxis(images, 1, -1), "float32")
    if not before.nodes:
        return 0, top
    found = np.asarray(graph.run(before, images, _in_inference))
    return float(found.min()), float(found.max())


def _is_trained(node):
    operation = node.operation
    weights = getattr(operation, "weights", ())
    return bool(weights) and not graph.is_adapted(operation)


def _in_inference(node, args, kwargs):
    if kwargs.get("training"):
        kwargs = {**kwargs, "training": False}
    return node.operation(*args, **kwargs)


def applied(mode, x):
    """Return pixels `x`, a symbolic float tensor, as the mode has them."""
    if mode == "none":
        return x
    if mode == "0..1":
        return layers.Rescaling(1 / 255, name="to_0_1")(x)
    if mode == "tf":
        return layers.Rescaling(1 / 127.5, -1.0, name="to_tf")(x)
    if mode == "torch":
        return layers.Rescaling(
            [1 / (255 * deviation) for deviation in _DEVIATION],
            [-m / d for m, d in zip(_MEAN, _DEVIATION)],
            name="to_torch",
        )(x)
    offset = [-mean for mean in _BLUE_GREEN_RED_MEAN]
    x = ops.flip(x, axis=-1)
    return layers.Rescaling(1.0, offset, name="to_caffe")(x)
