"""Sources: trained models to transfer from, the suite's and the user's own.

A user's model comes as a Keras model, a `.keras` file, the name of a network
of `keras.applications`, or `imagenet_lite0`; `load_source` brings each into
the form that all methods read.
"""

import inspect
import zipfile
from pathlib import Path
from typing import NamedTuple

import keras

from ktransfer import files
from ktransfer.data import Task
from ktransfer.errors import KTransferError, NotApplicable, unknown
from ktransfer.models import graph, preprocessing
from ktransfer.models.normal_form import FEATURES, normal_form
from ktransfer.models.surgery import fresh

LITE0 = "imagenet_lite0"
# What no weights, and those that Keras downloads, are called.
_NONE, _IMAGENET = "none", "imagenet"


class NoImages:
    """The training images of a source that came without them.

    Whoever reads one hears that the method does not apply.
    """

    def __init__(self, name: str):
        self._name = name

    def _refuse(self):
        raise NotApplicable(
            f"{self._name} came without the images that it was trained on, "
            "and this method reads them."
        )

    x = y = property(_refuse)

    def __iter__(self):
        return self._refuse()

    def __getitem__(self, index):
        return self._refuse()

    def __len__(self):
        return self._refuse()


class _Source(NamedTuple):
    model: keras.Model
    task: Task


class Source(_Source):
    """A trained model and what it was trained on.

    `model` maps raw images of `task` to logits and has a layer `features`; one
    without a head ends there. What is not of this form is copied into it; see
    `normal_form`.

    Args:
        model: functional or Sequential, images -> logits or probabilities.
        task: the `Task` that it was trained on. With `train` None or empty,
            methods that read its images do not apply.
        features: name of the block or layer whose output feeds the head; None
            for the layer `features`, or else for what the last Dense reads.
        blocks: names of the layers that end a block each, bottom first; None
            for the blocks that the graph has.
        preprocessing: a name of `preprocessing.MODES`, or None where it can be
            seen in the model.
    """

    __slots__ = ()

    def __new__(
        cls, model, task, features=None, blocks=None, preprocessing=None
    ):
        formed = normal_form(model, features, blocks, preprocessing)
        return super().__new__(cls, formed, _with_images(task))


def _with_images(task):
    """Return `task` so that images that are not there say so when read."""
    if isinstance(task.train, NoImages):
        return task
    if task.train is None or task.train.x is None or not len(task.train.y):
        return task._replace(train=NoImages(task.name))
    return task


def has_head(model):
    """Tell whether a model in the normal form has logits."""
    return graph.node_of(model.output).operation.name != FEATURES


def answering(source):
    """Return the model of `source`, for a method that reads its logits.

    Raises:
        NotApplicable: it has features and no head.
    """
    if not has_head(source.model):
        raise NotApplicable(
            f"{source.task.name} ends at its features, and this method reads "
            "answers of the source; expected a model with its head."
        )
    return source.model


# Loading


def load_source(
    model: keras.Model | str | Path,
    preprocessing: str | None = None,
    *,
    task: Task | None = None,
    image_size: int | tuple[int, int] | None = None,
    features: str | None = None,
    blocks: list[str] | None = None,
    seed: int = 0,
) -> Source:
    """Return a user's model as a `Source`.

    Args:
        model: a Keras model; a `.keras` file; the name of a network of
            `keras.applications`, `MobileNetV2` with the weights of ImageNet,
            `MobileNetV2@none` with random ones, or `MobileNetV2@FILE` with
            those of a file; or `imagenet_lite0`. A text may end with the
            preprocessing: `mine.keras:tf`.
        preprocessing: how pixels from 0 to 255 reach the model, a name of
            `preprocessing.MODES`; None where it can be seen in the model.
        task: what it was trained on, if there are images of it. Without,
            methods that read such images do not apply, and its classes are
            like those of no other task.
        image_size: height and width, for a network of images of any size.
        features, blocks: as in `Source`.
        seed: of random weights.

    Raises:
        KTransferError: `E_UNKNOWN` for a name, `E_WEIGHTS` for a file that
            cannot be read, `E_ARGUMENT` for a model that cannot be taken,
            `E_OFFLINE` or `E_MISSING_PACKAGE` for weights that are not there.
    """
    name, content = getattr(model, "name", ""), ""
    if not isinstance(model, keras.Model):
        name, stated = parsed(str(model))
        preprocessing = preprocessing or stated
        content = digest(str(model))
        model = _loaded(name, _pair(image_size), seed)
    formed = normal_form(model, features, blocks, preprocessing, image_size)
    return Source(formed, task or _own_task(formed, name, content))


def parsed(text: str) -> tuple[str, str | None]:
    """Return the model and the preprocessing of a text `MODEL[:MODE]`."""
    model, _, mode = text.rpartition(":")
    if not model:
        return text, None
    if mode in preprocessing.MODES:
        return model, mode
    if Path(text).exists():
        return text, None
    raise unknown("preprocessing", mode, preprocessing.MODES)


def digest(text: str) -> str:
    """Return the sha256 of architecture and weights of a text `MODEL[:MODE]`.

    Of a network by name it is that of the name, the version of Keras and the
    file of its weights. No model is built.

    Raises:
        KTransferError: as `load_source` for what is not there.
    """
    name, mode = parsed(text)
    if name.split("@")[0] == LITE0:
        return files.sha256(f"{name} {mode}".encode())
    network, _, weights = name.partition("@")
    if preprocessing.is_application(network):
        own = weights not in ("", _NONE, _IMAGENET)
        content = _read(weights) if own else weights.encode()
        facts = f"{network} {keras.__version__} {mode} "
        return files.sha256(facts.encode(), content)
    return files.sha256(*_members(name), f" {mode}".encode())


def _read(path):
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise KTransferError(
            "E_WEIGHTS", f"{path} cannot be read ({error.strerror})."
        ) from error


def _members(path):
    """Return what counts of a `.keras` file: not the date that it holds."""
    _check_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return [
                archive.read(name)
                for name in sorted(archive.namelist())
                if name != "metadata.json"
            ]
    except (zipfile.BadZipFile, OSError, RuntimeError, ValueError) as error:
        raise _unreadable(path, error) from error


def _check_file(path):
    if not Path(path).is_file():
        names = [x for x in dir(keras.applications) if x[0].isupper()]
        raise unknown("model", path, [*names, LITE0, "FILE.keras"])
    if Path(path).suffix != ".keras":
        raise KTransferError(
            "E_ARGUMENT",
            f"{path} is no .keras file; expected what model.save('x.keras') "
            "wrote. Load it where it was made, and save it so.",
        )


def _unreadable(path, error):
    text = " ".join(str(error).split())[:200]
    return KTransferError(
        "E_WEIGHTS",
        f"{path} cannot be loaded as a Keras model ({text}); expected a "
        "whole file that model.save wrote.",
    )


def _loaded(name, image_size, seed):
    network, _, weights = name.partition("@")
    if network == LITE0:
        from ktransfer.models.imagenet_lite0 import lite0

        shape = (*(image_size or (224, 224)), 3)
        return lite0(shape, seed=seed, weights=weights != _NONE)
    if preprocessing.is_application(network):
        return _application(network, weights or _IMAGENET, image_size, seed)
    return _from_file(name)


def _from_file(path):
    _check_file(path)
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        text = str(error)
        if "Lambda" in text or "Could not locate" in text:
            what = "a Lambda" if "Lambda" in text else "a class of its own"
            raise KTransferError(
                "E_ARGUMENT",
                f"{path} has {what}, whose code does not travel with the file "
                "and would have to be run; expected layers of Keras alone. "
                "Build the model from those, or pass it as an object.",
            ) from error
        raise _unreadable(path, error) from error


def _application(network, weights, image_size, seed):
    """Return a network of keras.applications, with its head where it can be."""
    build = getattr(keras.applications, network)
    size = {"input_shape": (*image_size, 3)} if image_size else {}
    plain = {"classifier_activation": None}
    known = inspect.signature(build).parameters
    plain = {k: v for k, v in plain.items() if k in known}
    if weights == _NONE:
        return fresh(build(weights=None, **plain, **size), seed)
    if weights != _IMAGENET:
        _read(weights)
    try:
        return _with_weights(build, weights, plain, size)
    except (OSError, ValueError) as error:
        raise _no_weights(network, weights, error) from error
    except Exception as error:
        # Keras raises a bare one where a download fails.
        if type(error) is not Exception:
            raise
        raise _no_weights(network, weights, error) from error


def _with_weights(build, weights, plain, size):
    """Return the network with its weights: of any size it has no head."""
    if size and build(weights=None).input.shape[1:] != size["input_shape"]:
        return build(weights=weights, include_top=False, **size)
    try:
        return build(weights=weights, **plain)
    except ValueError:
        if weights == _IMAGENET:
            raise
        return build(weights=weights, include_top=False, **size)


def _no_weights(network, weights, error):
    if weights == _IMAGENET:
        return KTransferError(
            "E_OFFLINE",
            f"the weights of {network} cannot be downloaded here; give a file "
            f"of them, {network}@FILE, or {network}@none for random ones.",
        )
    text = " ".join(str(error).split())[:200]
    return KTransferError(
        "E_WEIGHTS", f"{weights} does not fit {network} ({text})."
    )


def _pair(size):
    return (size, size) if isinstance(size, int) else size


def _own_task(model, name, content):
    """Return the task of a model that came without images: its own classes."""
    number = model.output.shape[-1] if has_head(model) else 0
    short = content[:8] or format(id(model), "x")
    stem = Path(name).name
    return Task(
        name=stem,
        num_classes=number,
        image_shape=tuple(model.input.shape[1:]),
        train=NoImages(stem),  # type: ignore[arg-type]
        unlabelled=None,
        origin=f"{stem} ({short})" if content else stem,
        sha256=content,
        labels=tuple(range(number)),
        label_space=f"model {stem} {short}",
    )
