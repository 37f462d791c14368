"""The one module that imports TensorFlow: the training loop, and numerics.

Everything else is `keras` and `keras.ops`.
"""

import functools
import multiprocessing
import os
import platform
import tempfile
import time
from pathlib import Path

# A `keras.json` in the user's home silently changes the float type, so Keras
# is given an empty home of ours for the time of its import.
with tempfile.TemporaryDirectory(prefix="ktransfer-keras-") as _home:
    _old_home = os.environ.get("KERAS_HOME")
    os.environ["KERAS_HOME"] = _home
    import keras
    import tensorflow as tf

    if _old_home is None:
        del os.environ["KERAS_HOME"]
    else:
        os.environ["KERAS_HOME"] = _old_home

from ktransfer.errors import KTransferError

_EXPECTED = {
    "backend": (keras.backend.backend, "tensorflow"),
    "dtype_policy": (lambda: keras.config.dtype_policy().name, "float32"),
    "floatx": (keras.config.floatx, "float32"),
    "epsilon": (keras.config.epsilon, 1e-7),
    "image_data_format": (keras.config.image_data_format, "channels_last"),
}


def pin():
    """Give this process one thread; bits depend on the number of threads.

    Raises:
        KTransferError: `E_INVARIANT` if TensorFlow has already started with
            other settings.
    """
    try:
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError as error:
        raise KTransferError(
            "E_INVARIANT",
            "TensorFlow has started before its threads were pinned; call "
            "ktransfer.engine.backend.pin() first in the process.",
        ) from error


def start():
    """Make TensorFlow look for its devices now and not at the first step."""
    # Every fit is a program of its own, which TensorFlow warns of.
    tf.get_logger().setLevel("ERROR")
    tf.zeros(()).numpy()


def clear_session():
    """Let go of what a run leaves behind: its names, and its traces.

    Layers are numbered from 1 again, as in a new process. Keras's function of
    this name also drops the kernels of all functions, so that a program that
    is used again is put together anew, which takes longer than a small run.

    Whenever a training is traced, TensorFlow registers a gradient under a name
    of its own and keeps it for the life of the process, and with it the whole
    graph: several megabytes a training. Nothing public takes it back.
    """
    from keras.src.backend.common import global_state
    from tensorflow.python.framework import ops

    global_state.set_global_attribute("object_name_uids", None)
    registered = ops.gradient_registry._registry
    for name in [n for n in registered if n.startswith("CustomGradient-")]:
        del registered[name]


def check_settings():
    """Refuse a process whose Keras settings would silently move the numbers.

    Raises:
        KTransferError: `E_ARGUMENT` with the setting.
    """
    for name, (read, expected) in _EXPECTED.items():
        if read() != expected:
            raise KTransferError(
                "E_ARGUMENT",
                f"Keras runs with {name} = {read()!r}; every result of the "
                f"suite is defined for {expected!r}. Set it back with "
                f"keras.config.set_{name}({expected!r}).",
            )


def facts():
    """Return what can move a bit on this machine, as a flat dictionary."""
    # Nothing public tells whether the kernels of oneDNN are on: not where
    # TensorFlow was imported before this package.
    from tensorflow.python.util import _pywrap_util_port

    return {
        "isa": _instruction_sets(),
        "keras": keras.__version__,
        "machine": platform.machine(),
        "numpy": __import__("numpy").__version__,
        "onednn": _pywrap_util_port.IsMklEnabled(),
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "threads": tf.config.threading.get_intra_op_parallelism_threads()
        or int(os.environ.get("TF_NUM_INTRAOP_THREADS", 0)),
    }


def _instruction_sets():
    """Return the instruction sets that numerical libraries choose between."""
    wanted = ("amx_bf16", "avx2", "avx512_bf16", "avx512f", "fma")
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return []
    flags = set(text.partition("flags")[2].partition("\n")[0].split())
    return [name for name in wanted if name in flags]


def is_worker():
    """Tell whether this process is a worker of a sweep, which stays quiet."""
    return multiprocessing.parent_process() is not None


def product_rate(size=1024, repeats=5):
    """Return the best rate of a float32 matrix product, in GFLOP/s."""
    matrix = tf.ones((size, size))
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        tf.matmul(matrix, matrix).numpy()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best / 1e9


def take_rows(values, rows):
    """Return `values[rows]`; Keras's own also looks for negative rows."""
    return tf.gather(values, rows)


def value_and_gradients(function, variables):
    """Return `function()` and its gradients, one a variable.

    It works inside a training step, where all are symbolic.

    Args:
        function: without arguments -> scalar, or a list of scalars, of
            `keras.ops` and models.
        variables: Keras variables; zeros come back for one it does not reach.

    Returns:
        (value, gradients), or for a list (values, a list of gradients each).
    """
    watched = [variable.value for variable in variables]
    with tf.GradientTape(True, watch_accessed_variables=False) as tape:
        tape.watch(watched)
        value = function()
    several = isinstance(value, list)
    found = [
        tape.gradient(one, watched, unconnected_gradients="zero")
        for one in (value if several else [value])
    ]
    return value, found if several else found[0]


class Trainer:
    """Takes many steps a call, in one compiled loop.

    The description is pure: `steps` gives a loss, a group's `Update` gives
    what a step makes of its weights. Here weights and state are moved in
    place, which spares a copy of both at every step.

    Args:
        turns: list of (function step's data -> loss and gradients of all
            variables of its groups in order, numbers of its groups).
        groups: list of (Keras variables, scales, `Update`).
    """

    def __init__(self, turns, groups):
        self._turns, self._groups = turns, groups
        self._states = [_state(update) for _, _, update in groups]
        self._run = tf.function(self._steps, autograph=False)

    def reset(self):
        """Put the optimisers' state back to step 0."""
        for state, (_, _, update) in zip(self._states, self._groups):
            for variable, value in zip(state, update.start, strict=True):
                variable.assign(value)

    def run(self, given):
        """Take the steps of a call; return the mean loss, a float.

        Args:
            given: arrays: what a step reads is a row of `learning_rate` and
                `turn`, `(num,)`, and what `turns` take of it; `count` `(1,)`
                steps are taken.
        """
        # All is an argument and not captured: TensorFlow keeps the graph of a
        # loop, and with it what it captured, for ever.
        given = tf.nest.map_structure(tf.convert_to_tensor, given)
        return float(self._run(given))

    def _steps(self, given):
        count = given["count"][0]

        def one(step, total):
            take = [
                functools.partial(self._take, turn, given, step)
                for turn in range(len(self._turns))
            ]
            if len(take) == 1:
                return step + 1, total + take[0]()
            turn = given["turn"][step]
            return step + 1, total + tf.switch_case(turn, take)

        start = tf.zeros((), "int32"), tf.zeros(())
        _, total = tf.while_loop(lambda step, _: step < count, one, start)
        return total / tf.cast(count, "float32")

    def _take(self, turn, given, step):
        value_and_slopes, numbers = self._turns[turn]
        value, slopes = value_and_slopes(given, step)
        rate = given["learning_rate"][step]
        for number in numbers:
            variables = self._groups[number][0]
            self._move(number, slopes[: len(variables)], rate)
            slopes = slopes[len(variables) :]
        return value

    def _move(self, number, slopes, rate):
        variables, scales, update = self._groups[number]
        state = self._states[number]
        if update.adam:
            _move_by_adam(state, slopes, variables, rate, scales, update.adam)
        elif update.optimizer:
            _move_by_keras(update.optimizer, slopes, variables, rate, scales)
        else:
            values = [variable.value for variable in variables]
            kept = [variable.value for variable in state]
            found = update.apply(kept, slopes, values, rate, scales)
            for variable, value in zip([*state, *variables], sum(found, [])):
                variable.assign(value)


def _state(update):
    if update.optimizer:
        return update.optimizer.variables
    return [
        keras.Variable(value, trainable=False, dtype=value.dtype)
        for value in update.start
    ]


def _move_by_adam(state, slopes, variables, rate, scales, settings):
    """Move weights and moments as `optimizers.adam` does, in one pass each.

    In a dense head the passes of the plain formula take a third of a step.
    """
    step, slots = state[0], state[1:]
    step.assign(step.value + 1)
    done = tf.cast(step.value, "float32")
    powers = [tf.pow(decay, done) for decay in settings[:2]]
    pairs = zip(slots[: len(variables)], slots[len(variables) :])
    each = zip(variables, pairs, slopes, scales, strict=True)
    for variable, (moment, velocity), slope, scale in each:
        tf.raw_ops.ResourceApplyAdam(
            var=variable.value.handle,
            m=moment.value.handle,
            v=velocity.value.handle,
            beta1_power=powers[0],
            beta2_power=powers[1],
            lr=rate * scale if scale != 1 else rate,
            beta1=settings.beta_1,
            beta2=settings.beta_2,
            epsilon=settings.epsilon,
            grad=slope,
        )


def _move_by_keras(optimizer, slopes, variables, rate, scales):
    optimizer.learning_rate.assign(rate)
    scaled = [
        (variable, tf.identity(variable.value), scale)
        for variable, scale in zip(variables, scales, strict=True)
        if scale != 1
    ]
    optimizer.apply(slopes, variables)
    for variable, old, scale in scaled:
        variable.assign(old + scale * (variable.value - old))


def squared_gradients(function, variables, images, places, labels):
    """Return the sum over pairs of the squared gradient of `function`.

    Args:
        function: image, label -> scalar, of `keras.ops` and models.
        variables: Keras variables; zeros come back for one it does not reach.
        images: `(n, ...)`.
        places, labels: `(pairs,)` each: a row of `images`, and its label.

    Returns:
        list of float64 arrays, of the shapes of `variables`.
    """

    # One call for all pairs: a call each costs more than its gradient.
    @tf.function
    def compiled(images, places, labels):
        return _summed_squares(function, variables, images, places, labels)

    found = compiled(*map(tf.convert_to_tensor, (images, places, labels)))
    return [total.numpy() for total in found]


def _summed_squares(function, variables, images, places, labels):
    def add(pair, totals):
        image, label = images[places[pair]], labels[pair]
        _, slopes = value_and_gradients(
            lambda: function(image, label), variables
        )
        wide = [tf.cast(slope, tf.float64) for slope in slopes]
        return pair + 1, [t + s * s for t, s in zip(totals, wide)]

    start = [tf.zeros(v.shape, tf.float64) for v in variables]
    count = tf.shape(places)[0]
    return tf.while_loop(lambda pair, _: pair < count, add, (0, start))[1]
