"""A sweep: resumes, repeats bit for bit, records what went wrong."""

import contextlib
import gc
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from sweeps import Here, planned, sourced

from ktransfer import data, runs
from ktransfer.engine import programs, training
from ktransfer.errors import Diverged, KTransferError, NotApplicable
from ktransfer.models.surgery import leaves
from ktransfer.runs import execute, sources


def bytes_of(results, without=("seconds", "sha256")):
    lines = {}
    for path in sorted((results / "trial" / "records").rglob("*.jsonl")):
        for number, record in enumerate(runs.read(path)):
            kept = {k: v for k, v in record.items() if k not in without}
            lines[path.name, number] = json.dumps(kept, sort_keys=True)
    return lines


def test_a_sweep_does_what_is_missing_and_nothing_twice(tmp_path):
    wanted = planned("majority", "logistic_regression")
    assert execute.sweep(wanted, tmp_path, Here()) == (4, 0)
    first = bytes_of(tmp_path)
    assert execute.sweep(wanted, tmp_path, Here()) == (0, 0)
    path = runs.record_path(tmp_path, wanted[-1])
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:-1]), encoding="utf-8")
    os.utime(path, (2**31, 2**31))
    here = Here()
    assert execute.sweep(wanted, tmp_path, here) == (1, 0)
    assert here.calls == ["_carry_out_all"]
    assert bytes_of(tmp_path) == first


def test_order_and_processes_leave_no_trace(tmp_path):
    wanted = planned("majority", "logistic_regression") + sourced(
        "feature_extraction"
    )
    execute.sweep(wanted, tmp_path / "here", Here())
    pool = execute.local_executor(2)
    try:
        execute.sweep(wanted[::-1], tmp_path / "there", pool)
    finally:
        execute.stop(pool)
    assert bytes_of(tmp_path / "here") == bytes_of(tmp_path / "there")


def test_no_graph_of_a_run_stays(tmp_path):
    from tensorflow.python.framework.func_graph import FuncGraph

    def graphs():
        gc.collect()
        return sum(isinstance(x, FuncGraph) for x in gc.get_objects())

    before = graphs()
    for run in sourced("fine_tuning", seeds=(0, 1)):
        assert execute.carry_out(tmp_path, run)["status"] == "ok"
    # But for the programs that the next run may use.
    programs.forget()
    assert graphs() <= before


def test_a_worker_has_one_thread_for_numpy_too():
    pool = execute.local_executor(1)
    try:
        found = pool.submit(os.getenv, "OPENBLAS_NUM_THREADS").result()
    finally:
        execute.stop(pool)
    assert found == "1"


def test_a_record_says_what_was_done(tmp_path):
    (run,) = sourced("feature_extraction")
    record = execute.carry_out(tmp_path, run)
    test = data.test_split("digits")
    right = record["test_accuracy"] * len(test.y)
    assert right == pytest.approx(round(right), abs=1e-9)
    assert record["num_test_images"] == len(test.y) == 1000
    assert record["steps_done"] == 2
    assert record["trainable_parameters"] == 529_930
    assert record["frozen_layers"] == [
        "block1_conv",
        "block2_conv",
        "block3_conv",
    ]
    assert record["trained_layers"] == ["head_hidden", "logits"]
    assert record["num_labels"] == 10
    assert record["source_origins"] == [data.load("letters_0to4").origin]
    assert np.mean(record["per_class_accuracy"]) == pytest.approx(
        record["test_accuracy"], abs=1e-5
    )
    assert record["curve"][-1][0] == 2


def test_evaluation_counts_every_image_once(monkeypatch):
    logits = np.zeros((1000, 10))
    test = data.test_split("digits")
    logits[np.arange(1000), test.y] = 1.0
    logits[:7] = 0.0
    logits[np.arange(7), (test.y[:7] + 1) % 10] = 1.0
    monkeypatch.setattr(training, "predict", lambda model, x: logits)
    found = execute.evaluate(None, "digits")
    assert found["test_accuracy"] == 0.993
    expected = np.log(np.exp(1) + 9) - np.where(np.arange(1000) < 7, 0, 1)
    assert found["test_loss"] == pytest.approx(expected.mean())
    logits[3, 3] = np.nan
    assert execute.evaluate(None, "digits")["status"] == "diverged"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NotApplicable("it needs BatchNorm"), "not_applicable"),
        (Diverged("a kernel is not finite"), "diverged"),
        (KeyError("a bug"), "failed"),
    ],
)
def test_what_goes_wrong_is_recorded(tmp_path, monkeypatch, error, status):
    def raising(name):
        def transfer(*args, **kwargs):
            raise error

        return transfer

    monkeypatch.setattr(execute.methods, "load", raising)
    (run,) = planned("majority", seeds=(0,))
    record = execute.carry_out(tmp_path, run)
    assert record["status"] == status and record["reason"]
    assert record["test_accuracy"] is None
    kept = runs.find(tmp_path, run)
    assert runs.is_fresh(kept, run) == (status != "failed")
    assert execute.sweep([run], tmp_path, Here())[1] == (status == "failed")


def test_memory_and_disk_leave_no_record(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(execute.methods, "load", lambda name: full)
    (run,) = planned("majority", seeds=(0,))
    with pytest.raises(KTransferError) as caught:
        execute.carry_out(tmp_path, run)
    assert caught.value.name == "E_MEMORY"
    assert runs.find(tmp_path, run) is None


def test_a_method_cannot_open_the_test_split(tmp_path, monkeypatch):
    def peeking(target, **options):
        return data.test_split(target.name)

    monkeypatch.setattr(execute.methods, "load", lambda name: peeking)
    (run,) = planned("majority", seeds=(0,))
    record = execute.carry_out(tmp_path, run)
    assert record["status"] == "failed" and "test split" in record["reason"]


def adds(source):
    source.model.weights[0].assign(source.model.weights[0] + 1)


def freezes(source):
    source.model.layers[-1].trainable = False


def diverges(source):
    adds(source)
    raise Diverged("far away")


@pytest.mark.parametrize("vandal", [adds, freezes, diverges])
def test_a_method_that_changes_its_source_harms_no_other(
    tmp_path, monkeypatch, vandal
):
    first, second = sourced("fine_tuning", seeds=(0, 1))
    wanted = execute.carry_out(tmp_path / "alone", second)
    with monkeypatch.context() as patch:
        patch.setattr(
            execute.methods,
            "load",
            lambda name: lambda target, source, **options: vandal(source),
        )
        record = execute.carry_out(tmp_path, first)
    assert record["status"] in ("failed", "diverged")
    assert "source" in record["reason"] or vandal is diverges
    found = execute.carry_out(tmp_path, second)
    assert found["test_loss"] == wanted["test_loss"]


def test_sources_are_made_once_and_again_when_damaged(tmp_path, capsys):
    (run,) = sourced("feature_extraction")
    (pretraining,) = runs.pretrainings(run)
    first, facts = sources.load(tmp_path, pretraining)
    place = sources.path(tmp_path, pretraining)
    content = place.read_bytes()
    again, same = sources.load(tmp_path, pretraining)
    assert facts == same and place.read_bytes() == content
    assert [v.numpy().tobytes() for v in first.model.variables] == [
        v.numpy().tobytes() for v in again.model.variables
    ]
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 255
    place.write_bytes(bytes(flipped))
    third, _ = sources.load(tmp_path, pretraining)
    assert "damaged" in capsys.readouterr().err
    assert [v.numpy().tobytes() for v in first.model.variables] == [
        v.numpy().tobytes() for v in third.model.variables
    ]


def test_a_source_after_another_starts_from_its_features(tmp_path):
    (run,) = sourced("feature_extraction")
    pretraining = runs.pretrainings(run)[0]
    derived = pretraining._replace(task="digits", after="letters_0to4")
    base, _ = sources.load(tmp_path, pretraining)
    other, _ = sources.load(tmp_path, derived)
    assert other.task.name == "digits"
    assert sources.path(tmp_path, derived).exists()
    assert sources.path(tmp_path, pretraining).exists()
    assert base.model.input.shape != other.model.input.shape


def test_an_outdated_source_is_made_again(tmp_path, monkeypatch):
    (run,) = sourced("feature_extraction")
    (pretraining,) = runs.pretrainings(run)
    sources.load(tmp_path, pretraining)
    place = sources.path(tmp_path, pretraining)
    before = place.read_bytes()
    monkeypatch.setattr(runs, "source_fingerprint", lambda p: "of today")
    _, facts = sources.load(tmp_path, pretraining)
    assert facts["fingerprint"] == "of today"
    assert place.read_bytes() != before


def test_a_source_after_another_has_its_features_at_the_start(
    tmp_path, monkeypatch
):
    (run,) = sourced("feature_extraction")
    base = runs.pretrainings(run)[0]
    first, _ = sources.load(tmp_path, base)
    monkeypatch.setattr(sources.training, "fit", lambda *a, **options: None)
    derived = base._replace(task="digits", after="letters_0to4")
    second, _ = sources.load(tmp_path, derived)
    for name in ("block1_conv", "block2_conv", "block3_conv"):
        one, other = (
            next(x for x in leaves(s.model) if x.name == name)
            for s in (first, second)
        )
        assert np.array_equal(one.kernel, other.kernel)
        assert np.array_equal(one.bias, other.bias)


def test_a_record_says_by_which_commit_and_choice(tmp_path):
    (run,) = planned("majority", seeds=(0,))
    execute.sweep([run], tmp_path, Here(), choice="chosen")
    record = runs.find(tmp_path, run)
    assert record["choice"] == "chosen"
    assert record["commit"] == execute.commit()
    assert re.fullmatch(r"([0-9a-f]{7,40}(-dirty)?)?", record["commit"])
    here = Here()
    assert execute.sweep([run], tmp_path, here, choice="other") == (1, 0)
    assert execute.sweep([run], tmp_path, here, choice="other") == (0, 0)


def test_a_planted_keras_json_changes_nothing(tmp_path):
    home = tmp_path / ".keras"
    home.mkdir()
    (home / "keras.json").write_text('{"floatx": "float16"}', encoding="utf-8")
    program = (
        "from ktransfer.engine import backend; backend.check_settings()\n"
        "import keras; print(keras.config.floatx())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "HOME": str(tmp_path), "KERAS_HOME": str(home)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "float32", done.stderr


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
        time.sleep(12)
        start = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=20)
        assert time.monotonic() - start < 5
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130
    assert "E_INTERRUPTED" in errors and "Traceback" not in errors
