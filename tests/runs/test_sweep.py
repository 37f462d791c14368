"""A sweep: resumes, repeats bit for bit, stops at once."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sweeps import Here, planned, sourced

from ktransfer import runs
from ktransfer.errors import KTransferError
from ktransfer.runs.carry_out import commit
from ktransfer.runs.sweep import sweep
from ktransfer.runs.workers import local_executor, stop


def bytes_of(results, without=("seconds", "sha256")):
    lines = {}
    for path in sorted((results / "trial" / "records").rglob("*.jsonl")):
        for number, record in enumerate(runs.read(path)):
            kept = {k: v for k, v in record.items() if k not in without}
            lines[path.name, number] = json.dumps(kept, sort_keys=True)
    return lines


def test_a_sweep_does_what_is_missing_and_nothing_twice(tmp_path):
    wanted = planned("majority", "logistic_regression")
    assert sweep(wanted, tmp_path, Here()) == (4, 0)
    first = bytes_of(tmp_path)
    assert sweep(wanted, tmp_path, Here()) == (0, 0)
    path = runs.record_path(tmp_path, wanted[-1])
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:-1]), encoding="utf-8")
    os.utime(path, (2**31, 2**31))
    here = Here()
    assert sweep(wanted, tmp_path, here) == (1, 0)
    assert here.calls == ["carry_out_all"]
    assert bytes_of(tmp_path) == first


def test_order_and_processes_leave_no_trace(tmp_path):
    wanted = planned("majority", "logistic_regression") + sourced(
        "feature_extraction"
    )
    sweep(wanted, tmp_path / "here", Here())
    pool = local_executor(2)
    try:
        sweep(wanted[::-1], tmp_path / "there", pool)
    finally:
        stop(pool)
    assert bytes_of(tmp_path / "here") == bytes_of(tmp_path / "there")


def test_a_record_says_by_which_commit_and_choice(tmp_path):
    (run,) = planned("majority", seeds=(0,))
    sweep([run], tmp_path, Here(), choice="chosen")
    record = runs.find(tmp_path, run)
    assert record["choice"] == "chosen"
    assert record["commit"] == commit()
    assert re.fullmatch(r"([0-9a-f]{7,40}(-dirty)?)?", record["commit"])
    here = Here()
    assert sweep([run], tmp_path, here, choice="other") == (1, 0)
    assert sweep([run], tmp_path, here, choice="other") == (0, 0)


def test_ctrl_c_stops_within_seconds_and_says_so(tmp_path):
    script = tmp_path / "long.py"
    script.write_text(
        "from ktransfer.runs import Run\n"
        "from ktransfer.runs.planning import Experiment\n"
        "def runs():\n"
        "    one = Run('', 'scratch', 'digits', 10**5, 0)\n"
        "    return [one, one._replace(seed=1)]\n"
        "EXPERIMENT = Experiment('long', runs, lambda records, mix: {})\n",
        encoding="utf-8",
    )
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "ktransfer.cli", "run", str(script)),
            *("--results", str(tmp_path / "results"), "--jobs", "2"),
        ],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.default_int_handler
        ),
    )
    try:
        # Both workers are at their run when its lock is there.
        locks = tmp_path / "results" / ".locks" / "long"
        end = time.monotonic() + 60
        while len(list(locks.glob("*"))) < 2 and time.monotonic() < end:
            time.sleep(0.1)
        start = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=20)
        assert time.monotonic() - start < 5
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130
    assert "E_INTERRUPTED" in errors and "Traceback" not in errors


class Killed(Here):
    """An executor whose workers end while they carry out a run, or a source."""

    def __init__(self, pool, during):
        super().__init__()
        self.pool, self.during = pool, during

    def submit(self, function, *args):
        if function.__name__ == self.during:
            return self.pool.submit(os._exit, 9)
        return super().submit(function, *args)


@pytest.mark.parametrize("during", ["carry_out_all", "_ensure_source"])
def test_a_worker_that_is_killed_is_said_in_one_line(tmp_path, during):
    (run,) = sourced("feature_extraction")
    pool = local_executor(1)
    try:
        with pytest.raises(KTransferError, match="fewer JOBS") as caught:
            sweep([run], tmp_path, Killed(pool, during))
    finally:
        stop(pool)
    assert caught.value.exit_code == 4


def test_a_pool_that_broke_before_is_said_in_one_line(tmp_path):
    pool = local_executor(1)
    try:
        assert pool.submit(os._exit, 9).exception()
        with pytest.raises(KTransferError, match="fewer JOBS") as caught:
            sweep(planned("majority"), tmp_path, pool)
    finally:
        stop(pool)
    assert caught.value.exit_code == 4 and caught.value.__suppress_context__


LONG = """
from ktransfer.runs import Run
from ktransfer.runs.planning import Experiment
EXPERIMENT = Experiment(
    "long",
    lambda: [Run("", "scratch", "digits", 10**5, 0)],
    lambda records, mix: {},
)
"""


def test_a_worker_that_is_killed_ends_the_command_with_4(tmp_path):
    script = tmp_path / "long.py"
    script.write_text(LONG, encoding="utf-8")
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "ktransfer", "run", str(script)),
            *("--results", str(tmp_path / "results"), "--jobs", "1"),
        ],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        os.kill(worker_of(process.pid), signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 4, errors
    assert "E_MEMORY" in errors.splitlines()[-1]
    assert "Traceback" not in errors


def worker_of(parent):
    """Return the process of the one worker, once there is one."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                above = (place / "stat").read_text().rpartition(")")[2].split()
                line = (place / "cmdline").read_bytes()
                if int(above[1]) == parent and b"spawn_main" in line:
                    return int(place.name)
        time.sleep(0.1)
    raise AssertionError("no worker was started")


UNGUARDED = {
    "sweep": """
from ktransfer.runs import Run
from ktransfer.runs.sweep import sweep
from ktransfer.runs.workers import local_executor
sweep([Run("x", "majority", "digits", 2, 0, 1)], "results", local_executor(2))
""",
    "command": """
import sys
from ktransfer import cli
sys.exit(cli.main("run --method majority --target digits --jobs 2".split()))
""",
}


@pytest.mark.parametrize("name", UNGUARDED)
def test_a_script_that_each_worker_would_run_again_is_told(tmp_path, name):
    script = tmp_path / "mine.py"
    script.write_text(UNGUARDED[name], encoding="utf-8")
    root = Path(runs.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    last = done.stderr.splitlines()[-1]
    assert 'if __name__ == "__main__":' in last and "E_ARGUMENT" in last
    assert "BrokenProcessPool" not in done.stderr
    assert done.stderr.count("E_ARGUMENT") == 1
    if name == "command":
        assert done.returncode == 2 and "Traceback" not in done.stderr
