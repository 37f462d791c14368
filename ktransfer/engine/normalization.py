"""BatchNorm's moving statistics: trained, frozen, or estimated anew.

A moving average that moves by a hundredth or a thousandth a step is unfinished
after a training of a few hundred steps, and the network that serves is not the
one that was trained. So a training has a choice.
"""

import collections
import contextlib
import math

import keras
import numpy as np
from keras import ops

from ktransfer.errors import KTransferError
from ktransfer.models import graph
from ktransfer.models.layers import StochasticNormalization

# Images that statistics are estimated on, and bytes that maps of all of them
# may take at a time; fewer images do where they are large.
MOST_IMAGES = 2000
MOST_BYTES = 2**29
# Images that a layer reads at once.
_ROWS = 250


def normalisations(model, thawed=False):
    """Return the BatchNorm layers of `model`, bottom first.

    Those inside an `InferenceMode` are not among them: it keeps them as they
    are.

    Args:
        thawed: only those that are not frozen.
    """
    found = [_normalisation(n.operation) for n in graph.read(model).nodes]
    unique = dict.fromkeys(x for x in found if x)
    return [x for x in unique if x.trainable or not thawed]


def _normalisation(operation):
    """Return the BatchNorm that a layer is or holds, or None."""
    if isinstance(operation, StochasticNormalization):
        return operation.norm
    is_one = isinstance(operation, keras.layers.BatchNormalization)
    return operation if is_one else None


@contextlib.contextmanager
def kept(model):
    """Have thawed BatchNorm layers use and keep their moving statistics.

    Their gamma and beta may be trained all the same, by whoever has noted
    them before: Keras only knows a layer that is frozen wholly, which it calls
    in inference mode.
    """
    changed = normalisations(model, thawed=True)
    for layer in changed:
        layer.trainable = False
    try:
        yield
    finally:
        for layer in changed:
            layer.trainable = True


def reestimate_statistics(model, images, only=None):
    """Set BatchNorm's moving statistics to those of `images`, bottom up.

    Each layer gets the mean and variance of its own input in inference mode,
    the layers below being done already; variances are at least 1e-6. All is
    one pass over at most `MOST_IMAGES` of the images, evenly spaced.

    Args:
        model: from raw images; its other variables stay.
        images: `(n, height, width, channels)` uint8, or a dictionary of such
            by the names of the model's inputs.
        only: the BatchNorm layers to set; None for all.

    Raises:
        KTransferError: `E_INVARIANT` for a layer that the model calls twice:
            it is not known which of its inputs will be served.
    """
    only = normalisations(model) if only is None else only
    chosen = {id(layer) for layer in only}
    flat = graph.read(model)
    nodes = _needed(flat, chosen)
    if not nodes:
        return
    _check_calls(nodes, chosen)
    values = {
        place: _chunks(given, _how_many(flat, nodes))
        for place, given in _given(flat.inputs, images)
    }
    readers = collections.Counter(x for n in nodes for x in graph.read_by(n))
    for node in nodes:
        if id(_normalisation(node.operation)) in chosen:
            _estimate(node, values)
        made = _carried_out(node, values)
        values.update(zip(graph.made_by(node), made, strict=True))
        for place in graph.read_by(node):
            readers[place] -= 1
            if not readers[place]:
                values.pop(place, None)


def _needed(flat, chosen):
    """Return the nodes that lead to the inputs of the chosen layers.

    These layers are the last ones; what stands above them is not computed.
    """
    wanted: set[graph.Tensor] = set()
    nodes = []
    for node in reversed(flat.nodes):
        is_chosen = id(_normalisation(node.operation)) in chosen
        if is_chosen or wanted & set(graph.made_by(node)):
            nodes.append(node)
            wanted |= set(graph.read_by(node))
    return nodes[::-1]


def _check_calls(nodes, chosen):
    called = [id(_normalisation(node.operation)) for node in nodes]
    for node in nodes:
        key = id(_normalisation(node.operation))
        if key in chosen and called.count(key) > 1:
            raise KTransferError(
                "E_INVARIANT",
                f"layer {node.operation.name!r} is called {called.count(key)} "
                "times, so its statistics could be those of either input; say "
                "which model will serve, and on which images.",
            )


def _given(inputs, images):
    """Return pairs of an input's place and its images."""
    if isinstance(inputs, dict):
        return [(inputs[name], images[name]) for name in images]
    return [(inputs, images)]


def _how_many(flat, nodes):
    """Return how many images at most go through at once, by their memory."""
    sizes = [
        4 * math.prod(flat.tensors[place.number].shape[1:])
        for node in nodes
        for place in graph.made_by(node)
    ]
    # What a layer reads and makes, and a shortcut around it.
    largest = 3 * max(sizes)
    return min(MOST_IMAGES, max(MOST_BYTES // largest, 1))


def _chunks(images, most):
    """Return at most so many of the images, evenly spaced, as few arrays."""
    count = min(most, len(images))
    rows = np.linspace(0, len(images) - 1, count).astype(int)
    return [images[rows[i : i + _ROWS]] for i in range(0, count, _ROWS)]


def _carried_out(node, values):
    """Return what a node makes, a list of chunks for each of its outputs."""
    number = len(values[graph.read_by(node)[0]])
    made: list[list] = [[] for _ in graph.made_by(node)]
    for i in range(number):

        def value(x, i=i):
            return values[x][i] if isinstance(x, graph.Tensor) else x

        args, kwargs = keras.tree.map_structure(value, node.arguments)
        found = graph.flat(graph.call(node, args, kwargs))
        for chunks, chunk in zip(made, found, strict=True):
            chunks.append(chunk)
    return made


def _estimate(node, values):
    """Set the statistics of a node's layer to those of what it reads."""
    layer = _normalisation(node.operation)
    count, total, squares = 0, 0.0, 0.0
    for chunk in values[graph.read_by(node)[0]]:
        rows = np.moveaxis(ops.convert_to_numpy(chunk), layer.axis, -1)
        rows = rows.reshape(-1, rows.shape[-1]).astype("float64")
        count += len(rows)
        total = total + rows.sum(axis=0)
        squares = squares + (rows**2).sum(axis=0)
    mean = total / count
    variance = np.maximum(squares / count - mean**2, 1e-6)
    layer.moving_mean.assign(mean)
    layer.moving_variance.assign(variance)
