"""One thread, as in a worker, and the fixtures that all tests share."""

import functools
import os

# Set before TensorFlow is loaded, so that its log stays quiet.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# A worker has one thread; tests that need no TensorFlow do not load it.
os.environ["TF_NUM_INTRAOP_THREADS"] = "1"
os.environ["TF_NUM_INTEROP_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import sys

import pytest
from helpers import Call, idle, small_task, small_world

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
    """Run the functions of a module marked `eager` as they are, untraced.

    The tests of all other modules trace, as users do.
    """
    if request.node.get_closest_marker("eager") is None:
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
def spy(monkeypatch):
    """A function (module, name) -> the list of the `Call`s that follow.

    `instead` is called in place of the function; `watch` is a function of
    its first argument, of which a call keeps the value before and after.
    """

    def start(module, name="fit", *, instead=None, watch=lambda *first: None):
        calls, real = [], getattr(module, name)

        @functools.wraps(real)
        def spied(*args, **kwargs):
            before = watch(*args[:1])
            result = (instead or real)(*args, **kwargs)
            after = watch(*args[:1])
            calls.append(Call(args, kwargs, result, before, after))
            return result

        monkeypatch.setattr(module, name, spied)
        return calls

    return start


@pytest.fixture
def solved(spy):
    """The calls that solve for a classifier on aligned features, in turn."""
    from ktransfer.stages import alignment

    return spy(alignment, "softmax_regression")


@pytest.fixture
def given_to_fit(spy):
    """A function (method, ...) -> the `Call` by which it trains, not run.

    A method without a `fit` of its own has that of `stages.domains`.
    """

    def given(method, *args, **options):
        from ktransfer.stages import domains

        calls = spy(method if hasattr(method, "fit") else domains, instead=idle)
        method.transfer(*args, **{"steps": 1, "seed": 0, **options})
        return calls[-1]

    return given
