"""Images that a network would misread are refused wherever they come in."""

import keras
import numpy as np
import pytest
from helpers import small_source, small_task, weights_of
from keras import layers

from ktransfer import methods
from ktransfer.data import Split, Task
from ktransfer.engine.prediction import predict
from ktransfer.engine.training import fit
from ktransfer.errors import KTransferError

WRONG = {
    "floats from 0 to 1": lambda x: x / x.max(),
    "fractions": lambda x: x + 0.5,
    "negative": lambda x: x.astype("float32") - 128,
    "above 255": lambda x: x.astype("int32") + 200,
    "a mask": lambda x: x > 100,
    "a mask of floats": lambda x: (x > 100).astype("float32"),
    "nan": lambda x: np.where(x > 100, np.nan, x),
    "infinite": lambda x: np.where(x > 100, np.inf, x),
    "texts": lambda x: x.astype("str"),
}
SAME = ("float32", "float64", "int64", "uint16")


@pytest.fixture(scope="module")
def source():
    return small_source(small_task("source", 3))


def task_of(x, task, unlabelled=None):
    fields = {**task._asdict(), "unlabelled": unlabelled}
    return Task(**{**fields, "train": Split(x, task.train.y)})


@pytest.mark.parametrize("change", WRONG)
def test_images_that_are_no_pixels_are_refused(source, change):
    """Cast to uint8, images from 0 to 1 are black, and learn nothing."""
    task = source.task
    wrong = WRONG[change](task.train.x)
    for use in (
        lambda: task_of(wrong, task),
        lambda: task_of(task.train.x, task, unlabelled=wrong),
        lambda: fit(source.model, Split(wrong, task.train.y), steps=1, seed=0),
        lambda: fit(source.model, {"target": wrong}, steps=0, seed=0),
        lambda: predict(source.model, wrong),
    ):
        with pytest.raises(KTransferError, match="from 0 to 255") as caught:
            use()
        assert caught.value.name == "E_IMAGES"
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", SAME)
def test_whole_numbers_from_0_to_255_are_the_pixels_they_are(source, dtype):
    task = source.task
    same = task.train.x.astype(dtype)
    made = task_of(same, task, unlabelled=same)
    assert made.train.x.dtype == made.unlabelled.dtype == "uint8"
    np.testing.assert_array_equal(made.train.x, task.train.x)
    found = predict(source.model, same)
    np.testing.assert_array_equal(found, predict(source.model, task.train.x))
    trained = []
    for x in (task.train.x, same):
        model = small_source(task).model
        fit(model, Split(x, task.train.y), steps=2, seed=0)
        trained.append(weights_of(model))
    assert trained[0] == trained[1]


def test_a_model_of_floats_is_given_floats(source):
    """Features, and a network of one's own that was not taken as a source."""
    x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2)(inputs))
    assert predict(model, x).shape == (8, 2)
    fit(model, Split(x, np.arange(8) % 2), steps=1, seed=0)


def test_a_part_of_a_task_keeps_its_arrays(source):
    task = source.task
    assert task_of(task.train.x, task).train.x is task.train.x
    assert isinstance(task._replace(name="other"), Task)


@pytest.fixture(params=["mixed_bfloat16", "float16", "float64"])
def policy(request):
    """A global policy of Keras that is not the suite's."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy(before)


def test_another_policy_of_keras_is_refused_in_one_line(source, policy):
    task = source.task
    for use in (
        lambda: fit(source.model, task.train, steps=0, seed=0),
        lambda: predict(source.model, task.train.x),
        lambda: methods.load("scratch")(task, steps=1, seed=0),
    ):
        with pytest.raises(KTransferError) as caught:
            use()
        assert policy in str(caught.value)
        assert "set_dtype_policy('float32')" in str(caught.value)
        assert "\n" not in str(caught.value)
