"""Sources: trained models to transfer from, the suite's and the user's own.

A user's model comes as a Keras model, a `.keras` file, the name of a network
of `keras.applications`, or `imagenet_lite0`; `load_source` brings each into
the form that all methods read.
"""

import inspect
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import keras

from ktransfer.data import Task
from ktransfer.errors import KTransferError, NotApplicable, unknown
from ktransfer.models import graph, named
from ktransfer.models.normal_form import FEATURES, normal_form
from ktransfer.models.surgery import fresh


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
    given, name, content = model, getattr(model, "name", ""), ""
    model, stated = opened(given, image_size, seed)
    if given is not model:
        name, content = named.parsed(str(given))[0], named.digest(str(given))
    mode = preprocessing or stated
    formed = normal_form(model, features, blocks, mode, image_size)
    # It has the form already.
    task = task or _own_task(formed, name, content)
    return _Source.__new__(Source, formed, _with_images(task))


def opened(
    model: keras.Model | str | Path,
    image_size: int | tuple[int, int] | None = None,
    seed: int = 0,
) -> tuple[keras.Model, str | None]:
    """Return a user's model as it is, and the preprocessing its text states.

    Args, raises: as `load_source`.
    """
    if isinstance(model, keras.Model):
        return model, None
    name, stated = named.parsed(str(model))
    return _loaded(name, named.sides(image_size), seed), stated


def _loaded(model, image_size, seed):
    name, weights = named.network(model)
    if name == named.LITE0:
        from ktransfer.models.imagenet_lite0 import lite0

        shape = (*(image_size or (224, 224)), 3)
        return lite0(shape, seed=seed, weights=weights == named.IMAGENET)
    if name:
        return _application(name, weights, image_size, seed)
    return _from_file(model)


def _from_file(path):
    named.check_file(path)
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
        raise named.unreadable(path, error) from error


def _application(network, weights, image_size, seed):
    """Return a network of keras.applications, with its head where it can be."""
    build = getattr(keras.applications, network, None)
    if build is None:
        names = [x for x in dir(keras.applications) if x[0].isupper()]
        raise unknown("network", network, [*names, named.LITE0])
    size: dict[str, Any] = {}
    if image_size:
        size = {"input_shape": (*image_size, 3)}
    plain: dict[str, Any] = {"classifier_activation": None}
    known = inspect.signature(build).parameters
    plain = {k: v for k, v in plain.items() if k in known}
    if weights == named.NO_WEIGHTS:
        return fresh(build(weights=None, **plain, **size), seed)
    if weights != named.IMAGENET:
        return _filled(network, weights, build, plain, size)
    if size and build(weights=None).input.shape[1:] != size["input_shape"]:
        # Keras has the head for images of one size alone.
        plain = {"include_top": False, **size}
    try:
        return build(weights=weights, **plain)
    except Exception as error:
        # Keras raises a bare one where a download fails.
        if type(error) is not Exception and not isinstance(error, OSError):
            raise
        raise KTransferError(
            "E_OFFLINE",
            f"the weights of {network} cannot be downloaded here; give a file "
            f"of them, {network}@FILE, or {network}@none for random ones.",
        ) from error


def _filled(network, path, build, plain, size):
    """Return the network with the weights of a file, all of them or none."""
    named.read(path)
    # With its head, at the size of the images or its own; without.
    for options in ({**plain, **size}, plain, {"include_top": False, **size}):
        model = build(weights=None, **options)
        try:
            with warnings.catch_warnings():
                # Keras warns of what the file lacks, and leaves it random.
                warnings.simplefilter("error", UserWarning)
                model.load_weights(path)
        except (OSError, ValueError, KeyError, UserWarning):
            continue
        return model
    raise KTransferError(
        "E_WEIGHTS",
        f"{path} does not hold the weights of {network}, with or without its "
        "head; expected a file that save_weights of it wrote.",
    )


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
