"""A: transfer as Keras's guide writes it, the frozen model inside `fit`."""

import keras
from common import FOLDER, UNITS, Epochs, arrays, fit_by_keras, report


def main():
    x, y, test_x, test_y = arrays("train_x", "train_y", "test_x", "test_y")
    base = keras.saving.load_model(FOLDER / "backbone.keras")
    keras.utils.set_random_seed(0)
    clock = Epochs()
    base.trainable = False
    inputs = keras.Input(x.shape[1:], dtype="uint8")
    hidden = keras.layers.Dense(UNITS, activation="relu")
    outputs = keras.layers.Dense(10)
    model = keras.Model(inputs, outputs(hidden(base(inputs, training=False))))
    fit_by_keras(model, x, y, clock)
    guesses = model.predict(test_x, verbose=0).argmax(-1)
    report(clock.seconds, guesses, test_y)


main()
