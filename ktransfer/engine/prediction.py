"""`predict`: the outputs of a model, what is frozen in it computed once."""

import keras
import numpy as np

from ktransfer.engine import (
    arguments,
    backend,
    feature_cache,
    frozen,
    programs,
)
from ktransfer.models.graph import leaves


def predict(model, images):
    """Return the outputs of `model` for all `images`, in inference mode.

    Args:
        model: one input.
        images: `(n, ...)`.

    Returns:
        array `(n, ...)`. An image's result does not depend on how many others
        there are, and its frozen part may come from `feature_cache`.

    Raises:
        KTransferError: `E_IMAGES` for images that are no pixels from 0 to 255,
            where the model reads uint8; `E_ARGUMENT` for settings of Keras.
    """
    backend.check_settings()
    # A Sequential that was never called has none.
    if inputs := getattr(model, "inputs", None):
        images = arguments.as_read(inputs[0], images)
    if not any(x.weights and not x.trainable for x in leaves(model)):
        return programs.forward(model, images)
    parts = frozen.split(model)
    arrays = [
        feature_cache.values(parts.prefixes[name][1], images)
        if name in parts.prefixes
        else images
        for name in parts.inputs
    ]
    if [*parts.inputs.values()] == [parts.outputs]:
        return np.array(arrays[0])
    rest = keras.Model(list(parts.inputs.values()), parts.outputs)
    return programs.forward(rest, arrays)
