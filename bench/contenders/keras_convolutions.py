"""Pretraining of the article's network by plain Keras in float32."""

import sys

import keras
from common import FOLDER, Epochs, arrays, fit_by_keras, report

SEED = int(sys.argv[3])


def main():
    x, y, test_x, test_y = arrays(
        "source_x", "source_y", "source_test_x", "source_test_y"
    )
    model = keras.saving.load_model(FOLDER / f"untrained_{SEED}.keras")
    keras.utils.set_random_seed(SEED)
    clock = Epochs()
    fit_by_keras(model, x, y, clock)
    guesses = model.predict(test_x, verbose=0).argmax(-1)
    report(clock.seconds, guesses, test_y)


main()
