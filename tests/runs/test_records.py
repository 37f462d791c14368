"""Records: their place, their order, and every way in which one is refused."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from ktransfer import fingerprints, runs
from ktransfer.data import tasks
from ktransfer.errors import KTransferError
from ktransfer.runs import Run

PACKAGE = Path(runs.__file__).parents[1]
RUN = Run(
    experiment="trial",
    method="fine_tuning",
    target="digits",
    steps=60,
    seed=2,
    labels_per_class=10,
    sources=("letters",),
    source_seed=1,
    source_steps=400,
    hyperparameters=(("learning_rate", 1e-3),),
)


def record(run=RUN, **fields):
    return {
        **runs.as_fields(run),
        "status": "ok",
        "fingerprint": "0" * 64,
        "test_accuracy": 0.5,
        **fields,
    }


def file_of(results):
    return runs.record_path(results, RUN)


def test_path_and_fields_lead_back_to_the_run(tmp_path):
    path = file_of(tmp_path)
    assert path.relative_to(tmp_path).as_posix() == (
        "trial/records/letters-digits/fine_tuning.jsonl"
    )
    assert runs.from_fields(json.loads(json.dumps(runs.as_fields(RUN)))) == RUN
    several = RUN._replace(hyperparameters=(("block", ("block1", "block2")),))
    fields = json.loads(json.dumps(runs.as_fields(several)))
    assert runs.from_fields(fields) == several
    assert len({several, runs.from_fields(fields)}) == 1
    two = RUN._replace(sources=("letters", "digits_after_letters"))
    assert "letters+digits_after_letters-digits" in str(
        runs.record_path(tmp_path, two)
    )
    none = RUN._replace(sources=())
    assert "none-digits" in str(runs.record_path(tmp_path, none))


@pytest.mark.parametrize("name", ["../../x", "a/b", "a\0b", "-rf", "", "a-b"])
def test_names_cannot_leave_their_folder(tmp_path, name):
    with pytest.raises(KTransferError) as caught:
        runs.record_path(tmp_path, RUN._replace(target=name))
    assert caught.value.name == "E_ARGUMENT"


def test_lines_are_sorted_and_a_run_has_one(tmp_path):
    for seed, labels in ((3, None), (1, 100), (1, 10), (0, 100), (1, 10)):
        run = RUN._replace(seed=seed, labels_per_class=labels)
        runs.write(tmp_path, record(run, test_accuracy=0.1 * seed))
    found = runs.read(file_of(tmp_path))
    places = [(r["labels_per_class"], r["seed"]) for r in found]
    assert places == [(10, 1), (100, 0), (100, 1), (None, 3)]


def test_the_order_of_writing_leaves_no_trace(tmp_path):
    several = [RUN._replace(seed=seed) for seed in range(3)]
    for folder, order in (
        (tmp_path / "a", several),
        (tmp_path / "b", several[::-1]),
    ):
        for run in order:
            runs.write(folder, record(run))
    assert (
        file_of(tmp_path / "a").read_bytes()
        == file_of(tmp_path / "b").read_bytes()
    )


def test_not_a_number_is_not_written(tmp_path):
    with pytest.raises(ValueError):
        runs.write(tmp_path, record(test_accuracy=float("nan")))
    assert not file_of(tmp_path).exists()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace('"test_accuracy":0.5', '"test_accuracy":0.9'),
        lambda text: text[: len(text) // 2],
        lambda text: text + text,
        lambda text: text.replace('"schema":1', '"schema":2'),
        lambda text: "[" * 100_000,
        lambda text: "{}\n",
    ],
)
def test_a_spoilt_line_is_refused_and_kept(tmp_path, spoil):
    runs.write(tmp_path, record())
    path = file_of(tmp_path)
    spoilt = spoil(path.read_text(encoding="utf-8"))
    path.write_text(spoilt, encoding="utf-8")
    with pytest.raises(KTransferError) as caught:
        runs.read(path)
    assert (
        caught.value.name == "E_RECORD"
        and "line 1" in caught.value.message
        or ("line 2" in caught.value.message)
    )
    with pytest.raises(KTransferError):
        runs.write(tmp_path, record())
    assert path.read_text(encoding="utf-8") == spoilt


def test_a_record_in_the_wrong_place_is_refused(tmp_path):
    runs.write(tmp_path, record())
    moved = file_of(tmp_path).with_name("scratch.jsonl")
    file_of(tmp_path).rename(moved)
    with pytest.raises(KTransferError, match="wrong place"):
        runs.read(moved)


def test_freshness_is_the_fingerprint_and_not_the_time(tmp_path):
    fresh = record(fingerprint=runs.fingerprint(RUN))
    runs.write(tmp_path, fresh)
    os.utime(file_of(tmp_path), (0, 0))
    assert runs.is_fresh(runs.find(tmp_path, RUN), RUN)
    assert not runs.is_fresh(record(), RUN)
    assert not runs.is_fresh({**fresh, "status": "failed"}, RUN)
    assert not runs.is_fresh(None, RUN)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 3},
        {"steps": 61},
        {"target": "digits_0to4"},
        {"source_steps": 401},
        {"source_seed": 2},
        {"method": "scratch", "sources": ()},
        {"hyperparameters": ()},
    ],
)
def test_everything_that_moves_a_number_moves_the_fingerprint(change):
    assert runs.fingerprint(RUN) != runs.fingerprint(RUN._replace(**change))


def test_the_experiments_name_and_file_times_do_not(monkeypatch):
    assert runs.fingerprint(RUN) == runs.fingerprint(
        RUN._replace(experiment="b")
    )
    before = runs.fingerprint(RUN)
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    assert runs.fingerprint(RUN) != before


def test_a_derived_source_knows_its_base():
    run = RUN._replace(sources=("letters", "digits_after_letters"))
    base, derived = runs.pretrainings(run)
    assert runs.before(base) is None
    assert runs.before(derived) == base
    assert derived.task == "digits"


def test_collect_marks_stale_records(tmp_path):
    runs.write(tmp_path, record())
    other = RUN._replace(seed=9)
    fresh = {"code": runs.code(other), "fingerprint": runs.fingerprint(other)}
    runs.write(tmp_path, record(other, **fresh))
    found = runs.collect(tmp_path, [RUN, other, RUN._replace(seed=10)])
    assert [(r["seed"], r["stale"]) for r in found] == [(2, True), (9, False)]


def test_collect_fetches_nothing(monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("KTRANSFER_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    run = RUN._replace(target="mnist_7_8_9")
    runs.write(tmp_path, record(run))
    (found,) = runs.collect(tmp_path, [run])
    assert found["stale"], "a record that does not say its code is stale"
    assert capsys.readouterr().err == ""
    # The code is here, whatever else is not.
    for code, stale in ((runs.code(run), False), ("0" * 64, True)):
        runs.write(tmp_path, record(run, code=code))
        (found,) = runs.collect(tmp_path, [run])
        assert found["stale"] == stale


VALIDATION = {"evaluation": "validation"}
SMOOTHED = {"recipe": "label_smoothing"}
CARRY_OUT, EVALUATION = "runs/carry_out.py", "measures/evaluation.py"


@pytest.mark.parametrize(
    ("change", "other", "module", "name"),
    [
        ({}, VALIDATION, EVALUATION, "evaluate"),
        (VALIDATION, {}, CARRY_OUT, "_on_held_out"),
        (
            {"evaluation": "information"},
            {},
            "measures/evaluation.py",
            "information",
        ),
        ({"scores": ("leep",)}, {}, "measures/transferability.py", "leep"),
        (
            {"scores": ("nce",)},
            {"scores": ("leep",)},
            "measures/transferability.py",
            "SCORES",
        ),
        (
            {"recipe": "label_smoothing"},
            {},
            "runs/sources.py",
            "label_smoothing",
        ),
        ({"backbone": "vgg"}, {}, "models/backbones.py", "vgg"),
    ],
)
def test_what_a_run_asks_for_is_in_its_hash(spy, change, other, module, name):
    calls = spy(fingerprints, "reached")
    texts = []
    for asked in (change, other):
        fingerprints.forget()
        runs.code(RUN._replace(**asked))
        texts.append(calls.pop().result.get((PACKAGE / module, name)))
    assert texts[0] and texts[0] != texts[1]


def test_a_text_may_hold_what_ends_a_line_elsewhere(tmp_path):
    odd = RUN._replace(hyperparameters=(("block", "a\u2028b\x0cc\x85d"),))
    runs.write(tmp_path, record(odd))
    runs.write(tmp_path, record())
    assert len(runs.read(file_of(tmp_path))) == 2


@pytest.fixture
def own_data(tmp_path, monkeypatch):
    """A function (name, seed) that writes a data set of the user's own."""
    monkeypatch.setenv("KTRANSFER_DATA", str(tmp_path))

    def write(name, seed):
        x = np.random.default_rng(seed).integers(0, 256, (8, 8, 8, 3), "uint8")
        y = np.arange(8) % 2
        arrays = {"x_train": x, "y_train": y, "x_test": x, "y_test": y}
        np.savez(tmp_path / f"{name}.npz", **arrays)
        for kept in (tasks._problem, tasks._digest, tasks._whole_task):
            kept.cache_clear()
        runs.source_fingerprint.cache_clear()

    return write


@pytest.mark.parametrize("after", [False, True])
def test_other_images_of_a_source_move_the_fingerprint(own_data, after):
    name = "digits_after_mine" if after else "mine"
    run = RUN._replace(sources=(name,))
    (pretraining,) = runs.pretrainings(run)
    own_data("mine", 0)
    before = runs.fingerprint(run), runs.source_fingerprint(pretraining)
    own_data("mine", 1)
    now = runs.fingerprint(run), runs.source_fingerprint(pretraining)
    assert before[0] != now[0] and before[1] != now[1]


def test_the_classes_of_a_task_are_in_its_hash(monkeypatch):
    before = runs.fingerprint(RUN)
    monkeypatch.setattr(tasks, "_LABEL_SPACES", {"digits": "others"})
    assert runs.fingerprint(RUN) != before
