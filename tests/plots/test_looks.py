"""What a method looks like: fixed, and told from what it is drawn beside."""

import itertools

import numpy as np
import pytest
from synthetic import record

from ktransfer import methods, plots
from ktransfer.plots.looks import COLOURS, MARKERS, TABLE
from ktransfer.runs import scripts

FAMILY_OF = methods.names()
CONTROLS = ("scratch", "random_features", "majority")


def domain():
    return [name for name, family in FAMILY_OF.items() if family == "domain"]


# Methods that a figure of lines, or of marks, tells apart by their looks.
DRAWN_AS_LINES = {
    "headline": lambda: scripts.load("cifar10-mnist").script.EVERYWHERE,
    "finetune": lambda: (*scripts.load("finetune").script.ARMS, "majority"),
    "robust_ft": lambda: (*scripts.load("robust-ft").script.TUNED, "wise_ft"),
    "adapt": lambda: (
        "source_only",
        *(
            name
            for name in domain()
            if "strength" in methods.describe(name).hyperparameters
        ),
    ),
}
# Those that stand in one figure with their names beside them.
DRAWN_AS_ROWS = DRAWN_AS_LINES | {"adapt, rows": domain}

# Machado et al. 2009, doi.org/10.1109/TVCG.2009.113: what is seen of linear
# RGB without one kind of cone.
BLINDNESS = {
    "none": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
# From linear RGB to XYZ, IEC 61966-2-1.
TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)


def seen(colour, blindness):
    """Return a colour `#RRGGBB` in CIE 1976 L*a*b*, as it is seen."""
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    gamma = np.array(parts)
    linear = np.where(
        gamma <= 0.04045, gamma / 12.92, ((gamma + 0.055) / 1.055) ** 2.4
    )
    found = np.clip(np.asarray(BLINDNESS[blindness]) @ linear, 0, 1)
    x, y, z = np.cbrt(TO_XYZ @ found / TO_XYZ.sum(axis=1))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def distance(first, second):
    """Return the least distance of two colours in the eyes of anybody."""
    return min(
        np.linalg.norm(seen(first, kind) - seen(second, kind))
        for kind in BLINDNESS
    )


def test_the_simulation_merges_what_it_should():
    """Red and green of one lightness merge without a red or green cone."""
    red, green = (
        seen("#C00000", "deuteranopia"),
        seen("#606000", "deuteranopia"),
    )
    apart = seen("#C00000", "none") - seen("#606000", "none")
    assert np.linalg.norm(red - green) < 0.35 * np.linalg.norm(apart)
    # Grey stays grey.
    for kind in BLINDNESS:
        np.testing.assert_allclose(seen("#808080", kind)[1:], 0, atol=0.1)
        assert seen("#FFFFFF", kind)[0] == pytest.approx(100, abs=0.01)


def test_every_method_has_a_look_of_its_own():
    assert set(TABLE) == set(FAMILY_OF), "add a line to plots/looks.py"
    assert len(set(TABLE.values())) == len(TABLE)
    for name, (colour, marker) in TABLE.items():
        assert marker in MARKERS
        assert (colour in COLOURS) == (name not in CONTROLS)


def pairs(groups, name):
    members = dict.fromkeys(groups[name]())
    assert set(members) <= set(TABLE)
    return itertools.combinations(members, 2)


@pytest.mark.parametrize("name", DRAWN_AS_ROWS)
def test_who_sees_fewer_colours_tells_the_methods_of_a_figure_apart(name):
    for first, second in pairs(DRAWN_AS_ROWS, name):
        (one, shape), (other, form) = TABLE[first], TABLE[second]
        assert shape != form or distance(one, other) >= 20, (first, second)


@pytest.mark.parametrize("name", DRAWN_AS_LINES)
def test_methods_drawn_as_lines_differ_in_both(name):
    for first, second in pairs(DRAWN_AS_LINES, name):
        (one, shape), (other, form) = TABLE[first], TABLE[second]
        assert one != other and shape != form, (first, second)


def test_a_method_looks_the_same_whatever_else_is_drawn():
    everything = plots.looks({name: name for name in TABLE})
    for name in TABLE:
        alone = plots.looks({name: name})[name]
        assert alone == everything[name]
        assert (alone.colour, alone.marker) == TABLE[name]
        assert alone.filled and alone.line == "-"


def test_methods_that_the_table_does_not_know_differ_too():
    many = {f"own_{number}": f"own_{number}" for number in range(70)}
    chosen = plots.looks({**many, **{name: name for name in list(TABLE)[:30]}})
    assert len(set(chosen.values())) == 100
    assert plots.looks(many) == plots.looks(dict(reversed(many.items())))


def test_arms_of_one_method_differ_by_marker_and_line():
    labels = ["scratch (4x steps)", "scratch", "scratch (8x steps)"]
    chosen = plots.looks(dict.fromkeys(labels, "scratch"))
    assert {look[:2] for look in chosen.values()} == {TABLE["scratch"]}
    kinds = [chosen[label][2:] for label in sorted(labels)]
    assert kinds == [(True, "-"), (False, "--"), (True, ":")]


def test_a_figure_draws_the_looks():
    records = [
        record(method, seed=seed, steps=steps)
        for method, steps in (
            *(("scratch", 600), ("scratch", 2_400)),
            *(("l2_sp", 600), ("delta", 600)),
        )
        for seed in range(3)
    ]
    lines = {
        line.get_gid(): line
        for line in plots.accuracy_against_labels(records).axes[0].lines
    }
    for label, open_marker in (
        ("scratch", False),
        ("scratch (4x steps)", True),
        ("l2_sp", False),
    ):
        line = lines[f"mean of {label}"]
        colour, marker = TABLE[label.partition(" ")[0]]
        assert (line.get_color(), line.get_marker()) == (colour, marker)
        assert (line.get_markerfacecolor() == "white") == open_marker
        assert (line.get_linestyle() == "--") == open_marker
    forest = plots.forest(records).axes[0].lines
    drawn = {line.get_gid(): line.get_marker() for line in forest}
    assert drawn["gain of l2_sp"] == TABLE["l2_sp"][1]
