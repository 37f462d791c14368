"""Figures, read as objects: what is drawn, marked and written."""

import hashlib
import math
import subprocess
import sys

import matplotlib
import pytest
from synthetic import LEVELS, headline, record, sweep

from ktransfer import plots
from ktransfer.analysis import words
from ktransfer.errors import KTransferError


def _drawn(axes, kind):
    """Return the plotted lines whose name starts with `kind`."""
    return [line for line in axes.lines if str(line.get_gid()).startswith(kind)]


def _num_points(axes, kind):
    return sum(len(line.get_xdata()) for line in _drawn(axes, kind))


def _legend(figure):
    return [t.get_text() for t in figure.axes[0].get_legend().get_texts()]


def _texts(figure):
    return [text.get_text() for text in figure.texts]


def _said(figure, words):
    return any(words in text for text in _texts(figure))


def _ok(records):
    return [r for r in records if r["status"] == "ok"]


def test_legend_is_the_methods_by_final_accuracy():
    figure = plots.accuracy_against_labels(headline())
    assert sorted(_legend(figure)) == sorted(LEVELS)
    assert _legend(figure)[-1] == "majority"
    assert _legend(figure)[-2] == "random_features"


def test_every_run_is_a_dot():
    records = headline()
    axes = plots.accuracy_against_labels(records).axes[0]
    assert _num_points(axes, "runs of") == len(_ok(records)) == 162
    assert _num_points(axes, "mean of") == 18
    assert _num_points(axes, "diverged of") == 0


def test_all_labels_stand_at_their_mean_count():
    axes = plots.accuracy_against_labels(headline()).axes[0]
    assert list(axes.get_xticks()) == [10, 100, 6000]
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert names == ["10", "100", "all (6,000)"]
    assert axes.get_xscale() == "log"


def test_dots_are_set_aside_but_stay_at_their_budget():
    axes = plots.accuracy_against_labels(headline()).axes[0]
    places = [line.get_xdata()[0] for line in _drawn(axes, "mean of")]
    assert len(set(places)) == len(places)
    assert all(7 < x < 14 for x in places)


def test_the_figure_says_what_it_shows():
    figure = plots.accuracy_against_labels(
        headline(), title="A title", subtitle="paper: this | here: that"
    )
    assert _said(figure, "A title")
    assert _said(figure, "paper: this | here: that")
    assert _said(
        figure,
        "source CIFAR-10-q75; target MNIST; 6 seeds × 2 source seeds; "
        "bars: 95 % t-interval over seeds",
    )
    assert _said(figure, "conditional on two source networks")
    figure = plots.accuracy_against_labels(headline(3, 1), planned=99)
    assert _said(figure, "conditional on one source network")
    assert _said(figure, "54 of 99 runs")


def test_one_colour_a_method_whatever_else_is_drawn():
    everything = plots.accuracy_against_labels(headline()).axes[0]
    few = [r for r in headline() if r["method"] in ("fine_tuning", "scratch")]
    alone = plots.accuracy_against_labels(few).axes[0]

    def colours(axes):
        lines = _drawn(axes, "mean of")
        return {li.get_gid(): li.get_color() for li in lines}

    assert colours(alone).items() <= colours(everything).items()
    assert len(set(colours(everything).values())) == len(LEVELS)
    black = colours(everything)["mean of scratch"]
    assert matplotlib.colors.to_rgb(black) == (0, 0, 0)


def test_controls_are_thick():
    axes = plots.accuracy_against_labels(headline()).axes[0]
    width = {li.get_gid(): li.get_linewidth() for li in axes.lines}
    assert width["mean of scratch"] > 1.5 * width["mean of fine_tuning"]
    assert width["mean of random_features"] == width["mean of scratch"]


def test_highlighted_methods_stand_before_thin_grey_lines():
    records = sweep()
    figure = plots.accuracy_against_labels(
        records, highlight=["gradual_fusion_transfer"]
    )
    assert sorted(_legend(figure)) == [
        "gradual_fusion_transfer",
        "other methods (39)",
        "random_features",
        "scratch",
    ]
    assert _num_points(figure.axes[0], "runs of") == 18


def test_the_axis_is_readable_and_names_what_lies_below():
    figure = plots.accuracy_against_labels(headline())
    low, high = figure.axes[0].get_ylim()
    assert 70 < low < 80
    assert 99 < high < 100
    assert "log scale of the error" in figure.axes[0].get_ylabel()
    assert _said(figure, "below the axis: majority (11.3 %)")
    early = plots.accuracy_against_labels(headline(budgets=(10,)))
    assert early.axes[0].get_ylabel() == "test accuracy (%)"


def test_perfect_accuracy_is_drawn():
    records = headline()
    for own in records:
        if own["method"] == "fine_tuning" and own["labels_per_class"] is None:
            own["test_accuracy"] = 1.0
    figure = plots.accuracy_against_labels(records)
    figure.draw_without_rendering()
    assert math.isfinite(figure.axes[0].get_ylim()[1])


def test_a_diverged_run_lowers_the_mean_and_is_a_cross_at_the_foot():
    records = headline()

    def mean():
        axes = plots.accuracy_against_labels(records).axes[0]
        (line,) = _drawn(axes, "mean of fine_tuning")
        return line.get_ydata()[0]

    before = mean()
    own = [r for r in records if r["method"] == "fine_tuning"]
    own[0].update(status="diverged", test_accuracy=None)
    own[1].update(status="failed", reason="disk full", test_accuracy=None)
    assert mean() < before - 5
    figure = plots.accuracy_against_labels(records)
    axes = figure.axes[0]
    assert _num_points(axes, "diverged of fine_tuning") == 1
    assert _num_points(axes, "runs of") == len(_ok(records)) == 160
    (cross,) = [
        line
        for line in _drawn(axes, "diverged of fine_tuning")
        if len(line.get_xdata())
    ]
    assert cross.get_transform() == axes.get_xaxis_transform()
    assert cross.get_ydata()[0] < 0.1
    assert _said(figure, "161 of 162 runs (1 failed)")
    assert _said(figure, "× 1 run diverged, counted as accuracy 0")


def test_a_metric_that_is_not_a_number_counts_as_diverged():
    records = headline()
    records[0]["test_accuracy"] = math.nan
    axes = plots.accuracy_against_labels(records).axes[0]
    assert _num_points(axes, "diverged of") == 1
    forest = plots.forest(records, labels_per_class=10)
    assert _said(forest, "1 diverged")


def test_stale_runs_are_marked():
    records = headline()
    records[-1]["stale"] = True
    figure = plots.accuracy_against_labels(records)
    assert "distillation †" in _legend(figure)
    assert _said(figure, "† 1 stale run, of older code or data")
    assert "distillation †" in _texts(
        plots.forest(records, labels_per_class=None)
    )


@pytest.mark.parametrize("name", ["_x", "$y$", "=cmd", "a\u202eb", "$\\frac{"])
def test_odd_names_are_drawn_as_they_are(name, tmp_path):
    records = headline(5, 1)
    for own in records:
        if own["method"] == "fine_tuning":
            own["method"] = name
    plain = name.replace("\u202e", "?")
    lines = plots.accuracy_against_labels(records, title=name, subtitle=name)
    assert plain in _legend(lines)
    forest = plots.forest(records, labels_per_class=10, title=name)
    assert plain in _texts(forest)
    plots.save(lines, tmp_path / "lines.png")
    plots.save(forest, tmp_path / "forest.svg")


def test_forest_has_a_row_an_arm_with_every_seed_a_dot():
    records = headline()
    figure = plots.forest(records, labels_per_class=10)
    axes = figure.axes[0]
    rows = _drawn(axes, "gain of") + _drawn(axes, "baseline")
    rows += _drawn(axes, "off the axis")
    assert len(rows) == len(LEVELS)
    assert _num_points(axes, "seeds of") == 6 * 5
    (zero,) = _drawn(axes, "no gain")
    assert list(zero.get_xdata()) == [0, 0]
    assert set(LEVELS) <= set(_texts(figure))
    assert axes.get_xlabel() == "gain over scratch (percentage points)"


def test_forest_writes_its_columns():
    texts = _texts(plots.forest(headline(), labels_per_class=10))
    for column in ("acc. %", "seconds", "trainable", "n", "gain [95 %], pp"):
        assert column in texts
    assert {"530k", "586k", "82.5", "baseline", "6"} <= set(texts)
    assert any(text.startswith("−1.9 [−") for text in texts)


def test_forest_is_sorted_by_family_then_gain():
    figure = plots.forest(sweep())
    families = [t for t in _texts(figure) if t in plots.FAMILIES]
    assert families == list(plots.FAMILIES)
    lines = _drawn(figure.axes[0], "gain of")
    own = [li for li in lines if li.get_gid().endswith("fusion_transfer")]
    own = sorted(own, key=lambda line: line.get_ydata()[0])
    gains = [line.get_xdata()[0] for line in own]
    assert gains == sorted(gains, reverse=True)


def test_forest_marks_faults_and_lists_the_inapplicable():
    figure = plots.forest(sweep())
    texts = _texts(figure)
    assert "1 diverged" in texts
    assert "1 failed" in texts
    assert "not applicable here" in texts
    assert "deep_adaptation" in texts
    assert any(t.startswith("needs the source's label") for t in texts)
    assert _said(figure, "251 of 252 runs (1 failed); × 1 run diverged")
    assert _num_points(figure.axes[0], "diverged of") == 1


def test_forest_grows_with_its_rows():
    small = plots.forest(headline(), labels_per_class=10).get_size_inches()
    large = plots.forest(sweep()).get_size_inches()
    assert small[0] == large[0]
    assert large[1] - small[1] > 0.2 * (42 - 6)


def test_no_text_overlaps_another():
    for figure in (
        plots.forest(sweep(), title="T", subtitle="S"),
        plots.forest(headline(), labels_per_class=None, title="T"),
        plots.accuracy_against_labels(sweep(), title="T", subtitle="S"),
    ):
        figure.draw_without_rendering()
        boxes = [text.get_window_extent().padded(-2) for text in figure.texts]
        frame = figure.bbox
        for number, box in enumerate(boxes):
            assert frame.x0 <= box.x0
            assert box.x1 <= frame.x1
            assert box.count_overlaps(boxes[number + 1 :]) == 0
        legend = figure.axes[0].get_legend()
        if legend is not None:
            assert legend.get_window_extent().x1 <= frame.x1


def test_arms_of_one_method_stay_apart():
    records = [r for r in headline() if r["family"] == "baselines"]
    for rate in (0.001, 0.0001):
        for strength in (0.1, 0.01):
            setting = {"learning_rate": rate, "regularisation": strength}
            records += [
                record(seed=seed, hyperparameters=setting) for seed in range(5)
            ]
    figure = plots.accuracy_against_labels(records)
    assert len(set(_legend(figure))) == 7
    forest = plots.forest(records, labels_per_class=10)
    arms = [text for text in _texts(forest) if text.startswith("fine_tuning")]
    assert len(set(arms)) == 4


def test_several_budgets_or_targets_need_a_choice():
    with pytest.raises(KTransferError, match="labels_per_class=") as caught:
        plots.forest(headline())
    assert caught.value.name == "E_ARGUMENT"
    with pytest.raises(KTransferError, match="10, 100, None"):
        plots.forest(headline(), labels_per_class=7)
    records = [record(), record(target="usps", target_origin="USPS")]
    with pytest.raises(KTransferError, match="one target"):
        plots.accuracy_against_labels(records)


@pytest.mark.parametrize("draw", [plots.accuracy_against_labels, plots.forest])
def test_mixed_environments_are_refused_or_said(draw):
    records = headline(budgets=(10,))
    records[0]["numerics"] = "0000"
    with pytest.raises(KTransferError, match="environments") as caught:
        draw(records)
    assert caught.value.name == "E_RECORD"
    assert _said(draw(records, mix=True), "2 numeric environments mixed")


@pytest.mark.parametrize("draw", [plots.accuracy_against_labels, plots.forest])
def test_figures_of_next_to_nothing(draw, tmp_path):
    with pytest.raises(KTransferError, match="no records"):
        draw([])
    for number, records in enumerate(
        (
            [record()],
            [record(status="failed", reason="killed")],
            [record(status="not_applicable", reason="needs two sources")],
            [record(status="diverged"), record("scratch")],
            [record("scratch", labels_per_class=1), record("scratch", seed=1)][
                :1
            ],
        )
    ):
        plots.save(draw(records), tmp_path / f"{number}.png")


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_two_builds_give_equal_bytes(suffix, tmp_path):
    digests = set()
    for number, style in enumerate(
        ({}, {"font.size": 20, "text.color": "red"})
    ):
        with matplotlib.rc_context(style):
            for name, figure in (
                ("lines", plots.accuracy_against_labels(headline(), title="T")),
                ("forest", plots.forest(headline(), labels_per_class=10)),
            ):
                path = tmp_path / f"{name}{number}.{suffix}"
                plots.save(figure, path)
                digests.add(hashlib.sha256(path.read_bytes()).digest())
    assert len(digests) == 2
    content = path.read_bytes()
    assert b"atplotlib" not in content or suffix == "svg"
    assert b"dc:date" not in content
    assert matplotlib.__version__.encode() not in content


def test_the_order_of_records_changes_nothing(tmp_path):
    for name, records in (("a", headline()), ("b", headline()[::-1])):
        plots.save(
            plots.accuracy_against_labels(records), tmp_path / f"{name}.png"
        )
        figure = plots.forest(records, labels_per_class=100)
        plots.save(figure, tmp_path / f"{name}-forest.png")
    for kind in (".png", "-forest.png"):
        first, second = (tmp_path / f"{name}{kind}" for name in "ab")
        assert first.read_bytes() == second.read_bytes()


def test_another_suffix_is_refused(tmp_path):
    figure = plots.forest([record(), record("scratch")])
    with pytest.raises(KTransferError, match="png or .svg"):
        plots.save(figure, tmp_path / "figure.pdf")


def test_import_leaves_matplotlib_alone():
    code = (
        "import sys; from ktransfer import plots, report; "
        "assert not {'matplotlib', 'keras', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_counts_and_seconds_are_short():
    counts = [plots.format_count(n) for n in (0, 950, 5130, 529_930, 999_600)]
    assert counts == ["0", "950", "5.1k", "530k", "1.0M"]
    assert plots.format_count(12_345_678) == "12M"
    seconds = [plots.format_seconds(s) for s in (0.04, 9.94, 9.96, 3400.2)]
    assert seconds == ["0.0", "9.9", "10", "3,400"]


def _by_strength():
    return [
        record("l2_sp", seed=seed, hyperparameters={"strength": strength})
        for strength in (0.01, 0.1, 1.0)
        for seed in range(5)
    ] + [record("scratch", seed=seed) for seed in range(5)]


def test_accuracy_against_a_strength_is_one_line_a_method():
    figure = plots.accuracy_against("strength", _by_strength(), "strength")
    axes = figure.axes[0]
    assert _legend(figure) == ["l2_sp"]
    assert list(axes.get_xticks()) == [0.01, 0.1, 1.0]
    assert _num_points(axes, "mean of") == 3
    assert _num_points(axes, "runs of") == 15
    assert axes.get_xlabel() == "strength (log scale)"


def test_accuracy_against_steps_joins_runs_of_other_lengths():
    records = [
        record(method, seed=seed, steps=steps, source_seed=seed % 2)
        for method in ("scratch", "fine_tuning")
        for steps in (100, 400)
        for seed in range(5)
    ]
    figure = plots.accuracy_against("steps", records, "steps")
    assert _said(figure, "5 seeds, 2 source seeds in turn")
    assert sorted(_legend(figure)) == ["fine_tuning", "scratch"]
    assert _num_points(figure.axes[0], "mean of") == 4


def test_accuracy_against_what_no_run_has_is_refused():
    with pytest.raises(KTransferError, match="no records to draw"):
        plots.accuracy_against("strength", [record()], "strength")


def test_few_targets_are_named_and_many_are_counted():
    assert words.data(["A"], ["C", "B"]) == "source A; target B, C"
    assert words.data([""], [f"T{k}" for k in range(50)]) == "50 targets"


def test_intervals_draw_a_row_each_and_name_groups_once():
    rows = [
        plots.Row("leep", "leep", 0.5, 0.3, 0.7, "MNIST"),
        plots.Row("nce", "nce", 0.1, -0.2, 0.4, "MNIST"),
        plots.Row("leep", "leep", 0.2, 0.0, 0.4, "CIFAR-10"),
    ]
    figure = plots.intervals(rows, x_label="rho", mark=0)
    axes = figure.axes[0]
    bars = [list(li.get_xdata()) for li in _drawn(axes, "interval of")]
    assert bars == [[0.3, 0.7], [-0.2, 0.4], [0.0, 0.4]]
    assert _texts(figure).count("MNIST") == 1
    assert _texts(figure).count("leep") == 2
    with pytest.raises(KTransferError, match="no records to draw"):
        plots.intervals([], x_label="rho")
