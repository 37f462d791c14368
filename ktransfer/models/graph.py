"""Read the graph of a Keras model: the one place that walks it.

Keras has no public way from a tensor to what made it, so what is private here
stands in this file alone, behind `tests/models/test_graph.py`, which fails
first when Keras changes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras

from ktransfer.errors import KTransferError
from ktransfer.models.layers import InferenceMode


# No named tuple, which Keras would take apart in a structure.
@dataclass(frozen=True)
class Tensor:
    """A place in a `Graph`, in the order in which tensors are made."""

    number: int


class Node(NamedTuple):
    """One call of one operation.

    `arguments` is (args, kwargs) with a `Tensor` for each symbolic tensor;
    `outputs` has the structure of what the call gives.
    """

    operation: keras.Operation
    arguments: Any
    outputs: Any


class Graph(NamedTuple):
    """A model as its calls, bottom up, with nested models opened.

    `inputs` and `outputs` have the model's own structure, of `Tensor`s;
    `tensors` holds Keras's symbolic tensor of each number.
    """

    inputs: Any
    nodes: list[Node]
    outputs: Any
    tensors: list


def is_graph(model):
    """Tell whether the graph of `model` can be read: not if subclassed."""
    if isinstance(model, keras.Sequential):
        return model._functional is not None
    return isinstance(model, keras.Model) and hasattr(model, "_nodes_by_depth")


def check_graph(model):
    """Refuse a model whose graph cannot be read.

    Raises:
        KTransferError: `E_ARGUMENT`.
    """
    if not is_graph(model):
        raise KTransferError(
            "E_ARGUMENT",
            f"model {model.name!r} is subclassed or has never been called, so "
            "its graph cannot be read; expected a functional or a built "
            "Sequential model.",
        )


def read(model, opens: Callable = lambda layer: True):
    """Return the `Graph` of `model`.

    Args:
        model: functional, or a built Sequential.
        opens: function nested model -> whether it is opened, or else stays
            one operation.

    Raises:
        KTransferError: `E_ARGUMENT` for a model that has no graph.
    """
    check_graph(model)
    reader = _Reader(opens)
    inputs = keras.tree.map_structure(reader.add, _as_built(model).input)
    outputs = reader.calls(model, inputs)
    return Graph(inputs, reader.nodes, outputs, reader.tensors)


def _as_built(model):
    """Return the functional model that holds the graph."""
    return model._functional if isinstance(model, keras.Sequential) else model


class _Reader:
    """Collects nodes; each call of a nested model is read anew."""

    def __init__(self, opens):
        self.opens = opens
        self.nodes, self.tensors = [], []

    def add(self, tensor):
        self.tensors.append(tensor)
        return Tensor(len(self.tensors) - 1)

    def calls(self, model, inputs):
        """Add the calls inside `model` on `inputs`; return its outputs."""
        model = _as_built(model)
        places = dict(zip(map(id, model.inputs), flat(inputs)))

        def placed(value):
            return places[id(value)] if _is_symbolic(value) else value

        for depth in sorted(model._nodes_by_depth, reverse=True):
            for node in model._nodes_by_depth[depth]:
                if not node.is_input:
                    found = self._call(node, placed)
                    made = zip(node.outputs, flat(found))
                    places.update((id(x), place) for x, place in made)
        return keras.tree.map_structure(placed, model.output)

    def _call(self, node, placed):
        """Add one call, or those inside a nested model; return its outputs."""
        layer = node.operation
        arguments = keras.tree.map_structure(
            placed, (list(node.arguments.args), dict(node.arguments.kwargs))
        )
        if is_graph(layer) and self.opens(layer):
            return self.calls(layer, arguments[0][0])
        outputs = keras.tree.map_structure(self.add, list(node.outputs))
        self.nodes.append(Node(layer, arguments, outputs))
        return outputs


def _is_symbolic(value):
    return isinstance(value, keras.KerasTensor)


def run(graph, inputs, call):
    """Carry out the calls of `graph` and return the values of its outputs.

    Args:
        graph: a `Graph`.
        inputs: values of the inputs, in their structure.
        call: function (node, args, kwargs) -> value or structure of values;
            the arguments are those of the node, with values for tensors.
    """
    values: dict[Tensor, Any] = {}

    def value(x):
        return values[x] if isinstance(x, Tensor) else x

    def keep(places, found):
        values.update(zip(flat(places), flat(found), strict=True))

    keep(graph.inputs, inputs)
    for node in graph.nodes:
        args, kwargs = keras.tree.map_structure(value, node.arguments)
        keep(node.outputs, call(node, args, kwargs))
    return keras.tree.map_structure(value, graph.outputs)


def call(node, args, kwargs):
    """Call the operation of a node: what `run` does to build a model anew."""
    return node.operation(*args, **kwargs)


def behind(tensors):
    """Return the operations that make Keras's symbolic `tensors`, each once.

    Args:
        tensors: a structure of them; all that lies behind counts, from the
            inputs on.
    """
    pending, found, seen = flat(tensors), {}, set()
    while pending:
        node = node_of(pending.pop())
        if id(node) not in seen:
            seen.add(id(node))
            found[id(node.operation)] = node.operation
            pending += node.input_tensors
    return list(found.values())


def flat(structure):
    """Return the leaves of a structure, of `Tensor`s or values, in order."""
    return keras.tree.flatten(structure)


def read_by(node):
    """Return the `Tensor`s that a node reads, in order."""
    return [x for x in flat(node.arguments) if isinstance(x, Tensor)]


def made_by(node):
    """Return the `Tensor`s that a node makes, in order."""
    return flat(node.outputs)


def maker(graph, place):
    """Return the `Node` of a `Graph` that makes the `Tensor` `place`."""
    return next(node for node in graph.nodes if place in made_by(node))


# Layers


def leaves(model):
    """Return the layers of `model` without containers, in graph order."""
    if isinstance(model, InferenceMode):
        return leaves(model.model)
    if not isinstance(model, keras.Model):
        return [model]
    found = []
    for layer in model.layers:
        found += [leaf for leaf in leaves(layer) if leaf not in found]
    return [x for x in found if not isinstance(x, keras.layers.InputLayer)]


def is_adapted(layer):
    """Tell whether a layer is adapted to data and not trained.

    As `Normalization` is: it prepares the images, and stays as it is in every
    copy of a network, whatever becomes of the trained weights.
    """
    return hasattr(layer, "adapt")


def inner_layers(operation):
    """Return the layers that a layer owns, such as a wrapper's."""
    return list(getattr(operation, "_layers", ()))


def node_of(tensor):
    """Return Keras's node that made a symbolic `tensor`.

    Its `operation`, `input_tensors` and `is_input` can be read.
    """
    operation, index, _ = tensor._keras_history
    return operation._inbound_nodes[index]
