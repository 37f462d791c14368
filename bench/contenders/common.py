"""What every contender does alike: read the inputs, report the answer.

A contender is a script that is handed a folder and the number of epochs. It
imports what it needs, reads the arrays, and only then starts the clock.
"""

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np

FOLDER = Path(sys.argv[1])
EPOCHS = int(sys.argv[2])
BATCH = 64
UNITS = 512
RATE = 1e-3


def arrays(*names):
    """Return arrays of the folder by name."""
    return [np.load(FOLDER / f"{name}.npy") for name in names]


class Epochs:
    """Seconds of each epoch, the first with all that is set up for it."""

    def __init__(self):
        self.seconds, self._last = [], time.perf_counter()

    def end(self):
        now = time.perf_counter()
        self.seconds.append(now - self._last)
        self._last = now


def source_and_task():
    """Return the frozen network and MNIST as the suite's methods take them."""
    import keras

    from ktransfer.data import Split, Task
    from ktransfer.models.own import Source

    x, y = arrays("train_x", "train_y")
    source = Source(keras.saving.load_model(FOLDER / "source.keras"), None)
    task = Task(
        name="mnist",
        num_classes=10,
        image_shape=x.shape[1:],
        train=Split(x, y.astype("int32")),
        unlabelled=None,
        origin="",
        sha256="",
        labels=tuple(range(10)),
    )
    return source, task


def fit_by_keras(model, x, y, clock, **options):
    """Compile and fit `model` as plain Keras does it, a mark an epoch.

    Args:
        options: of `compile`.
    """
    import keras

    model.compile(
        keras.optimizers.Adam(RATE),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **options,
    )
    end = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: clock.end())
    model.fit(x, y, batch_size=BATCH, epochs=EPOCHS, verbose=0, callbacks=[end])


def ended():
    """Return of the processes that have ended: seconds of all, GiB of one.

    The seconds are the processor's, the memory is the largest one's peak.
    """
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    # The peak comes in KiB.
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20


def report(seconds, guesses, labels, **facts):
    """Print what the driver reads: seconds an epoch, and the accuracy."""
    accuracy = float(np.mean(np.asarray(guesses) == labels))
    print(
        json.dumps({"seconds": seconds, "accuracy": accuracy, **facts}),
        flush=True,
    )
