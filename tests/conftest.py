"""One thread, as in a worker, and a small world that all tests share."""

import functools
import inspect
import os

# Set before TensorFlow is loaded, so that its log stays quiet.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# A worker has one thread; tests that need no TensorFlow do not load it.
os.environ["TF_NUM_INTRAOP_THREADS"] = "1"
os.environ["TF_NUM_INTEROP_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import sys

import numpy as np
import pytest

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


@pytest.fixture(autouse=True)
def ledger():
    """`training.ledger()`: the fits since the last call, which it forgets."""
    training = sys.modules.get("ktransfer.engine.training")
    if training is None:
        yield
        return
    with training.recording() as fits:

        def taken():
            done = list(fits)
            fits.clear()
            return done

        training.ledger = taken
        yield


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
def tasks():
    """Two tiny tasks: (target 12x12x1, source 12x12x3), three classes."""
    return small_task("target", 1), small_task("source", 3)


def small_task(name, channels, n=48, num_classes=3, size=12):
    """Return a task whose classes differ by where the image is bright."""
    from ktransfer.data import Split, Task
    from ktransfer.seeds import stream

    # Of the whole name: two domains of one class have images of their own.
    rng = np.random.default_rng([stream(0, "task", name), channels])
    y = np.tile(np.arange(num_classes), -(-n // num_classes))[:n]
    x = rng.integers(0, 90, (n, size, size, channels))
    for row, label in enumerate(y):
        x[row, label * 4 : label * 4 + 4, 2:10] += 120
    return Task(
        name=name,
        num_classes=num_classes,
        image_shape=(size, size, channels),
        train=Split(x.astype("uint8"), y.astype("int32")),
        unlabelled=None,
        origin="drawn by the tests",
        sha256="",
        labels=tuple(range(num_classes)),
        label_space="where it is bright",
    )


def small_source(task, seed=0, normalised=False, steps=0, num_classes=None):
    """Return a `Source` on `task`: a few filters, trained for `steps`."""
    from ktransfer.engine.training import fit
    from ktransfer.models.own import Source
    from ktransfer.models.surgery import attach_head

    model = attach_head(
        small_backbone(task.image_shape, seed, normalised),
        num_classes or task.num_classes,
        seed=seed,
        hidden_units=6,
    )
    fit(model, task.train, steps=steps, learning_rate=1e-2, seed=seed)
    return Source(model, task)


def small_backbone(shape=(12, 12, 3), seed=0, normalised=False, dropout=0.0):
    """Return three blocks of convolutions, images -> 8 features."""
    import keras
    from keras import layers

    from ktransfer.models.surgery import fresh

    inputs = keras.Input(shape, dtype="uint8", name="images")
    x = layers.Rescaling(1 / 255, name="rescale")(inputs)
    for block, filters in enumerate((4, 6, 8), start=1):
        x = layers.Conv2D(
            filters, 3, padding="same", name=f"block{block}_conv"
        )(x)
        if normalised:
            x = layers.BatchNormalization(name=f"block{block}_norm")(x)
        x = layers.LeakyReLU(0.1, name=f"block{block}_relu")(x)
        if dropout and block == 2:
            x = layers.Dropout(dropout, name="block2_dropout")(x)
        x = layers.AveragePooling2D(2, name=f"block{block}_pool")(x)
    x = layers.Flatten(name="features")(x)
    return fresh(keras.Model(inputs, x, name="small"), seed)


def small_transformer(shape=(12, 12, 3), seed=0, dropout=0.0):
    """Return one block of attention over 9 patches, images -> 8 features."""
    import keras
    from keras import layers

    from ktransfer.models.surgery import fresh

    inputs = keras.Input(shape, dtype="uint8", name="images")
    x = layers.Rescaling(1 / 255, name="rescale")(inputs)
    x = layers.Conv2D(8, 4, 4, name="patch_conv")(x)
    x = layers.Reshape((9, 8), name="patches")(x)
    heads = layers.MultiHeadAttention(2, 3, dropout=dropout, name="attention")
    x = layers.Add(name="attended")([x, heads(x, value=x)])
    x = layers.LayerNormalization(name="norm")(x)
    x = layers.Add(name="mixed")([x, layers.Dense(8, "gelu", name="mlp")(x)])
    x = layers.GlobalAveragePooling1D(name="features")(x)
    return fresh(keras.Model(inputs, x, name="transformer"), seed)


def silenced(model, name=None):
    """Return a copy of `model` with all weights 0, as one that has died."""
    from ktransfer.models.graph import leaves
    from ktransfer.models.surgery import copy

    dead = copy(model, name)
    for layer in leaves(dead):
        layer.set_weights([np.zeros_like(w) for w in layer.get_weights()])
    return dead


def weights_of(model):
    """Return the bytes of every weight, path -> bytes."""
    return {v.path: v.numpy().tobytes() for v in model.weights}


def defaults(transfer):
    """Return the hyper-parameters of a method, name -> default."""
    parameters = inspect.signature(transfer).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def check_the_statistics(model, images):
    """Assert that each BatchNorm holds the moments of what it is given."""
    from ktransfer.engine.prediction import predict
    from ktransfer.models.graph import leaves
    from ktransfer.models.surgery import cut

    norms = [x for x in leaves(model) if x.name.endswith("_norm")]
    assert norms
    for norm in norms:
        below = norm.name.replace("_norm", "_conv")
        given = predict(cut(model, below), images)
        given = given.reshape(-1, given.shape[-1]).astype("float64")
        bounds = {"rtol": 1e-3, "atol": 1e-5}
        np.testing.assert_allclose(norm.moving_mean, given.mean(0), **bounds)
        np.testing.assert_allclose(norm.moving_variance, given.var(0), **bounds)


@functools.cache
def worlds(num_sources):
    """Return small worlds (target, sources), the plainest first.

    The sources of a world share one architecture and one initialisation;
    they were trained a little, each on its own task. The second world
    has BatchNorm, the third and fourth the target's own classes as source
    (plain, then with BatchNorm), as domain adaptation needs.
    """
    found = []
    for same_classes in (False, True):
        for normalised in (False, True):
            target = small_task("target", 1)
            channels = 1 if same_classes else 3
            names = ("source", "between", "beyond")[:num_sources]
            tasks = [small_task(name, channels) for name in names]
            if not same_classes:
                tasks = [t._replace(labels=("a", "b", "c")) for t in tasks]
            sources = [
                small_source(task, normalised=normalised, steps=2 + number)
                for number, task in enumerate(tasks)
            ]
            found.append((target, sources))
    return found


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


def domains(normalised=False):
    """Return (target, source) of the same classes, the target's inverted."""
    target, (source,) = worlds(1)[3 if normalised else 2]
    train = target.train._replace(x=255 - target.train.x)
    return target._replace(train=train), source


def state(model):
    """Return the bytes of every weight of `model`, in order."""
    return list(weights_of(model).values())


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


def check_the_rate_of_the_head(transfer, world):
    """Assert that under SGD a tenfold rate of the head moves it ten times."""
    import keras

    def moved(**rates):
        given = {"seed": 1, "batch_size": 16, "optimizer": keras.optimizers.SGD}
        start = transfer(*world, steps=0, **given)
        model = transfer(*world, steps=1, learning_rate=1e-3, **rates, **given)
        pairs = zip(start.weights, model.weights, strict=True)
        return {a.path: b - a for a, b in pairs if a.trainable}

    slow, fast = moved(), moved(head_learning_rate=1e-2)
    for path, change in slow.items():
        ratio = 10.0 if "logits" in path else 1.0
        np.testing.assert_allclose(fast[path], ratio * change, atol=1e-6)
