"""The one place that writes files: whole, by rename, under a lock.

A file at its final name is complete or absent, whatever kills the process.
"""

import contextlib
import errno
import hashlib
import os
import sys
import time
import uuid
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, which `check_system` refuses.
    fcntl = None  # type: ignore[assignment]

from ktransfer.errors import KTransferError

_TEMPORARY = ".part-"


def check_system():
    """Refuse a system without file locks, as Windows is.

    Raises:
        KTransferError: `E_SYSTEM`.
    """
    if fcntl is None:
        raise KTransferError(
            "E_SYSTEM", "it runs on Linux and macOS; on Windows, use WSL."
        )


def cache():
    """Return the user's cache folder of ktransfer, which need not exist."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "ktransfer"


def sha256(*chunks):
    """Return the sha256 of the `chunks` (bytes or C-contiguous arrays)."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(memoryview(chunk).cast("B"))
    return digest.hexdigest()


def write(path, *chunks, lasting=True):
    """Put the bytes of `chunks` at `path` by rename, the old ones until then.

    Args:
        path: of the file.
        chunks: bytes or C-contiguous arrays, one after the other.
        lasting: wait until the disk has them. What can be made again, and is
            told from what is damaged, need not.

    Raises:
        KTransferError: `E_DISK` or `E_RESULTS_DIR` when the system refuses.
    """
    path = Path(path)
    temporary = _temporary(path)
    try:
        _write_new(temporary, chunks, lasting)
        os.replace(temporary, path)
        if lasting:
            _sync_folder(path.parent)
    except OSError as error:
        raise _refusal(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _temporary(path):
    """Return a name beside `path` that tells the process that writes it."""
    own = f"{os.getpid()}-{uuid.uuid4().hex}"
    return path.with_name(f".{path.stem}{_TEMPORARY}{own}{path.suffix}")


def _write_new(path, chunks, lasting):
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    with open(descriptor, "wb") as file:
        for chunk in chunks:
            file.write(chunk)
        file.flush()
        mask = os.umask(0)
        os.umask(mask)
        os.fchmod(descriptor, 0o644 & ~mask)
        if lasting:
            os.fsync(descriptor)


def _sync_folder(folder):
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refusal(path, error):
    name = "E_RESULTS_DIR" if _is_a_matter_of_the_folder(error) else "E_DISK"
    return KTransferError(
        name,
        f"cannot write {path}: {error.strerror}; expected a writable folder "
        "with free space. Name another one or free the disk.",
    )


def _is_a_matter_of_the_folder(error):
    return error.errno in (
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.ENOTDIR,
        errno.EEXIST,
        errno.EISDIR,
        errno.ENAMETOOLONG,
    )


def remove_leftovers(folder):
    """Remove temporary files whose writer was killed; call it under a lock."""
    for path in Path(folder).glob(f".*{_TEMPORARY}*"):
        process = path.name.split(_TEMPORARY)[1].split("-")[0]
        if not process.isdigit() or not _is_alive(int(process)):
            path.unlink(missing_ok=True)


def _is_alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextlib.contextmanager
def lock(path, timeout=None):
    """Hold the exclusive lock file `path`; say every 10 s that one waits.

    The lock saves work; correctness rests on `write` alone, so a file system
    without `flock` costs one warning and nothing else.

    Args:
        path: the lock file, made when absent and never removed.
        timeout: seconds to wait; None waits for ever.

    Raises:
        KTransferError: `E_BUSY` after `timeout` seconds.
    """
    check_system()
    path = Path(path)
    try:
        descriptor = _opened_lock(path)
    except OSError as error:
        raise _refusal(path, error) from error
    try:
        _acquire(descriptor, path, timeout)
        yield
    finally:
        os.close(descriptor)


def _opened_lock(path):
    """Return a descriptor of the lock file `path`, made when absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(path, flags, 0o644)


def _acquire(descriptor, path, timeout):
    start, said = time.monotonic(), 0.0
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            waited = time.monotonic() - start
            if timeout is not None and waited >= timeout:
                raise KTransferError(
                    "E_BUSY",
                    f"waited {waited:.0f} s for {path}, which another process "
                    "holds; let it finish or stop it.",
                ) from None
            if waited - said >= 10:
                said = waited
                print(f"waiting for {path} ({waited:.0f} s)", file=sys.stderr)
            time.sleep(0.05)
        except OSError as error:
            _warn_of_no_locks(path, error)
            return


def _warn_of_no_locks(path, error):
    print(
        f"warning: no file locks at {path} ({error.strerror}); "
        "work may be done twice, results stay correct",
        file=sys.stderr,
    )
