"""Weights that train in part, stay near their start, or are merged."""

import keras
import numpy as np
from keras import layers, ops

from ktransfer.engine.normalization import reestimate_statistics
from ktransfer.engine.training import fit
from ktransfer.errors import NotApplicable
from ktransfer.models.graph import leaves
from ktransfer.models.layers import InferenceMode
from ktransfer.models.surgery import (
    adapt_input,
    classifier,
    combine,
    copy_backbone,
    freeze,
    fresh,
)


def tuned_weights(
    target, source, names, kinds=(layers.Layer,), *, steps, seed, **training
):
    """Return the source's features under a new head, few weights trained.

    Of the backbone the weights called one of `names` change, nothing else:
    with BatchNorm in it all is trained in inference mode (dropout is off).

    Args:
        target: the `Task`; its labelled images train the model.
        source: the `Source`.
        names: of variables: "bias", "gamma", "beta".
        kinds: classes of layers whose weights count.
        steps, seed, training: as in `fit`.

    Raises:
        NotApplicable: the backbone has no such weight.
    """
    backbone = copy_backbone(source.model)
    _freeze_all_but(names, kinds, backbone)
    model = classifier(backbone, target, seed=seed)
    trained = _with_statistics_kept(model, target)
    fit(trained, target.train, steps=steps, seed=seed, **training)
    return model


def _with_statistics_kept(model, target):
    """Return `model`, in inference mode if there is BatchNorm in it."""
    if not any(isinstance(x, layers.BatchNormalization) for x in leaves(model)):
        return model
    inputs = keras.Input(target.image_shape, dtype="uint8", name="images")
    logits = InferenceMode(model, name="inference")(inputs)
    return keras.Model(inputs, logits)


def _freeze_all_but(names, kinds, backbone):
    """Freeze all weights but those that `tuned_weights` trains."""
    freeze(backbone)
    chosen = [
        layer
        for layer in leaves(backbone)
        if isinstance(layer, kinds)
        and any(variable.name in names for variable in layer.weights)
    ]
    if not chosen:
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise NotApplicable(
            f"the source's features have no {wanted} "
            f"with {' or '.join(names)}; expected at least one."
        )
    for layer in chosen:
        layer.trainable = True
        for variable in layer.trainable_variables:
            variable.trainable = variable.name in names


def kernels(model):
    """Return the kernels of `model` that train, of attention and others too.

    A separable convolution has two of them, each with a name of its own.
    """
    weights = model.trainable_variables
    return [v for v in weights if v.name.endswith("kernel")]


def constant(array):
    """Return a float32 variable that no training moves, for use in a loss.

    An array would be built into the compiled program; what a variable holds
    is put in, and the program serves the next run.
    """
    return keras.Variable(array, trainable=False, dtype="float32")


def anchor(variables, importances=None):
    """Return a function () -> 1/2 sum of importance x (W - W_s)^2, a scalar.

    W_s is what the `variables` hold now, at the call of `anchor`.

    Args:
        variables: Keras variables, that train later.
        importances: an array of its shape for each; None for 1 throughout.
    """
    if importances is None:
        importances = [np.ones(variable.shape) for variable in variables]
    terms = [
        (variable, constant(variable.numpy()), constant(importance))
        for variable, importance in zip(variables, importances, strict=True)
    ]

    def distance():
        return 0.5 * sum(
            ops.sum(importance * ops.square(variable - start))
            for variable, start, importance in terms
        )

    return distance


def refresh_statistics(target, backbone):
    """Re-estimate BatchNorm in `backbone` on the labelled target images."""
    adapted = adapt_input(backbone, target.image_shape)
    reestimate_statistics(adapted, target.train.x)


def merge(target, backbone, members, shares):
    """Set `backbone` to the sum of share x member, with statistics of its own.

    Shares that pick one member as it is give that member bit for bit, its
    statistics included.

    Args:
        target: the `Task` whose images give the BatchNorm statistics.
        backbone, members, shares: as in `combine`.
    """
    combine(backbone, members, shares)
    if [share for share in shares if share != 0] != [1]:
        refresh_statistics(target, backbone)


def mixed(target, source, *, seed, shares):
    """Return the source's backbone at weights a W_s + b W_0, W_0 fresh.

    Args:
        shares: (a, b). (1, 0) and (0, 1) give the source's own backbone and a
            fresh one as they are, seeds of random layers included.
    """
    original = copy_backbone(source.model)
    initial = fresh(original, seed)
    backbone = original if shares[0] else initial
    weights = [[v.numpy() for v in x.weights] for x in (original, initial)]
    merge(target, backbone, weights, shares)
    return backbone
