"""Images and labels that `fit` is given, checked before it trains."""

import keras
import numpy as np

from ktransfer.data import Split
from ktransfer.data.split import as_pixels
from ktransfer.engine import frozen
from ktransfer.engine.losses import cross_entropy
from ktransfer.errors import KTransferError, NotApplicable


def check_alive(*features):
    """Refuse, with `NotApplicable`, features that are 0 for every image.

    Args:
        features: `(n, ...)` each; one that is alive is enough.
    """
    # The first rows mostly tell, and are few.
    parts = (x[i : i + 250] for x in features for i in range(0, len(x), 250))
    if not any(part.any() for part in parts):
        raise NotApplicable(
            "the source's features are 0 for every labelled image, as those of "
            "a network whose units have died; expected some to learn from."
        )


def checked_streams(model, streams, loss):
    """Return images and int32 labels by stream, checked against `model`.

    Args:
        model: with an input for each stream.
        streams: name -> `Split` or images alone.
        loss: of the training; `cross_entropy` asks for labels of its classes.

    Raises:
        KTransferError: `E_ARGUMENT`, `E_IMAGES` or `E_LABELS`.
    """
    inputs = frozen.input_names(model)
    images, labels = {}, {}
    for name, part in streams.items():
        _check_name(name, inputs)
        x, y = part if isinstance(part, Split) else (part, None)
        _check_shape(name, x, tuple(inputs[name].shape[1:]))
        images[name] = as_read(inputs[name], x, f"{name} images")
        _check_finite(name, images[name])
        if y is not None:
            labels[name] = _checked_labels(name, y, len(x))
    if loss is cross_entropy:
        _check_range(max(labels["target"]), model.output.shape[-1])
    return images, labels


def _check_name(name, inputs):
    if name not in inputs:
        raise KTransferError(
            "E_ARGUMENT",
            f"the model has no input {name!r}; expected one of "
            f"{', '.join(inputs)}.",
        )


def as_read(tensor, images, what="images"):
    """Return `images` as the input `tensor` of a model takes them.

    Keras casts what it is given: to uint8, images from 0 to 1 become black.

    Raises:
        KTransferError: `E_IMAGES` for pixels that uint8 does not hold.
    """
    reads_pixels = keras.backend.standardize_dtype(tensor.dtype) == "uint8"
    return as_pixels(images, what) if reads_pixels else images


def _check_range(label, num_classes):
    if label >= num_classes:
        raise KTransferError(
            "E_LABELS",
            f"label {label} for {num_classes} logits; expected labels from 0 "
            f"to {num_classes - 1}.",
        )


def _check_shape(name, x, shape):
    if not len(x) or tuple(x.shape[1:]) != shape:
        raise KTransferError(
            "E_IMAGES",
            f"{name} images have the shape {tuple(x.shape)}; expected (n, "
            f"{', '.join(map(str, shape))}) with n > 0. Use adapt_input.",
        )


def _check_finite(name, x):
    if x.dtype.kind not in "bui" and not np.isfinite(x).all():
        raise KTransferError("E_IMAGES", f"{name} images hold NaN or infinity.")


def _checked_labels(name, y, n):
    y = np.asarray(y)
    if y.shape != (n,) or y.dtype.kind not in "iu" or y.min() < 0:
        raise KTransferError(
            "E_LABELS",
            f"{name} labels have shape {y.shape} and type {y.dtype}; expected "
            f"integers >= 0 of shape ({n},).",
        )
    return y.astype("int32")
