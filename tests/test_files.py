"""Files land whole, by rename; locks hand over when a holder dies."""

import errno
import os
import subprocess
import sys
import time

import pytest

from ktransfer import files
from ktransfer.errors import KTransferError

CALLS = ("open", "fsync", "replace", "fchmod")


def test_a_file_is_replaced_whole_and_nothing_is_left(tmp_path):
    path = tmp_path / "deep" / "record.jsonl"
    files.write(path, b"old")
    files.write(path, b"new")
    assert path.read_bytes() == b"new"
    assert [p.name for p in path.parent.iterdir()] == ["record.jsonl"]
    assert path.stat().st_mode & 0o600 == 0o600


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_failing_call_keeps_the_old_file(tmp_path, monkeypatch, call, code):
    path = tmp_path / "model.npz"
    files.write(path, b"old")

    def fail(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.os, call, fail)
    with pytest.raises(KTransferError) as caught:
        files.write(path, b"new")
    monkeypatch.undo()
    assert caught.value.name == "E_DISK" and caught.value.exit_code == 4
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["model.npz"]


def test_a_killed_writer_leaves_the_old_file_and_is_cleaned_up(tmp_path):
    """Die at each call of the writer; the shim stands in for a tracer."""
    path = tmp_path / "record.jsonl"
    files.write(path, b"old")
    program = (
        "import os, signal, sys; from ktransfer import files\n"
        "call, path = sys.argv[1:]\n"
        "die = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)\n"
        "setattr(files.os, call, die)\n"
        "files.write(path, b'new')\n"
    )
    for call in CALLS:
        done = subprocess.run([sys.executable, "-c", program, call, str(path)])
        assert done.returncode == -9
        assert path.read_bytes() == b"old"
    files.remove_leftovers(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["record.jsonl"]


def test_an_unwritable_folder_has_its_own_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(KTransferError) as caught:
        files.write(tmp_path / "file" / "record", b"")
    assert caught.value.name == "E_RESULTS_DIR"


def test_a_lock_waits_and_gives_up_with_a_name(tmp_path):
    with files.lock(tmp_path / "lock"):
        second = files.lock(tmp_path / "lock", timeout=0.2)
        with pytest.raises(KTransferError) as caught, second:
            pass
        assert caught.value.name == "E_BUSY" and caught.value.exit_code == 5
    with files.lock(tmp_path / "lock", timeout=0.2):
        pass


def test_a_killed_holder_gives_the_lock_up(tmp_path):
    path = tmp_path / "lock"
    program = (
        "import sys; from ktransfer import files\n"
        "with files.lock(sys.argv[1]):\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    # It reads until it is killed, since nothing closes what it reads.
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout.readline() == b"held\n"
    holder.kill()
    holder.wait()
    holder.stdin.close()
    holder.stdout.close()
    start = time.monotonic()
    with files.lock(path, timeout=5):
        assert time.monotonic() - start < 2


def test_a_system_without_locks_costs_one_warning(
    tmp_path, monkeypatch, capsys
):
    def missing(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", missing)
    with files.lock(tmp_path / "lock"):
        pass
    assert "no file locks" in capsys.readouterr().err
