"""`fit`, the only training of the package, and `predict`.

`fit` owns the epoch order, computes frozen layers once, checks what goes in
and what comes out, and starts from a fresh optimiser every time. What it runs
is compiled in `programs`, and nowhere else.
"""

import contextlib
import math
import sys
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from ktransfer.data import Split
from ktransfer.engine import (
    backend,
    feature_cache,
    frozen,
    optimizers,
    programs,
)
from ktransfer.engine.losses import cross_entropy
from ktransfer.engine.programs import Objective
from ktransfer.errors import Diverged, KTransferError, NotApplicable, unknown
from ktransfer.models.surgery import inline, leaves, node_of
from ktransfer.seeds import stream

# Most steps of one compiled call. The weights do not depend on it.
CHUNK = 50

# Names of Keras's dtype policies.
PRECISIONS = ("float32", "mixed_bfloat16")
# What works on pixels stays in float32: bfloat16 does not hold all of 8 bits.
_ON_PIXELS = ("resize", "rgb_to_grey", "pixels", "rescale")


class Fit(NamedTuple):
    """What one `fit` did: for the record of a run.

    `curve` holds (step, mean loss since the last point); `cached` the values
    a frozen part gave per image, 0 if the graph was live;
    `trainable_parameters` those that this stage trained.
    """

    steps: int
    curve: list
    cached: int
    trainable_parameters: int


# What `fit` did since the last `ledger()`; the runner reads it after a method.
_ledger: list[Fit] = []


def ledger():
    """Return the `Fit`s since the last call, and forget them."""
    done = list(_ledger)
    _ledger.clear()
    return done


def fit(
    model,
    data,
    *,
    steps,
    seed,
    learning_rate=1e-3,
    batch_size=64,
    loss=cross_entropy,
    optimizer="adam",
    schedule="constant",
    rates=(),
    precision="float32",
):
    """Train the thawed layers of `model` for `steps` optimiser steps.

    Args:
        model: functional; one input, or a dictionary of inputs by the names
            of `data`. An input named `progress` `(batch, 1)` is fed the share
            of the steps done, 0 at the first step.
        data: a `Split`, or a dictionary name -> `Split` or images alone. Each
            name is a stream with its own epoch order; a lone `Split` is the
            stream `target`. Batches are always full: a stream that is used up
            goes on with its next epoch inside the batch.
        steps: number of optimiser steps, 0 to change nothing.
        seed: of the epoch order.
        learning_rate: the rate at the first step.
        batch_size: images of each stream a step.
        loss: function (labels, outputs) -> scalar; labels int32 `(batch,)`, or
            a dictionary by stream; outputs as the model gives them.
        optimizer: a name of `optimizers.OPTIMIZERS`, or a class or function
            learning_rate -> fresh Keras optimiser, whose rate is then set at
            every step.
        schedule: a name of `optimizers.SCHEDULES`; what multiplies the rate,
            by the share of the steps done.
        rates: pairs (layers, learning rate) for layers with a rate of their
            own; the update is scaled, not the gradient.
        precision: of `PRECISIONS`; what layers compute in while they train.
            Weights, losses, heads and the model that comes out are float32.

    Raises:
        KTransferError: bad arguments or data (`E_ARGUMENT`, `E_IMAGES`,
            `E_LABELS`), or a broken promise (`E_INVARIANT`): a frozen weight
            moved or a thawed one did not.
        NotApplicable: all that the thawed layers read is 0.
        Diverged: a weight is no longer finite.
    """
    streams = data if not isinstance(data, Split) else {"target": data}
    check_arguments(steps=steps, learning_rate=learning_rate)
    check_arguments(batch_size=batch_size)
    build, factor = optimizers.named(optimizer), optimizers.factor(schedule)
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    images, labels = _checked_streams(model, streams, loss)
    if not steps:
        return
    backend.check_settings()
    orders = {
        name: epoch_order(len(x), steps, batch_size, seed, name)
        for name, x in images.items()
    }
    inputs, outputs, arrays, cached = _partial(model, images, orders)
    objective = Objective(list(inputs.values()), outputs, name="objective")
    before = _snapshot(model)
    scales = _scales(rates, learning_rate)
    progress = np.arange(steps) / steps
    trained = objective.trainable_variables
    with (
        _computing_in(precision, objective),
        programs.training(
            objective,
            list(inputs),
            loss,
            build,
            scales=[scales.get(id(variable), 1) for variable in trained],
            batch=[CHUNK, batch_size, sorted(labels)],
        ) as program,
    ):
        curve = _run(
            program,
            {"inputs": arrays, "labels": labels},
            orders,
            progress,
            learning_rate * factor(progress),
        )
    _check_after(model, before, scales, steps)
    count = int(sum(np.prod(v.shape) for v in objective.trainable_variables))
    _ledger.append(Fit(steps, curve, cached, count))


def predict(model, images):
    """Return the outputs of `model` for all `images`, in inference mode.

    Args:
        model: one input.
        images: `(n, ...)`.

    Returns:
        array `(n, ...)`. An image's result does not depend on how many others
        there are, and its frozen part may come from `feature_cache`.
    """
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


def reestimate_statistics(model, images):
    """Set BatchNorm's moving statistics to those of `images`, bottom up.

    Each layer gets the mean and variance of its own input in inference mode,
    the layers below being done already; variances are at least 1e-6. Mixed
    weights need it, since mixed statistics belong to no network.

    Args:
        model: from raw images; its other variables stay.
        images: `(n, height, width, channels)` uint8.
    """
    for layer in leaves(model):
        if isinstance(layer, keras.layers.BatchNormalization):
            flat = inline(model, tap=[layer.name])
            (reached,) = node_of(flat.output[layer.name]).input_tensors
            mean, variance = _moments(keras.Model(flat.input, reached), images)
            layer.moving_mean.assign(mean)
            layer.moving_variance.assign(np.maximum(variance, 1e-6))


def _moments(model, images, batch=1000):
    """Return mean and variance of each channel of the outputs, float64."""
    count, total, squares = 0, 0.0, 0.0
    for start in range(0, len(images), batch):
        values = predict(model, images[start : start + batch])
        values = values.reshape(-1, values.shape[-1]).astype("float64")
        count += len(values)
        total = total + values.sum(axis=0)
        squares = squares + (values**2).sum(axis=0)
    mean = total / count
    return mean, squares / count - mean**2


def epoch_order(n, steps, batch_size, seed, name="target"):
    """Return the rows of every step, integers `(steps, batch_size)`.

    Epoch e of a stream is `default_rng([s, e]).permutation(n)`, s being the
    stream's own seed; the epochs follow each other without a gap.
    """
    own = stream(seed, "order", name)
    epochs = math.ceil(steps * batch_size / n)
    rows = [
        np.random.default_rng([own, e]).permutation(n) for e in range(epochs)
    ]
    flat = np.concatenate(rows)[: steps * batch_size]
    return flat.reshape(steps, batch_size).astype("int32")


# Before


def check_arguments(**values):
    """Refuse numbers that Keras would accept and misread.

    Raises:
        KTransferError: `E_ARGUMENT` with the name, the value and the range.
    """
    for name, value in values.items():
        whole = name in ("steps", "batch_size")
        lowest = 0 if name == "steps" else (1 if whole else 0)
        good = (
            isinstance(value, int | float | np.number)
            and not isinstance(value, bool)
            and math.isfinite(value)
            and (not whole or value == int(value))
            and (value >= lowest if whole else value > 0)
        )
        if not good:
            expected = (
                f"a whole number of at least {lowest}" if whole else "> 0"
            )
            raise KTransferError(
                "E_ARGUMENT", f"{name} is {value!r}; expected {expected}."
            )


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


def _checked_streams(model, streams, loss):
    inputs = frozen.input_names(model)
    images, labels = {}, {}
    for name, part in streams.items():
        if name not in inputs:
            raise KTransferError(
                "E_ARGUMENT",
                f"the model has no input {name!r}; expected one of "
                f"{', '.join(inputs)}.",
            )
        x, y = part if isinstance(part, Split) else (part, None)
        _check_images(name, x, tuple(inputs[name].shape[1:]))
        images[name] = x
        if y is not None:
            labels[name] = _checked_labels(name, y, len(x))
    classes = getattr(model.output, "shape", (None,))[-1]
    if loss is cross_entropy and max(labels["target"]) >= classes:
        raise KTransferError(
            "E_LABELS",
            f"label {max(labels['target'])} for {classes} logits; expected "
            f"labels from 0 to {classes - 1}.",
        )
    return images, labels


def _check_images(name, x, shape):
    if not len(x) or tuple(x.shape[1:]) != shape:
        raise KTransferError(
            "E_IMAGES",
            f"{name} images have the shape {tuple(x.shape)}; expected (n, "
            f"{', '.join(map(str, shape))}) with n > 0. Use adapt_input.",
        )
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


# The frozen part


def _partial(model, images, orders):
    """Return inputs, outputs, arrays of the live part, and values cached."""
    parts = frozen.split(model)
    widths = {
        name: int(np.prod(prefix.output.shape[1:]))
        for name, (_, prefix) in parts.prefixes.items()
    }
    size = sum(
        4 * widths[name] * len(images[origin])
        for name, (origin, _) in parts.prefixes.items()
    )
    if not parts.prefixes or size > frozen.MEMORY_BUDGET:
        return frozen.input_names(model), model.output, dict(images), 0
    arrays = {name: images[name] for name in parts.inputs if name in images}
    for name, (origin, prefix) in parts.prefixes.items():
        arrays[name] = _evaluated(prefix, images[origin], orders[origin])
        orders[name] = orders[origin]
    check_alive(*arrays.values())
    return parts.inputs, parts.outputs, arrays, sum(widths.values())


def _evaluated(prefix, images, order):
    """Return `prefix` of all images that `order` ever reads."""
    if 4 * order.size >= len(images):
        # All of them, which other seeds and heads read too.
        return feature_cache.values(prefix, images)
    used = np.unique(order)
    values = feature_cache.values(prefix, images[used])
    found = np.zeros((len(images), *values.shape[1:]), values.dtype)
    found[used] = values
    return found


# The training itself


def _run(program, given, orders, progress, learning_rates):
    """Take all steps, a chunk a call; return the points of the curve."""
    steps = len(progress)
    size = _chunk_size(steps)
    show = _progress_bar(steps)
    tables = {
        group: {name: _Table(x, orders[name]) for name, x in members.items()}
        for group, members in given.items()
    }
    points = []
    for start in range(0, steps, size):
        stop = min(start + size, steps)
        # Always as many rows as a program takes, which is made for a shape.
        places = np.minimum(np.arange(start, start + CHUNK), stop - 1)
        call = {
            group: {name: table.call(places) for name, table in of.items()}
            for group, of in tables.items()
        }
        call["progress"] = progress[places].astype("float32")
        call["learning_rate"] = learning_rates[places].astype("float32")
        call["count"] = np.array([stop - start], "int32")
        call = keras.tree.map_structure(ops.convert_to_tensor, call)
        logs = program.train_on_batch(call, return_dict=True)
        points.append((stop, float(logs["loss"])))
        show(*points[-1])
    return points


class _Table:
    """What a call reads of one array: as many values as its steps need.

    Few images are put there once, for all calls; of many, those of the call.
    """

    def __init__(self, array, order):
        self.array, self.order = array, order
        self.most = CHUNK * order.shape[1]
        self.whole = None
        if len(array) <= self.most:
            padded = np.zeros((self.most, *array.shape[1:]), array.dtype)
            padded[: len(array)] = array
            self.whole = ops.convert_to_tensor(padded)

    def call(self, places):
        """Return the values, and the rows of them that each step takes."""
        rows = self.order[places]
        if self.whole is not None:
            return {"values": self.whole, "rows": rows}
        every = np.arange(self.most, dtype="int32").reshape(rows.shape)
        return {"values": self.array[rows.ravel()], "rows": every}


@contextlib.contextmanager
def _computing_in(precision, objective):
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


def _chunk_size(steps):
    """Return the largest divisor of `steps` up to `CHUNK`, unless tiny."""
    divisors = [k for k in range(1, min(steps, CHUNK) + 1) if steps % k == 0]
    return divisors[-1] if divisors[-1] > CHUNK // 3 else min(steps, CHUNK)


def _progress_bar(steps):
    """Return a function (steps done, loss) that shows both on a terminal."""
    if not sys.stderr.isatty() or backend.is_worker():
        return lambda done, loss: None
    bar = keras.utils.Progbar(steps)
    return lambda done, loss: bar.update(done, [("loss", loss)])


# Rates


def _scales(rates, learning_rate):
    scales = {}
    for chosen, rate in rates:
        if not chosen:
            raise KTransferError(
                "E_ARGUMENT",
                f"a learning rate of {rate} is given to no layer; expected at "
                "least one.",
            )
        for layer in chosen:
            for variable in layer.trainable_variables:
                scales[id(variable)] = rate / learning_rate
    return scales


# After


def _snapshot(model):
    return [variable.numpy() for variable in model.variables]


def _check_after(model, before, scales, steps):
    trainable = {id(v) for v in model.trainable_variables}
    may_move = _statistics_and_seeds(model)
    for variable, old in zip(model.variables, before):
        new = variable.numpy()
        if not np.isfinite(new).all():
            raise Diverged(f"{variable.path} is not finite after {steps} steps")
        moved = new.tobytes() != old.tobytes()
        if id(variable) in trainable:
            # A scaled update may round to nothing, and a weight behind a
            # zero-initialised one has no gradient at the first step.
            broken = (
                not moved and steps > 1 and scales.get(id(variable), 1) == 1
            )
        else:
            broken = moved and id(variable) not in may_move
        if broken:
            verb = "moved although frozen" if moved else "did not move"
            raise KTransferError(
                "E_INVARIANT", f"{variable.path} {verb} in {steps} steps"
            )


def _statistics_and_seeds(model):
    """Return ids of the variables that training changes without a gradient."""
    found = {id(v) for v in model.variables} - {id(v) for v in model.weights}
    for layer in leaves(model):
        if layer.trainable and hasattr(layer, "moving_mean"):
            found |= {id(layer.moving_mean), id(layer.moving_variance)}
    return found
