"""Partial evaluation: the frozen part of a graph is computed once.

`split` finds everything that depends on the images and on frozen,
deterministic layers alone; `fit` computes it once for the images at hand and
trains the rest on the result. What comes out is what the whole graph would
have given, up to float rounding.
"""

from typing import Any, NamedTuple

import keras

from ktransfer.layers import InferenceMode
from ktransfer.surgery import inline, leaves, node_of

# Bytes of cached values above which a graph stays live. It is a constant and
# not a setting, since a cached and a live run differ in their last bits.
MEMORY_BUDGET = 2**30


class Parts(NamedTuple):
    """A graph in two: `prefixes` are frozen, `rest` is live.

    `prefixes` maps a new input name of `rest` to `(raw input name, model)`;
    `raw` lists the inputs that `rest` still reads as they are. Both name
    inputs as `input_names` does.
    """

    prefixes: dict[str, tuple[str, keras.Model]]
    raw: list[str]
    inputs: dict[str, Any]
    outputs: Any


def input_names(model):
    """Return the inputs of `model`, name -> tensor; a lone one is `target`."""
    struct = model.input
    if isinstance(struct, dict):
        return dict(struct)
    (single,) = keras.tree.flatten(struct)
    return {"target": single}


def split(model):
    """Return the `Parts` of `model` under its present `trainable` flags.

    The input `progress` changes at every step, so nothing behind it is
    frozen. A frontier that depends on two inputs is not cached, since their
    images are not paired.
    """
    flat = _opened(model)
    inputs = input_names(flat)
    graph = _Graph(inputs)
    frontier, raw = {}, {}
    pending, visited = keras.tree.flatten(flat.output), set()
    while pending:
        tensor = pending.pop()
        if id(tensor) in visited:
            continue
        visited.add(id(tensor))
        state = graph.state(tensor)
        if state.frozen and state.weighted and len(state.origins) == 1:
            frontier[id(tensor)] = tensor
        elif tensor in graph:
            raw[graph.name(tensor)] = tensor
        else:
            pending += node_of(tensor).input_tensors
    # Sorted by position in the graph, so that names do not depend on ids.
    ordered = sorted(frontier.values(), key=lambda t: graph.rank(t))
    prefixes, rest_inputs = {}, {}
    for number, tensor in enumerate(ordered):
        (origin,) = graph.state(tensor).origins
        name = f"cached_{number}"
        prefixes[name] = (origin, keras.Model(inputs[origin], tensor))
        rest_inputs[name] = tensor
    rest_inputs |= {name: raw[name] for name in inputs if name in raw}
    raw_names = [name for name in inputs if name in raw]
    return Parts(prefixes, raw_names, rest_inputs, flat.output)


def _opened(model):
    """Return `model` with its partly fixed sub-models inlined.

    A sub-model that is wholly fixed, or wholly live, stays one operation: two
    sources may then hold layers of equal names.
    """
    mixed = [
        layer
        for layer in model.layers
        if isinstance(layer, keras.Model)
        and not _is_fixed(layer)
        and any(x.weights and not x.trainable for x in leaves(layer))
    ]
    names = [leaf.name for leaf in leaves(model)]
    if mixed and len(set(names)) == len(names):
        return inline(model)
    return model


class _State(NamedTuple):
    frozen: bool
    weighted: bool
    origins: frozenset


class _Graph:
    """What is known of each tensor, computed from the inputs upwards."""

    def __init__(self, inputs):
        self._names = {id(tensor): name for name, tensor in inputs.items()}
        self._states, self._ranks = {}, {}

    def __contains__(self, tensor):
        return id(tensor) in self._names

    def name(self, tensor):
        return self._names[id(tensor)]

    def rank(self, tensor):
        return self._ranks[id(tensor)]

    def state(self, tensor):
        if id(tensor) not in self._states:
            self._states[id(tensor)] = self._read(tensor)
            self._ranks[id(tensor)] = len(self._ranks)
        return self._states[id(tensor)]

    def _read(self, tensor):
        if tensor in self:
            name = self.name(tensor)
            return _State(name != "progress", False, frozenset([name]))
        operation = tensor._keras_history.operation
        states = [self.state(x) for x in node_of(tensor).input_tensors]
        return _State(
            _is_fixed(operation) and all(s.frozen for s in states),
            _has_weights(operation) or any(s.weighted for s in states),
            frozenset().union(*(s.origins for s in states)),
        )


def _has_weights(operation):
    return bool(getattr(operation, "weights", ()))


def _is_fixed(operation):
    """Tell whether `operation` gives the same output at every step."""
    if not isinstance(operation, keras.Layer):
        return True
    sheltered = isinstance(operation, InferenceMode)
    for layer in leaves(operation):
        if layer.weights and layer.trainable:
            return False
        if getattr(layer, "activity_regularizer", None) is not None:
            return False
        is_random = len(layer.variables) > len(layer.weights)
        if is_random and not sheltered:
            return False
    return True
