"""Plans: no training is done twice, whatever its source is called."""

import pytest
from sweeps import sourced

from ktransfer import runs
from ktransfer.runs import planning
from ktransfer.runs.carry_out import carry_out

# What names a run, and what was measured of its sources and of time.
ABOUT = {
    *runs.Run._fields,
    *("code", "defaults", "family", "fingerprint", "seconds", "sha256"),
    *("source_origins", "source_test_accuracies"),
}


def measured(results, run):
    record = carry_out(results, run)
    assert record["status"] == "ok", record["reason"]
    return {key: value for key, value in record.items() if key not in ABOUT}


@pytest.mark.parametrize(
    ("method", "equal"),
    [
        ("random_features", True),
        ("structure_transfer", True),
        ("hard_sharing", True),
        ("linear_probe", False),
    ],
)
def test_runs_of_equal_outcomes_measure_the_same(tmp_path, method, equal):
    (first,) = sourced(method)
    second = first._replace(source_seed=1, source_steps=1)
    same = planning.outcome(first) == planning.outcome(second)
    assert same == equal
    found = [measured(tmp_path, run) for run in (first, second)]
    assert (found[0] == found[1]) == equal


def test_the_structure_of_the_default_network_is_scratch(tmp_path):
    (run,) = sourced("structure_transfer")
    alone = run._replace(
        method="scratch", sources=(), source_seed=None, source_steps=None
    )
    assert planning.outcome(run) == planning.outcome(alone)
    found = [measured(tmp_path, one) for one in (run, alone)]
    assert found[0] == found[1]
    other = run._replace(backbone="lenet")
    assert planning.outcome(other).method == "structure_transfer"


def test_what_is_read_stays_in_the_outcome():
    (run,) = sourced("hard_sharing")
    for change in (
        {"seed": 1},
        {"steps": 3},
        {"sources": ("letters_5to9",)},
        {"backbone": "lenet"},
        {"hyperparameters": (("source_weight", 0.5),)},
    ):
        other = run._replace(**change)
        assert planning.outcome(other) != planning.outcome(run), change
    started = run._replace(hyperparameters=(("from_source", True),))
    assert planning.outcome(started) == started
