"""Cut, copy, freeze, adapt, mix: on flat, nested and Sequential models."""

import keras
import numpy as np
import pytest
from helpers import (
    adapted,
    bytes_of,
    layer_of,
    small_backbone,
    small_source,
    small_task,
    weights_of,
)
from keras import layers

from ktransfer.errors import KTransferError, NotApplicable
from ktransfer.models import backbones, surgery
from ktransfer.models.blocks import blocks, select
from ktransfer.models.graph import leaves
from ktransfer.models.names import LAYERS
from ktransfer.models.surgery import (
    adapt_input,
    assign,
    attach_head,
    classifier,
    combine,
    copy,
    copy_backbone,
    cut,
    freeze,
    fresh,
    inline,
    interpolate,
)


def images(channels=3, n=5, size=12):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (n, size, size, channels)).astype("uint8")


def sequential():
    return keras.Sequential(
        [
            keras.Input((12, 12, 3), dtype="uint8"),
            layers.Rescaling(1 / 255, name="rescale"),
            layers.Conv2D(4, 3, name="block1_conv"),
            layers.Flatten(name="features"),
            layers.Dense(2, name="logits"),
        ]
    )


def nested():
    """Return logits(outer(small(images))): the backbone is two levels down."""
    inputs = keras.Input((12, 12, 3), dtype="uint8", name="images")
    features = small_backbone()(inputs)
    outer = keras.Model(inputs, layers.ReLU(name="top")(features), name="outer")
    return attach_head(outer, 3, seed=2)


def kernels(model):
    return [x.kernel for x in leaves(model) if hasattr(x, "kernel")]


def test_the_articles_network_has_its_number_of_parameters():
    model = attach_head(backbones.convnet(), 10, seed=0, hidden_units=64)
    assert model.count_params() == 122_570
    assert backbones.convnet().output.shape == (None, 1024)


@pytest.mark.parametrize("name", sorted(backbones.BUILDERS))
def test_backbones_scale_their_input_and_start_near_ln_k(name):
    model = attach_head(backbones.BUILDERS[name](seed=1), 10, seed=1)
    x = images(n=64, size=model.input.shape[1])
    # Training mode: untrained moving statistics normalise nothing.
    logits = np.asarray(model(x, training=True), "float64")
    y = np.arange(64) % 10
    top = logits - logits.max(-1, keepdims=True)
    log_p = top - np.log(np.exp(top).sum(-1, keepdims=True))
    assert -log_p[np.arange(64), y].mean() < 2 * np.log(10)
    names = {x.name for x in leaves(model)} - {"logits"}
    assert names == LAYERS[name]


def test_a_seed_fixes_each_layers_weights_whatever_stands_beside_it():
    plain = {v.path: v.numpy() for v in small_backbone(seed=3).weights}
    more = small_backbone(seed=3, dropout=0.5, normalised=True)
    for variable in more.weights:
        if variable.path in plain:
            assert (variable.numpy() == plain[variable.path]).all()
    other = small_backbone(seed=4)
    assert all(
        (v.numpy() != plain[v.path]).any()
        for v in other.weights
        if "kernel" in v.path
    )


def test_inlining_and_cutting_keep_the_values_two_levels_down():
    model, x = nested(), images()
    np.testing.assert_array_equal(inline(model)(x), model(x))
    inner = model.layers[1].layers[1]
    np.testing.assert_array_equal(cut(model, "features")(x), inner(x))
    deep = cut(model, "block2")(x)
    assert deep.shape == (5, 3, 3, 6)
    assert all(
        not isinstance(layer, keras.Model) for layer in inline(model).layers
    )


def test_a_tap_on_each_block_is_one_graph():
    taps = inline(nested(), tap=["block1", "block3_conv"])(images())
    assert taps["block1"].shape == (5, 6, 6, 4)
    assert taps["block3_conv"].shape == (5, 3, 3, 8)


def test_sequential_models_are_read_too():
    model, x = sequential(), images()
    backbone = copy_backbone(model)
    assert backbone.output.shape == (None, 400)
    assert [x.name for x in leaves(model)][-1] == "logits"
    np.testing.assert_array_equal(inline(model)(x), model(x))


def test_a_subclassed_model_is_refused_with_a_reason():
    class Own(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(KTransferError, match="subclassed"):
        cut(Own(), "features")


def test_an_unknown_layer_lists_the_candidates():
    with pytest.raises(
        KTransferError, match="Did you mean 'features'"
    ) as caught:
        cut(nested(), "feature")
    assert caught.value.name == "E_UNKNOWN"
    with pytest.raises(KTransferError, match="block2"):
        select(nested(), ["block9"])


def test_a_copy_has_the_weights_and_shares_nothing():
    model = nested()
    freeze(model)
    clone = copy(model, "clone")
    assert bytes_of(clone) == bytes_of(model)
    before = weights_of(model)
    for variable in clone.variables:
        variable.assign(variable + 1)
    assert weights_of(model) == before
    assert all(layer.trainable for layer in leaves(clone))


def test_fresh_weights_keep_the_architecture_and_no_kernel():
    model = nested()
    other = fresh(model, seed=9)
    assert [v.shape for v in other.weights] == [v.shape for v in model.weights]
    for a, b in zip(kernels(model), kernels(other), strict=True):
        assert (a.numpy() != b.numpy()).mean() > 0.99
    again = fresh(model, seed=9)
    assert weights_of(again) == weights_of(other)


def test_one_selection_means_the_same_leaves_flat_and_nested():
    flat, deep = inline(small_backbone()), nested()
    for name in ("block2", "block3_conv"):
        assert [x.name for x in select(flat, name)] == [
            x.name for x in select(deep, name)
        ]


@pytest.mark.parametrize("make", [small_backbone, nested])
def test_freezing_a_block_leaves_containers_thawed(make):
    model = make()
    freeze(blocks(model)["block1"])
    paths = {v.path for v in model.trainable_variables}
    assert not any("block1" in path for path in paths)
    assert any("block2" in path for path in paths)
    assert model.trainable


@pytest.mark.parametrize(
    ("wanted", "given"),
    [
        ((32, 32, 3), (28, 28, 1)),
        ((28, 28, 1), (32, 32, 3)),
        ((32, 32, 3), (8, 8, 3)),
        ((32, 32, 3), (64, 48, 1)),
        ((12, 12, 3), (12, 12, 1)),
    ],
)
def test_input_adapters_are_layers_of_the_model(tmp_path, wanted, given):
    model = classifier(
        small_backbone(wanted),
        small_task("t", given[2])._replace(image_shape=given),
        seed=0,
    )
    x = np.random.default_rng(1).integers(0, 256, (3, *given)).astype("uint8")
    outputs = model(x)
    assert outputs.shape == (3, 3)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(x), outputs)


def test_a_border_of_zeros_and_equal_channels():
    probe_inputs = keras.Input((32, 32, 3), dtype="uint8")
    probe = keras.Model(probe_inputs, layers.Rescaling(1.0)(probe_inputs))
    x = images(1, 2, 28)
    seen = np.asarray(adapt_input(probe, (28, 28, 1))(x))
    np.testing.assert_array_equal(seen[:, 2:30, 2:30, 1], x[..., 0])
    assert seen[:, :2].max() == seen[:, :, 30:].max() == 0
    assert (seen[..., 0] == seen[..., 2]).all()


def test_other_numbers_of_channels_are_not_applicable():
    with pytest.raises(NotApplicable, match="channels"):
        adapt_input(small_backbone(), (12, 12, 4))


def test_mixing_is_exact_at_its_ends_and_linear_between():
    model, a, b = (small_backbone(seed=s) for s in (0, 1, 2))
    interpolate(model, a, b, 1)
    assert weights_of(model) == weights_of(a)
    interpolate(model, a, b, 0)
    assert weights_of(model) == weights_of(b)
    interpolate(model, a, b, 0.25)
    for v, w, u in zip(model.weights, a.weights, b.weights):
        expected = 0.25 * w.numpy() + 0.75 * u.numpy()
        np.testing.assert_allclose(v.numpy(), expected, rtol=1e-6, atol=1e-8)


def test_mixing_other_architectures_is_not_applicable():
    with pytest.raises(NotApplicable, match="architecture"):
        combine(small_backbone(), [sequential()], [1])


def test_assigning_is_all_or_nothing():
    model = small_backbone()
    before = weights_of(model)
    values = [np.ones(v.shape) for v in model.variables]
    for wrong in (values[:-1], [*values, values[0]], [*values[:-1], values[0]]):
        with pytest.raises(KTransferError) as caught:
            assign(model, wrong)
        assert caught.value.name == "E_WEIGHTS"
        assert weights_of(model) == before


def test_a_source_has_a_layer_named_features():
    source = small_source(small_task("source", 3))
    assert surgery.cut(source.model, "features").output.shape == (None, 8)


@pytest.mark.parametrize("shape", [(12, 12, 3), (40, 40, 1), (40, 40, 3)])
def test_what_was_adapted_is_pixels_again(shape):
    """A network reads the same, whether its graph is one layer or inlined."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (4, *shape)).astype("uint8")
    adapted = adapt_input(small_backbone((12, 12, 1)), shape)
    pixels = adapted.get_layer("pixels").output
    assert pixels.dtype == "uint8"
    np.testing.assert_array_equal(adapted(x), inline(adapted)(x))


def test_what_stays_whole_is_not_rounded():
    """Padding and equal channels: layers of Keras would call them floats."""
    adapted = adapt_input(small_backbone((12, 12, 3)), (10, 10, 1))
    names = [layer.name for layer in leaves(adapted)]
    assert {"pad", "grey_to_rgb"} <= set(names) and "pixels" not in names
    assert adapted.get_layer("grey_to_rgb").output.dtype == "uint8"
    x = np.arange(400, dtype="uint8").reshape(4, 10, 10, 1)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))).repeat(3, axis=-1)
    np.testing.assert_array_equal(
        adapted(x), small_backbone((12, 12, 3))(padded)
    )


def normalised(model, images):
    layer = layer_of(model, "normalise")
    return np.asarray(layer(images.astype("float32")))


def test_layers_adapted_to_data_stay_in_fresh_and_mixed_networks():
    images = small_task("target", 3).train.x
    model, other = adapted(images), adapted(images // 2)
    wanted = normalised(model, images)
    renewed = fresh(model, 5)
    np.testing.assert_allclose(normalised(renewed, images), wanted, rtol=1e-6)
    mixed = copy(model)
    combine(mixed, [model, other], [0.5, 0.5])
    np.testing.assert_array_equal(normalised(mixed, images), wanted)
    # Its variables too, from which it makes its constants once it is loaded.
    np.testing.assert_array_equal(normalised(copy(mixed), images), wanted)
    first, second, mean = (
        layer_of(m, "block1_conv").kernel.numpy() for m in (model, other, mixed)
    )
    np.testing.assert_allclose(mean, (first + second) / 2, atol=1e-7)


def test_a_lambda_is_refused_by_name():
    x = keras.Input((4,))
    y = layers.Lambda(lambda z: z * 2, name="doubled", output_shape=(4,))(x)
    model = keras.Model(x, layers.Dense(2)(y))
    for act in (copy, lambda m: fresh(m, 0)):
        with pytest.raises(KTransferError, match="'doubled'") as caught:
            act(model)
        assert caught.value.name == "E_ARGUMENT"
