"""A graph is read as it runs; what is private of Keras is there.

The first test fails first when Keras changes what `models/graph.py` rests on.
"""

import ast
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import small_backbone, small_classifier
from keras import layers, ops

import ktransfer
from ktransfer.errors import KTransferError
from ktransfer.models import graph
from ktransfer.models.graph import Tensor
from ktransfer.models.layers import InferenceMode
from ktransfer.models.surgery import inline

PACKAGE = Path(ktransfer.__file__).parent
# What Keras and TensorFlow call their own, and where the suite may use it.
PRIVATE = re.compile(
    r"\._(?:keras_history|inbound_nodes|nodes_by_depth|layers|functional"
    r"|run_through_graph|momentums|velocities|get_variable_index|registry"
    r"|operations|nodes|trainable_variables|processes)\b"
    r"|keras\.src|tensorflow\.python|_pywrap"
)
MAY = ("models/graph.py", "engine/backend/tensorflow.py")


def test_keras_has_what_is_private():
    x = keras.Input((4,), name="x")
    y = layers.Dense(3)(x)
    model = keras.Model(x, y)
    operation, node_index, tensor_index = y._keras_history
    node = operation._inbound_nodes[node_index]
    assert (node.operation, node.outputs[tensor_index]) == (operation, y)
    assert list(node.input_tensors) == [x] and not node.is_input
    assert node.arguments.args == (x,) and node.arguments.kwargs == {}
    depths = model._nodes_by_depth
    assert node in [n for nodes in depths.values() for n in nodes]
    chain = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    assert isinstance(chain._functional, keras.Model)
    assert keras.Sequential([layers.Dense(3)])._functional is None
    wrapped = layers.TimeDistributed(layers.Dense(3))
    assert wrapped.layer in wrapped._layers


def test_private_things_stand_in_two_files():
    for file in PACKAGE.rglob("*.py"):
        if file.relative_to(PACKAGE).as_posix() not in MAY:
            code = ast.unparse(ast.parse(file.read_text(encoding="utf-8")))
            assert not (found := PRIVATE.search(code)), (file, found)


def nested():
    """Images -> logits, nested twice, one layer called twice."""
    inner = keras.Sequential(
        [keras.Input((6,)), layers.Dense(5), layers.ReLU()], name="inner"
    )
    shared = layers.Dense(5, name="shared")
    x = keras.Input((6,), name="x")
    middle = keras.Model(x, shared(shared(inner(x))) + 1.0, name="middle")
    images = keras.Input((2, 3), name="images")
    y = middle(layers.Flatten()(images))
    return keras.Model(images, layers.Dense(2)(ops.tanh(y)))


def test_reading_opens_what_is_nested_and_running_gives_the_outputs():
    model = nested()
    flat = graph.read(model)
    kinds = [type(node.operation).__name__ for node in flat.nodes]
    assert kinds == [
        "Flatten",
        "Dense",
        "ReLU",
        "Dense",
        "Dense",
        "Add",
        "Tanh",
        "Dense",
    ]
    x = np.random.default_rng(0).normal(size=(3, 2, 3)).astype("float32")
    found = graph.run(flat, x, graph.call)
    np.testing.assert_allclose(found, model(x), rtol=1e-6)
    closed = graph.read(model, opens=lambda layer: False)
    assert [n.operation.name for n in closed.nodes][1] == "middle"
    np.testing.assert_allclose(
        graph.run(closed, x, graph.call), model(x), rtol=1e-6
    )


def test_several_inputs_and_outputs_keep_their_structure():
    a, b = keras.Input((3,), name="a"), keras.Input((2,), name="b")
    double = layers.Dense(2, name="double")
    model = keras.Model(
        {"b": b, "a": a}, {"sum": double(a) + b, "parts": [double(a), b]}
    )
    flat = graph.read(model)
    assert set(flat.inputs) == {"a", "b"}
    assert isinstance(flat.outputs["parts"][1], Tensor)
    given = {
        "a": np.ones((4, 3), "float32"),
        "b": np.full((4, 2), 2.0, "float32"),
    }
    found, wanted = graph.run(flat, given, graph.call), model(given)
    for one, other in zip(graph.flat(found), graph.flat(wanted), strict=True):
        np.testing.assert_allclose(one, other)


def test_what_a_call_is_given_besides_tensors_stays():
    x = keras.Input((2, 3), name="x")
    y = ops.sum(ops.concatenate([x, x * 2.0], axis=1), axis=-1, keepdims=True)
    model = keras.Model(x, y)
    given = np.arange(12, dtype="float32").reshape(2, 2, 3)
    found = graph.run(graph.read(model), given, graph.call)
    np.testing.assert_allclose(found, model(given))


def test_a_model_without_a_graph_is_refused():
    class Subclassed(keras.Model):
        def call(self, inputs):
            return inputs

    for model in (Subclassed(), keras.Sequential([layers.Dense(2)])):
        assert not graph.is_graph(model)
        with pytest.raises(KTransferError, match="cannot be read"):
            graph.read(model)


def test_inference_mode_stays_one_operation_and_leaves_look_into_it():
    images = keras.Input((12, 12, 3), dtype="uint8")
    model = keras.Model(images, InferenceMode(small_backbone())(images))
    assert len(graph.read(model).nodes) == 1
    assert "block1_conv" in [x.name for x in graph.leaves(model)]


def test_a_flat_model_shares_its_layers_and_gives_equal_outputs():
    model = small_classifier(normalised=True)
    flat = inline(model)
    assert {id(v) for v in flat.variables} == {id(v) for v in model.variables}
    x = (
        np.random.default_rng(0)
        .integers(0, 256, (3, 12, 12, 3))
        .astype("uint8")
    )
    np.testing.assert_allclose(flat(x), model(x), rtol=1e-6)
