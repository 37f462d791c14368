"""Pretraining of the article's network by `fit`, in the precision named."""

import sys
import time

import keras
from common import BATCH, EPOCHS, FOLDER, RATE, arrays, report

from ktransfer.data import Split
from ktransfer.engine import training

PRECISION = sys.argv[3]
SEED = int(sys.argv[4])


def main():
    x, y, test_x, test_y = arrays(
        "source_x", "source_y", "source_test_x", "source_test_y"
    )
    model = keras.saving.load_model(FOLDER / f"untrained_{SEED}.keras")
    start = time.perf_counter()
    training.fit(
        model,
        Split(x, y.astype("int32")),
        steps=EPOCHS * len(y) // BATCH,
        seed=SEED,
        learning_rate=RATE,
        batch_size=BATCH,
        precision=PRECISION,
    )
    seconds = time.perf_counter() - start
    guesses = training.predict(model, test_x).argmax(-1)
    report([seconds], guesses, test_y)


main()
