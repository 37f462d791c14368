"""Low-rank adaptation: thin updates of frozen kernels, merged at the end."""

import keras
import numpy as np
import pytest
from helpers import (
    bytes_of,
    defaults,
    small_task,
    small_transformer,
    weights_of,
)
from keras import layers

from ktransfer.engine.prediction import predict
from ktransfer.errors import KTransferError, NotApplicable
from ktransfer.methods.feature import linear_probe
from ktransfer.methods.finetuning import low_rank_adaptation
from ktransfer.methods.finetuning.low_rank_adaptation import transfer
from ktransfer.models import backbones
from ktransfer.models.graph import leaves
from ktransfer.models.layers import LowRank
from ktransfer.models.own import Source
from ktransfer.models.surgery import attach_head, trainable_count

OPTIONS = {"seed": 1, "batch_size": 16}
CONVOLUTIONS = {"block1_conv", "block2_conv", "block3_conv"}
HEAD = 8 * 3 + 3


@pytest.fixture(scope="module")
def dense_world():
    source_task = small_task("source", 3)
    backbone = backbones.mlp((12, 12, 3), units=(10, 7))
    return small_task("target", 1), Source(
        attach_head(backbone, 3, seed=0), source_task
    )


@pytest.fixture(scope="module")
def attention_world():
    model = attach_head(small_transformer(), 3, seed=0)
    return small_task("target", 1), Source(model, small_task("source", 3))


def low_rank(model):
    return {x.name: x for x in leaves(model) if isinstance(x, LowRank)}


def randomised(layer, shape):
    """Return `layer` with an update of rank 2 and alpha 3 that is not 0."""
    if not layer.built:
        layer.build(shape)
    found = LowRank(layer, 2, 3.0, seed=1)
    found.build(shape)
    rng = np.random.default_rng(0)
    for expand in found.expand:
        expand.assign(rng.normal(size=expand.shape))
    return found


KINDS = [
    (lambda: layers.Dense(4, "tanh", name="dense"), (6, 5)),
    (lambda: layers.Dense(4, use_bias=False, name="dense"), (6, 5)),
    (
        lambda: layers.Conv2D(
            4, (3, 2), 2, "same", activation="relu", name="convolution"
        ),
        (6, 7, 7, 5),
    ),
    (lambda: layers.Conv2D(4, 3, groups=2, name="convolution"), (6, 7, 7, 6)),
]


@pytest.mark.parametrize(("build", "shape"), KINDS)
def test_the_kernel_is_the_base_and_the_scaled_product(build, shape):
    layer = randomised(build(), shape)
    base = layer.layer.kernel.numpy().astype("float64")
    a, b = layer.reduce[0].numpy(), layer.expand[0].numpy()
    assert a.shape == (*base.shape[:-1], 2) and b.shape == (2, 4)
    expected = base + 3 / 2 * np.einsum("...r,ro->...o", a.astype("float64"), b)
    ((_, kernel),) = layer.updated()
    np.testing.assert_allclose(kernel, expected, atol=1e-6)

    plain = build()
    plain.build(shape)
    if plain.use_bias:
        for one in (plain, layer.layer):
            one.bias.assign([0.5, -1, 2, 0])
    plain.kernel.assign(expected)
    x = np.random.default_rng(1).normal(size=shape).astype("float32")
    np.testing.assert_allclose(layer(x), plain(x), atol=1e-5)
    layer.merge()
    np.testing.assert_allclose(layer.layer(x), plain(x), atol=1e-5)
    np.testing.assert_array_equal(layer(x), layer.layer(x))


def attention(dropout=0.0):
    """Return attention of 2 heads, 3 values each, and its inputs of 5."""
    layer = layers.MultiHeadAttention(2, 3, dropout=dropout, name="attention")
    layer.build((4, 7, 5), (4, 6, 5))
    rng = np.random.default_rng(1)
    for variable in layer.weights:
        variable.assign(rng.normal(size=variable.shape))
    x, y = rng.normal(size=(2, 4, 7, 5)).astype("float32")
    return layer, x, y[:, :6]


def updated(layer, low):
    """Write the updates of `low` into a layer of the same weights."""
    for part, a, b in zip(
        (layer.query_dense, layer.value_dense), low.reduce, low.expand
    ):
        assert a.shape == (5, 2) and b.shape == (2, 2, 3)
        change = np.einsum("dr,rhk->dhk", a.numpy().astype("float64"), b)
        part.kernel.assign(part.kernel.numpy() + 3 / 2 * change)


@pytest.mark.parametrize(
    "options",
    [{}, {"use_causal_mask": True}, {"return_attention_scores": True}],
)
def test_of_attention_query_and_value_are_updated(options):
    plain, x, y = attention()
    layer = randomised(attention()[0], (4, 7, 5))
    assert len(layer.trainable_variables) == 4
    frozen = [v.numpy() for v in layer.layer.weights]
    updated(plain, layer)
    expected = plain(x, y, **options)
    # By position or by name, as attention itself is called.
    for found in (
        layer(x, y, **options),
        layer(query=x, value=y, key=y, **options),
    ):
        for one, other in zip(
            keras.tree.flatten(found), keras.tree.flatten(expected)
        ):
            np.testing.assert_allclose(one, other, atol=1e-4)
    assert np.abs(np.asarray(attention()[0](x, y)) - plain(x, y)).max() > 0.1
    for old, variable in zip(frozen, layer.layer.weights, strict=True):
        np.testing.assert_array_equal(old, variable)
    layer.merge()
    np.testing.assert_allclose(layer.layer(x, y), plain(x, y), atol=1e-4)
    np.testing.assert_array_equal(layer(x, y), layer.layer(x, y))


def test_the_dropout_of_attention_is_drawn_anew():
    layer, x, y = attention(dropout=0.5)
    low = randomised(layer, (4, 7, 5))
    first, second = (np.asarray(low(x, y, training=True)) for _ in range(2))
    assert (first != second).mean() > 0.9
    np.testing.assert_array_equal(low(x, y), low(x, y))


def test_adapted_attention_saves_and_loads(tmp_path):
    layer, x, y = attention()
    inputs = [keras.Input(x.shape[1:]), keras.Input(y.shape[1:])]
    model = keras.Model(inputs, randomised(layer, x.shape)(*inputs))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded([x, y]), model([x, y]))
    assert trainable_count(loaded) == trainable_count(model)


@pytest.mark.parametrize(("build", "shape"), KINDS[1:3])
def test_the_layer_saves_and_loads(build, shape, tmp_path):
    inputs = keras.Input(shape[1:])
    model = keras.Model(inputs, randomised(build(), shape)(inputs))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    x = np.random.default_rng(1).normal(size=shape).astype("float32")
    np.testing.assert_array_equal(loaded(x), model(x))
    assert trainable_count(loaded) == trainable_count(model)
    (layer,) = low_rank(loaded).values()
    assert (layer.rank, layer.alpha, layer.seed) == (2, 3.0, 1)


def test_it_starts_as_the_source_bit_for_bit(world, spy):
    calls = spy(low_rank_adaptation)
    model = transfer(*world, steps=0, **OPTIONS)
    probe = linear_probe.transfer(*world, steps=0, **OPTIONS)
    x = world[0].train.x
    np.testing.assert_array_equal(calls[0].model(x), probe(x))
    np.testing.assert_array_equal(model(x), probe(x))
    assert weights_of(model) == weights_of(probe)
    for layer in low_rank(calls[0].model).values():
        assert (layer.expand[0].numpy() == 0).all()
        assert (layer.reduce[0].numpy() != 0).all()


def unmerged(model):
    """Return what the layers hold that `fit` trains, which are merged after."""
    adapted = low_rank(model).values()
    return {
        "frozen": [bytes_of(layer.layer) for layer in adapted],
        "moved": [x.numpy().any() for layer in adapted for x in layer.expand],
        "outputs": predict(model, small_task("target", 1).train.x),
        "count": trainable_count(model),
        "names": set(low_rank(model)),
    }


def check_the_merge(call, model):
    """Assert that the base kept its bits and `model` answers as unmerged."""
    assert all(call.before["frozen"])
    assert call.before["frozen"] == call.after["frozen"]
    assert all(call.after["moved"])
    served = predict(model, small_task("target", 1).train.x)
    np.testing.assert_allclose(served, call.after["outputs"], atol=1e-5)


def test_merged_is_unmerged_and_the_base_kept_its_bits(world, spy, tmp_path):
    calls = spy(low_rank_adaptation, watch=unmerged)
    target, source = world
    model = transfer(
        target, source, steps=3, learning_rate=1e-2, rank=2, **OPTIONS
    )
    (call,) = calls
    check_the_merge(call, model)
    found = call.after
    assert found["names"] == CONVOLUTIONS
    # rank (9 in + out) of each convolution, and the new head.
    inputs_outputs = [(3, 4), (4, 6), (6, 8)]
    expected = sum(2 * (9 * i + o) for i, o in inputs_outputs)
    assert found["count"] == expected + HEAD

    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        predict(loaded, target.train.x), found["outputs"], atol=1e-5
    )

    # Plain layers; nothing of the source moved but its kernels, and those
    # by no more than the rank.
    start = transfer(target, source, steps=0, **OPTIONS)
    assert [type(x) for x in leaves(model)] == [type(x) for x in leaves(start)]
    assert not low_rank(model)
    for old, new in zip(start.weights, model.weights, strict=True):
        assert old.path == new.path
        change = new.numpy() - old.numpy()
        if old.path.startswith("logits") or "conv/kernel" in old.path:
            assert change.any()
        else:
            assert not change.any(), old.path
        if "conv/kernel" in old.path:
            flat = change.reshape(-1, change.shape[-1]).astype("float64")
            assert np.linalg.matrix_rank(flat, tol=1e-5) == 2


def test_dense_layers_are_adapted_too(dense_world, spy):
    calls = spy(low_rank_adaptation, watch=unmerged)
    target, source = dense_world
    model = transfer(target, source, steps=3, rank=2, **OPTIONS)
    (call,) = calls
    check_the_merge(call, model)
    width = 12 * 12 * 3
    expected = 2 * (width + 10) + 2 * (10 + 7) + 7 * 3 + 3
    assert call.after["count"] == expected


@pytest.mark.parametrize("traces", [False, True])
def test_by_default_attention_alone_is_adapted(
    attention_world, spy, request, traces
):
    """Of a transformer, the paper adapts Wq and Wv and freezes the rest."""
    if traces:
        request.getfixturevalue("traced")
    calls = spy(low_rank_adaptation, watch=unmerged)
    target, source = attention_world
    start, model = (
        transfer(
            target, source, steps=steps, rank=2, learning_rate=1e-2, **OPTIONS
        )
        for steps in (0, 4)
    )
    check_the_merge(calls[-1], model)
    found = calls[-1].after
    assert found["moved"] == [True, True]
    assert found["names"] == {"attention"}
    assert found["count"] == 2 * 2 * (8 + 2 * 3) + HEAD
    assert not low_rank(model)
    adapted = ("attention/query/kernel", "attention/value/kernel")
    for old, new in zip(start.weights, model.weights, strict=True):
        change = new.numpy().astype("float64") - old.numpy()
        assert change.any() == old.path.startswith(("logits", *adapted))
        if old.path in adapted:
            flat = change.reshape(8, 2 * 3)
            assert np.linalg.matrix_rank(flat, tol=1e-5) == 2


def test_query_and_value_have_starts_of_their_own(attention_world, spy):
    calls = spy(low_rank_adaptation)
    transfer(*attention_world, steps=0, **OPTIONS)
    query, value = low_rank(calls[0].model)["attention"].reduce
    assert np.abs(query.numpy() - value.numpy()).min() > 0
    for start in (query, value):
        assert 0.7 < np.abs(start).max() * np.sqrt(8) < 1


def test_of_a_transformer_other_layers_are_adapted_when_named(
    attention_world, spy
):
    calls = spy(low_rank_adaptation)
    for targets in ("mlp", ["attention", "mlp"], ["patch_conv", "attention"]):
        transfer(*attention_world, steps=2, targets=targets, **OPTIONS)
        names = [targets] if isinstance(targets, str) else targets
        assert set(low_rank(calls[-1].model)) == set(names)
    with pytest.raises(NotApplicable, match="target of .'norm'. holds no att"):
        transfer(*attention_world, steps=2, targets="norm", **OPTIONS)


def test_the_defaults_are_those_of_the_peft_library():
    found = defaults(transfer)
    assert (found["rank"], found["alpha"]) == (8, 8.0)


@pytest.mark.parametrize(
    ("targets", "names"),
    [
        (["block3_conv"], {"block3_conv"}),
        ("block2", {"block2_conv"}),
        (["block1", "block3_conv"], {"block1_conv", "block3_conv"}),
    ],
)
def test_targets_are_chosen_by_name(world, spy, targets, names):
    calls = spy(low_rank_adaptation)
    transfer(*world, steps=0, targets=targets, **OPTIONS)
    assert set(low_rank(calls[0].model)) == names


def test_each_kernel_has_a_seeded_start_of_its_own(world, spy):
    calls = spy(low_rank_adaptation)
    for seed in (1, 1, 2):
        transfer(*world, steps=0, rank=1, seed=seed)
    starts = [
        [x.reduce[0].numpy() for x in low_rank(call.model).values()]
        for call in calls
    ]
    for one, same, other in zip(*starts):
        assert (one == same).all() and (one != other).all()
        assert np.abs(one).max() < 1 / np.sqrt(one[..., 0].size)
    assert len({x.seed for x in low_rank(calls[0].model).values()}) == 3


def test_bad_choices_are_refused_before_training(world, fits):
    with pytest.raises(KTransferError, match="block4.*block1_conv"):
        transfer(*world, steps=2, targets=["block4"], **OPTIONS)
    with pytest.raises(NotApplicable, match="block1_norm"):
        transfer(*world, steps=2, targets=["block2", "block1_norm"], **OPTIONS)
    with pytest.raises(NotApplicable, match="at least one"):
        transfer(*world, steps=2, targets=[], **OPTIONS)
    for rank in (0, 1.5):
        with pytest.raises(KTransferError, match=f"rank is {rank}"):
            transfer(*world, steps=2, rank=rank, **OPTIONS)
    assert not fits
