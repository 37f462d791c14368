"""The diagonal Fisher information: how much each weight matters to a model."""

import numpy as np
from keras import ops

from ktransfer.engine import backend
from ktransfer.seeds import stream


def diagonal_fisher(model, images, variables, *, num_images, seed):
    """Return the diagonal Fisher information of `variables`.

    F = mean over images x of sum over classes y of
    p(y | x) (d log p(y | x) / d w)^2, in inference mode. The expectation over
    labels is exact and under the model's own p: no label of the data enters.

    Args:
        model: raw images -> logits.
        images: `(n, height, width, channels)` uint8.
        variables: Keras variables of `model`.
        num_images: how many of the images are used; all if there are fewer.
        seed: of their choice.

    Returns:
        list of float64 arrays >= 0, of the shapes of `variables`.
    """
    order = np.random.default_rng(stream(seed, "fisher"))
    rows = np.sort(order.permutation(len(images))[:num_images])
    labels = np.arange(model.output.shape[-1], dtype="int32")

    def weighted(image, label):
        logits = model(image[None], training=False)
        log_probability = ops.log_softmax(logits)[0][label]
        # Its squared gradient carries the factor p(y | x).
        root = ops.stop_gradient(ops.exp(log_probability / 2))
        return root * log_probability

    pairs = np.repeat(rows, len(labels)), np.tile(labels, len(rows))
    totals = backend.squared_gradients(
        weighted, variables, images[pairs[0]], pairs[1]
    )
    return [total / len(rows) for total in totals]
