"""What layers compute in while they train: float32, or bfloat16 beside it."""

import contextlib

import keras

from ktransfer.models.graph import leaves, node_of

# What works on pixels stays in float32: bfloat16 does not hold all of 8 bits.
_ON_PIXELS = ("as_floats", "resize", "rgb_to_grey", "pixels", "rescale")


@contextlib.contextmanager
def computing_in(precision, objective):
    """Have the layers of `objective` but its heads compute in `precision`."""
    changed = []
    if precision != "float32":
        kept = _heads(objective)
        changed = [
            (layer, layer.dtype_policy)
            for layer in leaves(objective)
            if layer.name not in _ON_PIXELS and layer not in kept
        ]
    for layer, _ in changed:
        layer.dtype_policy = keras.DTypePolicy(precision)
    try:
        yield
    finally:
        for layer, policy in changed:
            layer.dtype_policy = policy


def _heads(model):
    """Return the last layer with a kernel before each output, and all above."""
    found, pending = [], list(model.outputs)
    while pending:
        node = node_of(pending.pop())
        layer = node.operation
        if isinstance(layer, keras.Model):
            pending += layer.outputs
        elif layer not in found and not node.is_input:
            found.append(layer)
            if not hasattr(layer, "kernel"):
                pending += node.input_tensors
    return found
