"""Partial evaluation: the frozen part of a graph is computed once.

`split` finds everything that depends on the images and on frozen,
deterministic layers alone; `fit` computes it once for the images at hand and
trains the rest on the result. What comes out is what the whole graph would
have given, up to float rounding.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import keras

from ktransfer.models import graph
from ktransfer.models.graph import leaves
from ktransfer.models.layers import InferenceMode
from ktransfer.models.surgery import inline

# Bytes of cached values above which a graph stays live. It is a constant and
# not a setting, since a cached and a live run differ in their last bits.
MEMORY_BUDGET = 2**30


class Parts(NamedTuple):
    """A graph in two: frozen `prefixes`, and the rest on their values.

    `prefixes` maps an input of the rest, `cached_0`, ..., to the name of a raw
    input and the model from that input to the cached value. `inputs` holds
    all inputs of the rest by name, cached and raw; `outputs` has the structure
    of the outputs of the whole.
    """

    prefixes: dict[str, tuple[str, keras.Model]]
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
    frozen. What depends on two inputs is not cached, since their images are
    not paired.
    """
    opened = _opened(model)
    flat = graph.read(opened, opens=lambda layer: False)
    raw = {
        name: keras.Input(batch_shape=x.shape, dtype=x.dtype, name=name)
        for name, x in input_names(opened).items()
    }
    walk = _Walk(raw)
    values = {
        name: _Value(tensor, name != "progress", False, frozenset([name]))
        for name, tensor in raw.items()
    }
    given = values if isinstance(flat.inputs, dict) else values["target"]
    reached = graph.run(flat, given, walk.call)
    outputs = keras.tree.map_structure(walk.live, reached)
    used = {name: raw[name] for name in raw if name in walk.raw_used}
    return Parts(walk.prefixes, {**walk.cached, **used}, outputs)


@dataclass(eq=False)
class _Value:
    """A symbolic tensor on its way through the graph.

    `fixed`: the same at every step for one image. `weighted`: some layer with
    weights stands behind it, so caching saves work. `origins`: the raw inputs
    that `tensor` still reads.
    """

    tensor: Any
    fixed: bool
    weighted: bool
    origins: frozenset


class _Walk:
    """One pass from the inputs upwards, which calls every operation anew.

    Operations on fixed values grow the prefixes; all others grow the rest,
    where a fixed value with weights behind it becomes a new input.
    """

    def __init__(self, raw):
        self.raw, self.raw_used = raw, set()
        self.cached, self.prefixes, self._inputs = {}, {}, {}

    def call(self, node, args, kwargs):
        operation = node.operation
        values = [
            x
            for x in keras.tree.flatten((args, kwargs))
            if isinstance(x, _Value)
        ]
        origins = frozenset().union(*(x.origins for x in values))
        fixed = (
            all(x.fixed for x in values)
            and len(origins) == 1
            and _is_fixed(operation)
        )
        weighted = bool(getattr(operation, "weights", ()))
        weighted = weighted or any(x.weighted for x in values)
        read = _tensor_of if fixed else self.live
        args, kwargs = keras.tree.map_structure(read, (args, kwargs))
        return keras.tree.map_structure(
            lambda tensor: _Value(
                tensor, fixed, weighted, origins if fixed else frozenset()
            ),
            operation(*args, **kwargs),
        )

    def live(self, value):
        """Return what the rest reads in place of `value`."""
        if not isinstance(value, _Value):
            return value
        if not (value.fixed and value.weighted):
            self.raw_used |= value.origins
            return value.tensor
        if id(value) not in self._inputs:
            name = f"cached_{len(self.cached)}"
            shape, dtype = value.tensor.shape, value.tensor.dtype
            tensor = keras.Input(batch_shape=shape, dtype=dtype, name=name)
            (origin,) = value.origins
            prefix = keras.Model(self.raw[origin], value.tensor)
            self.prefixes[name] = (origin, prefix)
            self.cached[name] = tensor
            # The value is kept, so that its id stays its own.
            self._inputs[id(value)] = (value, tensor)
        return self._inputs[id(value)][1]


def _tensor_of(value):
    return value.tensor if isinstance(value, _Value) else value


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


def _is_fixed(operation):
    """Tell whether `operation` gives the same output at every step."""
    if not isinstance(operation, keras.Layer):
        return True
    sheltered = isinstance(operation, InferenceMode)
    for layer in leaves(operation):
        if layer.weights and layer.trainable and not graph.is_adapted(layer):
            return False
        if getattr(layer, "activity_regularizer", None) is not None:
            return False
        is_random = len(layer.variables) > len(layer.weights)
        if is_random and not sheltered:
            return False
    return True
