"""What is measured beside the test accuracy, against NumPy; and trials."""

import numpy as np
import pytest
from conftest import small_source, small_task
from test_execute import Here, sourced

from ktransfer import data, execute, measures, runs, transferability
from ktransfer.errors import Diverged
from ktransfer.surgery import cut
from ktransfer.training import predict


@pytest.fixture(scope="module")
def world():
    source = small_source(small_task("source", 3), steps=3)
    return small_task("target", 1, n=36), source


def test_information_is_that_of_certain_and_varied_answers(monkeypatch):
    answers = {}
    monkeypatch.setattr(measures, "predict", lambda model, x: answers["z"])
    answers["z"] = 1e3 * np.eye(4, dtype="float32")
    assert measures.information(None, None) == pytest.approx(np.log(4))
    answers["z"] = np.zeros((5, 4), "float32")
    assert measures.information(None, None) == pytest.approx(0, abs=1e-12)
    answers["z"] = np.tile(1e3 * np.eye(4, dtype="float32")[:1], (5, 1))
    assert measures.information(None, None) == pytest.approx(0, abs=1e-12)


def test_logits_that_are_not_finite_are_a_divergence(monkeypatch, world):
    target, _ = world
    x = np.full((36, 3), np.nan, "float32")
    monkeypatch.setattr(measures, "predict", lambda model, images: x)
    monkeypatch.setattr(measures, "adapt_input", lambda model, shape: model)
    with pytest.raises(Diverged):
        measures.accuracy(None, target.train)
    with pytest.raises(Diverged):
        measures.information(None, target.train.x)


def test_scores_are_those_of_the_source_on_the_labelled_images(world):
    target, source = world
    names = ("leep", "nce", "logme", "h_score", "transrate", "class_balance")
    found = measures.scores(names, target, source)
    assert set(found) == set(names)
    assert found["class_balance"] == pytest.approx(-np.log(3))
    x = np.repeat(target.train.x, 3, axis=-1)
    logits = predict(source.model, x).astype("float64")
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = transferability.leep(p, target.train.y)
    assert found["leep"] == pytest.approx(expected, abs=1e-6)
    expected = transferability.nce(p.argmax(axis=1), target.train.y)
    assert found["nce"] == pytest.approx(expected, abs=1e-6)
    features = predict(cut(source.model, "features"), x)
    for name in ("logme", "h_score", "transrate"):
        expected = getattr(transferability, name)(features, target.train.y)
        assert found[name] == pytest.approx(expected, rel=1e-4)


def test_a_trial_keeps_the_test_split_closed(tmp_path, monkeypatch):
    def closed(name):
        raise AssertionError("a trial opened the test split")

    trial, free = sourced("feature_extraction", "linear_probe")
    trial = trial._replace(evaluation="validation", labels_per_class=5)
    free = free._replace(evaluation="information")
    execute.sweep([trial], tmp_path, Here())
    monkeypatch.setattr(data, "test_split", closed)
    record = execute.carry_out(tmp_path, trial._replace(seed=1))
    assert record["status"] == "ok", record["reason"]
    assert record["test_accuracy"] is None
    right = record["validation_accuracy"] * 10
    assert right == pytest.approx(round(right), abs=1e-9)
    record = execute.carry_out(tmp_path, free)
    assert 0 <= record["information"] <= np.log(10)


def test_other_test_images_and_scores_stand_in_the_record(tmp_path):
    (run,) = sourced(
        "linear_probe", also=("digits_inverted", "digits_over_letters")
    )
    run = run._replace(scores=("leep",))
    record = execute.carry_out(tmp_path, run)
    assert set(record["also_accuracies"]) == set(run.also)
    assert record["score_values"]["leep"] < 0
    (read,) = runs.read(runs.record_path(tmp_path, run))
    assert runs.from_fields(read) == run


def test_fields_at_their_default_leave_older_records_as_they_are():
    (run,) = sourced("linear_probe")
    assert not {"also", "scores", "evaluation", "recipe"} & set(
        runs.as_fields(run)
    )
    other = run._replace(recipe="label_smoothing")
    assert runs.fingerprint(other) != runs.fingerprint(run)
