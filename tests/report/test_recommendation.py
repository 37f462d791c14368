"""What a race is said to have found, from records alone."""

import pytest
from helpers import small_classifier

from ktransfer.report.recommendation import Recommendation, recommend
from ktransfer.runs import recommend as racing
from ktransfer.runs.recommend import Candidate, Found, Plan

MODEL = ("mine.keras",)
SCRATCH, LOGISTIC, RANDOM = (
    Candidate(name, models)
    for name, models in (
        ("scratch", ()),
        ("logistic_regression", ()),
        ("random_features", MODEL),
    )
)
TUNED, PROBE, FUSED = (
    Candidate(name, MODEL)
    for name in ("fine_tuning", "linear_probe", "concatenation")
)


def records(candidate, values, evaluation="validation", steps=60):
    key = "validation_accuracy" if evaluation != "test" else "test_accuracy"
    return [
        {
            "method": candidate.method,
            "source_models": list(candidate.models),
            "hyperparameters": {},
            "seed": seed,
            "steps": steps,
            "status": "ok",
            "seconds": 1.0,
            "evaluation": evaluation,
            key: value,
        }
        for seed, value in enumerate(values)
    ]


def found(held_out, tested=None, winner=None):
    """Return the recommendation of values by candidate, the best first."""
    plan = Plan(
        "x",
        "photos",
        None,
        (LOGISTIC, RANDOM, SCRATCH),
        (TUNED, PROBE, FUSED),
        {"hard_sharing": "it needs images"},
    )
    final = {
        candidate: records(candidate, values, "test")
        for candidate, values in (tested or {}).items()
    }
    rungs = {c: records(c, values) for c, values in held_out.items()}
    best = winner or next(iter(rungs))
    return Recommendation(
        plan, Found(60, rungs, best, final, plan.left_out), "accuracy", "r"
    )


def test_a_source_that_helps_is_said_to():
    answer = found(
        {TUNED: [0.8, 0.82, 0.78], SCRATCH: [0.5, 0.52, 0.51]},
        {TUNED: [0.8, 0.81, 0.79], SCRATCH: [0.5, 0.5, 0.5]},
    )
    assert answer.source.startswith("The source helps: fine_tuning is +30.0")
    assert "[+27.5, +32.5] above scratch" in answer.source


def test_it_is_measured_by_the_best_control_of_the_test_part():
    """On the held-out parts the other one was ahead."""
    answer = found(
        {PROBE: [0.8] * 3, LOGISTIC: [0.6] * 3, SCRATCH: [0.5] * 3},
        {PROBE: [0.8] * 3, LOGISTIC: [0.6] * 3, SCRATCH: [0.7] * 3},
    )
    assert "+10.0 points" in answer.source and "scratch" in answer.source


def test_a_source_that_does_not_help_is_said_not_to():
    values = {PROBE: [0.5, 0.54, 0.49], SCRATCH: [0.51, 0.5, 0.52]}
    answer = found(values, values)
    assert answer.source.startswith("The source does not help here")


def test_a_source_that_hurts_is_said_to():
    held = {
        SCRATCH: [0.8, 0.82, 0.81],
        PROBE: [0.79, 0.81, 0.82],
        TUNED: [0.5, 0.53, 0.51],
    }
    answer = found(held)
    assert answer.source.startswith("The source hurts here: fine_tuning is -29")


def test_random_features_are_no_source():
    answer = found({RANDOM: [0.9] * 3, SCRATCH: [0.5] * 3, TUNED: [0.6] * 3})
    assert "fine_tuning is -30.0" in answer.source


def test_what_cannot_be_told_apart_is_tied():
    answer = found(
        {
            PROBE: [0.80, 0.84, 0.82],
            FUSED: [0.81, 0.80, 0.83],
            TUNED: [0.60, 0.63, 0.61],
        }
    )
    assert answer.best == "linear_probe"
    assert answer.tied == [FUSED]
    assert "concatenation cannot be told from it" in answer.sentence
    notes = {line.name: line.note for line in answer.lines}
    assert notes["concatenation"] == "tied with the winner"
    assert notes["fine_tuning"] == ""


def test_an_earlier_rung_ties_with_nothing():
    answer = found({PROBE: [0.8, 0.8, 0.8]})
    answer.found.held_out[FUSED] = records(FUSED, [0.8], steps=15)
    assert answer.tied == []


def test_the_table_has_every_row_and_reason():
    values = {TUNED: [0.8, 0.82, 0.78], SCRATCH: [0.5, 0.52, 0.51]}
    text = found(values, values).table
    assert "fine_tuning" in text and "control" in text
    assert "it needs images: hard_sharing" in text
    assert text.splitlines()[-2].startswith("Use fine_tuning: test accuracy")


def test_a_balanced_metric_is_read():
    answer = found({TUNED: [0.5] * 3})
    answer.metric = "balanced_accuracy"
    for record in answer.found.held_out[TUNED]:
        record["validation_balanced_accuracy"] = 0.25
    assert answer.lines[0].held_out.mean == 0.25
    assert "balanced accuracy" in answer.table


@pytest.mark.parametrize("name", ["best", "tied", "source", "sentence"])
def test_one_seed_says_nothing_for_sure(name):
    answer = found({TUNED: [0.8], SCRATCH: [0.2]})
    assert getattr(answer, name) is not None
    assert "helps:" not in answer.source


def test_a_source_that_was_left_behind_is_said_not_to_help():
    answer = found({SCRATCH: [0.5, 0.52, 0.51], TUNED: [0.6]})
    assert answer.source == (
        "The source does not help here: no way of using it came as far as "
        "scratch."
    )


def test_of_two_rates_only_the_one_that_was_tested_has_a_test_value():
    slower = TUNED._replace(hyperparameters=(("learning_rate", 2e-4),))
    answer = found(
        {slower: [0.8, 0.82, 0.78], TUNED: [0.7, 0.72, 0.69]},
        {slower: [0.9, 0.9, 0.9]},
    )
    first, second = answer.lines
    assert first.test.mean == pytest.approx(0.9) and second.test is None


def test_the_time_that_is_asked_is_that_of_the_race(monkeypatch, tmp_path):
    """What reading the images took is counted, and is no other limit.

    The budget of a race that goes on is found by it.
    """
    races = []

    def noted(race, keep):
        races.append(race)
        return Found(1, {TUNED: records(TUNED, [0.5])}, TUNED, {}, {})

    monkeypatch.setattr(racing, "recommend", noted)
    monkeypatch.setattr(racing.Race, "_started", lambda self: None)
    small_classifier().save(tmp_path / "mine.keras")
    for _ in range(2):
        recommend(
            "digits",
            [tmp_path / "mine.keras"],
            time_limit="2m",
            results=tmp_path,
            say=lambda line: None,
        )
    assert [race.seconds for race in races] == [120, 120]
    assert all(race.left() < 120 for race in races)
