"""Scripts of experiments: found, sized, tuned on trials alone."""

import json

import pytest

from ktransfer import checks, experiment, runs
from ktransfer.errors import KTransferError
from ktransfer.runs import Run

TRIAL = Run(
    experiment="trial",
    method="fine_tuning",
    target="digits",
    steps=2,
    seed=100,
    labels_per_class=5,
    sources=("letters",),
    source_seed=0,
    source_steps=2,
    evaluation="validation",
)


def trials(*rates, seeds=(100,), **fields):
    return [
        TRIAL._replace(
            seed=seed, hyperparameters=(("learning_rate", rate),), **fields
        )
        for rate in rates
        for seed in seeds
    ]


def record(results, run, status="ok", **fields):
    runs.write(
        results,
        {
            **runs.as_fields(run),
            "status": status,
            "fingerprint": "0" * 64,
            "num_labels": 50,
            "test_accuracy": None,
            **fields,
        },
    )


@pytest.mark.parametrize("name", experiment.names())
@pytest.mark.parametrize("quick", [False, True])
def test_every_script_plans_runs_that_can_be_carried_out(name, quick):
    try:
        loaded = experiment.load(name, quick)
    except KTransferError as error:
        assert quick and error.name == "E_ARGUMENT"
        return
    tuning = experiment.trials(loaded)
    chosen = {}
    for run in tuning:
        best = chosen.setdefault(run.target, {})
        best.setdefault(run.method, dict(run.hyperparameters))
    planned = loaded.script.runs(*loaded.size, *([chosen] if tuning else []))
    assert planned and len(set(planned)) == len(planned)
    assert all(run.evaluation == "test" for run in planned)
    assert all(run.evaluation != "test" for run in tuning)
    assert not {run.seed for run in tuning} & {run.seed for run in planned}
    assert {run.experiment for run in [*planned, *tuning]} == {
        name + ("_quick" if quick else "")
    }
    # Real data may be absent; what is embedded is there.
    for run in [*planned, *tuning]:
        try:
            checks.check_run(run)
        except KTransferError as error:
            assert error.name == "E_UNKNOWN" and not quick
            assert "data set" in error.message


def test_the_best_mean_over_tuning_seeds_is_chosen(tmp_path):
    tuning = trials(1e-2, 1e-3, seeds=(100, 101))
    for run, value in zip(tuning, (0.9, 0.1, 0.6, 0.5), strict=True):
        record(tmp_path, run, validation_accuracy=value)
    best = experiment.choose(tuning, tmp_path)["digits"]["fine_tuning"]
    assert best["hyperparameters"] == {"learning_rate": 1e-3}
    assert best["score"] == pytest.approx(0.55)
    assert (best["num_trials"], best["num_labels"]) == (2, 100)
    path = experiment.write_choice(tuning, tmp_path)
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found["digits"]["fine_tuning"] == best


def test_of_equal_trials_the_first_and_a_diverged_one_never(tmp_path):
    tuning = trials(3e-2, 1e-2, 1e-3)
    record(tmp_path, tuning[0], status="diverged")
    for run in tuning[1:]:
        record(tmp_path, run, validation_accuracy=0.5)
    best = experiment.choose(tuning, tmp_path)["digits"]["fine_tuning"]
    assert best["hyperparameters"] == {"learning_rate": 1e-2}


def test_a_choice_without_labels_counts_none(tmp_path):
    tuning = trials(1e-2, 1e-3, evaluation="information")
    for run, value in zip(tuning, (1.0, 2.0), strict=True):
        record(tmp_path, run, information=value)
    best = experiment.choose(tuning, tmp_path)["digits"]["fine_tuning"]
    assert best["hyperparameters"] == {"learning_rate": 1e-3}
    assert best["num_labels"] == 0


def test_a_choice_waits_for_all_trials(tmp_path):
    tuning = trials(1e-2, 1e-3)
    record(tmp_path, tuning[0], validation_accuracy=0.5)
    with pytest.raises(KTransferError, match="1 of 2 trials"):
        experiment.choose(tuning, tmp_path)
