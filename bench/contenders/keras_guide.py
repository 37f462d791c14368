"""A: transfer as Keras's guide writes it, the frozen model inside `fit`."""

import keras
from common import BATCH, EPOCHS, FOLDER, RATE, UNITS, Epochs, arrays, report


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
    model.compile(
        keras.optimizers.Adam(RATE),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    end = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: clock.end())
    model.fit(x, y, batch_size=BATCH, epochs=EPOCHS, verbose=0, callbacks=[end])
    guesses = model.predict(test_x, verbose=0).argmax(-1)
    report(clock.seconds, guesses, test_y)


main()
