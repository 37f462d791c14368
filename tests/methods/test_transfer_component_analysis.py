"""TCA: kernel axes of large variance on which the domains' means agree."""

import keras
import numpy as np
import pytest
import scipy.linalg
from helpers import (
    OTHERS,
    defaults,
    features_of,
    sizes_of,
    small_task,
    small_world,
    weights_of,
)
from scipy.spatial.distance import cdist, pdist

from ktransfer.engine.prediction import predict
from ktransfer.errors import KTransferError, NotApplicable
from ktransfer.methods.domain import transfer_component_analysis
from ktransfer.methods.domain.transfer_component_analysis import (
    _components,
    _squares,
    transfer,
)
from ktransfer.models.layers import KernelComponents
from ktransfer.models.surgery import trainable_count


@pytest.fixture
def world():
    """(target, source): other images, grey and inverted."""
    return small_world(inverted=True)


def problem(seed=0, n_source=23, n_target=17, width=5):
    """Return a kernel matrix of two domains and the vector e."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(n_source + n_target, width))
    points[n_source:] += 0.7
    sides = np.r_[np.full(n_source, 1 / n_source), np.full(n_target, -1)]
    sides[n_source:] /= n_target
    squares = cdist(points, points, "sqeuclidean")
    np.testing.assert_allclose(_squares(points), squares, atol=1e-12)
    return np.exp(-squares / np.median(pdist(points, "sqeuclidean"))), sides


def pencil(kernel, sides, mu):
    """Return K L K + mu I and K H K, as they are written."""
    n = len(sides)
    centring = np.eye(n) - np.ones((n, n)) / n
    mean_matrix = np.outer(sides, sides)
    left = kernel @ mean_matrix @ kernel + mu * np.eye(n)
    return left, kernel @ centring @ kernel


@pytest.mark.parametrize("mu", [1e-3, 1.0, 50.0])
def test_the_residual_of_the_eigenproblem_is_near_zero(mu):
    kernel, sides = problem()
    left, right = pencil(kernel, sides, mu)
    w = _components(kernel, sides, 6, mu)
    matrix = np.linalg.solve(left, right)
    values = np.sum(w * (right @ w), axis=0) / np.sum(w * (left @ w), axis=0)
    residual = matrix @ w - w * values
    assert np.abs(residual).max() < 1e-8 * np.abs(matrix @ w).max()
    assert (np.diff(values) < 0).all()
    # W' K H K W = n I: uncorrelated, of variance 1.
    np.testing.assert_allclose(w.T @ right @ w / 40, np.eye(6), atol=1e-8)


@pytest.mark.parametrize("mu", [1e-3, 1.0])
def test_components_are_those_of_a_dense_solver(mu):
    kernel, sides = problem(seed=1)
    left, right = pencil(kernel, sides, mu)
    values, vectors = scipy.linalg.eigh(right, left)
    wanted = vectors[:, :-6:-1] * np.sqrt(40 / values[:-6:-1])
    found = _components(kernel, sides, 5, mu)
    signs = np.sign(np.sum(found * wanted, axis=0))
    np.testing.assert_allclose(found * signs, wanted, rtol=1e-6, atol=1e-8)


def test_equal_domains_are_not_adapted():
    """Then K L K = 0: mu means nothing, and H K W are axes of H K K H."""
    kernel, _ = problem(n_source=20, n_target=1)
    kernel = np.tile(kernel[:20, :20], (2, 2))
    sides = np.repeat([1 / 20, -1 / 20], 20)
    w = _components(kernel, sides, 3, 1.0)
    other = _components(kernel, sides, 3, 1e-4)
    np.testing.assert_allclose(np.abs(other), np.abs(w), atol=1e-8)
    centred = kernel - kernel.mean(axis=0)
    found = centred @ w
    np.testing.assert_allclose(found[:20], found[20:], atol=1e-10)
    moved = centred @ (centred.T @ found)
    values = np.sum(found * moved, axis=0) / np.sum(found**2, axis=0)
    np.testing.assert_allclose(moved, found * values, atol=1e-8)
    largest = np.linalg.eigvalsh(centred @ centred.T)[:-4:-1]
    np.testing.assert_allclose(values, largest, rtol=1e-10)


def test_the_less_regularization_the_closer_are_the_domains():
    kernel, sides = problem()
    gaps = [
        np.linalg.norm(sides @ kernel @ _components(kernel, sides, 5, mu))
        for mu in (1e-4, 1e-2, 1.0, 100.0)
    ]
    assert (np.diff(gaps) > 0).all() and gaps[0] < 0.02 * gaps[-1]


def test_the_layer_gives_k_times_w_for_images_it_has_not_kept(world, solved):
    target, source = world
    model = transfer(
        target, source, steps=1, seed=0, num_components=4, max_images=20
    )
    layer = model.get_layer("components")
    points, w, shift = (v.numpy().astype("float64") for v in layer.weights)
    assert points.shape == (40, 8) and w.shape == (40, 4)
    assert layer.width == pytest.approx(
        np.median(pdist(points, "sqeuclidean")), rel=1e-6
    )
    components = keras.Model(model.input, layer.output)
    found = {
        "target": predict(components, target.train.x),
        "source": solved[0].args[0],
    }
    tasks = {"target": target, "source": source.task}
    kernel = np.exp(-cdist(points, points, "sqeuclidean") / layer.width)
    np.testing.assert_allclose((kernel @ w).mean(axis=0), -shift, atol=1e-4)
    np.testing.assert_allclose((kernel @ w).std(axis=0), 1, atol=1e-3)
    for name, task in tasks.items():
        squares = cdist(features_of(task, source), points, "sqeuclidean")
        wanted = np.exp(-squares / layer.width) @ w + shift
        # The kept rows are those of the domain, the source's first.
        mine = squares[:, 20:] if name == "target" else squares[:, :20]
        assert mine.min(axis=0).max() < 1e-9
        np.testing.assert_allclose(found[name], wanted, atol=2e-3)


@pytest.mark.parametrize("unlabelled", [False, True])
def test_standardised_features_are_each_domains_own(world, solved, unlabelled):
    target, source = world
    assert not defaults(transfer)["standardize"]
    if unlabelled:
        new = 200 - small_task("new", 1).train.x
        target = target._replace(unlabelled=new)
    model = transfer(
        target, source, steps=1, seed=0, num_components=4, standardize=True
    )
    layer = model.get_layer("components")
    points, w, shift = (v.numpy().astype("float64") for v in layer.weights)
    # All images of either domain are kept, in their order, the source's first.
    images = target.train.x if target.unlabelled is None else new
    raw = {
        "source": features_of(source.task, source),
        "target": features_of(
            target._replace(train=target.train._replace(x=images)), source
        ),
    }
    wanted = [(x - x.mean(axis=0)) / x.std(axis=0) for x in raw.values()]
    np.testing.assert_allclose(points, np.concatenate(wanted), atol=2e-3)
    # The images are served by the moments of the domain, not by their own.
    mean, deviation = (f(raw["target"], axis=0) for f in (np.mean, np.std))
    z = (features_of(target, source) - mean) / deviation
    kernel = np.exp(-cdist(z, points, "sqeuclidean") / layer.width)
    served = predict(keras.Model(model.input, layer.output), target.train.x)
    np.testing.assert_allclose(served, kernel @ w + shift, atol=5e-3)
    kernel = np.exp(-cdist(wanted[0], points, "sqeuclidean") / layer.width)
    np.testing.assert_allclose(solved[0].args[0], kernel @ w + shift, atol=5e-3)


def test_max_images_bounds_what_is_read_and_kept(world, spy):
    target, source = world
    calls = spy(transfer_component_analysis, "predict")
    options = {"steps": 1, "seed": 0, "max_images": 9, "num_components": 3}
    model = transfer(target, source, **options)
    assert sizes_of(calls) == [9, 9]
    assert model.get_layer("components").points.shape == (18, 8)
    assert trainable_count(model) == (3 + 1) * 3
    other = transfer(target, source, **{**options, "seed": 1})
    assert not np.array_equal(
        other.get_layer("components").points,
        model.get_layer("components").points,
    )


def test_there_are_no_more_components_than_the_kernel_has(world):
    target, source = world
    model = transfer(target, source, steps=1, seed=0, max_images=3)
    assert model.get_layer("components").num_components <= 5


def test_a_shift_that_is_small_beside_the_classes_is_bridged():
    """The classes of both domains are where those of the source are."""
    rng = np.random.default_rng(0)
    centres = 3 * rng.normal(size=(4, 10))
    labels = rng.integers(0, 4, size=(2, 80))
    points = centres[labels] + rng.normal(size=(2, 80, 10))
    points[1] += 2.0
    points = np.concatenate(points)
    squares = _squares(points)
    kernel = np.exp(-squares / np.median(squares[squares > 0]))
    sides = np.repeat([1 / 80, -1 / 80], 80)
    z = kernel @ _components(kernel, sides, 3, 1.0)
    nearest = cdist(z[80:], z[:80]).argmin(axis=1)
    assert np.mean(labels[0][nearest] == labels[1]) > 0.95


def test_the_layer_saves_and_loads(tmp_path):
    inputs = keras.Input((4,))
    layer = KernelComponents(6, 2, 1.5, name="components")
    model = keras.Model(inputs, layer(inputs))
    rng = np.random.default_rng(0)
    layer.set_weights([rng.normal(size=v.shape) for v in layer.weights])
    assert not model.trainable_weights
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    x = rng.normal(size=(3, 4)).astype("float32")
    np.testing.assert_array_equal(loaded(x), model(x))


@pytest.mark.parametrize("standardize", [False, True])
def test_target_labels_are_not_read(world, standardize):
    target, source = world
    turned = target.train._replace(y=target.train.y[::-1].copy())
    one, other = (
        transfer(x, source, steps=2, seed=0, standardize=standardize)
        for x in (target, target._replace(train=turned))
    )
    assert weights_of(one) == weights_of(other)


def test_needs_are_named(world):
    target, source = world
    other = target._replace(labels=OTHERS)
    with pytest.raises(NotApplicable, match="the target's own classes"):
        transfer(other, source, steps=1, seed=0)
    for name in ("num_components", "max_images", "regularization"):
        with pytest.raises(KTransferError, match=f"{name} is 0"):
            transfer(target, source, steps=1, seed=0, **{name: 0})
    black = [
        task.train._replace(x=np.zeros_like(task.train.x))
        for task in (target, source.task)
    ]
    dark = source._replace(task=source.task._replace(train=black[1]))
    with pytest.raises(NotApplicable, match="expected some that vary"):
        transfer(target._replace(train=black[0]), dark, steps=1, seed=0)
