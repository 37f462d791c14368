"""What is exported is of Keras alone, and computes the same."""

import importlib
import json
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import small_backbone, small_transformer
from keras import layers, ops

import ktransfer
from ktransfer.engine.prediction import predict
from ktransfer.errors import KTransferError
from ktransfer.methods.multitask import uncertainty_weighting
from ktransfer.models import graph, handmade
from ktransfer.models import layers as ours
from ktransfer.models.export import as_builtins
from ktransfer.models.surgery import adapt_input, attach_head

PACKAGE = Path(ktransfer.__file__).parent
RNG = np.random.default_rng(0)
# Half of all pixels are a half after a mean of two.
IMAGES = RNG.integers(0, 256, (40, 12, 12, 3)).astype("uint8")
FEATURES = RNG.normal(size=(40, 6)).astype("float32")
MAPS = RNG.normal(size=(40, 5, 5, 4)).astype("float32")


def drawn(layer):
    """Give every weight of a layer a value of its own; return the layer."""
    for number, variable in enumerate(layer.weights):
        draw = np.random.default_rng(number).normal(size=variable.shape)
        variable.assign(np.abs(draw) if "variance" in variable.path else draw)
    return layer


def on(layer, given, start=lambda x: x):
    """Return a model of one layer of drawn weights on inputs as `given`."""
    inputs = keras.Input(given.shape[1:], dtype=str(given.dtype), name="given")
    model = keras.Model(inputs, layer(start(inputs)), name="mine")
    drawn(model)
    return model, given


def attention():
    inputs = keras.Input((5, 4), name="given")
    plain = layers.MultiHeadAttention(2, 3)
    plain(inputs, value=inputs)
    heads = ours.LowRank(plain, 2, 4, 0, name="heads")
    model = keras.Model(inputs, heads(inputs, value=inputs))
    return drawn(model), MAPS[:, 0]


CASES = {
    "Luminance": lambda: on(ours.Luminance(name="own"), IMAGES),
    "EqualChannels": lambda: on(ours.EqualChannels(), IMAGES[..., :1]),
    "Pixels": lambda: on(ours.Pixels(), 300 * MAPS),
    "InferenceMode": lambda: on(
        ours.InferenceMode(small_backbone(normalised=True)), IMAGES
    ),
    "FeatureNoise": lambda: on(
        ours.FeatureNoise(3.0, 0), FEATURES, layers.Dense(4)
    ),
    "SoftmaxSum": lambda: on(
        ours.SoftmaxSum(name="own"), FEATURES, lambda x: [x, x * x, ops.sin(x)]
    ),
    "SoftmaxSum, fixed": lambda: on(
        ours.SoftmaxSum([0.2, 0.8]), FEATURES, lambda x: [x, ops.sin(x)]
    ),
    "GradientReversal": lambda: on(
        ours.GradientReversal(), FEATURES, lambda x: [2 * x, x[:, :1]]
    ),
    "StochasticNormalization": lambda: on(
        ours.StochasticNormalization(
            layers.BatchNormalization(), 0.5, 0, name="own"
        ),
        MAPS,
    ),
    "LowRank": lambda: on(
        ours.LowRank(layers.Conv2D(3, 2), 2, 8, 0, name="own"), MAPS
    ),
    "LowRank, dense": lambda: on(
        ours.LowRank(layers.Dense(3), 2, 8, 0), FEATURES
    ),
    "LowRank, attention": attention,
    "KernelComponents": lambda: on(
        ours.KernelComponents(9, 2, 7.0, name="own"), FEATURES
    ),
    "ExpertFeatures": lambda: on(
        handmade.ExpertFeatures(list(handmade.MEASURES)), IMAGES
    ),
    "_LogVariance": lambda: on(
        uncertainty_weighting._LogVariance(), FEATURES, layers.Dense(4)
    ),
}


def kinds(model):
    """Return the modules of all operations of a model, opened."""
    return {type(n.operation).__module__ for n in graph.read(model).nodes}


def opened(model, folder):
    """Return `model` from a file of it, as plain Keras opens it."""
    model.save(folder / "model.keras")
    assert "ktransfer" not in config_of(folder / "model.keras")
    return keras.saving.load_model(folder / "model.keras")


def config_of(path):
    with zipfile.ZipFile(path) as archive:
        return archive.read("config.json").decode()


@pytest.mark.parametrize("case", CASES)
def test_each_layer_says_what_takes_its_place(case, tmp_path):
    model, given = CASES[case]()
    before = [v.numpy().tobytes() for v in model.variables]
    wanted = model.predict(given, verbose=0)
    exported = as_builtins(model)
    assert {kind.partition(".")[0] for kind in kinds(exported)} <= {"keras"}
    assert exported.name == model.name
    assert [x.name for x in exported.inputs] == ["given"]
    # To the bit, but for what is multiplied in another order.
    loose = "KernelComponents" in case
    found = opened(exported, tmp_path).predict(given, verbose=0)
    assert found.dtype == wanted.dtype
    np.testing.assert_allclose(
        found, wanted, rtol=1e-6 * loose, atol=1e-6 * loose
    )
    assert [v.numpy().tobytes() for v in model.variables] == before
    own = {id(v) for v in exported.variables}
    assert not own & {id(v) for v in model.variables}
    names = [layer.name for layer in exported.layers]
    assert "own" not in [x.name for x in graph.leaves(model)] or (
        "own" in names or case == "Luminance"
    )


def test_no_layer_is_forgotten():
    for file in PACKAGE.rglob("*.py"):
        if "register_keras_serializable" in file.read_text(encoding="utf-8"):
            parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
            importlib.import_module(".".join(parts))
    known = keras.saving.get_custom_objects()
    names = {x.partition(">")[2] for x in known if x.startswith("ktransfer>")}
    assert names == {case.partition(",")[0] for case in CASES}
    for name in names:
        assert hasattr(known[f"ktransfer>{name}"], "as_builtins"), name


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [9, 11, 12, 30])
def test_images_of_any_shape_reach_the_pixels_they_did(channels, size):
    x = RNG.integers(0, 256, (30, size, size, channels)).astype("uint8")
    blank = keras.Input((12, 12, 4 - channels), dtype="uint8")
    reader = adapt_input(keras.Model(blank, blank), x.shape[1:])
    found = as_builtins(reader).predict(x, verbose=0)
    assert found.dtype == "uint8"
    np.testing.assert_array_equal(found, predict(reader, x))


def test_it_is_flat_and_names_stay():
    model = attach_head(
        adapt_input(small_backbone(), (17, 17, 1)), 3, seed=0, hidden_units=6
    )
    flat = as_builtins(model)
    assert not [x for x in flat.layers if isinstance(x, keras.Model)]
    kept = {x.name for x in graph.leaves(model)} - {"grey_to_rgb", "pixels"}
    assert kept <= {x.name for x in flat.layers}
    again = as_builtins(flat)
    assert [x.name for x in again.layers] == [x.name for x in flat.layers]


def two_of_a_name():
    """Return a model of two networks whose layers have the same names."""
    images = keras.Input((12, 12, 3), dtype="uint8", name="images")
    first = small_backbone(seed=0, normalised=True)
    second = ours.InferenceMode(
        adapt_input(small_backbone(seed=1), (12, 12, 3)), name="second"
    )
    both = layers.Concatenate(name="both")([first(images), second(images)])
    return keras.Model(images, layers.Dense(3)(both))


def test_two_networks_with_layers_of_one_name_stay_two(tmp_path):
    model = two_of_a_name()
    exported = as_builtins(model)
    assert [x.name for x in exported.layers][1:3] == ["small", "second"]
    found = opened(exported, tmp_path).predict(IMAGES, verbose=0)
    np.testing.assert_array_equal(found, model.predict(IMAGES, verbose=0))


def test_a_layer_that_is_called_twice_stays_one():
    images = keras.Input((12, 12, 3), dtype="uint8", name="images")
    body = adapt_input(small_backbone(), (9, 9, 1))
    grey = ours.Luminance()(images)
    cut = ours.Pixels()(grey)
    network = ours.InferenceMode(body, name="network")
    twice = layers.Subtract()(
        [network(cut[:, :9, :9]), network(cut[:, 3:, 3:])]
    )
    model = keras.Model(images, twice)
    exported = as_builtins(model)
    assert exported.count_params() == model.count_params()
    np.testing.assert_array_equal(
        exported.predict(IMAGES, verbose=0), model.predict(IMAGES, verbose=0)
    )


def test_operations_do_not_take_the_names_of_layers():
    model, given = on(
        layers.Dense(2, name="round"),
        FEATURES,
        lambda x: ours.Pixels()(layers.Dense(4, name="round_1")(x)),
    )
    exported = as_builtins(model)
    names = {x.name for x in exported.operations}
    assert {"round", "round_1", "round_2"} <= names
    np.testing.assert_array_equal(exported(given), model(given))


def test_an_adapted_layer_and_a_transformer_survive(tmp_path):
    normalise = layers.Normalization(name="normalise")
    normalise.adapt(IMAGES.astype("float32"))
    inputs = keras.Input((12, 12, 3), dtype="uint8", name="images")
    pixels = layers.Rescaling(1.0)(inputs)
    x = ours.Pixels()(128 + 50 * normalise(pixels))
    model = keras.Model(inputs, small_transformer(dropout=0.2)(x))
    wanted = model.predict(IMAGES, verbose=0)
    found = opened(as_builtins(model), tmp_path).predict(IMAGES, verbose=0)
    np.testing.assert_array_equal(found, wanted)


class Doubled(layers.Layer):
    def call(self, inputs):
        return 2 * inputs

    def compute_output_shape(self, shape):
        return shape


class Known(Doubled):
    def as_builtins(self):
        return layers.Rescaling(2.0, name=self.name)


def test_a_layer_of_ones_own_is_refused_unless_it_says_what_it_is():
    model, given = on(Doubled(name="twice"), FEATURES)
    inside, _ = on(layers.TimeDistributed(Doubled(name="twice")), MAPS)
    with keras.saving.custom_object_scope({"Doubled": Doubled, "Known": Known}):
        for one in (model, inside):
            with pytest.raises(KTransferError, match="as_builtins") as caught:
                as_builtins(one)
            assert caught.value.name == "E_ARGUMENT"
            assert "'twice'" in str(caught.value)
        model, given = on(Known(name="twice"), FEATURES)
        exported = as_builtins(model)
    assert isinstance(exported.get_layer("twice"), layers.Rescaling)
    np.testing.assert_array_equal(exported(given), 2 * given)


def test_what_cannot_be_read_is_refused():
    twice = layers.Lambda(lambda x: 2 * x, output_shape=(6,), name="twice")
    for model, words in (
        (keras.Sequential([layers.Dense(2)]), "cannot be read"),
        (on(twice, FEATURES)[0], "Lambda"),
    ):
        with pytest.raises(KTransferError, match=words):
            as_builtins(model)


def test_a_file_says_nothing_of_the_suite(tmp_path):
    model = attach_head(adapt_input(small_backbone(), (17, 17, 1)), 3, seed=0)
    as_builtins(model).save(tmp_path / "model.keras")
    config = json.loads(config_of(tmp_path / "model.keras"))
    assert config["registered_name"] == "Functional"
    assert "registered_name" not in config["config"]["layers"][0] or all(
        x["registered_name"] in (None, x["class_name"])
        for x in config["config"]["layers"]
    )
