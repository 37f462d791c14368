"""C: `FineTuning(training=False)` of the ADAPT library."""

import os

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import numpy as np
import tensorflow as tf
from adapt.parameter_based import FineTuning
from common import BATCH, EPOCHS, FOLDER, RATE, UNITS, Epochs, arrays, report


def backbone(shape):
    """Return the network of the folder, in the Keras that ADAPT takes."""
    keras = tf.keras
    inputs = keras.Input(shape)
    x = keras.layers.Rescaling(1 / 255)(inputs)
    for number, filters in enumerate((32, 64, 64)):
        x = keras.layers.Conv2D(filters, 3, activation="relu")(x)
        if number < 2:
            x = keras.layers.MaxPooling2D(2)(x)
    model = keras.Model(inputs, keras.layers.Flatten()(x))
    with np.load(FOLDER / "weights.npz") as kept:
        model.set_weights([kept[name] for name in sorted(kept.files)])
    return model


def main():
    x, y, test_x, test_y = arrays(
        "padded_x", "train_y", "padded_test_x", "test_y"
    )
    x, test_x = x.astype("float32"), test_x.astype("float32")
    tf.keras.utils.set_random_seed(0)
    encoder = backbone(x.shape[1:])
    clock = Epochs()
    task = tf.keras.Sequential(
        [
            tf.keras.layers.Dense(UNITS, activation="relu"),
            tf.keras.layers.Dense(10),
        ]
    )
    # Its own training step takes no integer labels.
    one_hot = np.eye(10, dtype="float32")[y]
    loss = tf.keras.losses.CategoricalCrossentropy(from_logits=True)
    model = FineTuning(
        encoder=encoder,
        task=task,
        training=False,
        loss=loss,
        optimizer=tf.keras.optimizers.Adam(RATE),
        random_state=0,
        verbose=0,
    )
    end = tf.keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: clock.end())
    model.fit(
        x,
        one_hot,
        epochs=EPOCHS,
        batch_size=BATCH,
        verbose=0,
        callbacks=[end],
    )
    report(clock.seconds, np.argmax(model.predict(test_x), -1), test_y)


main()
