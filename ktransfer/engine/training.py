"""`fit`, the only training of the package.

`fit` owns the epoch order, computes frozen layers once, checks what goes in
and what comes out, and starts from a fresh optimiser every time. What it runs
is compiled in `programs`, and nowhere else.
"""

import contextlib
import contextvars
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from ktransfer.data import Split
from ktransfer.engine import (
    arguments,
    backend,
    batches,
    feature_cache,
    frozen,
    normalization,
    optimizers,
    programs,
    promises,
)
from ktransfer.engine.kinds import check
from ktransfer.engine.losses import cross_entropy
from ktransfer.engine.options import Options, check_options
from ktransfer.engine.precision import computing_in
from ktransfer.errors import KTransferError


class Fit(NamedTuple):
    """What one `fit` did: for the record of a run.

    `curve` holds (step, mean loss since the last point); `cached` the values
    a frozen part gave per image, 0 if the graph was live;
    `trainable_parameters` those that this stage trained; `statistics` what
    became of those of thawed BatchNorm layers, "" without such.
    """

    steps: int
    curve: list
    cached: int
    trainable_parameters: int
    statistics: str


class Turn(NamedTuple):
    """What some steps of a cycle do: a loss, and the layers it trains.

    `loss` is as in `fit`; `layers` None trains all that are thawed.
    """

    steps: int
    loss: Callable
    layers: list | None = None


_recorded: contextvars.ContextVar = contextvars.ContextVar("fits", default=None)


@contextlib.contextmanager
def recording():
    """Yield the list of the `Fit`s inside the `with` block, in order."""
    fits: list[Fit] = []
    token = _recorded.set(fits)
    try:
        yield fits
    finally:
        _recorded.reset(token)


def fit(
    model: keras.Model,
    data: Split | dict,
    *,
    steps: int,
    seed: int,
    loss: Callable = cross_entropy,
    rates: Sequence[tuple] = (),
    served: tuple | None = None,
    turns: Sequence[Turn] = (),
    combine: Callable | None = None,
    **options: Any,
) -> None:
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
        loss: function (labels, outputs) -> scalar; labels int32 `(batch,)`, or
            a dictionary by stream; outputs as the model gives them.
        rates: pairs (layers, learning rate) for layers with a rate of their
            own; the update is scaled, not the gradient.
        served: (model, images) that BatchNorm's statistics are estimated
            anew for; None for `model` and the images it is trained on.
        turns: list of `Turn` that the steps cycle through, in place of `loss`.
            Weights rest wholly, moments included, out of their turn.
        combine: function (trained variables, a list of gradients for each
            loss) -> list of gradients; `loss` then returns a list.
        options: of `options.Options`.

    Raises:
        KTransferError: bad arguments, data or settings of Keras
            (`E_ARGUMENT`, `E_UNKNOWN`, `E_IMAGES`, `E_LABELS`), or a broken
            promise (`E_INVARIANT`).
        NotApplicable: all that thawed layers read, or answer, is 0.
        Diverged: a weight is no longer finite.
    """
    backend.check_settings()
    training = Options(**options)
    check("Whole", steps=steps)
    check_options(training)
    streams = {"target": data} if isinstance(data, Split) else data
    cycle = list(turns) or [Turn(1, loss)]
    images, labels = arguments.checked_streams(model, streams, cycle[0].loss)
    scales = _scales(rates, training.learning_rate)
    if steps:
        plan = _Plan(model, images, labels, cycle, combine, scales, training)
        _fit(plan, served, steps, seed)


class _Plan(NamedTuple):
    """A training, checked: what `fit` was given."""

    model: keras.Model
    images: dict
    labels: dict
    turns: list
    combine: Callable | None
    scales: dict
    options: Options


def _fit(plan, served, steps, seed):
    """Carry a training out, check what came out, and note it."""
    live = _live_part(plan, steps, seed)
    trained = live.objective.trainable_variables
    before = promises.snapshot(plan.model)
    with (
        _settling(plan, served),
        computing_in(plan.options.precision, live.objective),
        _program(plan, live, trained) as train,
    ):
        curve = _run(train, plan, live, steps)
    moving = _moving(plan, trained, steps)
    slopes = _Slopes(plan, live)
    promises.check(plan.model, before, moving, steps, slopes=slopes.of)
    if (fits := _recorded.get()) is not None:
        fits.append(_noted(plan, live, steps, curve))


def _noted(plan, live, steps, curve):
    """Return the `Fit` that says what was done."""
    trained = live.objective.trainable_variables
    thawed = normalization.normalisations(plan.model, thawed=True)
    return Fit(
        steps,
        curve,
        live.cached,
        int(sum(np.prod(v.shape) for v in trained)),
        plan.options.statistics if thawed else "",
    )


def _moving(plan, trained, steps):
    """Return the ids of what a step moves at the rate of the training."""
    scaled = {key for key, scale in plan.scales.items() if scale != 1}
    taken = [plan.turns[number] for number in set(_cycle(plan.turns, steps))]
    moved = [v for turn in taken for v in _trained_by(turn, trained)]
    return {id(variable) for variable in moved} - scaled


# The frozen part


class _Live(NamedTuple):
    """The part of a model that is trained, and what it reads.

    `objective` maps the inputs of `names`, in order, to the model's outputs;
    `arrays` and `orders` are by these names, and `cached` counts the values
    that a frozen part gave per image.
    """

    objective: keras.Model
    names: list
    arrays: dict
    orders: dict
    cached: int


def _live_part(plan, steps, seed):
    """Return the `_Live` part of a model, what is frozen being computed."""
    images, size = plan.images, plan.options.batch_size
    orders = {
        name: batches.epoch_order(len(x), steps, size, seed, name)
        for name, x in images.items()
    }
    parts = frozen.split(plan.model)
    if not parts.prefixes or _bytes(parts, images) > frozen.MEMORY_BUDGET:
        inputs = frozen.input_names(plan.model)
        objective = keras.Model([*inputs.values()], plan.model.output)
        return _Live(objective, [*inputs], dict(images), orders, 0)
    arrays = {name: images[name] for name in parts.inputs if name in images}
    for name, (origin, prefix) in parts.prefixes.items():
        arrays[name] = _evaluated(prefix, images[origin], orders[origin])
        orders[name] = orders[origin]
    arguments.check_alive(*arrays.values())
    objective = keras.Model([*parts.inputs.values()], parts.outputs)
    cached = sum(_width(prefix) for _, prefix in parts.prefixes.values())
    return _Live(objective, [*parts.inputs], arrays, orders, cached)


def _width(prefix):
    """Return how many values a frozen prefix gives per image."""
    return int(np.prod(prefix.output.shape[1:]))


def _bytes(parts, images):
    """Return what the values of all prefixes take up, as float32."""
    return sum(
        4 * _width(prefix) * len(images[origin])
        for origin, prefix in parts.prefixes.values()
    )


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


def _program(plan, live, trained):
    """Return the context that yields the compiled training."""
    options = plan.options
    moved = [
        programs.Turn(turn.loss, _trained_by(turn, trained), plan.combine)
        for turn in plan.turns
    ]
    rest = batches.CHUNK, options.batch_size, sorted(plan.labels)
    return programs.training(
        live.objective,
        live.names,
        moved,
        optimizers.named(options.optimizer),
        scales=lambda variable: plan.scales.get(id(variable), 1),
        batch=[*rest, options.statistics == "frozen"],
    )


def _trained_by(turn, trained):
    """Return those of the `trained` variables that are of a turn's layers."""
    if turn.layers is None:
        return trained
    own = {id(v) for x in turn.layers for v in x.trainable_variables}
    return [variable for variable in trained if id(variable) in own]


def _run(train, plan, live, steps):
    """Take all steps, a chunk a call; return the points of the curve."""
    progress = np.arange(steps) / steps
    factors = optimizers.factor(plan.options.schedule)(progress)
    by_step = {
        "progress": progress.astype("float32"),
        "learning_rate": (plan.options.learning_rate * factors).astype(
            "float32"
        ),
        "turn": _cycle(plan.turns, steps),
    }
    given = {"inputs": live.arrays, "labels": plan.labels}
    show = _progress_bar(steps)
    points = []
    for done, call in batches.calls(given, live.orders, by_step):
        points.append((done, train(call)))
        show(*points[-1])
    return points


def _cycle(turns, steps):
    """Return the number of the turn that each step belongs to."""
    counts = [turn.steps for turn in turns]
    cycle = np.repeat(np.arange(len(turns)), counts)
    return np.resize(cycle, steps).astype("int32")


def _progress_bar(steps):
    """Return a function (steps done, loss) that shows both on a terminal."""
    if not sys.stderr.isatty() or backend.is_worker():
        return lambda done, loss: None
    bar = keras.utils.Progbar(steps)
    return lambda done, loss: bar.update(done, [("loss", loss)])


def _scales(rates, learning_rate):
    """Return id of a variable -> the factor of its rate."""
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


@contextlib.contextmanager
def _settling(plan, served):
    """Do by BatchNorm's statistics in the `with` block as the options say."""
    if plan.options.statistics == "frozen":
        with normalization.kept(plan.model):
            yield
        return
    yield
    thawed = normalization.normalisations(plan.model, thawed=True)
    if plan.options.statistics != "reestimated" or not thawed:
        return
    if served is not None:
        network, images = served
        normalization.reestimate_statistics(network, images, thawed)
    elif isinstance(plan.model.input, dict):
        normalization.reestimate_statistics(plan.model, plan.images, thawed)
    else:
        (images,) = plan.images.values()
        normalization.reestimate_statistics(plan.model, images, thawed)


class _Slopes(NamedTuple):
    """What tells a weight that rests by chance from one that cannot move."""

    plan: _Plan
    live: _Live

    def of(self, variables, most=256):
        """Return the gradients of `variables` on some of the images."""
        plan, live = self.plan, self.live
        count = min(most, *(len(x) for x in live.arrays.values()))
        given = {name: x[:count] for name, x in live.arrays.items()}
        given["progress"] = np.ones((count, 1), "float32")
        labels = {name: y[:count] for name, y in plan.labels.items()}
        if set(labels) == {"target"}:
            labels = labels["target"]

        def total():
            outputs = live.objective([given[name] for name in live.names])
            losses = [turn.loss(labels, outputs) for turn in plan.turns]
            return sum(sum(x) if isinstance(x, list) else x for x in losses)

        return backend.value_and_gradients(total, variables)[1]
