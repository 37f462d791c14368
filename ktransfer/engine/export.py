"""A trained model as a file that opens where only Keras is."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np

from ktransfer import files
from ktransfer.engine.prediction import predict
from ktransfer.errors import KTransferError
from ktransfer.models.export import as_builtins

# Of the largest logit: how far the answers of a file may be off.
TOLERANCE = 1e-5
# What a process does that knows Keras and NumPy alone.
_OPEN = """
import sys
import keras
import numpy as np

folder = sys.argv[1]
model = keras.saving.load_model(folder + "/model.keras")
found = model.predict(np.load(folder + "/images.npy"), verbose=0)
np.save(folder + "/found.npy", found)
assert "ktransfer" not in sys.modules
"""


def save_model(model, path, images):
    """Write `model` to `path`, of Keras's own layers, and check the file.

    A new process that does not know the suite opens it with plain Keras. It
    must answer as `predict` does, to `TOLERANCE` of the largest logit. Where
    Keras's own `predict` of `model` is further off than that, since the model
    is ill-conditioned, the file may be so too.

    Args:
        model: functional or Sequential, one input and one output.
        path: of the file, which ends in `.keras`; what is there is replaced
            when all is well.
        images: `(n, ...)` that the model takes, a few.

    Returns:
        the model of Keras's own layers that is in the file.

    Raises:
        KTransferError: `E_INVARIANT` if the file does not open or answers
            otherwise, `E_DISK` or `E_RESULTS_DIR` if it cannot be written,
            and what `as_builtins` raises.
    """
    wanted, own = predict(model, images), model.predict(images, verbose=0)
    exported = as_builtins(model)
    with tempfile.TemporaryDirectory(prefix="ktransfer-export-") as folder:
        file = Path(folder) / "model.keras"
        try:
            exported.save(file)
            np.save(Path(folder) / "images.npy", images)
        except OSError as error:
            raise KTransferError(
                "E_DISK",
                f"cannot write {file}: {error.strerror}; expected free space "
                "for temporary files. Name another folder with TMPDIR.",
            ) from error
        _check(model.name, _answers(model.name, folder), wanted, own)
        files.write(path, file.read_bytes())
    return exported


def _answers(name, folder):
    """Return what the file in `folder` answers in a process of its own."""
    settings = {"KERAS_BACKEND": keras.backend.backend(), "KERAS_HOME": folder}
    done = subprocess.run(
        [sys.executable, "-I", "-c", _OPEN, folder],
        capture_output=True,
        text=True,
        env={**os.environ, **settings},
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit {done.returncode}"]
        raise KTransferError(
            "E_INVARIANT",
            f"a file of {name!r} does not open with plain Keras: {lines[-1]}",
        )
    return np.load(Path(folder) / "found.npy")


def _check(name, found, wanted, own):
    """Refuse answers that are not those of the model."""
    bound = TOLERANCE * np.abs(wanted).max() + np.abs(own - wanted).max()
    off = np.abs(found - wanted).max()
    # A nan is no answer either.
    if not off <= bound:
        raise KTransferError(
            "E_INVARIANT",
            f"the answers of a file of {name!r} are off by {off:.3g}; expected "
            f"at most {bound:.3g}, at logits of up to "
            f"{np.abs(wanted).max():.3g}.",
        )
