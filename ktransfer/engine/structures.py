"""What a graph or a function computes, but for the values of its variables.

Two models of one architecture have one structure, whatever their weights,
names and seeds; so have two losses of one line of code that hold such models.
A program compiled for one then computes the other, once the variables are put
in. What is not understood has no structure, and is compiled anew.
"""

import functools
import types
from typing import Any, NamedTuple

import keras
import numpy as np

from ktransfer.files import sha256
from ktransfer.models import graph

# Packages whose classes say in their settings all that they compute, and whose
# functions stay what they are while a process runs.
_TRUSTED = {
    *("builtins", "functools", "keras", "ktransfer", "math", "numpy"),
    "tensorflow",
}
# Settings of a layer that its variables hold, or that nothing rests on.
_WITHOUT_EFFECT = ("build_config", "name", "seed")


class Structure(NamedTuple):
    """A hashable `key`, and the variables it leaves open, in its order.

    `classes` are those of the layers and operations that were read.
    """

    key: Any
    variables: list
    classes: set


def structure(*values):
    """Return the `Structure` of `values` together, or None if they have none.

    Args:
        values: models, layers, variables, functions with what they close over,
            arrays, numbers, texts, and lists, tuples and dictionaries of such.
    """
    reader = _Reader()
    try:
        key = tuple(map(reader.read, values))
    except _NotUnderstood:
        return None
    return Structure(key, reader.variables, reader.classes)


class _NotUnderstood(Exception):
    pass


class _Reader:
    """One pass over values; what comes again is told by its number."""

    def __init__(self):
        self.variables, self.classes = [], set()
        # The objects are kept, so that an id stays one object's own.
        self._numbers, self._kept = {}, []

    def read(self, value):
        """Return the key of one value."""
        if value is None or isinstance(value, bool | int | float | str | bytes):
            # As text, since 1 == 1.0 == True.
            return type(value).__name__, repr(value)
        if isinstance(value, list | tuple):
            return type(value).__name__, *map(self.read, value)
        if isinstance(value, dict):
            items = value.items()
            return "dict", *((self.read(k), self.read(v)) for k, v in items)
        if isinstance(value, np.ndarray | np.generic):
            return _array(value)
        if isinstance(value, slice):
            bounds = value.start, value.stop, value.step
            return "slice", *map(self.read, bounds)
        if isinstance(value, type | types.ModuleType | np.ufunc):
            return _trusted_name(value)
        if isinstance(value, types.BuiltinFunctionType):
            # Of a module, and not of an object that holds more.
            return self.read(value.__self__), value.__name__
        if id(value) not in self._numbers:
            self._number(value)
            return "new", self._object(value)
        return "again", self._numbers[id(value)]

    def _number(self, value):
        self._numbers[id(value)] = len(self._kept)
        self._kept.append(value)

    def _object(self, value):
        if isinstance(value, keras.Variable):
            return self._variable(value)
        if isinstance(value, keras.Operation):
            return self._operation(value)
        if isinstance(value, functools.partial):
            parts = value.func, value.args, value.keywords
            return "partial", *map(self.read, parts)
        if isinstance(value, types.MethodType):
            return "method", *map(self.read, (value.__self__, value.__func__))
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if keras.ops.is_tensor(value) and hasattr(value, "numpy"):
            return _array(value.numpy())
        raise _NotUnderstood(value)

    def _variable(self, variable):
        if variable.regularizer is not None:
            raise _NotUnderstood(variable)
        self.variables.append(variable)
        shape = tuple(variable.shape)
        return "variable", shape, str(variable.dtype), variable.trainable

    def _function(self, function):
        """Return the key of the code, of what it holds, and of its globals.

        What trusted packages define globally is their own and does not change.
        """
        held = [cell.cell_contents for cell in function.__closure__ or ()]
        given = function.__defaults__, function.__kwdefaults__
        known = function.__globals__
        names = sorted(_names(function.__code__) & set(known))
        used = [known[name] for name in names]
        if _is_trusted(known.get("__name__", "")):
            used = []
        parts = held, *given, used
        return function.__code__, *map(self.read, parts)

    def _operation(self, operation):
        """Return the key of a layer, a model, or an operation of a graph."""
        inner = graph.inner_layers(operation)
        if isinstance(operation, keras.Model):
            if not graph.is_graph(operation):
                raise _NotUnderstood(operation)
            body = self._graph(operation)
        else:
            body = self._config(operation, inner), self.read(inner)
        own = list(getattr(operation, "variables", ()))
        self.classes.add(type(operation))
        constants = self._constants(operation)
        kind = _trusted_name(type(operation))
        return kind, body, constants, self.read(own)

    def _constants(self, operation):
        """Return the key of arrays that are neither settings nor variables.

        An adapted `Normalization` computes with such, made of its variables:
        a program that was traced has those of the model it was traced with.
        """
        if isinstance(operation, keras.Model):
            return ()
        held = sorted(vars(operation).items())
        arrays = [(name, _as_array(value)) for name, value in held]
        return self.read([pair for pair in arrays if pair[1] is not None])

    def _config(self, operation, inner):
        """Return the key of the settings but for names, seeds, and layers."""
        try:
            config = operation.get_config()
        except NotImplementedError as error:
            raise _NotUnderstood(operation) from error
        # What is to come out is read as a layer of its own.
        kinds = {type(layer).__name__ for layer in inner}
        return self.read(
            {
                name: value
                for name, value in config.items()
                if name not in _WITHOUT_EFFECT
                and not name.endswith("initializer")
                and not _holds(value, kinds)
            }
        )

    def _graph(self, model):
        """Return the key of the nodes of a functional model, bottom up."""
        read = graph.read(model, opens=lambda layer: False)
        rows = [
            (tuple(tensor.shape), str(tensor.dtype)) for tensor in model.inputs
        ]
        for node in read.nodes:
            arguments = keras.tree.map_structure(_place, node.arguments)
            rows.append((self.read(node.operation), self.read(arguments)))
        ends = keras.tree.map_structure(_place, [read.inputs, read.outputs])
        return tuple(rows), self.read(ends)


def _place(value):
    return f"tensor {value.number}" if _is_place(value) else value


def _is_place(value):
    return isinstance(value, graph.Tensor)


def _as_array(value):
    """Return a tensor or array as an array, None for all else."""
    if isinstance(value, np.ndarray):
        return value
    is_constant = not isinstance(value, keras.Variable | keras.KerasTensor)
    if is_constant and keras.ops.is_tensor(value) and hasattr(value, "numpy"):
        return value.numpy()
    return None


def _holds(value, kinds):
    """Tell whether a setting is a serialised object of one of the `kinds`."""
    kind = value.get("class_name") if isinstance(value, dict) else None
    if kind in ("function", "__lambda__"):
        # Written down by its name, without what it holds.
        raise _NotUnderstood(value)
    return kind in kinds


def _array(value):
    if value.dtype.hasobject:
        raise _NotUnderstood(value)
    content = sha256(np.ascontiguousarray(value))
    return "array", value.dtype.str, value.shape, content


def _names(code):
    """Return the global names that a function's code may read."""
    inner = [x for x in code.co_consts if isinstance(x, types.CodeType)]
    return set(code.co_names).union(*map(_names, inner))


def _trusted_name(value):
    """Return module and name of a class or a module of a trusted package."""
    name = getattr(value, "__qualname__", value.__name__)
    module = getattr(value, "__module__", None) or value.__name__
    if not _is_trusted(module) or "<locals>" in name:
        raise _NotUnderstood(value)
    return module, name


def _is_trusted(module):
    return module.partition(".")[0] in _TRUSTED
