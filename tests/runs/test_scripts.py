"""Scripts of experiments: found, sized, tuned on trials alone."""

import json

import numpy as np
import pytest
import synthetic

from ktransfer import cli, methods, runs
from ktransfer.analysis import intervals
from ktransfer.errors import KTransferError
from ktransfer.runs import Run, checks, planning, scripts

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
            "code": runs.code(run),
            "fingerprint": runs.fingerprint(run),
            "num_labels": 50,
            "test_accuracy": None,
            **fields,
        },
    )


@pytest.mark.parametrize("name", scripts.names())
@pytest.mark.parametrize("quick", [False, True])
def test_every_script_plans_runs_that_can_be_carried_out(name, quick):
    try:
        loaded = scripts.load(name, quick)
    except KTransferError as error:
        assert quick and error.name == "E_ARGUMENT"
        return
    tuning = scripts.trials(loaded)
    planned = planned_of(loaded)
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


@pytest.mark.parametrize("name", scripts.names())
@pytest.mark.parametrize("quick", [False, True])
def test_no_script_plans_one_training_twice(name, quick):
    """Random features were crossed with sources that they never read."""
    try:
        loaded = scripts.load(name, quick)
    except KTransferError:
        return
    for planned in (planned_of(loaded), scripts.trials(loaded)):
        outcomes = {}
        for run in planned:
            outcomes.setdefault(planning.outcome(run), []).append(run)
        twice = [found for found in outcomes.values() if len(found) > 1]
        assert not twice, twice[0]


def test_a_precision_is_in_every_run_that_trains():
    loaded = scripts.load("cifar10-mnist", precision="mixed_bfloat16")
    plain = scripts.planned(scripts.load("cifar10-mnist"), "results")
    for run, usual in zip(scripts.planned(loaded, "results"), plain):
        settings = dict(run.hyperparameters)
        trains = "precision" in methods.describe(run.method).hyperparameters
        assert settings.pop("precision", None) == (
            "mixed_bfloat16" if trains else None
        )
        assert settings == dict(usual.hyperparameters)
        assert run.experiment == "cifar10_mnist_mixed_bfloat16"
        recipes = {p.recipe for p in runs.pretrainings(run)}
        assert recipes <= {"mixed_bfloat16"}
        try:
            checks.check_run(run)
        except KTransferError as error:
            assert error.name == "E_UNKNOWN" and "data set" in error.message


def planned_of(loaded):
    """Return the runs that report, with the first trials as the choice."""
    return scripts.rehearse(loaded)[len(scripts.trials(loaded)) :]


def drawn(run, rng):
    """Return a synthetic record of `run`, of any accuracy."""
    asked = {}
    if run.also:
        asked["also_accuracies"] = {name: rng.uniform() for name in run.also}
    if run.scores:
        asked["score_values"] = {name: rng.normal() for name in run.scores}
    about = methods.describe(run.method)
    return synthetic.record(
        **runs.as_fields(run),
        **asked,
        family=about.family,
        defaults=about.hyperparameters,
        test_accuracy=float(rng.uniform(0.3, 0.9)),
        target_origin=run.target,
        source_origins=list(run.sources),
        source_test_accuracies=[0.7] * len(run.sources),
    )


@pytest.mark.parametrize("name", scripts.names())
@pytest.mark.parametrize("diverged", [False, True])
def test_every_script_draws_its_records(name, diverged):
    """A diverged run has no measurement; it is drawn, or counts as 0."""
    try:
        loaded = scripts.load(name, quick=True)
    except KTransferError:
        loaded = scripts.load(name)
    rng = np.random.default_rng(0)
    records = [drawn(run, rng) for run in planned_of(loaded)]
    if diverged:
        for record in records[-1], records[len(records) // 2]:
            record.update(status="diverged", test_accuracy=None)
            record.pop("also_accuracies", None)
            record.pop("score_values", None)
    figures = scripts.figures(loaded, records)
    assert figures and all(figure.axes for figure in figures.values())


SCRIPT = """
from ktransfer.runs import Run
from ktransfer.runs.planning import Experiment, longer, run_of

ONE = Run("", "majority", "digits", 2, 0, 1)


def runs():
    return [ONE, ONE._replace(seed=1)]


def figures(records, mix=False):
    return {}


EXPERIMENT = Experiment(name="mine", runs=runs, figures=figures)
"""


@pytest.fixture
def script(tmp_path):
    """A function that writes a script, changed, and returns its path."""

    def write(*change, more=""):
        text = SCRIPT.replace(*change) if change else SCRIPT
        assert not change or text != SCRIPT
        path = tmp_path / "mine.py"
        path.write_text(text + more, encoding="utf-8")
        return str(path)

    return write


def declared(**fields):
    """Return the lines that declare the experiment with other fields."""
    return f"\nEXPERIMENT = EXPERIMENT._replace(**{fields!r})\n"


BROKEN = {
    "no experiment": (("EXPERIMENT =", "OTHER ="), "declares no experiment"),
    "a dictionary": (("Experiment(name", "dict(name"), "declares no exper"),
    "no figures": ((", figures=figures)", ")"), "TypeError: .*figures"),
    "a syntax error": (("def runs()", "def runs("), "loaded .SyntaxError"),
    "an error": (("ONE =", "1 / 0; ONE ="), "loaded .ZeroDivisionError"),
    "an exit": (("ONE =", "raise SystemExit(0); ONE ="), "loaded .SystemExit"),
    "an absent import": (("import Run", "import Walk"), "loaded .ImportError"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_script_that_declares_nothing_is_refused(script, name):
    change, message = BROKEN[name]
    with pytest.raises(KTransferError, match=message) as caught:
        scripts.load(script(change[0], change[1]))
    assert caught.value.name == "E_ARGUMENT"
    assert "\n" not in str(caught.value)
    assert caught.value.message.startswith("mine.py: ")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "../mine"}, "its name is '../mine'"),
        ({"name": None}, "its name is None"),
        ({"runs": []}, r"its runs is \[\]; expected a function"),
        ({"figures": None}, "its figures is None"),
        ({"baseline": {"metod": "scratch"}}, "its baseline is .'metod'"),
        ({"trials": ()}, "its trials is"),
        ({"sizes": {"quick": 1}}, "its sizes is"),
        ({"sizes": {"normal": 1, "large": 2}}, "its sizes is"),
        ({"sizes": 3}, "its sizes is 3"),
        ({"baseline": None}, "its baseline is None"),
        ({"baseline": "scrach"}, "Did you mean 'scratch'"),
        ({"headline": "scratch"}, "its headline is 'scratch'"),
        ({"headline": ("scratch", "l2sp")}, "Did you mean 'l2_sp'"),
    ],
)
def test_a_field_of_the_wrong_kind_is_refused(script, fields, message):
    with pytest.raises(KTransferError, match=message) as caught:
        scripts.load(script(more=declared(**fields)))
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)


PLANS = {
    "[]": "are \\[\\]; expected a list of runs",
    "None": "are None; expected",
    "ONE": "number 0: '' is no `Run`",
    "[{'method': 'majority'}]": "number 0: .* is no `Run`",
    "[ONE, ONE]": "number 1: it is number 0 again .majority, seed 0.",
    "[ONE, ONE._replace(sources=['letters'])]": "number 1: sources is",
    "[ONE._replace(sources='letters')]": "sources is 'letters'; expected",
    "[ONE._replace(sources=(1,))]": "sources is .1,.; expected a tuple of text",
    "[ONE._replace(hyperparameters={'a': 1})]": "hyperparameters is .'a': 1",
    "[ONE._replace(hyperparameters=(('a', [1]),))]": "hyperparameters is",
    "[ONE._replace(hyperparameters=(('a', ([1],)),))]": "hyperparameters is",
    "[ONE._replace(hyperparameters=('ab',))]": "hyperparameters is",
    "[ONE._replace(also='digits')]": "also is 'digits'",
    "[ONE._replace(target=3)]": "target is 3; expected a text",
    "[ONE._replace(steps=[1])]": "steps is .1.; expected an int",
    "[ONE._replace(seed={})]": "seed is {}; expected an int",
    "[ONE._replace(labels_per_class='5')]": "labels_per_class is '5'; expec",
    "[ONE._replace(labels_per_class=1.5)]": "labels_per_class is 1.5",
    "[ONE._replace(source_seed=[1])]": "source_seed is .1.; expected an int",
    "[ONE._replace(hyperparameters=(('a', {1}),))]": "hyperparameters is",
    "[ONE._replace(hyperparameters=(('a', 1j),))]": "hyperparameters is",
    "{ONE}": "expected a list of runs",
    "(run for run in [ONE])": "expected a list of runs",
    "[1 / 0]": "cannot be planned .ZeroDivisionError",
}


@pytest.mark.parametrize("plan", PLANS)
def test_a_plan_that_is_none_is_refused(script, plan):
    loaded = scripts.load(script("[ONE, ONE._replace(seed=1)]", plan))
    for ask in (scripts.rehearse, lambda x: scripts.planned(x, "results")):
        with pytest.raises(KTransferError, match=PLANS[plan]) as caught:
            ask(loaded)
        assert caught.value.name == "E_ARGUMENT"
        assert "\n" not in str(caught.value)
        assert caught.value.message.startswith("mine: its runs")


def test_a_plan_takes_the_name_that_is_declared(script):
    for quick, precision, name in (
        (False, "float32", "mine"),
        (True, "float32", "mine_quick"),
        (True, "mixed_bfloat16", "mine_quick_mixed_bfloat16"),
    ):
        more = "EXPERIMENT = EXPERIMENT._replace(runs=lambda size: runs(), "
        more += "sizes={'normal': 1, 'quick': 2})\n"
        loaded = scripts.load(script(more=more), quick, precision)
        assert {run.experiment for run in scripts.rehearse(loaded)} == {name}
        assert scripts.folder(loaded) == name


def test_a_script_of_one_size_has_no_quick_one(script):
    with pytest.raises(KTransferError, match="one size"):
        scripts.load(script(), quick=True)


def test_the_choice_is_given_to_the_runs_where_there_are_trials(script):
    more = """
def trials(size):
    trial = ONE._replace(method="scratch", evaluation="validation")
    return [
        trial._replace(hyperparameters=(("learning_rate", rate),), seed=seed)
        for rate in (0.1, 0.2)
        for seed in (100, size)
    ]
def tuned(size, chosen):
    best = chosen["digits"]["scratch"]["learning_rate"]
    return [ONE._replace(steps=size, hyperparameters=(("rate", best),))]
EXPERIMENT = EXPERIMENT._replace(
    sizes={"normal": 7, "quick": 8}, trials=trials, runs=tuned
)
"""
    loaded = scripts.load(script(more=more), quick=True)
    assert {run.seed for run in scripts.trials(loaded)} == {100, 8}
    *tuning, run = scripts.rehearse(loaded)
    assert tuning == scripts.trials(loaded)
    assert (run.steps, run.hyperparameters) == (8, (("rate", 0.1),))


def test_a_wrong_plan_is_refused_before_its_trials_run(
    script, tmp_path, monkeypatch, capsys
):
    more = """
TRIAL = ONE._replace(method="scratch", evaluation="validation", seed=9)
EXPERIMENT = EXPERIMENT._replace(
    trials=lambda: [TRIAL], runs=lambda chosen: [ONE._replace(target="digitz")]
)
"""
    monkeypatch.setattr(cli, "sweep", lambda *a: pytest.fail("it ran"))
    results = tmp_path / "results"
    code = cli.main(["run", script(more=more), "--results", str(results)])
    error = capsys.readouterr().err
    assert code == 2 and "'digits'" in error
    assert len(error.splitlines()) == 1
    assert not list(results.rglob("*.jsonl"))


def test_figures_that_fail_are_one_line_and_the_records_stay(
    script, tmp_path, capsys
):
    results = tmp_path / "results"
    path = script("return {}", "return 1 / 0")
    options = ["--results", str(results), "--jobs", "1"]
    assert cli.main(["run", path, *options]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "figures cannot be drawn" in error and "ZeroDivision" in error
    assert cli.main(["run", script(), *options]) == 0
    assert "0 of 2 runs carried out" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", ["records", "", "mix", "a, b, mix"])
def test_figures_that_cannot_be_called_are_refused_before_a_run(
    script, arguments
):
    path = script("figures(records, mix=False)", f"figures({arguments})")
    with pytest.raises(KTransferError, match="its figures.*records, mix"):
        scripts.load(path)


@pytest.mark.parametrize(
    "figures", ["[1]", "'text'", "{'a': 3}", "{1: None}", "{'a b': None}"]
)
def test_figures_that_are_none_are_one_line(script, figures):
    loaded = scripts.load(script("return {}", f"return {figures}"))
    with pytest.raises(KTransferError, match="all records are kept") as caught:
        scripts.figures(loaded, [])
    assert caught.value.name == "E_ARGUMENT"
    assert "\n" not in str(caught.value)


def test_no_figure_is_no_mistake(script):
    loaded = scripts.load(script("return {}", "return None"))
    assert scripts.figures(loaded, []) == {}


def test_longer_runs_differ_in_their_steps_alone():
    few = trials(1e-2, 1e-3)
    for run, more in zip(few, planning.longer(few, 4), strict=True):
        assert more == run._replace(steps=4 * run.steps)


def test_a_run_has_as_many_sources_as_its_method_takes():
    given = {"source": "letters", "source_seed": 1, "source_steps": 5}
    given |= {"target": "digits", "steps": 2}
    none = planning.run_of("scratch", 3, **given)
    assert (none.sources, none.source_seed, none.source_steps) == (
        (),
        None,
        None,
    )
    one = planning.run_of("fine_tuning", 3, second="digits", **given)
    assert (one.sources, one.source_seed) == (("letters",), 1)
    two = planning.run_of("concatenation", 3, second="digits", **given)
    assert two.sources == ("letters", "digits")
    same = planning.run_of("concatenation", 3, **given)
    assert same.sources == ("letters", "letters")
    settings = {"strength": 0.1, "learning_rate": 0.2}
    tuned = planning.run_of("l2_sp", 3, hyperparameters=settings, **given)
    assert tuned.hyperparameters == (("learning_rate", 0.2), ("strength", 0.1))


def test_targets_that_are_tuned_are_of_different_classes():
    loaded = scripts.load("predict-transfer")
    tuned = [r for r in planned_of(loaded) if r.method == "fine_tuning"]
    assert len({run.target for run in tuned}) == len(tuned) == 20
    probed = {
        (run.target, run.seed)
        for run in planned_of(loaded)
        if run.method == "linear_probe"
    }
    assert {(run.target, run.seed) for run in tuned} <= probed


def test_checkpoints_of_another_home_are_left_out_of_the_second_r():
    script = scripts.load("predict-transfer").script

    def checkpoint(home, accuracy, sources=("a",), steps=10):
        return [
            synthetic.record(
                "linear_probe",
                sources=list(sources),
                source_steps=steps,
                source_test_accuracies=[home],
                test_accuracy=accuracy,
            )
        ]

    groups = {
        "1": checkpoint(0.5, 0.3),
        "2": checkpoint(0.6, 0.4),
        "3": checkpoint(0.7, 0.5),
        "4": checkpoint(0.8, 0.6),
        "untrained": checkpoint(0.1, 0.9, steps=0),
        "shuffled": checkpoint(0.1, 0.9, sources=("a_shuffled",)),
        "other": checkpoint(0.99, 0.1, sources=("b",)),
    }
    trained, alike = script._correlations(groups)
    assert trained.startswith("-") and "over the 5 trained" in trained
    assert alike.startswith("1.00") and "over the 4 of them" in alike


def test_ranks_are_of_arms_of_equal_steps_over_seeds():
    script = scripts.load("finetune").script
    levels = {"l2_sp": 0.9, "fine_tuning": 0.8, "scratch": 0.3}
    records = [
        synthetic.record(
            method,
            labels_per_class=labels,
            seed=seed,
            test_accuracy=level,
            steps=400,
        )
        for method, level in levels.items()
        for labels in (10, 50)
        for seed in range(5)
    ]
    longer = [
        {**r, "steps": 1600, "test_accuracy": 1.0}
        for r in records
        if r["method"] == "scratch"
    ]
    figure = script._ranks(records + longer, "title")
    bars = [line.get_xdata() for line in figure.axes[0].lines[::2]]
    half = intervals.critical_difference(3, 5) / 2
    wanted = [[rank - half, rank + half] for rank in (1, 2, 3)]
    np.testing.assert_allclose([list(bar) for bar in bars], wanted)


@pytest.mark.parametrize("oracle, shares", [(0.8, {"a": 0.5}), (0.3, {})])
def test_a_share_is_of_a_gap_that_is_there(oracle, shares):
    script = scripts.load("adapt").script
    reached = {"source_only": 0.4, "a": 0.6, "target_oracle": oracle}
    records = [
        synthetic.record(method, seed=seed, test_accuracy=accuracy)
        for method, accuracy in reached.items()
        for seed in range(3)
    ]
    assert script.gap(records) == pytest.approx(shares)


def test_only_the_chosen_strength_is_beside_the_other_arms():
    loaded = scripts.load("finetune", quick=True)
    rng = np.random.default_rng(0)
    records = [drawn(run, rng) for run in planned_of(loaded)]
    figures = scripts.figures(loaded, records)
    few = min(r["labels_per_class"] for r in records)
    texts = [t.get_text() for t in figures[f"gain_{few}"].texts]
    (name,) = (text for text in texts if text.startswith("l2_sp"))
    first = loaded.script.STRENGTHS["l2_sp"][1][0]
    assert f"strength={first}" in name
    places = figures["strength"].axes[0].get_xticks()
    assert {0.01, 0.1, 1.0} <= set(places)


def test_a_strength_that_was_chosen_stands_in_the_figure_of_adapt():
    loaded = scripts.load("adapt", quick=True)
    rng = np.random.default_rng(0)
    records = [drawn(run, rng) for run in planned_of(loaded)]
    target = records[0]["target"]
    texts = [
        text.get_text().replace("\n", " ")
        for text in scripts.figures(loaded, records)[target].texts
    ]
    # All were given the first strength, 0.1, which is the default of few.
    for name, shown in (
        ("domain_adversarial", "domain_adversarial (strength=0.1)"),
        ("deep_coral", "deep_coral (strength=0.1)"),
        ("source_only", "source_only"),
    ):
        assert [t for t in texts if t.startswith(name)] == [shown]


def test_the_best_mean_over_tuning_seeds_is_chosen(tmp_path):
    tuning = trials(1e-2, 1e-3, seeds=(100, 101))
    for run, value in zip(tuning, (0.9, 0.1, 0.6, 0.5), strict=True):
        record(tmp_path, run, validation_accuracy=value)
    best = scripts.choose(tuning, tmp_path)["digits"]["fine_tuning"]
    assert best["hyperparameters"] == {"learning_rate": 1e-3}
    assert best["score"] == pytest.approx(0.55)
    assert (best["num_trials"], best["num_labels"]) == (2, 100)
    path = scripts.write_choice(tuning, tmp_path)
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found["digits"]["fine_tuning"] == best


def test_of_equal_trials_the_first_and_a_diverged_one_never(tmp_path):
    tuning = trials(3e-2, 1e-2, 1e-3)
    record(tmp_path, tuning[0], status="diverged")
    for run in tuning[1:]:
        record(tmp_path, run, validation_accuracy=0.5)
    best = scripts.choose(tuning, tmp_path)["digits"]["fine_tuning"]
    assert best["hyperparameters"] == {"learning_rate": 1e-2}


def test_a_divergence_is_worse_than_any_information(tmp_path):
    tuning = trials(3e-2, 1e-2, evaluation="information")
    record(tmp_path, tuning[0], status="diverged")
    record(tmp_path, tuning[1], information=-2.5)
    best = scripts.choose(tuning, tmp_path)["digits"]["fine_tuning"]
    assert best["hyperparameters"] == {"learning_rate": 1e-2}


def test_a_choice_without_labels_counts_none(tmp_path):
    tuning = trials(1e-2, 1e-3, evaluation="information")
    for run, value in zip(tuning, (1.0, 2.0), strict=True):
        record(tmp_path, run, information=value)
    best = scripts.choose(tuning, tmp_path)["digits"]["fine_tuning"]
    assert best["hyperparameters"] == {"learning_rate": 1e-3}
    assert best["num_labels"] == 0


@pytest.mark.parametrize(
    "fields",
    [{"status": "failed"}, {"fingerprint": "0" * 64}],
)
def test_a_failed_or_older_trial_chooses_nothing(tmp_path, fields):
    tuning = trials(1e-2)
    record(tmp_path, tuning[0], **{"validation_accuracy": 0.5, **fields})
    with pytest.raises(KTransferError, match="1 of 1 trials"):
        scripts.choose(tuning, tmp_path)


def test_a_choice_waits_for_all_trials(tmp_path):
    tuning = trials(1e-2, 1e-3)
    record(tmp_path, tuning[0], validation_accuracy=0.5)
    with pytest.raises(KTransferError, match="1 of 2 trials"):
        scripts.choose(tuning, tmp_path)


@pytest.fixture
def tuned(tmp_path):
    """An experiment whose trials are on record, and the folder of these."""
    loaded = scripts.load("finetune", quick=True)
    for number, run in enumerate(scripts.trials(loaded)):
        accuracy = 0.3 + number % 7 / 10
        record(tmp_path, run, validation_accuracy=accuracy)
    return loaded, tmp_path


def test_runs_rest_on_the_choice_that_the_trials_make(tuned):
    loaded, results = tuned
    with pytest.raises(KTransferError, match="not there"):
        scripts.planned(loaded, results)
    path = scripts.write_choice(scripts.trials(loaded), results)
    assert scripts.planned(loaded, results)
    first = scripts.choice(loaded, results)
    assert len(first) == 64
    # A choice that lies on the grid, and is not the trials'.
    chosen = json.loads(path.read_text(encoding="utf-8"))
    target, of = next(iter(chosen.items()))
    of["scratch"]["hyperparameters"] = {
        **of["scratch"]["hyperparameters"],
        "learning_rate": next(
            dict(run.hyperparameters)["learning_rate"]
            for run in scripts.trials(loaded)
            if run.method == "scratch"
            and dict(run.hyperparameters) != of["scratch"]["hyperparameters"]
        ),
    }
    path.write_text(json.dumps(chosen), encoding="utf-8")
    with pytest.raises(KTransferError, match="not the choice"):
        scripts.planned(loaded, results)


def test_another_trial_makes_another_choice_and_the_runs_stale(tuned):
    loaded, results = tuned
    trial = scripts.trials(loaded)[0]
    scripts.write_choice(scripts.trials(loaded), results)
    first = scripts.choice(loaded, results)
    run = scripts.planned(loaded, results)[0]
    record(results, run, choice=first)
    (found,) = runs.collect(results, [run], first)
    assert not found["stale"] and runs.is_fresh(found, run, first)
    record(results, trial, validation_accuracy=0.999)
    with pytest.raises(KTransferError, match="not the choice"):
        scripts.choice(loaded, results)
    scripts.write_choice(scripts.trials(loaded), results)
    second = scripts.choice(loaded, results)
    assert second != first
    (found,) = runs.collect(results, [run], second)
    assert found["stale"] and not runs.is_fresh(found, run, second)


def test_an_experiment_without_trials_rests_on_no_choice(tmp_path):
    loaded = scripts.load("cifar10-mnist")
    assert scripts.choice(loaded, tmp_path) == ""
