"""A file of a model is checked by a process that only knows Keras."""

import keras
import numpy as np
import pytest
from helpers import small_backbone
from keras import layers

from ktransfer.engine import export
from ktransfer.engine.prediction import predict
from ktransfer.errors import KTransferError
from ktransfer.models.layers import Pixels
from ktransfer.models.surgery import adapt_input, attach_head

IMAGES = np.random.default_rng(0).integers(0, 256, (9, 17, 17, 1), "uint8")


def network():
    return attach_head(adapt_input(small_backbone(), (17, 17, 1)), 3, seed=0)


def test_it_is_written_whole_and_answers_the_same(tmp_path):
    model, path = network(), tmp_path / "new" / "model.keras"
    export.save_model(model, path, IMAGES)
    assert [x.name for x in path.parent.iterdir()] == ["model.keras"]
    found = keras.saving.load_model(path).predict(IMAGES, verbose=0)
    np.testing.assert_allclose(found, predict(model, IMAGES), rtol=1e-5)


class Otherwise(Pixels):
    def as_builtins(self):
        return lambda inputs: inputs // 2


def test_a_file_that_answers_otherwise_replaces_nothing(tmp_path):
    path = tmp_path / "model.keras"
    path.write_bytes(b"what was there")
    with keras.saving.custom_object_scope({"Otherwise": Otherwise}):
        images = keras.Input((17, 17, 1), dtype="uint8")
        model = keras.Model(images, network()(Otherwise()(images)))
        with pytest.raises(KTransferError, match="are off by") as caught:
            export.save_model(model, path, IMAGES)
    assert caught.value.name == "E_INVARIANT"
    assert path.read_bytes() == b"what was there"
    assert [x.name for x in tmp_path.iterdir()] == ["model.keras"]


@keras.saving.register_keras_serializable("elsewhere")
def strange(x):
    return x + 1


def test_a_file_that_does_not_open_is_said_in_one_line(tmp_path):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(3, activation=strange)(inputs))
    with pytest.raises(KTransferError, match="does not open") as caught:
        given = np.ones((2, 4), "float32")
        export.save_model(model, tmp_path / "model.keras", given)
    assert caught.value.name == "E_INVARIANT" and "strange" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_answers_that_are_no_numbers_are_refused():
    good = np.ones((2, 3))
    export._check("m", good + 9e-6, good, good)
    export._check("m", good + 9e-5, good, good + 1e-4)
    for bad in (good + 2e-5, np.full((2, 3), np.nan)):
        with pytest.raises(KTransferError, match="off by"):
            export._check("m", bad, good, good)
