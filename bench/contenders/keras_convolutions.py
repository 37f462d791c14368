"""Pretraining of the article's network by plain Keras in float32."""

import keras
from common import BATCH, EPOCHS, FOLDER, RATE, Epochs, arrays, report


def main():
    x, y, test_x, test_y = arrays(
        "source_x", "source_y", "source_test_x", "source_test_y"
    )
    model = keras.saving.load_model(FOLDER / "untrained.keras")
    keras.utils.set_random_seed(0)
    clock = Epochs()
    model.compile(
        keras.optimizers.Adam(RATE),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    end = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: clock.end())
    model.fit(x, y, batch_size=BATCH, epochs=EPOCHS, verbose=0, callbacks=[end])
    guesses = model.predict(test_x, verbose=0).argmax(-1)
    report(clock.seconds, guesses, test_y)


main()
