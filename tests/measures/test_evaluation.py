"""What is measured beside the test accuracy, against NumPy; and trials."""

import numpy as np
import pytest
from helpers import small_source, small_task, softmax, weights_of
from sweeps import Here, sourced

from ktransfer import data, runs
from ktransfer.data import Split
from ktransfer.engine.prediction import predict
from ktransfer.errors import Diverged
from ktransfer.measures import evaluation, transferability
from ktransfer.models.graph import leaves
from ktransfer.models.surgery import adapt_input, cut
from ktransfer.runs.carry_out import carry_out
from ktransfer.runs.sweep import sweep


@pytest.fixture
def answers(monkeypatch):
    """Logits of each domain, in place of what a model would give."""
    given = {}
    monkeypatch.setattr(evaluation, "predict", lambda domain, x: given[domain])
    monkeypatch.setattr(
        evaluation, "adapt_input", lambda model, shape: "source"
    )
    monkeypatch.setattr(evaluation, "copy", lambda model: "source")
    monkeypatch.setattr(evaluation, "_as_read_by", lambda model, x: x)
    monkeypatch.setattr(evaluation, "reestimate_statistics", lambda model, x: 0)
    return given


def test_an_adaptation_is_good_if_certain_varied_and_right_at_home(answers):
    source = Split(np.zeros((4, 2, 2, 1), "uint8"), np.arange(4))

    def value(target, at_home):
        answers.update(target=target, source=at_home)
        return evaluation.information("target", None, source)

    sure, unsure = 1e3 * np.eye(4, dtype="float32"), np.zeros((4, 4), "float32")
    best = np.log(4)
    assert value(sure, sure) == pytest.approx(best)
    assert value(unsure, sure) == pytest.approx(0, abs=1e-12)
    assert value(np.tile(sure[:1], (4, 1)), sure) == pytest.approx(0, abs=1e-9)
    # The loss of a guess at home is log 4.
    assert value(sure, unsure) == pytest.approx(0, abs=1e-12)


def test_it_reads_each_domain_with_its_own_statistics():
    task = small_task("source", 3)
    source = small_source(task, normalised=True, steps=300)
    told = evaluation.information(source.model, task.train.x, task.train)
    for layer in leaves(source.model):
        if hasattr(layer, "moving_mean"):
            layer.moving_mean.assign(layer.moving_mean + 5)
    before = weights_of(source.model)
    images = task.train.x
    p = softmax(predict(source.model, images))
    entropy = -(p.mean(0) * np.log(p.mean(0))).sum()
    entropy += (p * np.log(np.maximum(p, 1e-300))).sum(-1).mean()
    # At home the statistics are mended, so nothing is lost there.
    found = evaluation.information(source.model, images, task.train)
    assert found == pytest.approx(entropy, abs=0.1)
    assert told > 0.9 > found
    assert weights_of(source.model) == before


def test_the_source_may_have_another_shape():
    source = small_source(small_task("source", 1, size=30), steps=30)
    task = small_task("target", 3)
    network = adapt_input(source.model, (8, 8, 1))
    images = task.train.x[:, :8, :8, :1]
    found = evaluation.information(network, images, source.task.train)
    assert np.isfinite(found)
    x = evaluation._as_read_by(network, source.task.train.x)
    assert x.shape == (48, 8, 8, 1) and x.dtype == "uint8"


def test_logits_that_are_not_finite_are_a_divergence(answers, world):
    target, _ = world
    answers["source"] = np.full((48, 3), np.nan, "float32")
    with pytest.raises(Diverged):
        evaluation.accuracy(None, target.train)
    answers["target"], answers["source"] = answers["source"], np.zeros((48, 3))
    with pytest.raises(Diverged):
        evaluation.information("target", target.train.x, target.train)


def test_scores_are_those_of_the_source_on_the_labelled_images(world):
    target, source = world
    names = ("leep", "nce", "logme", "h_score", "transrate", "class_balance")
    found = evaluation.scores(names, target, source)
    assert set(found) == set(names)
    assert found["class_balance"] == pytest.approx(-np.log(3))
    x = np.repeat(target.train.x, 3, axis=-1)
    p = softmax(predict(source.model, x))
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
    free = free._replace(
        method="source_only",
        target="digits_dilated",
        sources=("digits",),
        labels_per_class=None,
        evaluation="information",
    )
    strange = free._replace(sources=("letters",))
    sweep([trial, free, strange], tmp_path, Here())
    monkeypatch.setattr(data, "test_split", closed)
    record = carry_out(tmp_path, trial._replace(seed=1))
    assert record["status"] == "ok", record["reason"]
    assert record["test_accuracy"] is None
    right = record["validation_accuracy"] * 10
    assert right == pytest.approx(round(right), abs=1e-9)
    record = carry_out(tmp_path, free._replace(seed=1))
    assert record["information"] <= np.log(10)
    # Without classes in common there is nothing to measure at home.
    record = carry_out(tmp_path, strange._replace(seed=1))
    assert record["status"] == "not_applicable"


def test_other_test_images_and_scores_stand_in_the_record(tmp_path):
    (run,) = sourced(
        "linear_probe", also=("digits_inverted", "digits_over_letters")
    )
    run = run._replace(scores=("leep",))
    record = carry_out(tmp_path, run)
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


def test_evaluation_counts_every_image_once(monkeypatch):
    logits = np.zeros((1000, 10))
    test = data.test_split("digits")
    logits[np.arange(1000), test.y] = 1.0
    logits[:7] = 0.0
    logits[np.arange(7), (test.y[:7] + 1) % 10] = 1.0
    monkeypatch.setattr(evaluation, "predict", lambda model, x: logits)
    found = evaluation.evaluate(None, "digits")
    assert found["test_accuracy"] == 0.993
    expected = np.log(np.exp(1) + 9) - np.where(np.arange(1000) < 7, 0, 1)
    assert found["test_loss"] == pytest.approx(expected.mean())
    logits[3, 3] = np.nan
    assert evaluation.evaluate(None, "digits")["status"] == "diverged"


def evaluated(monkeypatch, labels, guessed, num_classes):
    """Return what the record says of guesses, and plant the test split."""
    labels = np.array(labels, "int32")
    test = Split(np.zeros((len(labels), 2, 2, 1), "uint8"), labels)
    logits = np.eye(num_classes)[guessed]
    monkeypatch.setattr(data, "test_split", lambda name: test)
    monkeypatch.setattr(evaluation, "predict", lambda model, x: logits)
    return evaluation.evaluate(None, "any")


def test_the_classes_count_alike_in_the_balanced_accuracy(monkeypatch):
    labels = [0] * 8 + [1] * 2 + [2]
    guessed = [0] * 7 + [1] + [1, 0] + [0]
    found = evaluated(monkeypatch, labels, guessed, 3)
    assert found["test_accuracy"] == pytest.approx(8 / 11)
    assert found["balanced_accuracy"] == pytest.approx((7 / 8 + 1 / 2) / 3)
    assert found["per_class_accuracy"] == [0.875, 0.5, 0.0]
    assert found["confusion"] == [[7, 1, 0], [1, 1, 0], [1, 0, 0]]


def test_a_class_without_test_images_has_no_accuracy(monkeypatch):
    found = evaluated(monkeypatch, [0, 0, 2, 2], [0, 1, 2, 2], 3)
    assert found["per_class_accuracy"] == [0.5, None, 1.0]
    assert found["balanced_accuracy"] == 0.75
    assert found["confusion"] == [[1, 1, 0], [0, 0, 0], [0, 0, 2]]
    assert "null" in runs.canonical(found)


@pytest.mark.parametrize(
    ("num_classes", "listed"), [(2, False), (3, True), (50, True), (51, False)]
)
def test_the_confusion_is_listed_where_it_can_be_read(
    monkeypatch, num_classes, listed
):
    labels = np.arange(num_classes)
    found = evaluated(monkeypatch, labels, labels, num_classes)
    assert ("confusion" in found) == listed
    assert found["balanced_accuracy"] == 1.0
    if listed:
        assert np.array_equal(found["confusion"], np.eye(num_classes))


def test_by_class_agrees_with_scikit_learn(monkeypatch):
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    labels, guessed = rng.integers(0, 7, (2, 200))
    found = evaluated(monkeypatch, labels, guessed, 7)
    expected = metrics.balanced_accuracy_score(labels, guessed)
    assert found["balanced_accuracy"] == pytest.approx(expected)
    expected = metrics.confusion_matrix(labels, guessed)
    assert (np.array(found["confusion"]) == expected).all()
