"""Sources: trained models to transfer from, all of one form.

Whatever model a user has, methods meet a functional one that maps raw uint8
images to logits and has a layer `features`; nothing of it is shared.
"""

import sys
from typing import NamedTuple

import keras
from keras import layers

from ktransfer.data import Task
from ktransfer.errors import KTransferError, unknown
from ktransfer.models import blocks as block_of
from ktransfer.models import graph
from ktransfer.models.surgery import copy, tapped

# Names of the layer that the normal form adds before the head, and to read
# uint8 images with a model of floats.
FEATURES = "features"
_AS_FLOATS = "as_floats"
_BLOCK = "block"


class _Source(NamedTuple):
    model: keras.Model
    task: Task


class Source(_Source):
    """A trained model and what it was trained on.

    `model` maps raw images of `task` to logits and has a layer `features`. One
    that is not of this form is copied into it; see `normal_form`.

    Args:
        model: functional or Sequential, images -> logits or probabilities.
        task: the `Task` that it was trained on.
        features: name of the block or layer whose output feeds the head; None
            for the layer `features`, or else for what the last Dense reads.
        blocks: names of the layers that end a block each, bottom first; None
            for the blocks that the graph has.
    """

    __slots__ = ()

    def __new__(cls, model, task, features=None, blocks=None):
        return super().__new__(cls, normal_form(model, features, blocks), task)


def normal_form(model, features=None, blocks=None):
    """Return `model` in the form that all methods read.

    It comes back as it is if it has that form already. Else it is a copy:
    flat, reading uint8 images, with an identity layer `features` before the
    head. A softmax on the output is taken off, since methods read logits.

    Args:
        model, features, blocks: as `Source`.

    Raises:
        KTransferError: `E_ARGUMENT` for a model that has no graph, several
            inputs or outputs, a Lambda layer, or an output that is neither
            logits nor a softmax; `E_UNKNOWN` for a layer that is not there.
    """
    flat = graph.read(model)
    _check_ends(model, flat)
    softmax = _softmax(model, flat)
    place = _features(model, flat, features)
    reads = flat.tensors[flat.inputs.number].dtype
    if (place, softmax, blocks, reads) == (None, None, None, "uint8"):
        return model
    formed = _formed(model, flat, softmax, place, _renamed(flat, blocks))
    count = len(block_of.blocks(formed))
    if count > block_of.MANY:
        print(
            f"warning: model {model.name!r} has {count} blocks; methods that "
            "go block by block will be slow. Name fewer with blocks=[...], "
            "the layers that end them.",
            file=sys.stderr,
        )
    return formed


def _check_ends(model, flat):
    for what, places in (("input", flat.inputs), ("output", flat.outputs)):
        number = len(graph.flat(places))
        if number != 1 or not isinstance(places, graph.Tensor):
            raise KTransferError(
                "E_ARGUMENT",
                f"model {model.name!r} has {number} {what}s; expected one, "
                "images to logits.",
            )


def _softmax(model, flat):
    """Return the node that gives the probabilities of a classifier, or None.

    Raises:
        KTransferError: `E_ARGUMENT` for another activation of the output.
    """
    (last,) = (n for n in flat.nodes if flat.outputs in graph.made_by(n))
    name = _activation(last.operation)
    if name == "softmax":
        return last
    if name != "linear":
        raise KTransferError(
            "E_ARGUMENT",
            f"the output of {model.name!r} goes through {name!r}; expected "
            "logits, or a softmax, which is taken off. Cut the model before "
            "it.",
        )
    return None


def _activation(operation):
    """Return the name of what a layer or operation ends with."""
    kind = type(operation).__name__.lower()
    if kind in ("softmax", "sigmoid", "relu", "tanh"):
        return kind
    activation = getattr(operation, "activation", None)
    return getattr(activation, "__name__", "linear")


def _features(model, flat, wanted):
    """Return the `Tensor` before which `features` is missing, or None.

    None if the layer is there and is the one that is wanted.
    """
    names = [node.operation.name for node in flat.nodes]
    if wanted in (None, FEATURES) and FEATURES in names:
        return None
    if wanted is not None:
        return tapped(flat, [wanted])[wanted]
    dense = [n for n in flat.nodes if isinstance(n.operation, layers.Dense)]
    if not dense:
        raise KTransferError(
            "E_ARGUMENT",
            f"model {model.name!r} has no Dense layer, so what feeds its head "
            "is not known; name the layer with features=...",
        )
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


def _formed(model, flat, softmax, features, names):
    """Return the copy of `model` in the normal form."""
    if features:
        # The name is taken by the layer that is added.
        names = {FEATURES: f"{FEATURES}_of_{model.name}", **names}
    twins = _twins(model, names)
    end = flat.outputs
    # An activation inside the last layer is switched off, one after it left.
    outside = softmax and not getattr(softmax.operation, "weights", ())
    if outside:
        end = graph.read_by(softmax)[0]
    shape = flat.tensors[flat.inputs.number].shape[1:]
    images = keras.Input(shape, dtype="uint8", name="images")
    x = images
    if flat.tensors[flat.inputs.number].dtype != "uint8":
        x = layers.Rescaling(1.0, name=_AS_FLOATS)(images)

    def call(node, args, kwargs):
        twin = twins.get(id(node.operation), node.operation)
        made = twin(*args, **kwargs)
        if features in graph.made_by(node):
            return layers.Identity(name=FEATURES)(made)
        return made

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
