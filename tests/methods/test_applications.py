"""Recipes of fine-tuning run on the networks of `keras.applications`."""

import keras
import numpy as np
import pytest

from ktransfer import methods
from ktransfer.data import Split, Task
from ktransfer.engine import normalization
from ktransfer.models.own import Source

pytestmark = pytest.mark.slow
SHAPE = (96, 96, 3)
NETWORKS = (
    *("MobileNetV2", "ResNet50", "EfficientNetB0", "DenseNet121"),
    *("ConvNeXtTiny", "VGG16"),
)
METHODS = (
    *("fine_tuning", "gradual_unfreezing", "discriminative_learning_rates"),
    *("surgical_fine_tuning", "adapters", "low_rank_adaptation", "delta"),
    "wise_ft",
)


def task_of(name, num_classes, n=12):
    rng = np.random.default_rng(num_classes)
    y = np.arange(n, dtype="int32") % num_classes
    x = rng.integers(0, 120, (n, *SHAPE)) + 60 * (y % 2)[:, None, None, None]
    train = Split(x.astype("uint8"), y)
    labels = tuple(range(num_classes))
    return Task(name, num_classes, SHAPE, train, None, "drawn", "", labels)


@pytest.fixture(scope="module", params=NETWORKS)
def source(request):
    """A network with random weights, and statistics that suit them."""
    keras.utils.set_random_seed(0)
    build = getattr(keras.applications, request.param)
    model = build(weights=None, input_shape=SHAPE, classes=7)
    task = task_of("source", 7)
    source = Source(model, task)
    normalization.reestimate_statistics(source.model, task.train.x)
    return source


@pytest.mark.parametrize("method", METHODS)
def test_it_runs_and_is_served_as_it_is_saved(source, method, tmp_path, fits):
    target = task_of("target", 3)
    known = methods.describe(method).hyperparameters
    # DELTA switches every channel of every block off in turn.
    small = {"num_images": 1} if "num_images" in known else {}
    model = methods.load(method)(
        target,
        source,
        steps=5,
        seed=0,
        batch_size=4,
        learning_rate=1e-4,
        **small,
    )
    assert 0 < sum(fit.steps for fit in fits) <= 5
    x = target.train.x
    outputs = np.asarray(model(x))
    assert outputs.shape == (12, 3) and np.isfinite(outputs).all()
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(x), outputs, rtol=1e-5, atol=1e-5)
