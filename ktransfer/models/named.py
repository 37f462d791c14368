"""A user's model as a text: MODEL[:PREPROCESSING], and what it stands for.

No Keras import, so that a run is checked before Keras is loaded.
"""

import re
import zipfile
from importlib import metadata
from pathlib import Path

from ktransfer import files
from ktransfer.errors import KTransferError, unknown

# Mode -> what the model's first layer is to be given, of pixels x in 0..255.
MODES = {
    "none": "x itself",
    "0..1": "x / 255",
    "tf": "x / 127.5 - 1",
    "torch": "(x / 255 - mean) / deviation, those of ImageNet",
    "caffe": "blue, green, red of x, less the mean of ImageNet",
}
LITE0 = "imagenet_lite0"
# What no weights, and those that are downloaded, are called.
NO_WEIGHTS, IMAGENET = "none", "imagenet"
# As the networks of keras.applications are called.
_NETWORK = re.compile(r"[A-Z][A-Za-z0-9]*")


def parsed(text: str) -> tuple[str, str | None]:
    """Return the model and the preprocessing of a text `MODEL[:MODE]`.

    Raises:
        KTransferError: `E_UNKNOWN` for another mode.
    """
    model, _, mode = text.rpartition(":")
    if not model or Path(text).exists():
        return text, None
    if mode not in MODES:
        raise unknown("preprocessing", mode, MODES)
    return model, mode


def network(model: str) -> tuple[str, str]:
    """Return the network and the weights of `NETWORK[@WEIGHTS]`.

    The network is "" for a file.
    """
    name, _, weights = model.partition("@")
    if name == LITE0 or (_NETWORK.fullmatch(name) and not Path(name).exists()):
        return name, weights or IMAGENET
    return "", ""


def sides(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    """Return height and width of a size, one number for a square."""
    return (size, size) if isinstance(size, int) else size


def digest(text: str) -> str:
    """Return the sha256 of architecture and weights of a text `MODEL[:MODE]`.

    Of a network by name it is that of the name, the version of Keras and the
    file of its weights. No model is built.

    Raises:
        KTransferError: `E_UNKNOWN`, `E_ARGUMENT` or `E_WEIGHTS` for what is
            not there or cannot be read.
    """
    model, mode = parsed(text)
    name, weights = network(model)
    if not name:
        return files.sha256(*members(model), f" {mode}".encode())
    own = weights not in (NO_WEIGHTS, IMAGENET)
    content = read(weights) if own else weights.encode()
    version = metadata.version("keras")
    return files.sha256(f"{name} {version} {mode} ".encode(), content)


def read(path: str) -> bytes:
    """Return the bytes of a file of weights.

    Raises:
        KTransferError: `E_WEIGHTS`.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise KTransferError(
            "E_WEIGHTS", f"{path} cannot be read ({error.strerror})."
        ) from error


def members(path: str) -> list[bytes]:
    """Return what counts of a `.keras` file: not the date that it holds.

    Raises:
        KTransferError: as `digest`.
    """
    check_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return [
                archive.read(name)
                for name in sorted(archive.namelist())
                if name != "metadata.json"
            ]
    except (zipfile.BadZipFile, OSError, RuntimeError, ValueError) as error:
        raise unreadable(path, error) from error


def check_file(path: str) -> None:
    """Refuse what is no `.keras` file.

    Raises:
        KTransferError: `E_UNKNOWN` or `E_ARGUMENT`.
    """
    if not Path(path).is_file():
        raise unknown(
            "model", path, ["FILE.keras", "MobileNetV2", "ResNet50", LITE0]
        )
    if Path(path).suffix != ".keras":
        raise KTransferError(
            "E_ARGUMENT",
            f"{path} is no .keras file; expected what model.save('x.keras') "
            "wrote. Load it where it was made, and save it so.",
        )


def unreadable(path: str, error: Exception) -> KTransferError:
    """Return the error for a file that is damaged."""
    text = " ".join(str(error).split())[:200]
    return KTransferError(
        "E_WEIGHTS",
        f"{path} cannot be loaded as a Keras model ({text}); expected a "
        "whole file that model.save wrote.",
    )
