"""A network for wherever Keras is: of its own layers and operations alone.

A layer of the suite says in `as_builtins` what takes its place; see
`models/layers.py`. What then is saved opens where the suite is not.
"""

import itertools

import keras

from ktransfer.errors import KTransferError
from ktransfer.models import graph
from ktransfer.models.surgery import copy


def as_builtins(model):
    """Return a model that computes the same in inference, of Keras's own.

    It shares nothing with `model`, and keeps its name, its inputs and outputs,
    and the names of the layers that stay. It is flat unless two layers of it
    have one name: then the models in it stay, each flat if it can be.

    Args:
        model: functional, or a built Sequential.

    Raises:
        KTransferError: `E_ARGUMENT` for a model that has no graph, a Lambda
            layer, or a layer of another package that has no `as_builtins`.
    """
    graph.check_graph(model)
    return _Forms().rebuilt(copy(model), model.name)


class _Forms:
    """What takes the place of each operation of a copy, found once for each."""

    def __init__(self):
        # The operations are kept, so that an id stays one operation's own.
        self._forms, self._models, self._kept = {}, {}, []

    def rebuilt(self, model, name):
        """Return what computes the same as `model`, called `name`."""
        names = [layer.name for layer in self._inside(model)]
        flat = len(set(names)) == len(names)
        read = graph.read(model, opens=lambda layer: flat)
        inputs = keras.tree.map_structure(
            lambda place: _fresh_input(read.tensors[place.number]), read.inputs
        )
        outputs = self._run(read, inputs, flat)
        _name_operations(graph.behind(outputs))
        return keras.Model(inputs, outputs, name=name)

    def _inside(self, model):
        """Return the layers of `model`, at any depth, each once."""
        found: dict[int, keras.Layer] = {}
        for node in graph.read(model).nodes:
            form, members = self._form(node.operation), [node.operation]
            if graph.is_graph(form):
                members = self._inside(form)
            found |= {id(x): x for x in members if isinstance(x, keras.Layer)}
        return list(found.values())

    def _run(self, read, inputs, flat):
        """Return the outputs of a `Graph`, its models opened if `flat`."""

        def call(node, args, kwargs):
            form = self._form(node.operation)
            if not graph.is_graph(form):
                return form(*args, **kwargs)
            if flat:
                return self._run(graph.read(form), args[0], flat)
            return self._nested(node.operation, form)(args[0])

        return graph.run(read, inputs, call)

    def _nested(self, operation, form):
        if id(operation) not in self._models:
            self._models[id(operation)] = self.rebuilt(form, operation.name)
        return self._models[id(operation)]

    def _form(self, operation):
        """Return what is called in place of `operation`."""
        if id(operation) not in self._forms:
            form = operation
            while hasattr(form, "as_builtins"):
                form = form.as_builtins()
            if isinstance(form, keras.Operation) and not graph.is_graph(form):
                _check_builtin(form)
            self._forms[id(operation)] = form
            self._kept.append(operation)
        return self._forms[id(operation)]


def _fresh_input(tensor):
    shape = (None, *tensor.shape[1:])
    return keras.Input(batch_shape=shape, dtype=tensor.dtype, name=tensor.name)


def _name_operations(operations):
    """Number the `operations` that are no layers, whose names may be taken.

    Keras numbers them from 1 in each process, and again after each run.
    """
    taken = {x.name for x in operations if isinstance(x, keras.Layer)}
    for operation in operations:
        if not isinstance(operation, keras.Layer):
            kind = type(operation).__name__.lower()
            names = (f"{kind}_{number}" for number in itertools.count(1))
            operation.name = next(name for name in names if name not in taken)
            taken.add(operation.name)


def _check_builtin(operation):
    """Refuse a layer that Keras alone does not know, or that holds one."""
    package = type(operation).__module__.partition(".")[0]
    if package != "keras":
        kind = type(operation).__name__
        raise KTransferError(
            "E_ARGUMENT",
            f"layer {operation.name!r} is a {kind} of {package!r}, which Keras "
            "alone cannot open; expected a class with a method `as_builtins` "
            "that returns what takes its place, as in "
            "ktransfer/models/layers.py.",
        )
    for layer in graph.inner_layers(operation):
        for leaf in graph.leaves(layer):
            _check_builtin(leaf)
