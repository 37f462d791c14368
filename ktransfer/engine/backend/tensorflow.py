"""The one module that imports TensorFlow: threads and numerics.

Everything else is `keras` and `keras.ops`; another backend means another
version of this file.
"""

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
    """Refuse a process whose Keras settings would silently move the numbers."""
    for name, (read, expected) in _EXPECTED.items():
        if read() != expected:
            raise KTransferError(
                "E_ARGUMENT",
                f"Keras runs with {name} = {read()!r}; every result of the "
                f"suite is defined for {expected!r}. Set it back before use.",
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
    """Return `function()`, a scalar, and its gradients, one a variable.

    It works inside a training step, where both are symbolic.

    Args:
        function: without arguments -> scalar, of `keras.ops` and models.
        variables: Keras variables; zeros come back for one it does not reach.
    """
    watched = [variable.value for variable in variables]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(watched)
        value = function()
    found = tape.gradient(value, watched, unconnected_gradients="zero")
    return value, found


def apply_adam(
    variable,
    momentum,
    velocity,
    gradient,
    *,
    step,
    learning_rate,
    decays,
    epsilon,
):
    """Update a variable and its two moments as Keras's Adam does, in one pass.

    Args:
        variable: as an optimiser's `update_step` gets it.
        momentum, velocity: Keras variables, the moments.
        gradient: of the variable's shape.
        step: the number of this update, from 1.
        learning_rate: of this update.
        decays: of the two moments.
        epsilon: added to the root of the second, before its correction.
    """
    done = tf.cast(step, gradient.dtype)
    powers = [tf.pow(tf.cast(decay, gradient.dtype), done) for decay in decays]
    tf.raw_ops.ResourceApplyAdam(
        var=variable.handle,
        m=momentum.value.handle,
        v=velocity.value.handle,
        beta1_power=powers[0],
        beta2_power=powers[1],
        lr=tf.cast(learning_rate, gradient.dtype),
        beta1=decays[0],
        beta2=decays[1],
        epsilon=epsilon,
        grad=gradient,
    )


def squared_gradients(function, variables, *arrays):
    """Return the sum over rows of the squared gradient of `function`.

    Args:
        function: one row of each array -> scalar, of `keras.ops` and models.
        variables: Keras variables; zeros come back for one it does not reach.
        arrays: `(n, ...)` each, all of one length.

    Returns:
        list of float64 arrays, of the shapes of `variables`.
    """

    # One call for all rows: a call a row costs more than its gradient.
    @tf.function
    def compiled(*tensors):
        def add(row, totals):
            rows = [tensor[row] for tensor in tensors]
            _, slopes = value_and_gradients(lambda: function(*rows), variables)
            wide = [tf.cast(slope, tf.float64) for slope in slopes]
            return row + 1, [t + s * s for t, s in zip(totals, wide)]

        start = [tf.zeros(v.shape, tf.float64) for v in variables]
        count = tf.shape(tensors[0])[0]
        return tf.while_loop(lambda row, _: row < count, add, (0, start))[1]

    found = compiled(*map(tf.convert_to_tensor, arrays))
    return [total.numpy() for total in found]
