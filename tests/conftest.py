"""One thread, as in a worker, and the fixtures that all tests share."""

import os

# Set before TensorFlow is loaded, so that its log stays quiet.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# A worker has one thread; tests that need no TensorFlow do not load it.
os.environ["TF_NUM_INTRAOP_THREADS"] = "1"
os.environ["TF_NUM_INTEROP_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import sys

import pytest
from helpers import small_task, small_world

# First, since it sets what TensorFlow reads; some tests import that.
import ktransfer  # noqa: F401


@pytest.fixture(autouse=True)
def clear_session():
    yield
    if "keras" in sys.modules:
        # Collecting garbage a thousand times would take minutes.
        sys.modules["keras"].utils.clear_session(free_memory=False)
    if "ktransfer.engine.feature_cache" in sys.modules:
        # What a test patches would live on in them.
        sys.modules["ktransfer.engine.programs"].forget()
        sys.modules["ktransfer.engine.feature_cache"].forget()


@pytest.fixture
def task():
    """A task of 48 images in colour, of three classes."""
    return small_task("target", 3)


@pytest.fixture
def world():
    """The usual small world, (target, source): the source has BatchNorm."""
    return small_world(normalised=True)


@pytest.fixture
def fits():
    """The list of the fits that a test has done so far, in their order."""
    from ktransfer.engine import training

    with training.recording() as done:
        yield done


@pytest.fixture(autouse=True, scope="module")
def untraced(request):
    """Run the functions of the tests of methods as they are, untraced.

    Tracing costs more than the few steps of a test. The tests of the core
    and of the runner trace, as users do.
    """
    path = request.path
    if path.parent.name != "methods" and path.name != "test_tracing.py":
        yield
        return
    import tensorflow

    tensorflow.config.run_functions_eagerly(True)
    yield
    tensorflow.config.run_functions_eagerly(False)


@pytest.fixture
def traced(untraced):
    """Trace after all: for a test of hundreds of steps."""
    import tensorflow

    before = tensorflow.config.functions_run_eagerly()
    tensorflow.config.run_functions_eagerly(False)
    yield
    tensorflow.config.run_functions_eagerly(before)


@pytest.fixture
def fitted(monkeypatch):
    """A function module -> list that receives each model its `fit` trains."""

    def watch(module):
        from ktransfer.engine.training import fit

        models = []

        def remembering(model, *args, **options):
            models.append(model)
            return fit(model, *args, **options)

        monkeypatch.setattr(module, "fit", remembering)
        return models

    return watch


@pytest.fixture
def solved(monkeypatch):
    """The features that aligned classifiers were solved for, in turn."""
    from ktransfer.stages import alignment

    seen, real = [], alignment.softmax_regression

    def remembering(x, y, strength):
        seen.append(x)
        return real(x, y, strength)

    monkeypatch.setattr(alignment, "softmax_regression", remembering)
    return seen


@pytest.fixture
def given_to_fit(monkeypatch):
    """A function (method, ...) -> what it gives `domains.fit`, not trained."""

    def given(method, *args, **options):
        from ktransfer.stages import domains

        seen = {}
        monkeypatch.setattr(
            domains,
            "fit",
            lambda model, data, **options: seen.update(
                options, model=model, data=data
            ),
        )
        method.transfer(*args, steps=1, seed=0, **options)
        return seen

    return given
