"""Records in groups: what is one arm, what it is called, what it is beside."""

import pytest
from synthetic import headline, record

from ktransfer import methods
from ktransfer.analysis import arms, intervals
from ktransfer.errors import KTransferError

DEFAULTS = {"learning_rate": 1e-3, "strength": 1.0, "layers": ["a", "b"]}


def labels(records, **options):
    return [arm.label for arm in arms.arms(records, **options)]


def tuned(method="l2_sp", defaults=DEFAULTS, **hyperparameters):
    return record(
        method, hyperparameters=hyperparameters, defaults=dict(defaults)
    )


def test_arms_are_named_by_what_differs():
    records = [
        record("scratch"),
        record("scratch", steps=2_400),
        record("scratch", labels_per_class=None, steps=2_800),
        record(hyperparameters={"learning_rate": 1e-3, "decay": 0.0}),
        record(hyperparameters={"learning_rate": 1e-4, "decay": 0.0}),
        record("ensemble", sources=["a", "b"]),
        record("ensemble", sources=["a"]),
        record("feature_extraction"),
    ]
    assert labels(records) == [
        "scratch",
        "scratch (4x steps)",
        "fine_tuning (learning_rate=0.001)",
        "fine_tuning (learning_rate=0.0001)",
        "ensemble (from a+b)",
        "ensemble (from a)",
        "feature_extraction",
    ]


def test_an_arm_has_the_fields_of_its_records():
    one = record(
        "l2_sp",
        family="finetuning",
        hyperparameters={"layers": ["a", "b"], "decay": 0.1},
        recipe="label_smoothing",
        source_steps=390,
        steps=1_200,
    )
    # So many that 600 steps are the usual number.
    others = [record(method) for method in ("a", "b", "c")]
    arm = next(iter(arms.arms([one, *others])))
    assert arm._replace(setting="") == arms.Arm(
        method="l2_sp",
        family="finetuning",
        sources=("cifar10",),
        backbone="convnet",
        recipe="label_smoothing",
        source_steps=390,
        hyperparameters=(("decay", 0.1), ("layers", ("a", "b"))),
        steps_factor=2.0,
    )
    assert arm.label == "l2_sp (2x steps)"
    # Whatever a run without a source says of one, it has none.
    alone = record("scratch", sources=[], backbone="vgg", recipe="other")
    (arm,) = arms.arms([alone])
    assert (arm.backbone, arm.recipe, arm.source_steps) == ("", "", None)


def test_arms_of_other_checkpoints_are_told_apart():
    variants = [
        {},
        {"backbone": "vgg"},
        {"recipe": "label_smoothing"},
        {"source_steps": 0},
    ]
    records = [record("linear_probe", **variant) for variant in variants]
    assert len(arms.arms(records)) == 4
    assert (
        labels(records)[1] == "linear_probe (vgg, pretrain, 7820 source steps)"
    )


def test_settings_that_print_alike_stay_apart():
    records = [
        record(hyperparameters={"strength": strength})
        for strength in (1, 1.0000001, 0.1)
    ]
    assert len(arms.arms(records)) == 3


def test_a_chosen_value_that_is_not_the_default_is_shown():
    """Deep CORAL and DANN ran at strength 0.1, and tables showed them bare."""
    records = [
        tuned("deep_coral", strength=0.1),
        tuned("domain_adversarial", strength=0.1),
        tuned("deep_adaptation", strength=1.0),
    ]
    assert labels(records) == [
        "deep_coral (strength=0.1)",
        "domain_adversarial (strength=0.1)",
        "deep_adaptation",
    ]
    # A strength is each method's own, even where all have the same.
    assert labels(records[:2]) == labels(records)[:2]
    assert labels([tuned(strength=0.1)]) == ["l2_sp (strength=0.1)"]
    assert labels([tuned(layers=["a", "b"])]) == ["l2_sp"]


def test_what_is_the_same_wherever_it_can_be_chosen_is_said_once():
    small = {"batch_size": 64}
    records = [
        tuned("l2_sp", small, batch_size=16),
        tuned("fine_tuning", small, batch_size=16),
        # It has none to choose.
        tuned("majority", {}),
    ]
    assert labels(records) == ["l2_sp", "fine_tuning", "majority"]
    assert arms.shared_settings(records) == {"batch_size": 16}
    usual = [tuned(m, small, batch_size=64) for m in ("l2_sp", "fine_tuning")]
    assert arms.shared_settings(usual) == {}
    # The default counts where nothing was given.
    mixed = [*records, tuned("delta", small)]
    assert arms.shared_settings(mixed) == {}
    assert labels(mixed)[:2] == [
        "l2_sp (batch_size=16)",
        "fine_tuning (batch_size=16)",
    ]
    assert set(arms.TRAINING) == set(methods.TRAINING)


def test_records_without_defaults_are_named_as_before():
    records = [
        record("deep_coral", hyperparameters={"strength": 0.1}),
        record("domain_adversarial", hyperparameters={"strength": 0.1}),
    ]
    assert labels(records) == ["deep_coral", "domain_adversarial"]
    assert arms.shared_settings(records) == {}


def test_the_label_of_an_arm_is_that_of_all_its_records():
    """A record of an older code is of the same arm as a new one."""
    old = record("deep_coral", hyperparameters={"strength": 0.1})
    new = {**tuned("deep_coral", strength=0.1), "seed": 1}
    assert old["family"] == new["family"]
    assert labels([old, new]) == labels([new, old])
    assert labels([old, new]) == ["deep_coral (strength=0.1)"]


def test_every_default_can_stand_in_a_record():
    for name in methods.names():
        defaults = methods.describe(name).hyperparameters
        one = record(name, defaults=defaults, hyperparameters=dict(defaults))
        assert labels([one]) == [name]


def test_arms_that_differ_only_in_what_is_ignored_are_one():
    records = [
        record(method, steps=steps, hyperparameters={"strength": strength})
        for method in ("l2_sp", "delta")
        for steps in (100, 400)
        for strength in (0.1, 1.0)
    ]
    assert len(arms.arms(records)) == 8
    assert labels(records, ignoring=("steps",)) == [
        "l2_sp (strength=0.1)",
        "l2_sp (strength=1.0)",
        "delta (strength=0.1)",
        "delta (strength=1.0)",
    ]
    assert labels(records, ignoring=("steps", "strength")) == ["l2_sp", "delta"]
    assert len(arms.arms(records, ignoring=("strength",))) == 4


def test_a_baseline_is_selected_by_fields():
    records = [
        record("scratch"),
        record("scratch", steps=2_400),
        *(tuned(strength=strength) for strength in (0.1, 1.0)),
        record("feature_extraction"),
    ]
    assert arms.baseline_arm(records).label == "scratch"
    assert arms.baseline_arm(records, "nothing") is None
    assert arms.baseline_name(records, "nothing") == "nothing"
    longer = {"method": "scratch", "steps": 2_400}
    assert arms.baseline_arm(records, longer).label == "scratch (4x steps)"
    assert arms.baseline_name(records, longer) == "scratch (4x steps)"
    with pytest.raises(KTransferError, match="2 arms") as caught:
        arms.baseline_arm(records, "l2_sp")
    assert caught.value.name == "E_ARGUMENT"
    assert "strength=0.1" in caught.value.message
    strong = {"method": "l2_sp", "hyperparameters": {"strength": 1.0}}
    gains = intervals.gain_over(records, strong)
    assert len(gains) == 4
    assert arms.baseline_arm(records, strong).label == "l2_sp (strength=1.0)"


def test_a_selector_asks_for_fields_and_knows_defaults():
    one = tuned(strength=0.1)
    assert arms.matches(one, "l2_sp") and not arms.matches(one, "delta")
    for selector, expected in (
        ({"method": "l2_sp", "labels_per_class": 10}, True),
        ({"labels_per_class": 11}, False),
        ({"nonsense": None}, False),
        ({"hyperparameters": {"strength": 0.1}}, True),
        ({"hyperparameters": {"strength": 1.0}}, False),
        ({"hyperparameters": {"learning_rate": 1e-3}}, True),
        ({"hyperparameters": {"nonsense": 1}}, False),
    ):
        assert arms.matches(one, selector) == expected, selector


def test_a_setting_that_reads_like_steps_is_no_number_of_steps():
    records = [
        record("scratch"),
        record("a", hyperparameters={"mode": "4x steps"}),
        record("a", hyperparameters={"mode": "1x steps"}),
    ]
    usual = {"method": "a", "hyperparameters": {"mode": "4x steps"}}
    found = arms.baseline_arm(records, usual)
    assert found.label == "a (mode=4x steps)" and found.steps_factor == 1
    with pytest.raises(KTransferError, match="2 arms"):
        arms.baseline_arm(records, "a")


def test_cells_are_arms_at_a_budget():
    cells = arms.cells(headline(2, 1))
    assert len(cells) == 18
    for cell, members in cells.items():
        assert {r["method"] for r in members} == {cell.arm.method}
        budgets = {r["labels_per_class"] for r in members}
        assert budgets == {cell.labels_per_class}
