"""The bench: its arithmetic and its table, without measuring anything."""

import importlib.util
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


def test_another_answer_than_that_of_keras_ends_the_bench(bench, monkeypatch):
    end = {"steps": 10, "distance": 2 * bench.TOLERANCE}
    monkeypatch.setattr(bench, "_contend", lambda *_: {"linear": end})
    with pytest.raises(SystemExit, match="not the answer"):
        bench._same_answer(None, None)


def test_the_table_says_every_part(bench):
    ends = {"steps": 10, "distance": 1e-6}
    rows = bench._compare(
        {"ours": [report(1.0)], "A": [report(7.5, accuracy=0.8)]}, "ours"
    )
    spent = {"hidden": 60.0, "linear": 20.0, "other": 30.0, "peak": 1.2}
    found = {
        "machine": {
            "processor": "Some",
            "cores": 2,
            "isa": ["avx2"],
            "date": "2026-01-01",
        },
        "same_answer": {"gate": {"linear": ends, "hidden": ends}},
        "head": {
            "rows": rows,
            "profile": {
                "machine": 200.0,
                "rates": {"features": 100.0, "training": 150.0},
                "seconds": {"features": 2.0, "training": 4.0},
            },
        },
        "grid": {"rows": rows, "floor": {"best": 200, "seconds": 9.0, **spent}},
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
            }
        },
    }
    assert set(found) - {"machine"} == set(bench.PARTS)
    text = bench._table(found)
    assert "| Keras's guide | 7.5 | 7.50 [7.50, 7.50] | 80.00% |" in text
    # 2 s at half the rate and 4 s at three quarters of it.
    assert "it would be 4.0 s" in text
    assert "[-3.00, +1.00], outside the gate" in text
    assert "213 runs in 90 s [80, 99] by 2 workers" in text
