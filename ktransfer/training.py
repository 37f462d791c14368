"""`fit`, the only compile and fit of the package, and `predict`.

`fit` owns the epoch order, computes frozen layers once, checks what goes in
and what comes out, and starts from a fresh optimiser every time.
"""

import functools
import math
import sys
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from ktransfer import backend, frozen
from ktransfer.data import Split
from ktransfer.errors import Diverged, KTransferError, unknown
from ktransfer.losses import cross_entropy
from ktransfer.seeds import stream
from ktransfer.surgery import inline, leaves, node_of

# Steps that one compiled call takes. The weights do not depend on it.
CHUNK = 50
# Multiply-adds of a whole fit above which compiling a dense graph with XLA
# pays. Measured; a constant, since compiled bits differ from plain ones.
XLA_PAYS_ABOVE = 1e11
_PREDICT_BATCH = 250


OPTIMIZERS = {
    "adam": keras.optimizers.Adam,
    "sgd": functools.partial(keras.optimizers.SGD, momentum=0.9),
}
# Factors of the learning rate at p, the share of the steps done. The last is
# that of Ganin and Lempitsky 2015, arXiv:1409.7495.
SCHEDULES = {
    "constant": lambda p: 1.0,
    "cosine": lambda p: 0.5 * (1 + ops.cos(math.pi * p)),
    "annealed": lambda p: (1 + 10 * p) ** -0.75,
}


class Fit(NamedTuple):
    """What one `fit` did: for the record of a run.

    `curve` holds (step, mean loss since the last point); `cached` the values
    a frozen part gave per image, 0 if the graph was live; `compiled` whether
    XLA ran it; `trainable_parameters` those that this stage trained.
    """

    steps: int
    curve: list
    cached: int
    compiled: bool
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
        optimizer: a name of `OPTIMIZERS`, or a class or function
            learning_rate -> fresh Keras optimiser.
        schedule: a name of `SCHEDULES`; what it multiplies the rate by.
        rates: pairs (layers, learning rate) for layers with a rate of their
            own; the update is scaled, not the gradient.

    Raises:
        KTransferError: bad arguments or data (`E_ARGUMENT`, `E_IMAGES`,
            `E_LABELS`), or a broken promise (`E_INVARIANT`): a frozen weight
            moved or a thawed one did not.
        Diverged: a weight is no longer finite.
    """
    streams = data if not isinstance(data, Split) else {"target": data}
    check_arguments(steps=steps, learning_rate=learning_rate)
    check_arguments(batch_size=batch_size)
    for kind, name, table in (
        ("optimizer", optimizer, OPTIMIZERS),
        ("schedule", schedule, SCHEDULES),
    ):
        _chosen(kind, name, table)
    images, labels = _checked_streams(model, streams, loss)
    if not steps:
        return
    backend.check_settings()
    orders = {
        name: epoch_order(len(x), steps, batch_size, seed, name)
        for name, x in images.items()
    }
    inputs, outputs, arrays, cached = _partial(model, images, orders)
    objective = _Objective(list(inputs.values()), outputs, name="objective")
    compiled = _xla_pays(objective, steps * batch_size)
    before = _snapshot(model)
    objective.prepare(list(inputs), loss)
    scales = _scales(rates, learning_rate)
    rate = _scheduled(learning_rate, schedule, steps)
    objective.compile(
        _scaled(_chosen("optimizer", optimizer, OPTIMIZERS), scales)(rate),
        jit_compile=compiled,
    )
    # Left to the first call, the optimiser's variables make Keras trace twice.
    objective.optimizer.build(objective.trainable_variables)
    curve = _run(objective, arrays, labels, orders, steps)
    _check_after(model, before, scales, steps)
    count = int(sum(np.prod(v.shape) for v in objective.trainable_variables))
    _ledger.append(Fit(steps, curve, cached, compiled, count))


def predict(model, images):
    """Return the outputs of `model` for all `images`, in inference mode.

    Args:
        model: one input.
        images: `(n, ...)`.

    Returns:
        array `(n, ...)`. Batches have one shape, so an image's result does
        not depend on how many others there are.
    """
    n = len(images)
    padded = math.ceil(n / _PREDICT_BATCH) * _PREDICT_BATCH
    rows = np.minimum(np.arange(padded), n - 1)
    found = [
        model.predict_on_batch(images[rows[i : i + _PREDICT_BATCH]])
        for i in range(0, padded, _PREDICT_BATCH)
    ]
    return np.concatenate(found)[:n]


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
    if not np.isfinite(x).all():
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
    return parts.inputs, parts.outputs, arrays, sum(widths.values())


def _evaluated(prefix, images, order):
    """Return `prefix` of all images that `order` ever reads."""
    if order.size >= len(images):
        return predict(prefix, images)
    used = np.unique(order)
    values = predict(prefix, images[used])
    found = np.zeros((len(images), *values.shape[1:]), values.dtype)
    found[used] = values
    return found


# The training itself


class _Objective(keras.Model):
    """A graph that takes rows of arrays, `CHUNK` steps a call, and any loss."""

    def prepare(self, names, loss):
        self._names = names
        self._loss = loss

    def train_step(self, data):
        # The arrays are arguments, not captured: TensorFlow keeps the graph
        # of a loop, and with it what it captured, for ever.
        given, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        count = ops.shape(given["rows"]["progress"])[0]

        def one(step, total):
            rows = {name: v[step] for name, v in given["rows"].items()}
            batch = self._batch(given["arrays"], given["labels"], rows)
            super(_Objective, self).train_step(batch)
            return total + self._last_loss

        total = ops.fori_loop(0, count, one, ops.zeros(()))
        return {"loss": total / ops.cast(count, "float32")}

    def _batch(self, arrays, labels, rows):
        taken = {
            name: ops.take(array, rows[name], axis=0)
            for name, array in arrays.items()
        }
        labels = {
            name: ops.take(array, rows[name], axis=0)
            for name, array in labels.items()
        }
        if "progress" in self._names:
            size = next(iter(taken.values())).shape[0]
            taken["progress"] = ops.full((size, 1), rows["progress"])
        images = [taken[name] for name in self._names]
        lone = set(labels) == {"target"}
        return images, labels["target"] if lone else labels

    def compute_loss(self, x, y, y_pred, sample_weight=None, training=True):
        loss = self._loss(y, y_pred)
        for extra in self.losses:
            loss = loss + extra
        self._last_loss = loss
        return loss


def _run(objective, arrays, labels, orders, steps):
    """Take all steps, a chunk a call; return the points of the curve."""
    given = {
        group: {k: ops.convert_to_tensor(v) for k, v in members.items()}
        for group, members in (("arrays", arrays), ("labels", labels))
    }
    progress = (np.arange(steps) / steps).astype("float32")
    size = _chunk_size(steps)
    show = _progress_bar(steps)
    points = []
    for start in range(0, steps, size):
        stop = min(start + size, steps)
        rows = {name: order[start:stop] for name, order in orders.items()}
        rows["progress"] = progress[start:stop]
        rows = {k: ops.convert_to_tensor(v) for k, v in rows.items()}
        logs = objective.train_on_batch(
            {**given, "rows": rows}, return_dict=True
        )
        points.append((stop, float(logs["loss"])))
        show(*points[-1])
    return points


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


def _xla_pays(objective, images):
    """Tell whether XLA is faster: dense graphs yes, convolutions never."""
    live = [x for layer in objective.layers for x in leaves(layer)]
    if any(
        len(getattr(layer, "kernel", np.zeros(1)).shape) > 2 for layer in live
    ):
        return False
    weights = sum(np.prod(v.shape) for v in objective.weights)
    return bool(3 * images * weights > XLA_PAYS_ABOVE)


# Rates


class _Scheduled(keras.optimizers.schedules.LearningRateSchedule):
    """`learning_rate` times the factor of a schedule."""

    def __init__(self, learning_rate, factor, steps):
        self.learning_rate = learning_rate
        self._factor = factor
        self._steps = steps

    def __call__(self, step):
        done = ops.cast(step, "float32") / self._steps
        return self.learning_rate * self._factor(done)

    def get_config(self):
        return {
            "learning_rate": self.learning_rate,
            "factor": self._factor,
            "steps": self._steps,
        }


def _scheduled(learning_rate, schedule, steps):
    factor = _chosen("schedule", schedule, SCHEDULES)
    if schedule == "constant":
        return learning_rate
    return _Scheduled(learning_rate, factor, steps)


def _chosen(kind, name, table):
    """Return what `table` holds under `name`; anything but a name is kept."""
    if not isinstance(name, str):
        return name
    if name not in table:
        raise unknown(kind, name, table)
    return table[name]


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


def _scaled(optimizer, scales):
    """Return `optimizer` with the update of some variables scaled.

    Scaling gradients would do nothing under Adam.
    """
    if not any(scale != 1 for scale in scales.values()):
        return optimizer

    def build(learning_rate):
        fresh = optimizer(learning_rate)
        apply = fresh.apply

        def scaled(gradients, trainable_variables=None):
            own = [
                (v, ops.copy(v), scales[id(v)])
                for v in trainable_variables
                if scales.get(id(v), 1) != 1
            ]
            apply(gradients, trainable_variables)
            for variable, old, scale in own:
                variable.assign(old + scale * (variable - old))

        fresh.apply = scaled
        return fresh

    return build


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
