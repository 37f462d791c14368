"""What a training promises, checked when it ends, by the weights themselves.

What is frozen has kept every byte, what is trained has moved, all is finite.
"""

import numpy as np

from ktransfer.errors import Diverged, KTransferError, NotApplicable
from ktransfer.models.graph import leaves


def snapshot(model):
    """Return the values of all variables of `model`."""
    return [variable.numpy() for variable in model.variables]


def check(model, before, moving, steps, *, slopes):
    """Check what a training made of `model`.

    Args:
        model: after the training.
        before: its `snapshot`.
        moving: ids of the variables whose updates were not scaled down.
        steps: that were taken.
        slopes: function list of variables -> the gradient of each.

    Raises:
        KTransferError: `E_INVARIANT` for a frozen weight that moved, or a
            kernel that did not although it has a gradient.
        NotApplicable: a kernel has no gradient on any image: the units above
            or below it have died.
        Diverged: a weight is no longer finite.
    """
    trainable = {id(v) for v in model.trainable_variables}
    may_move = _statistics_and_seeds(model)
    resting = []
    for variable, old in zip(model.variables, before):
        new = variable.numpy()
        if not np.isfinite(new).all():
            raise Diverged(f"{variable.path} is not finite after {steps} steps")
        moved = new.tobytes() != old.tobytes()
        if id(variable) in trainable:
            # A bias under a normalisation has no gradient but rounding, and a
            # weight behind one that starts at 0 has none at the first step.
            if not moved and steps > 1 and id(variable) in moving:
                resting += [variable] * (len(variable.shape) > 1)
        elif moved and id(variable) not in may_move:
            raise KTransferError(
                "E_INVARIANT",
                f"{variable.path} moved although frozen in {steps} steps",
            )
    if resting:
        _explain(resting, slopes(resting), steps)


def _explain(resting, slopes, steps):
    """Say why kernels have not moved: dead units, or a broken promise."""
    for variable, slope in zip(resting, slopes, strict=True):
        if np.any(slope):
            raise KTransferError(
                "E_INVARIANT",
                f"{variable.path} did not move in {steps} steps although it "
                "has a gradient; expected every trained kernel to move. A "
                "learning rate may be too small for float32.",
            )
    raise NotApplicable(
        f"{resting[0].path} has no gradient on any image, as a layer whose "
        "units have died; expected units that answer. Try more of them, a "
        "smaller learning rate or another seed."
    )


def _statistics_and_seeds(model):
    """Return ids of the variables that training changes without a gradient."""
    found = {id(v) for v in model.variables} - {id(v) for v in model.weights}
    for layer in leaves(model):
        if layer.trainable and hasattr(layer, "moving_mean"):
            found |= {id(layer.moving_mean), id(layer.moving_variance)}
    return found
