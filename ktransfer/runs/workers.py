"""Processes that carry out runs, with one thread each."""

import concurrent.futures
import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool

from ktransfer.errors import KTransferError

# NumPy's own threads, whose number moves bits as TensorFlow's does.
_NUMPY_THREADS = (
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
# The exit code of a worker that would start a sweep of its own.
_IMPORTED = 86


def num_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS


class _Spawning(multiprocessing.context.SpawnContext):
    """Spawns processes, since a forked TensorFlow hangs, and keeps them."""

    def __init__(self):
        super().__init__()
        self.started: list = []

    def Process(self, *args, **kwargs):  # type: ignore[override]
        process = super().Process(*args, **kwargs)
        self.started.append(process)
        return process


class Workers(concurrent.futures.ProcessPoolExecutor):
    """An executor of `jobs` processes that can be ended at once."""

    def __init__(self, jobs: int):
        self.jobs, self._context = jobs, _Spawning()
        super().__init__(jobs, self._context, _start_worker)

    def end(self) -> None:
        """Kill all processes, whatever they carry out."""
        for process in self._context.started:
            process.kill()

    def exit_codes(self) -> set[int | None]:
        """Return the exit codes, after a second for those that end.

        The executor waits for them too, in a thread of its own; for a moment
        the code is then known to neither.
        """
        until = time.monotonic() + 1
        while True:
            codes = {process.exitcode for process in self._context.started}
            if None not in codes or time.monotonic() > until:
                return codes
            time.sleep(0.01)


def local_executor(jobs: int) -> Workers:
    """Return an executor of `jobs` processes with one thread each."""
    end_if_imported()
    # Read when a new process imports NumPy.
    os.environ.update(dict.fromkeys(_NUMPY_THREADS, "1"))
    return Workers(jobs)


def _start_worker():
    # The parent answers Ctrl-C and stops the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with _silence():
        from ktransfer.engine import backend

        backend.pin()
        backend.start()


@contextlib.contextmanager
def _silence():
    """Keep what TensorFlow's start prints off the terminal of a sweep.

    Its messages about devices and kernels are written to the descriptor, and
    no setting reaches them. Errors are exceptions and come through.
    """
    if os.environ.get("KT_DEBUG") == "1":
        yield
        return
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


def end_if_imported() -> None:
    """End a worker that imports, and so runs, the script of its sweep again.

    Its parent says why, see `told_if_broken`.
    """
    # What `multiprocessing` itself looks at.
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        os._exit(_IMPORTED)


def jobs_of(executor: concurrent.futures.Executor) -> int:
    """Return how many processes `executor` has."""
    return executor.jobs if isinstance(executor, Workers) else 1


@contextlib.contextmanager
def told_if_broken(executor: concurrent.futures.Executor) -> Iterator[None]:
    """Say in one line why a worker ended in the `with` block.

    Raises:
        KTransferError: `E_MEMORY` if it was killed; `E_ARGUMENT` if the script
            of the sweep has no guard.
    """
    try:
        yield
    except BrokenProcessPool:
        codes = executor.exit_codes() if isinstance(executor, Workers) else ()
        if _IMPORTED in codes:
            raise KTransferError(
                "E_ARGUMENT",
                "the script starts a sweep when it is imported, as each worker "
                'does; put that below `if __name__ == "__main__":`.',
            ) from None
        raise KTransferError(
            "E_MEMORY",
            "a worker process was killed, most likely for memory; run again "
            "with fewer JOBS. What is finished is kept.",
        ) from None


def stop(executor: concurrent.futures.Executor) -> None:
    """End the worker processes of `executor` at once; no run is recorded."""
    if isinstance(executor, Workers):
        executor.end()
    executor.shutdown(wait=False, cancel_futures=True)
