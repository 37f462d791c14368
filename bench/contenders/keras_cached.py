"""B: the best of plain Keras, features computed once and the head under XLA."""

import keras
from common import BATCH, EPOCHS, FOLDER, RATE, UNITS, Epochs, arrays, report


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
    head.compile(
        keras.optimizers.Adam(RATE),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=True,
        steps_per_execution=32,
    )
    end = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: clock.end())
    head.fit(z, y, batch_size=BATCH, epochs=EPOCHS, verbose=0, callbacks=[end])
    test_z = base.predict(test_x, batch_size=250, verbose=0)
    report(clock.seconds, head.predict(test_z, verbose=0).argmax(-1), test_y)


main()
