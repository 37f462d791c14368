"""The bench: its arithmetic and its table, without measuring anything."""

import argparse
import importlib.util
import os
import sys
from pathlib import Path

import pytest

PLACE = Path(__file__).parents[1] / "bench" / "run.py"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_run", PLACE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def report(*seconds, accuracy=0.9, **facts):
    return {"seconds": list(seconds), "accuracy": accuracy, **facts}


def test_later_epochs_are_extrapolated_and_the_first_is_not(bench):
    assert bench._total(report(5.0, 2.0, 4.0)) == 11.0
    assert bench._total(report(5.0, 2.0, 4.0), epochs=10) == 5.0 + 9 * 3.0
    assert bench._total(report(5.0), epochs=10) == 5.0


def test_plain_keras_has_what_tensorflow_chooses(bench):
    # Importing the suite, as the bench does, has turned oneDNN on for us.
    assert "TF_ENABLE_ONEDNN_OPTS" in os.environ
    assert "TF_ENABLE_ONEDNN_OPTS" not in bench._environment()


def test_a_ratio_is_within_its_repeat(bench):
    found = {
        "ours": [report(1.0), report(2.0), report(4.0)],
        "A": [report(10.0), report(10.0), report(10.0)],
    }
    rows = bench._compare(found, "ours")
    # Not 10 / 2: the median of 10, 5 and 2.5.
    assert rows["A"]["ratio"] == [2.5, 5.0, 10.0]
    assert rows["ours"]["ratio"] == [1.0, 1.0, 1.0]


def test_contenders_take_turns_in_alternating_order(bench):
    order = []

    def contender(name):
        return lambda: order.append(name) or report(1.0)

    bench._repeated(3, a=contender("a"), b=contender("b"))
    assert order == ["a", "b", "b", "a", "a", "b"]


def test_an_absent_peer_is_skipped_and_not_tried_again(bench, capsys):
    tried = []
    found = bench._repeated(
        3, ours=lambda: report(1.0), peer=lambda: tried.append(1)
    )
    assert list(found) == ["ours"] and len(tried) == 1
    assert "peer skipped" in capsys.readouterr().err


def test_what_was_not_run_to_the_end_has_no_accuracy(bench):
    found = {
        "ours": [report(8.0)],
        "B": [report(1.0, 1.0, 1.0)],
        "C": [report(1.0, 1.0)],
    }
    rows = bench._compare(found, "ours", epochs=3)
    assert rows["B"]["accuracy"] and rows["ours"]["accuracy"]
    assert rows["C"]["accuracy"] is None
    assert rows["C"]["ratio"][1] == 3 / 8


def test_another_answer_than_that_of_keras_ends_the_bench(bench, monkeypatch):
    end = {"steps": 10, "distance": 2 * bench.TOLERANCE}
    monkeypatch.setattr(bench, "_contend", lambda *_: {"linear": end})
    with pytest.raises(SystemExit, match="not the answer"):
        bench._same_answer(None, None)


def test_our_own_contender_is_never_skipped(bench, tmp_path, monkeypatch):
    (tmp_path / "contenders").mkdir()
    script = tmp_path / "contenders" / "script.py"
    script.write_text("import nothing_of_this_name")
    monkeypatch.setattr(bench, "HERE", tmp_path)
    assert bench._contend("script.py", tmp_path, peers=sys.executable) is None
    with pytest.raises(SystemExit, match="script.py failed"):
        bench._contend("script.py", tmp_path)


def test_minima_that_differ_end_the_bench(bench, monkeypatch):
    monkeypatch.setattr(
        bench,
        "_contend",
        lambda script, *_, **__: report(
            1.0, objective=0.5 if "ktransfer" in script else 0.6
        ),
    )
    with pytest.raises(SystemExit, match="not one minimum"):
        bench._regression(None, argparse.Namespace(repeats=1, peers=None))


@pytest.fixture
def grid(bench, monkeypatch):
    """What `_grid` makes of contenders whose heads differ in cost."""
    kinds = {"linear": [1.0, 3.0], "hidden": [10.0]}
    spent = {"hidden": 6.0, "linear": 2.0, "other": 3.0}
    answers = {
        "ktransfer_grid.py": report(40.0, spent=spent, peak=1.2),
        "stacked_heads.py": {"milliseconds": {"1": 0.2, "6": 0.1}},
    }

    def contend(script, *_, **__):
        # One of its own each time, since it is written to.
        return dict(answers.get(script) or report(5.0, kinds=kinds))

    rate = {"seconds": [0.1], "rate": 100.0}
    monkeypatch.setattr(bench, "_contend", contend)
    monkeypatch.setattr(bench, "_product_rate", lambda: rate)
    monkeypatch.setattr(bench.os, "sched_getaffinity", lambda _: {0, 1})
    return bench._grid(None, argparse.Namespace(repeats=2))


def test_the_grid_weighs_its_kinds_by_their_number(grid):
    # 5 s once, 108 linear heads of 2 s, 72 others of 10 s.
    assert grid["rows"]["A"]["seconds"] == [941.0] * 3
    assert grid["rows"]["A"]["ratio"][1] == 941.0 / 40
    assert grid["rows"]["A"]["extrapolated_from_heads"] == 3
    assert grid["rows"]["ours"]["accuracy"] == [0.9] * 3


def test_the_floor_of_the_grid_is_in_processor_seconds(bench, grid):
    # 72 heads x 38,400 images x the head's products, at 50 GFLOP/s a core.
    head = 2 * (1024 * 512 + 512 * 10) + 512 * 10
    wanted = 2 * 72 * 38_400 * head / 50e9
    assert grid["floor"]["least"]["hidden"] == pytest.approx(wanted)


def test_the_table_says_every_part(bench, grid):
    ends = {"steps": 10, "distance": 1e-6}
    whole = {**ends, "distance_of_keras_to_itself": 0.25}
    rows = bench._compare(
        {"ours": [report(1.0)], "A": [report(7.5, accuracy=0.8)]}, "ours"
    )
    found = {
        "same_answer": {
            "gate": {"linear": ends, "hidden": ends, "whole": whole}
        },
        "head": {
            "rows": rows,
            "absent": ["C"],
            "profile": {
                "best": [190.0, 200.0, 210.0],
                "rates": {"features": 100.0, "training": 150.0},
                "seconds": {"features": 2.0, "training": 4.0},
            },
        },
        "grid": grid,
        "convolutions": {
            "rows": rows,
            "precision": {
                "change": -0.001,
                "interval": [-0.03, 0.01],
                "seeds": 5,
            },
        },
        "regression": {"rows": rows},
        "quick": {
            "quick": {
                "jobs": 2,
                "peak": 1.1,
                "runs": 213,
                "seconds": [80, 90, 99],
                "spent": {"first": 50.0, "again": 80.0, "others": 30.0},
            }
        },
    }
    assert set(found) == set(bench.PARTS)
    machine = {
        "processor": "Some",
        "cores": 2,
        "isa": ["avx2"],
        "date": "2026-01-01",
    }
    for part in found.values():
        part.update(machine=machine, repeats=5)
    text = bench._table({"Some, 2 cores, avx2": found})
    assert text.count("**Some, 2 cores, avx2**; 2026-01-01.") == len(found)
    assert text.count("Repeats: 5.") == 4
    assert "| Keras's guide | 7.5 | 7.50 [7.50, 7.50] | 80.00% |" in text
    assert "| ADAPT `FineTuning` | not installed | | |" in text
    # 2 s at half the rate and 4 s at three quarters of it.
    assert "would take 4.0 s" in text
    assert "[-3.00, +1.00]; gate, at most 2 pp lower: OUTSIDE" in text
    assert "213 runs in 90 s [80, 99] by 2 workers" in text
    assert "all runs 80, what the first" in text
    assert "1 together 0.20, 6 together 0.10" in text


def test_a_part_says_every_machine_the_newest_first(bench):
    def on(date):
        machine = {"processor": date, "cores": 2, "isa": [], "date": date}
        quick = {"jobs": 2, "peak": 1.0, "runs": 3, "seconds": [1, 2, 3]}
        return {"quick": {"quick": quick, "machine": machine, "repeats": 2}}

    dates = ["2026-01-01", "2026-03-01", "2026-02-01"]
    text = bench._table({date: on(date) for date in dates})
    places = [text.index(f"**{date}, 2 cores**") for date in dates]
    assert places[1] < places[2] < places[0]
    assert text.count("## Every method once") == 1
