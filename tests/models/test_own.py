"""Whatever model a user has, methods meet one form: features, logits, uint8."""

import keras
import numpy as np
import pytest
from helpers import adapted, small_classifier, small_source
from keras import layers, ops

from ktransfer.engine.prediction import predict
from ktransfer.errors import KTransferError, NotApplicable
from ktransfer.methods.feature import linear_probe
from ktransfer.methods.structure import label_mapping
from ktransfer.models import graph, own
from ktransfer.models.blocks import blocks
from ktransfer.models.normal_form import normal_form
from ktransfer.models.own import Source
from ktransfer.models.surgery import copy, cut

X = np.random.default_rng(0).integers(0, 256, (5, 12, 12, 3)).astype("uint8")


def classifier(end, dtype="uint8", kind="functional"):
    """Return a classifier, and the logits it is about, without `features`."""
    inner = [
        layers.Rescaling(1 / 255),
        layers.Conv2D(4, 3, name="first"),
        layers.BatchNormalization(name="first_norm"),
        layers.GlobalAveragePooling2D(name="pooled"),
        layers.Dropout(0.3, name="drop"),
    ]
    ends = {
        "logits": [layers.Dense(3, name="out")],
        "inside": [layers.Dense(3, activation="softmax", name="out")],
        "layer": [layers.Dense(3, name="out"), layers.Softmax(name="p")],
        "activation": [
            layers.Dense(3, name="out"),
            layers.Activation("softmax", name="p"),
        ],
    }[end]
    start = keras.Input((12, 12, 3), dtype=dtype, name="pictures")
    if kind == "sequential":
        return keras.Sequential([start, *inner, *ends])
    x = start
    for layer in [*inner, *ends]:
        x = layer(x)
    return keras.Model(start, x, name="mine")


@pytest.mark.parametrize("end", ["logits", "inside", "layer", "activation"])
@pytest.mark.parametrize("kind", ["functional", "sequential"])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_every_classifier_becomes_images_to_logits(task, end, kind, dtype):
    model = classifier(end, dtype, kind)
    before = [v.numpy().tobytes() for v in model.variables]
    source = Source(model, task)
    assert source.model.input.dtype == "uint8"
    assert source.model.input.shape == (None, 12, 12, 3)
    given = X.astype(dtype)
    wanted, found = np.asarray(model(given)), np.asarray(source.model(X))
    if end != "logits":
        found = np.asarray(ops.softmax(found))
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    # Logits, not probabilities whose logarithm went through a rounding.
    assert (np.abs(np.asarray(source.model(X)).sum(1) - 1) > 1e-3).any()
    features = cut(source.model, "features")
    assert features.output.shape == (None, 4)
    own = {id(v) for v in source.model.variables}
    assert not own & {id(v) for v in model.variables}
    assert [v.numpy().tobytes() for v in model.variables] == before


def test_a_model_in_the_form_comes_back_as_it_is(task):
    model = small_classifier()
    assert Source(model, task).model is model
    assert Source(model, task)._replace(task=task).model is model


MODULES = {
    "MobileNetV2": "mobilenet_v2",
    "ResNet50": "resnet",
    "EfficientNetB0": "efficientnet",
    "DenseNet121": "densenet",
    "VGG16": "vgg16",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_a_network_of_keras_applications_is_a_source(task, name):
    """It is given the pixels that Keras prepares for its family."""
    build = getattr(keras.applications, name)
    module = getattr(keras.applications, MODULES[name])
    model = build(weights=None, input_shape=(32, 32, 3), classes=7)
    source = Source(model, task)
    x = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3), "uint8")
    given = module.preprocess_input(x.astype("float32"))
    probabilities = ops.softmax(predict(source.model, x))
    np.testing.assert_allclose(probabilities, model(given), atol=1e-5)
    (dense,) = [n for n in graph.read(model).nodes][-1:]
    width = graph.read(model).tensors[graph.read_by(dense)[0].number].shape[1]
    assert cut(source.model, "features").output.shape == (None, width)


def test_the_layer_of_the_features_can_be_named(task):
    model = classifier("logits")
    source = Source(model, task, features="first_norm")
    assert cut(source.model, "features").output.shape == (None, 10, 10, 4)
    with pytest.raises(KTransferError, match="frist"):
        Source(model, task, features="frist")
    # Even if the name is taken.
    other = small_source(task).model
    named = Source(other, task, features="block2")
    assert named is not None
    source = Source(other, task, features="block2_pool")
    assert cut(source.model, "features").output.shape == (None, 3, 3, 6)
    np.testing.assert_allclose(source.model(X), other(X), atol=1e-6)


def test_blocks_can_be_named(task):
    model = keras.applications.MobileNetV2(
        weights=None, input_shape=(32, 32, 3), classes=3
    )
    ends = ["Conv1_relu", "block_6_project_BN", "out_relu"]
    source = Source(model, task, blocks=ends)
    found = blocks(cut(source.model, "features"))
    assert list(found) == ["block1", "block2", "block3"]
    assert found["block1"][0].name == "block1_Conv1"
    assert sum(map(len, found.values())) == sum(
        map(len, list(blocks(model).values())[:-1])
    )
    with pytest.raises(KTransferError, match="Conv2_relu"):
        Source(model, task, blocks=["Conv2_relu"])


def test_many_blocks_are_said_aloud(task, capsys):
    inputs = keras.Input((4, 4, 3), dtype="uint8")
    x = layers.Rescaling(1.0)(inputs)
    for number in range(24):
        x = layers.Conv2D(2, 1, name=f"odd{chr(97 + number)}")(x)
    model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))
    source = Source(model, task)
    assert "25 blocks" in capsys.readouterr().err
    Source(source.model, task)
    assert "25 blocks" in capsys.readouterr().err
    Source(model, task, blocks=["oddc", "oddx"])
    assert capsys.readouterr().err == ""


def test_a_softmax_is_taken_for_what_it_is(task):
    """Its confidence was .42 where the source was sure."""
    model = classifier("inside")
    kernel, bias = model.get_layer("out").get_weights()
    model.get_layer("out").set_weights([0 * kernel, bias + [9, 0, 0]])
    source = Source(model, task)
    sure = np.asarray(ops.softmax(predict(source.model, X)))
    assert sure[:, 0].min() > 0.99
    mapped = label_mapping.transfer(task, source, steps=1, seed=0)
    assert mapped.output.shape == (None, 3)


def two_outputs():
    x = keras.Input((12, 12, 3))
    y = layers.Flatten()(x)
    return keras.Model(x, [layers.Dense(3)(y), layers.Dense(2)(y)])


def two_inputs():
    x, y = keras.Input((12,)), keras.Input((12,))
    return keras.Model([x, y], layers.Dense(3)(x + y))


def of_any_size():
    x = keras.Input((None, None, 3), dtype="uint8")
    y = layers.GlobalAveragePooling2D()(layers.Rescaling(1.0)(x))
    return keras.Model(x, layers.Dense(3)(y))


def of_four_channels():
    x = keras.Input((12, 12, 4), dtype="uint8")
    y = layers.Flatten()(layers.Conv2D(2, 3)(layers.Rescaling(1.0)(x)))
    return keras.Model(x, layers.Dense(3)(y))


def of_unknown_pixels():
    x = keras.Input((12, 12, 3))
    y = layers.Flatten()(layers.Conv2D(2, 3)(x))
    return keras.Model(x, layers.Dense(3)(y))


def only_dense():
    x = keras.Input((12,))
    return keras.Model(x, layers.Dense(3)(x))


def ending_in(activation):
    x = keras.Input((12, 12, 3))
    y = layers.Flatten()(x)
    return keras.Model(x, layers.Dense(3, activation=activation)(y))


def with_lambda():
    x = keras.Input((12, 12, 3))
    y = layers.Lambda(lambda z: z * 2, name="twice", output_shape=(12, 12, 3))(
        x
    )
    return keras.Model(x, layers.Dense(3)(layers.Flatten()(y)))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (two_outputs, "2 outputs"),
        (two_inputs, "2 inputs"),
        (of_any_size, "image_size="),
        (of_four_channels, "1 or 3"),
        (of_unknown_pixels, "'torch' for"),
        (only_dense, "images themselves"),
        (lambda: ending_in("sigmoid"), "sigmoid"),
        (lambda: ending_in("relu"), "relu"),
        (with_lambda, "'twice'"),
        (lambda: keras.Sequential([layers.Dense(3)]), "cannot be read"),
    ],
)
def test_a_model_that_cannot_be_is_refused_in_a_sentence(task, model, words):
    with pytest.raises(KTransferError, match=words) as caught:
        Source(model(), task)
    assert caught.value.name == "E_ARGUMENT"


def trunk(end):
    """Return a network without a head that ends in a map or in a vector."""
    x = keras.Input((12, 12, 3), name="pictures")
    y = layers.Conv2D(4, 3, activation="relu")(layers.Rescaling(1 / 255)(x))
    y = {"map": y, "vector": layers.GlobalAveragePooling2D()(y)}[end]
    return keras.Model(x, y, name="trunk")


@pytest.mark.parametrize("end", ["map", "vector"])
def test_a_network_without_a_head_ends_at_its_features(task, end):
    model = trunk(end)
    source = Source(model, task)
    assert source.model.output.shape == (None, 4)
    assert not own.has_head(source.model)
    assert Source(source.model, task).model is source.model
    wanted = np.asarray(model(X.astype("float32")))
    if end == "map":
        wanted = wanted.mean((1, 2))
    np.testing.assert_allclose(source.model(X), wanted, atol=1e-6)
    # What reads its answers does not apply, and what reads features does.
    with pytest.raises(NotApplicable, match="with its head"):
        label_mapping.transfer(task, source, steps=1, seed=0)
    probed = linear_probe.transfer(task, source, steps=1, seed=0)
    assert probed.output.shape == (None, 3)


def test_the_last_layer_can_be_the_features(task):
    model = classifier("logits")
    source = Source(model, task, features="out")
    assert not own.has_head(source.model)
    np.testing.assert_allclose(source.model(X), model(X), atol=1e-6)


def test_an_adapted_layer_survives_a_copy_and_a_file(tmp_path):
    model = adapted(X)
    wanted = np.asarray(model(X))
    assert np.abs(wanted).max() < 50
    twin = copy(model)
    np.testing.assert_allclose(twin(X), wanted, rtol=1e-6)
    twin.save(tmp_path / "twin.keras")
    loaded = keras.saving.load_model(tmp_path / "twin.keras")
    np.testing.assert_allclose(loaded(X), wanted, rtol=1e-5, atol=1e-6)
    assert normal_form(model) is model
