"""A card says what its records say, whatever the names in them."""

import json
import re

import pytest
from helpers import small_source, small_task
from synthetic import record

from ktransfer import runs
from ktransfer.report import kept
from ktransfer.report.card import Made, card

FOUND = {
    "target": "digits",
    "num_classes": 3,
    "num_labels": 9,
    "num_test_images": 1000,
    "test_accuracy": 0.9,
    "test_loss": 0.25,
    "per_class_accuracy": [0.8, 0.9, 1.0],
    "sources": ["letters"],
    "source_origins": ["glyphs"],
    "source_test_accuracies": [0.875],
    "seconds": 2.0,
    "steps_done": 60,
    "total_parameters": 530_000,
    "trainable_parameters": 1_000,
    "defaults": {"learning_rate": 0.001, "optimizer": "adam"},
    "hyperparameters": {"learning_rate": 0.5},
}
MADE = Made(
    ["cat", "猫", "a|b `c`\n# d"],
    [2, 3, 4],
    (28, 28, 1),
    ["resize (Resizing)"],
    "5ha0fth3f1l3",
    ["f1ng3rpr1nt"],
    {"ktransfer": "0.1.0", "keras": "3.15.1"},
)


def lines(text):
    return text.splitlines()


def test_it_says_all_that_one_must_know():
    text = card(record(**FOUND), MADE)
    for words in (
        "# digits by `fine_tuning`",
        # Wilson's interval of 900 of 1000.
        "90.0 [88.0, 91.7] % of 1,000 test images are right",
        "cross-entropy is 0.250 nats",
        "(batch, 28, 28, 1)",
        "uint8 from 0 to 255",
        "`resize (Resizing)`",
        "https://arxiv.org",
        "trained on letters (glyphs) for 7,820 steps from seed 0; 87.5 % right",
        "`f1ng3rpr1nt`",
        "| `learning_rate` | `0.5` | given |",
        "| `optimizer` | `adam` | default |",
        "530k parameters, 1.0k of them trained at most",
        "9 labelled images, 2 to 4 a class",
        "tested on 1,000 other images",
        "| `猫` | 3 | 90.0 |",
        "not known whether the source helped",
        "one seed and 9 labels",
        "keras 3.15.1",
        "sha256 of `model.keras` `5ha0fth3f1l3`",
    ):
        assert words in text, words
    sections = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert len(sections) == len(set(sections)) == 7


def test_a_name_cannot_write_into_it():
    text = card(record(**FOUND | {"target_origin": "x\n# y <b>|"}), MADE)
    rows = [line for line in lines(text) if line.startswith("|")]
    assert "| ``a\\|b `c` # d`` | 4 | 100.0 |" in rows
    assert "# y" not in [line.strip() for line in lines(text)]
    assert "<b>" not in text


def test_controls_stand_beside_it():
    controls = [record("scratch", **{"test_accuracy": 0.85})]
    text = card(record(**FOUND), MADE, controls)
    assert "| `scratch` | 85.0 [" in text and "| +5.0 |" in text
    assert "no verdict" in text and "not known whether" not in text
    alone = {"sources": [], "source_origins": [], "source_test_accuracies": []}
    text = card(record(**FOUND | alone), MADE._replace(sources=[]))
    assert "It has no source." in text and "source helped" not in text


def test_two_sources_and_a_recipe():
    found = {
        "sources": ["letters", "mnist_after_letters"],
        "source_origins": ["glyphs", "MNIST"],
        "source_test_accuracies": [0.5, 0.75],
        "recipe": "label_smoothing",
    }
    text = card(record(**FOUND | found), MADE._replace(sources=["a1", "b2"]))
    assert "trained by `label_smoothing` on letters, then on mnist" in text
    assert "`a1`" in text and "`b2`" in text


def test_a_run_that_opened_no_test_image():
    found = {
        "evaluation": "validation",
        "num_test_images": None,
        "per_class_accuracy": [],
        "test_accuracy": None,
        "test_loss": None,
    }
    text = card(record(**FOUND | found), MADE)
    assert "No test image was opened for it" in text
    assert "None" not in text.replace("None was carried out", "")


@pytest.fixture
def made(tmp_path):
    """A run of the embedded digits, and what is made of it."""
    run = runs.Run("single", "fine_tuning", "digits", 5, 0, 2, ("letters",))
    run = run._replace(source_seed=0, source_steps=4)
    task = small_task("target", 3)
    task = task._replace(labels=("cat", "猫", 7))
    model = small_source(task).model
    fields = {**FOUND, **runs.as_fields(run)}
    return run, model, task, record(**fields)


def test_what_is_kept_of_a_run(made, tmp_path):
    run, model, task, found = made
    folder = tmp_path / "kept"
    kept.keep(folder, tmp_path, model, task, found)
    labels = (folder / "labels.json").read_text(encoding="utf-8")
    assert json.loads(labels) == ["cat", "猫", "7"] and "猫" in labels
    text = (folder / "card.md").read_text(encoding="utf-8")
    assert "`rescale (Rescaling)`" in text
    assert runs.source_fingerprint(runs.pretrainings(run)[0]) in text
    assert "48 labelled images, 16 a class" in text


def test_fresh_records_of_controls_are_found(made, tmp_path):
    run, _, _, found = made
    scratch = runs.Run("single", "scratch", "digits", 5, 0, 2)

    def written(run, fingerprint):
        fields = {**runs.as_fields(run), "fingerprint": fingerprint}
        fields["code"] = runs.code(run)
        runs.write(tmp_path, record(**fields))

    def controls(found):
        return [r["method"] for r in kept._controls(tmp_path, found)]

    assert controls(found) == []
    random = run._replace(method="random_features")
    for control in (scratch, random, scratch._replace(seed=1)):
        written(control, runs.fingerprint(control))
    assert controls(found) == ["scratch", "random_features"]
    # That of another precision is no control.
    precise = {**found, "hyperparameters": {"precision": "mixed_bfloat16"}}
    assert controls(precise) == []
    written(scratch, "of another code")
    assert controls(found) == ["random_features"]
    # What has no source of its own has no network of random weights.
    alone = {**found, **runs.as_fields(scratch), "method": "self_supervised"}
    assert controls(alone) == []
    written(scratch, runs.fingerprint(scratch))
    assert controls(alone) == ["scratch"]
