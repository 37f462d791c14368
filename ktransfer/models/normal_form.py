"""The one form of a source's model: raw uint8 images to logits, `features`.

Whatever model a user has, methods meet a functional one that maps raw uint8
images to logits and has a layer `features`; nothing of it is shared. A model
without a head ends at `features`.
"""

import sys
from typing import NamedTuple

import keras
from keras import layers

from ktransfer.errors import KTransferError, unknown
from ktransfer.models import blocks as block_of
from ktransfer.models import graph, named, preprocessing
from ktransfer.models.surgery import copy, tapped

# Names of the layer that the normal form adds before the head, and to read
# uint8 images with a model of floats.
FEATURES = "features"
_AS_FLOATS = "as_floats"
_BLOCK = "block"


class _Ends(NamedTuple):
    """What is between a model's features and its output.

    Fields:
        place: the `Tensor` behind which `features` is missing, or None.
        softmax: the node that gives probabilities, or None.
        headless: whether the features are the output.
    """

    place: graph.Tensor | None
    softmax: graph.Node | None
    headless: bool


def normal_form(
    model, features=None, blocks=None, preprocessing_mode=None, image_size=None
):
    """Return `model` in the form that all methods read.

    It comes back as it is if it has that form already. Else it is a copy:
    flat, reading uint8 images, with an identity layer `features` before the
    head. A softmax on the output is taken off, since methods read logits. A
    model without a Dense layer or a softmax has no head: it ends at
    `features`, which are the means of its maps.

    Args:
        model: functional or Sequential.
        features: name of the block or layer whose output feeds the head.
        blocks: names of the layers that end a block each, bottom first.
        preprocessing_mode: a name of `preprocessing.MODES`, None if it can be
            found.
        image_size: height and width of a model of images of any size.

    Raises:
        KTransferError: `E_ARGUMENT` for a model that has no graph, several
            inputs or outputs, a Lambda layer, pixels of an unknown range, or
            an output that is neither logits nor a softmax; `E_UNKNOWN` for a
            layer that is not there.
    """
    flat = graph.read(model)
    _check_ends(model, flat)
    ends = _ends(model, flat, features)
    pixels = flat.tensors[flat.inputs.number]
    if preprocessing_mode is not None:
        preprocessing.chosen(model, preprocessing_mode, image_size)
    kept = pixels.dtype == "uint8" and None not in pixels.shape[1:]
    if kept and (blocks, ends.place, ends.softmax) == (None, None, None):
        _warn_of_many_blocks(model)
        return model
    mode = preprocessing.chosen(model, preprocessing_mode, image_size)
    shape = _image_shape(model, pixels, image_size)
    formed = _formed(model, flat, ends, _renamed(flat, blocks), mode, shape)
    _warn_of_many_blocks(formed)
    return formed


def _image_shape(model, pixels, image_size):
    shape = pixels.shape[1:]
    if len(shape) != 3 or shape[-1] not in (1, 3):
        raise KTransferError(
            "E_ARGUMENT",
            f"the input of {model.name!r} has the shape {shape}; expected "
            "images (height, width, 1 or 3).",
        )
    if None not in shape:
        return shape
    wanted = named.sides(image_size)
    if wanted is None:
        raise KTransferError(
            "E_ARGUMENT",
            f"{model.name!r} takes images of any size; name one with "
            "image_size=...",
        )
    return (*(n or m for n, m in zip(shape, wanted)), shape[-1])


def _warn_of_many_blocks(model):
    count = len(block_of.blocks(model))
    if count > block_of.MANY:
        print(
            f"warning: model {model.name!r} has {count} blocks; methods that "
            "go block by block will be slow. Name fewer with blocks=[...], "
            "the layers that end them.",
            file=sys.stderr,
        )


def _check_ends(model, flat):
    for what, places in (("input", flat.inputs), ("output", flat.outputs)):
        number = len(graph.flat(places))
        if number != 1 or not isinstance(places, graph.Tensor):
            raise KTransferError(
                "E_ARGUMENT",
                f"model {model.name!r} has {number} {what}s; expected one, "
                "images to logits.",
            )


def _ends(model, flat, wanted):
    """Return the `_Ends` of a model.

    Raises:
        KTransferError: `E_ARGUMENT` for an output that is neither logits nor
            probabilities.
    """
    names = [node.operation.name for node in flat.nodes]
    last = graph.maker(flat, flat.outputs)
    known = wanted in (None, FEATURES) and FEATURES in names
    place = None if known else _features(model, flat, last, wanted)
    if last.operation.name == FEATURES or place == flat.outputs:
        return _Ends(place, None, True)
    activation = activation_of(last.operation)
    if activation not in ("softmax", "linear"):
        raise KTransferError(
            "E_ARGUMENT",
            f"the output of {model.name!r} goes through {activation!r}; "
            "expected logits, or a softmax, which is taken off. Cut the model "
            "before it, or name its last layer as features.",
        )
    return _Ends(place, last if activation == "softmax" else None, False)


def activation_of(operation):
    """Return the name of what a layer or operation ends with."""
    kind = type(operation).__name__.lower()
    if kind in ("softmax", "sigmoid", "relu", "tanh"):
        return kind
    activation = getattr(operation, "activation", None)
    return getattr(activation, "__name__", "linear")


def _features(model, flat, last, wanted):
    """Return the `Tensor` that feeds the head, the output if there is none."""
    if wanted is not None:
        return tapped(flat, [wanted])[wanted]
    dense = [n for n in flat.nodes if isinstance(n.operation, layers.Dense)]
    if not dense and activation_of(last.operation) == "softmax":
        # Its logits come from a convolution over one place.
        dense = [n for n in flat.nodes if getattr(n.operation, "weights", ())]
    if not dense:
        return flat.outputs
    place = graph.read_by(dense[-1])[0]
    if place == flat.inputs:
        raise KTransferError(
            "E_ARGUMENT",
            f"the Dense layer {dense[-1].operation.name!r} of {model.name!r} "
            "reads the images themselves; expected features before it.",
        )
    return place


def _renamed(flat, ends):
    """Return new names of layers that tell the blocks that a user names."""
    if ends is None:
        return {}
    names = [node.operation.name for node in flat.nodes]
    for name in ends:
        if name not in names:
            raise unknown("layer to end a block", name, names)
    found, number = {}, 1
    for node in flat.nodes:
        name = node.operation.name
        if number <= len(ends):
            found[name] = f"{_BLOCK}{number}_{name}"
        if name in ends:
            number += 1
    return found


def _formed(model, flat, ends, names, mode, shape):
    """Return the copy of `model` in the normal form."""
    if ends.place:
        # The name is taken by the layer that is added.
        names = {FEATURES: f"{FEATURES}_of_{model.name}", **names}
    twins = _twins(model, names)
    # An activation inside the last layer is switched off, one after it left.
    softmax = ends.softmax
    outside = softmax and not getattr(softmax.operation, "weights", ())
    end = graph.read_by(softmax)[0] if outside else flat.outputs
    images = keras.Input(shape, dtype="uint8", name="images")
    x = images
    if flat.tensors[flat.inputs.number].dtype != "uint8":
        x = layers.Rescaling(1.0, name=_AS_FLOATS)(images)
        x = preprocessing.applied(mode, x)

    def call(node, args, kwargs):
        twin = twins.get(id(node.operation), node.operation)
        made = twin(*args, **kwargs)
        if ends.place not in graph.made_by(node):
            return made
        if ends.headless and len(made.shape) == 4:
            made = layers.GlobalAveragePooling2D(name="means_of_maps")(made)
        return layers.Identity(name=FEATURES)(made)

    outputs = graph.run(flat._replace(outputs=end), x, call)
    formed = keras.Model(images, outputs, name=model.name)
    if softmax and not outside:
        twins[id(softmax.operation)].activation = keras.activations.linear
    return formed


def _twins(model, names):
    """Return id of a layer -> its copy, for all layers of a copy of `model`."""
    twin = copy(model)
    pairs = zip(_operations(model), _operations(twin), strict=True)
    found = {}
    for layer, other in pairs:
        if isinstance(other, keras.Layer):
            other.name = names.get(layer.name, layer.name)
        found[id(layer)] = other
    return found


def _operations(model):
    return [node.operation for node in graph.read(model).nodes]
