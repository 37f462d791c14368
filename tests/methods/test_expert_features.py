"""Expert features: measured from pixels, standardised on the target alone."""

import keras
import numpy as np
import pytest
from helpers import bytes_of

from ktransfer.data import Split
from ktransfer.errors import KTransferError
from ktransfer.methods.feature import linear_probe
from ktransfer.methods.fusion import expert_features
from ktransfer.methods.fusion.expert_features import transfer
from ktransfer.models.handmade import ExpertFeatures

NAMES = ("gradients", "moments", "symmetry", "holes")


def measure(names, images):
    return np.asarray(ExpertFeatures(names)(np.asarray(images, "uint8")))


def drawn(*rows):
    """Return one image `(1, height, width, 1)`: # is bright."""
    pixels = [[255 * (c == "#") for c in row] for row in rows]
    return np.array(pixels, "uint8")[None, ..., None]


def test_without_them_it_is_a_linear_probe(world):
    options = {"steps": 3, "seed": 5, "batch_size": 16}
    model = transfer(*world, features=(), **options)
    probe = linear_probe.transfer(*world, **options)
    assert bytes_of(model) == bytes_of(probe)


@pytest.mark.parametrize("channels", [1, 3])
def test_they_are_finite_on_constant_images_and_the_same_again(channels):
    levels = np.array([0, 128, 255])[:, None, None, None]
    images = np.broadcast_to(levels, (3, 9, 7, channels)).astype("uint8")
    found = measure(NAMES, images)
    assert found.shape == (3, 36 + 6 + 3 + 1)
    assert np.isfinite(found).all()
    # No gradient, no hole, and perfect symmetry.
    np.testing.assert_array_equal(found[:, :36], 0)
    np.testing.assert_array_equal(found[:, -4:], [[1, 1, 1, 0]] * 3)
    np.testing.assert_array_equal(found, measure(NAMES, images))


@pytest.mark.parametrize(
    ("rows", "euler"),
    [
        (("....", ".##.", "...."), 1),
        (("####", "#..#", "#..#", "####"), 0),
        (("###", "#.#", "###", "#.#", "###"), -1),
        (("#..#", "...."), 2),
        # Pixels that touch at a corner are one part.
        (("#...", ".#..", "..#."), 1),
        ((".#.", "#.#", ".#."), 0),
    ],
)
def test_holes_are_counted(rows, euler):
    assert measure(["holes"], drawn(*rows)) == [[euler]]


def test_moments_are_those_of_numpy():
    image = np.random.default_rng(0).integers(0, 256, (1, 6, 8, 1))
    grey = image[0, ..., 0] / 255
    mass = grey / grey.sum()
    y, x = np.meshgrid(
        np.linspace(0, 1, 6), np.linspace(0, 1, 8), indexing="ij"
    )
    cy, cx = (mass * y).sum(), (mass * x).sum()
    wanted = [
        grey.mean(),
        cy,
        cx,
        (mass * (y - cy) ** 2).sum(),
        (mass * (x - cx) ** 2).sum(),
        (mass * (y - cy) * (x - cx)).sum(),
    ]
    np.testing.assert_allclose(
        measure(["moments"], image)[0], wanted, rtol=1e-4, atol=1e-6
    )


def test_gradients_point_across_the_edge():
    edge = drawn(*["....####"] * 8)
    shares = measure(["gradients"], edge)[0].reshape(4, 9)
    np.testing.assert_allclose(shares[:, 0], 0.25, atol=1e-5)
    assert shares[:, 1:].sum() == 0
    turned = measure(["gradients"], edge.transpose(0, 2, 1, 3))[0]
    np.testing.assert_allclose(turned.reshape(4, 9)[:, 4], 0.25, atol=1e-5)


def test_symmetry_tells_the_mirrors_apart():
    left_right, up_down, both = measure(["symmetry"], drawn("#..#", "...."))[0]
    assert left_right == 1
    assert up_down == both == pytest.approx(0.5)


def test_statistics_come_from_the_targets_training_images(world):
    target, source = world
    model = transfer(target, source, steps=0, seed=5)
    part = keras.Model(model.input, model.get_layer("standardise").output)
    values = np.asarray(part(target.train.x))
    raw = measure(NAMES, target.train.x)
    varied = raw.var(axis=0) > 1e-10
    np.testing.assert_allclose(values.mean(axis=0), 0, atol=2e-3)
    np.testing.assert_allclose(values[:, varied].std(axis=0), 1, rtol=1e-3)
    # Other images of the same model are measured by the same ruler.
    half = Split(target.train.x[:24], target.train.y[:24])
    other = transfer(target._replace(train=half), source, steps=0, seed=5)
    mean = other.get_layer("standardise").get_config()["mean"]
    np.testing.assert_allclose(mean, raw[:24].mean(axis=0), atol=1e-5)


def test_a_feature_that_never_differed_is_centred_and_not_blown_up():
    seen = np.stack([np.full(9, 0.25), np.arange(9.0)], axis=1)
    layer = expert_features._standardisation(seen)
    found = np.asarray(layer(np.float32([[0.75, 4.0], [0.25, 8.0]])))
    wanted = [[0.5, 0.0], [0.0, 4 / seen[:, 1].std()]]
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_an_unknown_feature_names_the_nearest(world):
    with pytest.raises(KTransferError, match="'holes'"):
        transfer(*world, steps=1, seed=0, features=("hole",))
