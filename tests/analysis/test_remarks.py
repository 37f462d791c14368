"""What must be said of records, and only where it is so."""

import pytest
from synthetic import headline, record, sweep

from ktransfer import plots, report
from ktransfer.analysis import remarks


def said(records, **options):
    return {c.kind: c.text for c in remarks.cautions(records, **options)}


def runs(method="fine_tuning", seeds=6, source_seeds=lambda s: (0,), **fields):
    return [
        record(method, seed=seed, source_seed=source, **fields)
        for seed in range(seeds)
        for source in source_seeds(seed)
    ]


def crossed(seed):
    return 0, 1


def in_turn(seed):
    return (seed % 2,)


def none(seed):
    return (None,)


SCRATCH = runs("scratch", source_seeds=none)


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        (SCRATCH, "6 seeds"),
        (runs() + SCRATCH, "6 seeds × 1 source seed"),
        (runs(source_seeds=in_turn) + SCRATCH, "6 seeds, 2 source seeds in"),
        (runs(source_seeds=crossed) + SCRATCH, "6 seeds × 2 source seeds"),
        (runs(seeds=5) + SCRATCH, "5 to 6 seeds × 1 source seed"),
        ([], "0 seeds"),
        ([record(status="failed")], "0 seeds"),
    ],
)
def test_seeds_and_source_seeds(records, expected):
    text = remarks.seeds(records)
    assert text.startswith(expected) and "of" not in text


def test_crossing_is_said_of_the_arms_that_are_crossed():
    """Of 57 methods 3 were crossed, and the headline claimed it of all."""
    records = [
        *runs("feature_extraction", source_seeds=crossed),
        *runs("fine_tuning", source_seeds=crossed),
        *(r for n in range(20) for r in runs(f"m{n}", source_seeds=in_turn)),
        *SCRATCH,
    ]
    expected = (
        "6 seeds, 2 source seeds in turn, crossed in 2 of 22 "
        "arms (feature_extraction, fine_tuning)"
    )
    assert remarks.seeds(records) == expected
    text = report.to_markdown(report.table(records))
    assert expected in text.replace("×", "x")
    figure = plots.forest(records)
    footer = " ".join(text.get_text() for text in figure.texts)
    assert expected in footer
    assert "× 2 source seeds" not in footer


def test_many_crossed_arms_are_counted():
    records = runs("a", source_seeds=in_turn)
    for number in range(9):
        records += runs(f"m{number}", source_seeds=crossed)
    assert remarks.seeds(records).endswith("crossed in 9 of 10 arms")


def test_missing_runs_are_those_that_were_planned():
    records = headline(2, 1)
    assert "missing" not in said(records)
    assert said(records, planned=99)["missing"] == "36 of 99 runs"
    failed = [*records, record(seed=9, status="failed")]
    assert said(failed)["missing"] == "36 of 37 runs (1 failed)"
    # What does not apply was planned, and there is nothing to miss.
    inapplicable = [*records, record(status="not_applicable")]
    assert "missing" not in said(inapplicable, planned=37)
    assert said(inapplicable, planned=38)["missing"] == "36 of 37 runs"


def test_a_partial_table_says_how_many_runs_it_lacks():
    text = report.to_terminal(report.table(headline(), planned=1_000))
    assert "162 of 1,000 runs" in text


def test_diverged_and_stale_runs():
    records = runs()
    assert not {"diverged", "stale"} & said(records).keys()
    records[0].update(status="diverged", test_accuracy=None)
    records[1]["stale"] = records[2]["stale"] = True
    found = said(records)
    assert found["diverged"] == "1 run diverged, counted as accuracy 0"
    assert found["stale"] == "2 stale runs, of older code or data"


def test_records_that_were_carried_over():
    records = runs(seeds=10)
    assert "carried_over" not in said(records)
    first = {"rerun": 2, "of": 10, "commit": "a"}
    for one in records[:8]:
        one["carried_over"] = first
    expected = "8 runs carried over a change of code, 2 rerun with equal"
    assert said(records)["carried_over"].startswith(expected)
    records[8]["carried_over"] = {"rerun": 1, "of": 2, "commit": "b"}
    expected = "9 runs carried over a change of code, 3 rerun with equal"
    assert said(records)["carried_over"].startswith(expected)
    for text in (
        report.to_markdown(report.table(records)),
        " ".join(t.get_text() for t in plots.forest(records).texts),
    ):
        assert expected in text


def test_several_environments():
    records = runs()
    assert "environments" not in said(records)
    records[0]["numerics"] = "0000"
    assert said(records)["environments"] == "2 numeric environments mixed"


def test_what_few_source_networks_can_say():
    assert "sources" not in said(SCRATCH)
    assert said(runs())["sources"] == "conditional on one source network"
    for alternating in (in_turn, crossed):
        records = runs(source_seeds=alternating)
        assert said(records)["sources"] == "conditional on two source networks"
    one_each = runs(source_seeds=lambda seed: (seed,))
    assert "sources" not in said(one_each + SCRATCH)
    mixed = [*one_each, *runs("l2_sp"), *runs("delta", source_seeds=in_turn)]
    assert said(mixed)["sources"] == (
        "2 of 3 arms conditional on one to two source networks"
    )
    checkpoints = [*runs(), *runs(backbone="vgg")]
    assert said(checkpoints)["sources"] == (
        "each arm conditional on one source network"
    )
    # A second source beside the first is no other checkpoint.
    fused = [*runs(), *runs("ensemble", sources=["cifar10", "letters"])]
    assert said(fused)["sources"] == "conditional on one source network"


def test_settings_that_no_label_shows():
    fields = {
        "hyperparameters": {"batch_size": 16, "schedule": "cosine"},
        "defaults": {"batch_size": 64, "schedule": "constant"},
    }
    records = [record(method, **fields) for method in ("a", "b")]
    expected = "batch_size=16, schedule=cosine throughout"
    assert said(records)["settings"] == expected
    assert expected in report.to_markdown(report.table(records))
    assert "settings" not in said(headline())


def test_figures_and_tables_say_the_same():
    records = sweep()
    records[0]["stale"] = True
    records[1]["numerics"] = "0000"
    records[2]["carried_over"] = {"rerun": 1, "of": 2, "commit": "a"}
    table = report.table(records, mix=True, planned=300)
    figure = plots.remarks(records, planned=300)
    assert len(figure) == 6
    plain = [text.removeprefix("† ").removeprefix("× ") for text in figure]
    assert plain == table.cautions
