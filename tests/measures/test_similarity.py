"""CKA against its dense form, and the distances that weights have moved."""

import subprocess
import sys

import numpy as np
import pytest
from helpers import small_backbone, small_classifier, small_task

from ktransfer.errors import KTransferError
from ktransfer.measures.similarity import cka, moved_layers, weight_distance

forms = pytest.mark.parametrize("unbiased", [False, True])
shape = pytest.mark.parametrize("n, d", [(50, 6), (9, 40)])


def pair(n, d, seed=0):
    """Return two representations of n images that share a part."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d)) + 3
    mixed = x @ rng.standard_normal((d, 5)) / np.sqrt(d)
    return x, mixed + rng.standard_normal((n, 5))


# CKA


def dense_cka(x, y):
    """Return CKA of n x n kernels, centred from both sides."""
    middle = np.eye(len(x)) - 1 / len(x)
    k, m = middle @ x @ x.T @ middle, middle @ y @ y.T @ middle
    return np.sum(k * m) / (np.linalg.norm(k) * np.linalg.norm(m))


def dense_unbiased_cka(x, y):
    """Return CKA of the unbiased estimate, from kernels without a diagonal."""

    def estimate(x, y):
        n, one = len(x), np.ones(len(x))
        k, m = x @ x.T, y @ y.T
        np.fill_diagonal(k, 0)
        np.fill_diagonal(m, 0)
        first = np.trace(k @ m)
        second = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
        third = 2 / (n - 2) * (one @ k @ m @ one)
        return (first + second - third) / (n * (n - 3))

    return estimate(x, y) / np.sqrt(estimate(x, x) * estimate(y, y))


@shape
def test_cka_is_its_dense_form(n, d):
    x, y = pair(n, d)
    assert cka(x, y) == pytest.approx(dense_cka(x, y), rel=1e-9)
    assert 0 < cka(x, y) < 1
    assert cka(x, y, unbiased=True) == pytest.approx(
        dense_unbiased_cka(x, y), rel=1e-8
    )


@forms
@shape
def test_cka_of_a_representation_with_itself_is_one(n, d, unbiased):
    x, _ = pair(n, d)
    assert cka(x, x, unbiased) == pytest.approx(1, rel=1e-12)


@forms
@shape
def test_cka_is_symmetric(n, d, unbiased):
    x, y = pair(n, d)
    assert cka(x, y, unbiased) == pytest.approx(cka(y, x, unbiased), rel=1e-12)


@forms
@shape
def test_rotation_scale_and_shift_leave_cka_alone(n, d, unbiased):
    x, y = pair(n, d)
    drawn = np.random.default_rng(1).standard_normal((d, d))
    moved = 0.01 * x @ np.linalg.qr(drawn)[0] + np.arange(d)
    assert cka(moved, y, unbiased) == pytest.approx(
        cka(x, y, unbiased), rel=1e-9
    )
    order = np.random.default_rng(2).permutation(n)
    assert cka(x[order], y[order], unbiased) == pytest.approx(
        cka(x, y, unbiased), rel=1e-9
    )


def test_a_linear_map_that_is_no_rotation_changes_cka():
    x, y = pair(50, 6)
    stretched = x * np.array([10, 1, 1, 1, 1, 1])
    assert cka(stretched, x) < 0.9


def test_only_the_unbiased_form_is_zero_for_independent_representations():
    rng = np.random.default_rng(0)
    drawn = [rng.standard_normal((2, 30, 60)) for _ in range(50)]
    assert min(cka(x, y) for x, y in drawn) > 0.5
    unbiased = [cka(x, y, unbiased=True) for x, y in drawn]
    assert abs(np.mean(unbiased)) < 0.02
    assert min(unbiased) < 0 < max(unbiased)


def test_maps_are_flattened_and_integers_taken():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 255, (20, 3, 3, 2)).astype("uint8")
    y = rng.standard_normal((20, 5)).astype("float32")
    assert cka(x, y) == pytest.approx(dense_cka(x.reshape(20, -1) / 1.0, y))
    pooled = x.mean(axis=(1, 2))
    assert cka(pooled, y) != pytest.approx(cka(x, y), abs=1e-3)


@forms
@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_a_representation_that_does_not_vary_is_like_nothing(unbiased, value):
    x, _ = pair(50, 6)
    assert cka(np.full((50, 3), value), x, unbiased) == 0
    dead = np.c_[x, np.full((50, 3), value)]
    assert cka(dead, x, unbiased) == pytest.approx(1, rel=1e-12)


def test_one_image_that_differs_is_no_evidence_for_the_unbiased_form():
    x = np.zeros((20, 3))
    x[4] = 0.7
    assert cka(x, x) == pytest.approx(1)
    assert cka(x, x, unbiased=True) == 0


def test_other_images_or_too_few_are_refused():
    x, y = pair(9, 4)
    with pytest.raises(KTransferError, match="E_ARGUMENT.*9 and 8 images"):
        cka(x, y[:8])
    with pytest.raises(KTransferError, match="E_ARGUMENT.*at least 4"):
        cka(x[:3], y[:3], unbiased=True)


# Weights


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {
        "block1": [rng.standard_normal((3, 4)), rng.standard_normal(4)],
        "block2": rng.standard_normal((2, 2, 5)).astype("float32"),
    }


def test_the_distance_is_relative_and_by_block(arrays):
    moved = {
        "block1": [arrays["block1"][0] * 1.5, arrays["block1"][1]],
        "block2": arrays["block2"],
    }
    kernel, bias = arrays["block1"]
    size = np.sqrt(np.sum(kernel**2) + np.sum(bias**2))
    found = weight_distance(moved, arrays)
    assert list(found) == ["block1", "block2"]
    assert found["block1"] == pytest.approx(
        np.sqrt(np.sum(kernel**2)) / 2 / size, rel=1e-12
    )
    assert found["block2"] == 0
    assert moved_layers(moved, arrays) == ["block1"]


def test_nothing_has_moved_before_training(arrays):
    assert weight_distance(arrays, arrays) == {"block1": 0, "block2": 0}
    assert moved_layers(arrays, arrays) == []


def test_the_smallest_step_of_one_weight_is_a_move(arrays):
    moved = {**arrays, "block2": arrays["block2"].copy()}
    moved["block2"][0, 0, 0] = np.nextafter(moved["block2"][0, 0, 0], 10)
    assert moved_layers(moved, arrays) == ["block2"]


def test_blocks_of_other_shapes_or_without_a_partner_are_left_out(arrays):
    other = {
        "block1": arrays["block1"][::-1],
        "block2": arrays["block2"] * 2,
        "logits": np.ones(3),
    }
    assert weight_distance(other, arrays) == {"block2": pytest.approx(1)}
    with pytest.raises(KTransferError, match="E_ARGUMENT.*logits"):
        weight_distance({"logits": np.ones(3)}, arrays)
    with pytest.raises(KTransferError, match="E_ARGUMENT"):
        moved_layers({"block2": np.ones((2, 10))}, arrays)


def test_weights_of_zero_and_weights_that_are_no_numbers():
    zero, one = {"bias": np.zeros(3)}, {"bias": np.ones(3)}
    broken = {"bias": np.array([0, 1, np.nan])}
    assert weight_distance(zero, zero) == {"bias": 0}
    assert weight_distance(one, zero) == {"bias": float("inf")}
    assert weight_distance(zero, one) == {"bias": 1}
    assert np.isnan(weight_distance(broken, one)["bias"])
    assert np.isnan(weight_distance(broken, zero)["bias"])
    assert moved_layers(broken, one) == moved_layers(broken, zero) == ["bias"]


def test_models_are_compared_by_block_and_frozen_ones_have_not_moved():
    from ktransfer.engine.training import fit
    from ktransfer.models.blocks import select
    from ktransfer.models.surgery import attach_head, copy_backbone, freeze

    target = small_task("target", 1)
    source = small_classifier(5, shape=target.image_shape, normalised=True)
    backbone = copy_backbone(source.get_layer("small"))
    freeze(select(backbone, ["block1", "block3_conv"]))
    model = attach_head(backbone, target.num_classes, seed=0)
    before = weight_distance(model, source)
    # The heads, of 3 and 5 classes, are not compared.
    assert before == {"block1": 0, "block2": 0, "block3": 0}
    assert moved_layers(model, source) == []
    fit(model, target.train, steps=2, seed=0)
    after = weight_distance(model, source)
    assert after["block1"] == 0
    assert after["block2"] > 0 and after["block3"] > 0
    assert moved_layers(model, source) == [
        "block2_conv",
        "block2_norm",
        "block3_norm",
    ]
    moved = np.concatenate(
        [
            np.ravel(after.numpy() - before.numpy())
            for after, before in zip(
                model.get_layer("backbone").weights, source.weights
            )
            if "block2" in after.path
        ]
    )
    size = np.concatenate(
        [np.ravel(v.numpy()) for v in source.weights if "block2" in v.path]
    )
    expected = np.linalg.norm(moved) / np.linalg.norm(size)
    assert after["block2"] == pytest.approx(expected, rel=1e-5)


def test_a_statistic_that_drifts_in_a_frozen_layer_shows():
    source = small_backbone(normalised=True)
    drifted = small_backbone(normalised=True)
    drifted.get_layer("block2_norm").moving_mean.assign(np.full(6, 0.5))
    assert moved_layers(drifted, source) == ["block2_norm"]


def test_the_scores_need_no_keras():
    code = (
        "import sys; from ktransfer.measures import similarity; "
        "from ktransfer.measures import transferability; similarity.cka; "
        "transferability.logme; "
        "print('keras' in sys.modules or 'tensorflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
