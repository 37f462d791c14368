"""B: the best of plain Keras, features computed once and the head under XLA."""

import keras
from common import FOLDER, UNITS, Epochs, arrays, fit_by_keras, report


def main():
    x, y, test_x, test_y = arrays("train_x", "train_y", "test_x", "test_y")
    base = keras.saving.load_model(FOLDER / "backbone.keras")
    keras.utils.set_random_seed(0)
    clock = Epochs()
    z = base.predict(x, batch_size=250, verbose=0)
    head = keras.Sequential(
        [
            keras.Input(z.shape[1:]),
            keras.layers.Dense(UNITS, activation="relu"),
            keras.layers.Dense(10),
        ]
    )
    fit_by_keras(head, z, y, clock, jit_compile=True, steps_per_execution=32)
    test_z = base.predict(test_x, batch_size=250, verbose=0)
    report(clock.seconds, head.predict(test_z, verbose=0).argmax(-1), test_y)


main()
