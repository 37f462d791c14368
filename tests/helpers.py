"""A small world that the tests share, and what they compare it by."""

import functools
import inspect
import typing

import numpy as np

# Classes of a source that are none of the target's, which are 0, 1 and 2.
OTHERS = ("a", "b", "c")


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
    from ktransfer.engine.training import fit, recording
    from ktransfer.models.own import Source
    from ktransfer.models.surgery import attach_head

    model = attach_head(
        small_backbone(task.image_shape, seed, normalised),
        num_classes or task.num_classes,
        seed=seed,
        hidden_units=6,
    )
    # In a record of its own: a test that counts fits means those of a method.
    with recording():
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


def small_classifier(num_classes=3, seed=0, **options):
    """Return a linear head on a small backbone of `options`."""
    from ktransfer.models.surgery import attach_head

    backbone = small_backbone(seed=seed, **options)
    return attach_head(backbone, num_classes, seed=seed)


def adapted(images):
    """Return a classifier behind a `Normalization` adapted to `images`."""
    import keras
    from keras import layers

    from ktransfer.models.surgery import attach_head

    normalise = layers.Normalization(name="normalise")
    inputs = keras.Input((12, 12, 3), dtype="uint8", name="images")
    x = normalise(layers.Rescaling(1.0)(inputs))
    x = layers.Conv2D(2, 3, name="block1_conv")(x)
    backbone = keras.Model(inputs, layers.Flatten(name="features")(x))
    normalise.adapt(images.astype("float32"))
    return attach_head(backbone, 3, seed=0)


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


def bytes_of(model):
    """Return the bytes of every weight of a model or layer, in order."""
    return [v.numpy().tobytes() for v in model.weights]


def bytes_by_block(model):
    """Return the bytes of each block, BatchNorm's statistics included."""
    from ktransfer.models.blocks import blocks

    return {
        name: [value for layer in found for value in bytes_of(layer)]
        for name, found in blocks(model).items()
    }


def moved_names(before, after):
    """Return the names whose value is another `after` than `before`."""
    assert before.keys() == after.keys()
    return {name for name in before if before[name] != after[name]}


def layer_of(model, name):
    """Return the layer named `name`, however deep in `model` it is."""
    from ktransfer.models.graph import leaves

    (found,) = [x for x in leaves(model) if x.name == name]
    return found


def norms_of(model):
    """Return the normalisations of a small model, the lowest first."""
    from ktransfer.models.graph import leaves

    return [x for x in leaves(model) if x.name.endswith("_norm")]


def features_of(task, source):
    """Return the source's features of the images of `task`, in float64."""
    from ktransfer.engine.prediction import predict
    from ktransfer.models.surgery import adapt_input, copy_backbone

    reader = adapt_input(copy_backbone(source.model), task.image_shape)
    return predict(reader, task.train.x).astype("float64")


def standardised(values):
    """Return `values` by the mean and the deviation of each column."""
    values = np.asarray(values, "float64")
    return (values - values.mean(axis=0)) / values.std(axis=0)


def softmax(logits):
    """Return the shares of the last axis, in float64."""
    logits = np.asarray(logits, "float64")
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def log_loss(labels, logits):
    """Return the mean cross-entropy of the labels, in float64."""
    shares = softmax(logits)[np.arange(len(labels)), labels]
    return -np.log(shares).mean()


def probe_loss(model, layer, task, strength):
    """Return loss and gradient of a penalised linear head, in float64.

    The head is the layer `logits`, on what `layer` gives; the gradient is one
    vector, first of the kernel and then of the bias.
    """
    from ktransfer.engine.prediction import predict
    from ktransfer.models.surgery import cut

    x = predict(cut(model, layer), task.train.x).astype("float64")
    weights = model.get_layer("logits").get_weights()
    kernel, bias = (w.astype("float64") for w in weights)
    logits = x @ kernel + bias
    loss = log_loss(task.train.y, logits) + strength * (kernel**2).sum()
    wrong = softmax(logits) - np.eye(len(bias))[task.train.y]
    slope = x.T @ wrong / len(x) + 2 * strength * kernel
    return loss, np.concatenate([slope.ravel(), wrong.mean(axis=0)])


def gradients(model, function):
    """Return the gradients of `function` by path of `model`'s variables."""
    from ktransfer.engine import backend

    variables = model.trainable_variables
    _, slopes = backend.value_and_gradients(function, variables)
    return {v.path: np.asarray(g) for v, g in zip(variables, slopes)}


class Call(typing.NamedTuple):
    """One call of what a test spies on; see the fixture `spy`."""

    args: tuple
    kwargs: dict
    result: object
    before: object
    after: object

    @property
    def model(self):
        """The first argument, which is what a `fit` trains."""
        return self.args[0]

    @property
    def loss(self):
        """What a `fit` has to make smaller."""
        return self.kwargs["loss"]


def idle(*args, **options):
    """Do nothing, in place of a `fit` that would train."""


def sizes_of(calls):
    """Return how many images each call of (model, images) was given."""
    return [len(call.args[1]) for call in calls]


def defaults(transfer):
    """Return the hyper-parameters of a method, name -> default."""
    parameters = inspect.signature(transfer).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def check_the_statistics(model, images):
    """Assert that each BatchNorm holds the moments of what it is given."""
    from ktransfer.engine.prediction import predict
    from ktransfer.models.surgery import cut

    assert norms_of(model)
    for norm in norms_of(model):
        below = norm.name.replace("_norm", "_conv")
        given = predict(cut(model, below), images)
        given = given.reshape(-1, given.shape[-1]).astype("float64")
        bounds = {"rtol": 1e-3, "atol": 1e-5}
        np.testing.assert_allclose(norm.moving_mean, given.mean(0), **bounds)
        np.testing.assert_allclose(norm.moving_variance, given.var(0), **bounds)


@functools.cache
def small_world(
    num_sources=1,
    *,
    normalised=False,
    steps=3,
    channels=3,
    num_classes=3,
    labels=None,
    inverted=False,
):
    """Return a small world (target, source, ...), the same at every call.

    The target has grey images of three classes. The sources share one
    architecture and one initialisation; they were trained a little, `steps`
    the first and one more each of the others, on a task of their own.

    Args:
        num_sources: 0 to 3.
        normalised: whether the sources have BatchNorm.
        steps: that the first source was trained for.
        channels: of the sources' images.
        num_classes: of the sources; their labels are 0, 1, ...
        labels: of the sources' classes in place of these.
        inverted: whether the target's images are bright where others are dark.
    """
    target, sources = small_task("target", 1), []
    if inverted:
        train = target.train._replace(x=255 - target.train.x)
        target = target._replace(train=train)
    for number, name in enumerate(
        ("source", "between", "beyond")[:num_sources]
    ):
        task = small_task(name, channels, num_classes=num_classes)
        task = task._replace(labels=labels or task.labels)
        source = small_source(task, normalised=normalised, steps=steps + number)
        sources.append(source)
    return target, *sources


def worlds(num_sources):
    """Return small worlds (target, source, ...), the plainest first.

    The second world has BatchNorm, the third and fourth the target's own
    classes as source (plain, then with BatchNorm), as domain adaptation needs.
    """
    return [
        small_world(num_sources, normalised=normalised, **kind)
        for kind in ({"labels": OTHERS}, {"channels": 1})
        for normalised in (False, True)
    ]


def domains(normalised=False):
    """Return (target, source) of the same classes, the target's inverted."""
    return small_world(normalised=normalised, channels=1, inverted=True)


def renamed(source):
    """Return `source` with names of its classes that the target has not."""
    return source._replace(task=source.task._replace(labels=OTHERS))


def check_the_rate_of_the_head(transfer, world):
    """Assert that under SGD a tenfold rate of the head moves it ten times."""
    import keras

    def changes(**rates):
        given = {"seed": 1, "batch_size": 16, "optimizer": keras.optimizers.SGD}
        start = transfer(*world, steps=0, **given)
        model = transfer(*world, steps=1, learning_rate=1e-3, **rates, **given)
        pairs = zip(start.weights, model.weights, strict=True)
        return {a.path: b - a for a, b in pairs if a.trainable}

    slow, fast = changes(), changes(head_learning_rate=1e-2)
    for path, change in slow.items():
        ratio = 10.0 if "logits" in path else 1.0
        np.testing.assert_allclose(fast[path], ratio * change, atol=1e-6)
