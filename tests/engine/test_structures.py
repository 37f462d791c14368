"""A structure tells architectures apart, and nothing else."""

import functools

import keras
import numpy as np
import pytest
from helpers import small_backbone, small_classifier
from keras import layers, ops

from ktransfer.engine.structures import structure
from ktransfer.models.layers import InferenceMode, StochasticNormalization
from ktransfer.models.surgery import freeze


def key(*values):
    return structure(*values).key


def dense(units=4, name=None, seed=0, outer=None, **options):
    """Return a model of one Dense, or of `outer` around it."""
    start = keras.initializers.GlorotUniform(seed=seed)
    inputs = keras.Input((3,))
    layer = layers.Dense(units, kernel_initializer=start, name=name, **options)
    x = layer(inputs)
    return keras.Model(inputs, x if outer is None else outer(x))


@pytest.mark.parametrize(
    "other",
    [
        dense(name="other"),
        dense(seed=1),
    ],
)
def test_names_seeds_and_values_are_left_out(other):
    assert key(dense()) == key(other)


@pytest.mark.parametrize(
    "other",
    [
        dense(5),
        dense(activation="relu"),
        dense(use_bias=False),
        dense(dtype="float64"),
        dense(outer=lambda x: 2 * x),
        dense(outer=lambda x: x + x),
        dense(outer=layers.Dropout(0.5)),
        keras.Model(*2 * [keras.Input((3,))]),
    ],
)
def test_what_is_computed_is_in_it(other):
    assert key(dense()) != key(other)


def test_numbers_in_operations_are_in_it():
    def model(factor):
        return dense(outer=lambda x: ops.multiply(x, factor))

    assert key(model(2.0)) == key(model(2.0)) != key(model(3.0))
    assert key(dense(outer=layers.Dropout(0.5, seed=1))) == key(
        dense(outer=layers.Dropout(0.5, seed=2))
    )
    assert key(dense(outer=layers.Dropout(0.5))) != key(
        dense(outer=layers.Dropout(0.4))
    )


def test_what_is_frozen_is_in_it():
    model, frozen = small_backbone(), small_backbone()
    freeze(frozen.get_layer("block1_conv"))
    assert key(model) != key(frozen)


def test_sharing_is_in_it():
    def siamese(*both):
        inputs = [keras.Input((3,)), keras.Input((3,))]
        outputs = [layer(x) for layer, x in zip(both, inputs)]
        return keras.Model(inputs, outputs)

    lone = layers.Dense(2)
    shared = siamese(lone, lone)
    apart = siamese(layers.Dense(2), layers.Dense(2))
    assert key(shared) != key(apart)
    assert len(structure(shared).variables) == 2
    assert len(structure(apart).variables) == 4


def test_the_order_of_outputs_is_in_it():
    model = small_backbone()
    middle = model.get_layer("block1_conv").output
    one = keras.Model(model.input, {"a": middle, "b": model.output})
    two = keras.Model(model.input, {"a": model.output, "b": middle})
    assert key(one) != key(two)


@pytest.mark.parametrize("wrap", [InferenceMode, None])
def test_wrapped_layers_are_read_as_layers(wrap):
    def wrapped(seed, units=4):
        if wrap:
            return wrap(dense(units, seed=seed))
        norm = layers.BatchNormalization(momentum=0.5 if units == 4 else 0.6)
        norm.build((None, 3))
        return StochasticNormalization(norm, 0.5, seed)

    assert key(wrapped(0)) == key(wrapped(1))
    assert key(wrapped(0)) != key(wrapped(0, units=5))


def test_every_variable_is_open_once():
    model = small_classifier(normalised=True, dropout=0.5)
    found = structure(model, [model.get_layer("logits").kernel]).variables
    assert {id(v) for v in found} == {id(v) for v in model.variables}
    assert len(found) == len(model.variables)


def test_functions_are_read_with_what_they_hold():
    def loss(number, held=None):
        return lambda labels: labels * number if held is None else held

    def other(number):
        return lambda labels: labels + number

    assert key(loss(1)) == key(loss(1))
    assert key(loss(1)) != key(loss(2))
    assert key(loss(1)) != key(loss(1.0))
    assert key(loss(1)) != key(other(1))
    assert key(functools.partial(loss(1), 2)) != key(
        functools.partial(loss(1), 3)
    )
    arrays = [np.zeros(2), np.ones(2)]
    assert key(loss(1, arrays[0])) != key(loss(1, arrays[1]))
    assert key(loss(1, {"a": 1})) != key(loss(1, {"b": 1}))


@pytest.mark.parametrize("strange", [object(), {1, 2}, iter([1])])
def test_what_is_not_understood_has_no_structure(strange):
    assert structure(lambda: strange) is None


def scaled_by(factor):
    def scale(x):
        return factor * x

    return scale


class Gain(layers.Dense):
    """A layer of a user, whose settings leave out what it computes."""

    gain = 2.0

    def call(self, inputs):
        return self.gain * super().call(inputs)


@pytest.mark.parametrize(
    "outer",
    [
        layers.Lambda(scaled_by(2)),
        layers.Activation(scaled_by(2)),
        Gain(2),
    ],
)
def test_a_layer_whose_settings_do_not_tell_all_has_no_structure(outer):
    assert structure(dense(outer=outer)) is None


def test_a_penalty_of_a_variable_has_no_structure():
    assert structure(dense(kernel_regularizer="l2")) is None


TEMPERATURE = 2.0


def test_globals_are_in_it(monkeypatch):
    def loss(labels):
        return [label / TEMPERATURE for label in labels]

    before = key(loss)
    assert key(loss) == before
    monkeypatch.setitem(globals(), "TEMPERATURE", 3.0)
    assert key(loss) != before
    # What another module holds can change as well.
    monkeypatch.setitem(globals(), "TEMPERATURE", pytest)
    assert structure(loss) is None


def test_what_a_bound_function_is_bound_to_is_in_it():
    assert key({1: 2}.get) != key({1: 3}.get)
    assert key(len) == key(len) != key(sum)

    class Holder:
        def method(self):
            return 1

    assert structure(Holder().method) is None


def test_arrays_of_objects_have_no_structure():
    assert structure(np.array([object()])) is None
