"""Canaries: what stock Keras does, each with the rule that guards against it.

The ids are those of the list of traps in the project's documents. A test that
fails here means that Keras has changed: read the rule again, then the test.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers


@pytest.fixture
def unseeded():
    """Take TensorFlow's global seed back, of tests before and of this one."""
    import tensorflow as tf

    tf.random.set_seed(None)
    yield
    tf.random.set_seed(None)


def sequential(*stack, width=2):
    return keras.Sequential([keras.Input((width,)), *stack])


def compiled(model, loss="mse", rate=0.1, **options):
    optimizer = options.pop("optimizer", None) or keras.optimizers.SGD(rate)
    model.compile(optimizer, loss, run_eagerly=False, **options)
    return model


def ones(rows=4, width=2):
    return np.ones((rows, width), "float32")


def step(model, x=None, y=None, **options):
    """Train one epoch, by default on ones; return the history."""
    x = ones() if x is None else x
    y = np.zeros(len(x), "float32") if y is None else y
    settings = {"shuffle": False, "verbose": 0, **options}
    return model.fit(x, y, **settings).history


def row_reader():
    """Return a model whose loss on a row is the number in that row."""
    model = sequential(layers.Dense(1, use_bias=False), width=1)
    model.layers[0].kernel.assign([[1.0]])
    return compiled(model, lambda y, output: output, rate=0.0)


def child(code, **environment):
    """Return what a Python prints that runs `code` in the folder of this file.

    It must not import `conftest`, which gives its process one thread.
    """
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout.strip()


# Freezing and BatchNorm.


@pytest.mark.parametrize(
    ("kind", "trainable"),
    [
        ("functional", True),
        ("sequential", True),
        ("flat", True),
        ("functional", False),
    ],
)
def test_b1_training_false_does_not_hold_batchnorm(kind, trainable):
    """Here: freezing is `trainable = False`, never a `training=` flag."""
    norm = layers.BatchNormalization()
    inputs = keras.Input((2,))
    base = {
        "functional": lambda: keras.Model(inputs, norm(inputs)),
        "sequential": lambda: sequential(norm),
        "flat": lambda: norm,
    }[kind]()
    base.trainable = trainable
    outer = keras.Input((2,))
    output = layers.Dense(1)(base(outer, training=False))
    step(compiled(keras.Model(outer, output)))
    assert (norm.moving_mean.numpy() != 0).all() == trainable


@pytest.mark.parametrize("trainable", [True, False])
def test_b3_after_a_fit_a_changed_flag_is_ignored_in_silence(trainable):
    """Here: every `fit` of the package compiles, and nothing else does."""
    layer = layers.Dense(2)
    model = sequential(layer, layers.Dense(1))
    layer.trainable = trainable
    compiled(model)
    step(model)
    before = layer.kernel.numpy()
    layer.trainable = not trainable
    step(model)
    assert (layer.kernel.numpy() != before).any() == trainable
    step(compiled(model))
    middle = layer.kernel.numpy()
    step(model)
    assert (layer.kernel.numpy() != middle).any() != trainable


def test_b5_a_frozen_base_with_dropout_gives_random_features():
    """Here: features are computed in inference mode, never in training."""
    base = sequential(layers.Dropout(0.5, seed=0), width=64)
    base.trainable = False
    inputs = keras.Input((64,))
    model = keras.Model(inputs, base(inputs, training=False))
    x = ones(width=64)
    first, second = (model(x, training=True).numpy() for _ in range(2))
    assert (first != second).any()
    assert model(x, training=False).numpy().tobytes() == x.tobytes()


@pytest.mark.parametrize("kind", ["Dense", "Conv2D"])
def test_b6_enable_lora_leaves_the_bias_trainable(kind):
    """Here: the flag of the bias is set explicitly."""
    if kind == "Dense":
        layer, shape = layers.Dense(4), (None, 4)
    else:
        layer, shape = layers.Conv2D(4, 3), (None, 5, 5, 4)
    layer.build(shape)
    layer.enable_lora(1)
    names = sorted(v.name for v in layer.trainable_variables)
    assert names == ["bias", "lora_kernel_a", "lora_kernel_b"]


# Graph surgery.


def test_g3_clone_model_draws_fresh_weights():
    """Here: a copy is a clone and its weights, compared byte for byte."""
    model = sequential(layers.Dense(2))
    clone = keras.models.clone_model(model)
    kernel, copied = (m.layers[0].kernel.numpy() for m in (model, clone))
    assert kernel.shape == copied.shape
    assert (kernel != copied).any()


def test_g4_popping_from_layers_removes_nothing():
    """Here: a model is cut at a symbolic output, by the layer's name."""
    inputs = keras.Input((2,))
    model = keras.Model(inputs, layers.Dense(5)(layers.Dense(3)(inputs)))
    model.layers.pop()
    assert len(model.layers) == 3
    assert model.output_shape == (None, 5)
    assert model(ones()).shape == (4, 5)


# Training loop and data order.


class Order(keras.callbacks.Callback):
    """The rows of every epoch in their order, from the running mean."""

    def __init__(self):
        super().__init__()
        self.epochs = []

    def on_epoch_begin(self, epoch, logs=None):
        self.epochs.append([0.0])

    def on_train_batch_end(self, batch, logs=None):
        self.epochs[-1].append(logs["loss"] * (batch + 1))

    def rows(self):
        return [tuple(np.diff(sums).round()) for sums in self.epochs]


@pytest.mark.parametrize("seed", [None, 0])
def test_t1_a_seeded_fit_repeats_one_order_in_every_epoch(seed, unseeded):
    """Here: the order is our own, from seed and epoch."""
    if seed is not None:
        keras.utils.set_random_seed(seed)
    order = Order()
    step(
        row_reader(),
        np.arange(16, dtype="float32")[:, None],
        batch_size=1,
        epochs=3,
        shuffle=True,
        callbacks=[order],
    )
    rows = order.rows()
    assert [sorted(epoch) for epoch in rows] == 3 * [list(range(16))]
    assert rows[0] != tuple(range(16))
    assert len(set(rows)) == (3 if seed is None else 1)


def test_t2_a_seeded_map_flips_the_same_images_in_every_epoch():
    """Here: augmentation is drawn from seed, epoch and position."""
    import tensorflow as tf

    images = np.arange(32 * 4, dtype="float32").reshape(32, 1, 4, 1)
    layer = layers.RandomFlip("horizontal", seed=1)

    def two_epochs(flip):
        stream = tf.data.Dataset.from_tensor_slices(images).map(flip)
        return [np.stack(list(stream.as_numpy_iterator())) for _ in range(2)]

    first, second = two_epochs(
        lambda image: tf.image.random_flip_left_right(image, seed=1)
    )
    assert (first == second).all()
    assert (first != images).any()
    first, second = two_epochs(lambda image: layer(image, training=True))
    assert (first != second).any()


def test_t4_validation_split_is_the_last_rows():
    """Here: our own split, stratified and seeded."""
    x = np.arange(10, dtype="float32")[:, None]
    history = step(row_reader(), x, validation_split=0.2, shuffle=True)
    assert history["val_loss"] == pytest.approx([8.5])
    assert history["loss"] == pytest.approx([3.5])


@pytest.mark.parametrize(
    ("options", "epochs"),
    [({"epochs": 0}, 0), ({"epochs": -1}, 0), ({"batch_size": 0}, 1)],
)
def test_t5_fit_accepts_sizes_that_make_no_sense(options, epochs):
    """Here: every argument is validated before TensorFlow is imported."""
    history = step(compiled(sequential(layers.Dense(1))), **options)
    assert len(history.get("loss", [])) == epochs


def test_t5_fit_on_no_data_only_warns():
    """Here: no image at all is an error."""
    model = compiled(sequential(layers.Dense(1)))
    with pytest.warns(UserWarning, match="ran out of data"):
        history = step(model, ones(0))
    assert history == {}


def test_t5_fit_accepts_a_negative_rate_and_climbs():
    """Here: a rate is finite and positive, or an error."""
    history = step(
        compiled(sequential(layers.Dense(1)), rate=-1.0),
        y=np.full(4, 9, "float32"),
        epochs=3,
    )
    assert history["loss"] == sorted(history["loss"])
    assert history["loss"][-1] > 100


def test_t5_fit_accepts_a_rate_that_is_no_number():
    """Here: a rate is finite and positive, or an error."""
    model = compiled(sequential(layers.Dense(1)), rate=float("nan"))
    step(model)
    assert np.isnan(model.get_weights()[0]).all()


def test_t5_fit_accepts_labels_between_two_classes():
    """Here: labels are whole numbers from 0 to K - 1, or an error."""
    model = compiled(
        sequential(layers.Dense(3, activation="softmax")),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    history = step(model, y=np.full(4, 1.5, "float32"))
    assert np.isfinite(history["loss"]).all()
    assert history["accuracy"] == [0.0]


def test_t7_a_nan_pixel_ruins_the_weights_behind_a_finite_loss():
    """Here: images are checked before, weights after every `fit`."""
    model = compiled(
        sequential(layers.Dense(4, activation="relu"), layers.Dense(3)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    x = ones()
    x[0, 0] = np.nan
    stop = keras.callbacks.TerminateOnNaN()
    history = step(model, x, np.arange(4) % 3, epochs=2, callbacks=[stop])
    assert len(history["loss"]) == 2
    assert np.isfinite(history["loss"]).all()
    assert not np.isfinite(model.get_weights()[0]).all()


# Losses and distillation.


def hinton(teacher, student, temperature):
    """Return Hinton's loss in float64: KL of softened classes times T²."""

    def log_softmax(z):
        z = z.astype("float64") / temperature
        z = z - z.max(-1, keepdims=True)
        return z - np.log(np.exp(z).sum(-1, keepdims=True))

    p, q = log_softmax(teacher), log_softmax(student)
    return temperature**2 * (np.exp(p) * (p - q)).sum(-1).mean()


def test_l1_the_default_logits_distillation_is_not_hintons_loss():
    """Here: our own loss on logits, with T²."""
    rng = np.random.default_rng(0)
    teacher, student = rng.normal(0, 3, (2, 64, 10)).astype("float32")
    exact = hinton(teacher, student, 4.0)
    stock = keras.distillation.LogitsDistillation(4.0)
    mended = keras.distillation.LogitsDistillation(
        4.0, loss=keras.losses.KLDivergence()
    )
    # No softmax and no T²: the raw logits are clipped and taken for shares.
    p, q = (np.clip(x / 4, 1e-7, 1) for x in (teacher, student))
    raw = (p * np.log(p / q)).sum(-1).mean()
    found = float(stock.compute_loss(teacher, student))
    assert found == pytest.approx(raw, rel=1e-4)
    assert found > 2 * exact
    # A shift of all logits changes no share, so the loss should be zero.
    assert float(stock.compute_loss(teacher, teacher - 10)) > 10
    found = float(mended.compute_loss(teacher, student))
    assert found == pytest.approx(exact, rel=1e-4)


def feature_distiller(width):
    """Return a `Distiller` of one norm layer, compiled, and that layer."""
    teacher = sequential(layers.Dense(width, name="taps"), layers.Dense(1))
    norm = layers.BatchNormalization(momentum=0.5)
    student = sequential(norm, layers.Dense(4, name="taps"), layers.Dense(1))
    distiller = keras.distillation.Distiller(
        teacher,
        student,
        keras.distillation.FeatureDistillation(
            teacher_layer_name="taps", student_layer_name="taps"
        ),
    )
    return compiled(distiller), norm


def test_l2_feature_distillation_updates_statistics_twice_a_step():
    """Here: taps are outputs of one graph, so one pass a step."""
    distiller, norm = feature_distiller(4)
    step(distiller, y=np.zeros((4, 1), "float32"))
    # From 0 towards a mean of 1, halving the distance at each update.
    np.testing.assert_allclose(norm.moving_mean.numpy(), 0.75)


def test_l2_feature_distillation_has_no_projection():
    """Here: a regressor bridges layers of unequal widths."""
    distiller, _ = feature_distiller(8)
    with pytest.raises(ValueError, match="are 8 and 4"):
        step(distiller, y=np.zeros((4, 1), "float32"))


def test_l4_the_default_reduction_counts_masked_rows():
    """Here: masked losses use `mean_with_sample_weight`."""
    labels, logits = np.zeros(4, "int32"), np.zeros((4, 4), "float32")
    mask = np.array([1, 1, 0, 0], "float32")
    found = {
        reduction: float(
            keras.losses.SparseCategoricalCrossentropy(
                from_logits=True, reduction=reduction
            )(labels, logits, sample_weight=mask)
        )
        for reduction in ("sum_over_batch_size", "mean_with_sample_weight")
    }
    default = keras.losses.SparseCategoricalCrossentropy()
    assert default.reduction == "sum_over_batch_size"
    assert found["sum_over_batch_size"] == pytest.approx(np.log(4) / 2)
    assert found["mean_with_sample_weight"] == pytest.approx(np.log(4))


# Optimisers.


def test_o1_an_optimizer_does_not_outlive_the_thawing_of_a_layer():
    """Here: every `fit` makes its own optimiser; rates are passed."""
    layer = layers.Dense(2)
    model = sequential(layer, layers.Dense(1))
    layer.trainable = False
    optimizer = keras.optimizers.Adam(0.1)
    step(compiled(model, optimizer=optimizer))
    layer.trainable = True
    with pytest.raises(ValueError, match="(?i)unknown variable"):
        step(compiled(model, optimizer=optimizer))


@pytest.mark.parametrize(
    ("pattern", "matches"), [("encoder/.*", False), (".*/encoder/.*", True)]
)
def test_o2_a_pattern_of_the_layers_name_matches_nothing(pattern, matches):
    """Here: rates are given by layer, and a rate for no layer is an error."""
    model = sequential(layers.Dense(2, name="encoder"), layers.Dense(1))
    rates = keras.optimizers.OptimizerMap(
        keras.optimizers.SGD(0.1), {pattern: keras.optimizers.SGD(0.0)}
    )
    before = model.layers[0].kernel.numpy()
    optimizer = keras.optimizers.MultiOptimizer(rates)
    step(compiled(model, optimizer=optimizer))
    assert (model.layers[0].kernel.numpy() == before).all() == matches


def test_o4_update_step_is_given_variables_without_a_path():
    """Here: an optimiser of ours finds its variables by key."""
    given = []

    class Watching(keras.optimizers.SGD):
        def update_step(self, gradient, variable, learning_rate):
            given.append(variable)
            super().update_step(gradient, variable, learning_rate)

    model = sequential(layers.Dense(1))
    step(compiled(model, optimizer=Watching(0.1)))
    assert len(given) == len(model.trainable_variables)
    assert not any(isinstance(v, keras.Variable) for v in given)
    assert not any(hasattr(v, "path") for v in given)
    assert all(hasattr(v, "path") for v in model.trainable_variables)


# Determinism, threads and processes.


def convolution_bits():
    """Return the hex digits of a small convolution after three steps."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 16, 16, 3)).astype("float32")
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            layers.Conv2D(
                8, 3, kernel_initializer=keras.initializers.HeNormal(seed=0)
            ),
        ]
    )
    y = np.zeros((64, 14, 14, 8), "float32")
    step(compiled(model), x, y, batch_size=64, epochs=3)
    return model.get_weights()[0].tobytes().hex()


def test_n1_the_number_of_threads_changes_the_bits():
    """Here: one thread a process, set in code; runs stand side by side."""
    code = "import test_keras; print(test_keras.convolution_bits())"
    two = child(code, TF_NUM_INTRAOP_THREADS="2")
    # This process has one thread. Others with one thread agree with it, as
    # the tests of `execute` show, so it is the threads that differ.
    one = convolution_bits()
    assert convolution_bits() == one
    assert len(two) == len(one) and two != one


def test_n5_a_planted_file_changes_the_float_type(tmp_path):
    """Here: Keras is imported with an empty home of our own."""
    planted = json.dumps({"floatx": "float16", "epsilon": 0.25})
    (tmp_path / "keras.json").write_text(planted)
    code = (
        "import keras; model = keras.layers.Dense(1); model.build((1, 1)); "
        "print(model.kernel.dtype, keras.config.epsilon())"
    )
    assert child(code, KERAS_HOME=str(tmp_path)) == "float16 0.25"
