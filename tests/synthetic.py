"""Synthetic records with realistic numbers, for the modules that read them."""

import typing

import numpy as np

from ktransfer.analysis.record import Record

FAMILY_OF = {
    "scratch": "baselines",
    "random_features": "baselines",
    "majority": "baselines",
    "feature_extraction": "feature",
    "fine_tuning": "parameter",
    "distillation": "knowledge",
}
# Accuracy at 10, 100 and all labels per class.
LEVELS = {
    "scratch": (0.823, 0.950, 0.989),
    "random_features": (0.834, 0.942, 0.982),
    "majority": (0.0998, 0.1013, 0.1135),
    "feature_extraction": (0.892, 0.968, 0.9886),
    "fine_tuning": (0.805, 0.960, 0.991),
    "distillation": (0.856, 0.957, 0.990),
}
WORDS = ("gradual", "layer", "spectral", "elastic", "twin", "stacked", "early")
BUDGETS = (10, 100, None)
SPREADS = (0.010, 0.004, 0.0012)
FAMILIES = (
    "feature",
    "parameter",
    "structure",
    "knowledge",
    "fusion",
    "multitask",
    "finetuning",
    "domain",
)


def _blank(hint):
    """Return a value of a field's type: None, 0, an empty text, list, dict."""
    if type(None) in typing.get_args(hint):
        return None
    return (typing.get_origin(hint) or hint)()


# Of every field that no record lacks.
_HINTS = {
    name: hint
    for name, hint in typing.get_type_hints(Record).items()
    if name in Record.__required_keys__ - {"status"}
}


def record(method="fine_tuning", **fields):
    """Return one record, `ok` at 80 % unless `fields` say otherwise."""
    assert set(fields) <= set(Record.__annotations__), fields
    control = method in ("scratch", "random_features", "majority")
    per_class = fields.get("labels_per_class", 10)
    steps = 2_800 if per_class is None else 600
    ended = fields.get("status", "ok") == "ok"
    planted = {
        "experiment": "cifar10-mnist",
        "method": method,
        "family": FAMILY_OF.get(method, "parameter"),
        "backbone": "convnet",
        "sources": [] if control else ["cifar10"],
        "source_seed": None if control else 0,
        "source_steps": None if control else 7_820,
        "source_origins": [] if control else ["CIFAR-10-q75"],
        "target": "mnist",
        "target_origin": "MNIST",
        "labels_per_class": 10,
        "num_classes": 10,
        "num_labels": 60_000 if per_class is None else 10 * per_class,
        "num_test_images": 10_000,
        "steps": steps,
        "numerics": "5e1f",
        "status": "ok",
        "test_accuracy": 0.8 if ended else None,
        "test_loss": 0.6 if ended else None,
        "total_parameters": 529_930,
        "trainable_parameters": 529_930,
        "seconds": 2.0,
        "stale": False,
    }
    blank = {name: _blank(hint) for name, hint in _HINTS.items()}
    return {**blank, **planted, **fields}


def headline(num_seeds=6, num_source_seeds=2, budgets=BUDGETS):
    """Return six methods at three budgets, paired by seed."""
    records = []
    for method, levels in LEVELS.items():
        control = method in ("scratch", "random_features", "majority")
        source_seeds = (None,) if control else range(num_source_seeds)
        for budget in budgets:
            place = BUDGETS.index(budget)
            for seed in range(num_seeds):
                for source_seed in source_seeds:
                    value = levels[place]
                    if method != "majority":
                        value += _noise(method, place, seed, source_seed)
                    records.append(
                        record(
                            method,
                            labels_per_class=budget,
                            seed=seed,
                            source_seed=source_seed,
                            test_accuracy=min(round(value, 4), 1.0),
                            seconds=2.0 + len(method) / 7 + 0.01 * seed,
                            trainable_parameters=_trainable(method),
                        )
                    )
    return records


def _noise(method, place, seed, source_seed):
    shared = np.random.default_rng([seed, place]).normal()
    key = [seed, place, source_seed or 0, *method.encode()]
    own = np.random.default_rng(key).normal()
    return SPREADS[place] * (0.7 * shared + 0.6 * own)


def _trainable(method):
    return {"majority": 0, "fine_tuning": 586_250}.get(method, 529_930)


def sweep(num_methods=42, num_seeds=6):
    """Return many methods at 10 labels per class, three of them controls.

    One method diverges once, one failed once and two do not apply.
    """
    records = headline(num_seeds, 1, budgets=(10,))
    records = [r for r in records if r["family"] == "baselines"]
    for number in range(num_methods - 3):
        family = FAMILIES[number % len(FAMILIES)]
        method = f"{WORDS[number // 8]}_{family}_transfer"
        shift = 0.08 * np.sin(2.3 * number)
        for seed in range(num_seeds):
            value = 0.83 + shift + 1.5 * _noise(method, 0, seed, 0)
            records.append(
                record(
                    method,
                    family=family,
                    seed=seed,
                    test_accuracy=round(float(value), 4),
                    seconds=1.5 + 0.7 * number,
                    trainable_parameters=[529_930, 5_130, 1_250_000][
                        number % 3
                    ],
                )
            )
    records[-1].update(status="diverged", test_accuracy=None, test_loss=None)
    records[-10].update(
        status="failed", reason="out of memory", test_accuracy=None
    )
    for method, reason in (
        ("deep_adaptation", "needs the source's label space; see `adapt`"),
        (
            "model_soup",
            "needs two or more sources of one architecture, got one: cifar10; "
            "give it more with sources=[...]",
        ),
    ):
        records.append(
            record(
                method, family="domain", status="not_applicable", reason=reason
            )
        )
    return records
