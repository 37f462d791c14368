"""The suite beside its peers: one table, measured in one go on one machine.

    make bench

Every contender is a process of its own that reads the same arrays. They take
turns, in the opposite order every other repeat, and what counts is the ratio
within a repeat: its median, and the range that holds the true median with 94 %
confidence at five repeats (the least and the largest). Nothing is timed before
our weights are those of plain Keras on the same batches, and bfloat16 counts
only if it costs no accuracy. Peers that the suite does not depend on live in an
environment of their own; one that is absent is skipped, and said to be.
"""

import argparse
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ktransfer.statistics import paired_interval

HERE = Path(__file__).resolve().parent
SOURCE_STEPS = 390
# Of the grid: linear, and with a hidden layer.
NUM_HEADS = (108, 72)
GRID_STEPS, BATCH = 600, 64
# How far our weights may end from those of plain Keras, as a share of the way.
TOLERANCE = 1e-4
# Accuracy that bfloat16 may cost: the low end of the paired interval.
GATE = -0.02
CONVOLUTION_EPOCHS = 2


def main():
    options = _options()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print("preparing data and source ...", file=sys.stderr)
        _prepare(folder)
        found = {
            part: measure(folder, options)
            for part, measure in PARTS.items()
            if part in options.parts
        }
        found["machine"] = _machine(folder)
    place = Path(options.results) / "bench"
    place.mkdir(parents=True, exist_ok=True)
    kept = place / "measured.json"
    # Parts that were measured on their own join the others.
    before = json.loads(kept.read_text()) if kept.exists() else {}
    found = {**before, **found}
    kept.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    (place / "README.md").write_text(_table(found))
    print(_table(found))


def _options():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peers", help="Python with torch, adapt, sklearn")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--results", default="results")
    parser.add_argument("--parts", nargs="+", default=list(PARTS))
    return parser.parse_args()


# What all read


def _prepare(folder):
    """Write the arrays and the frozen network that all contenders read."""
    # In a process of its own, so that this one stays without TensorFlow.
    subprocess.run(
        [sys.executable, HERE / "prepare.py", folder, str(SOURCE_STEPS)],
        check=True,
        env=_environment(),
    )


def _environment():
    return {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}


def _machine(folder):
    """Return what was measured on, by what the preparation has found."""
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    name = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    return {
        **facts,
        "cores": len(os.sched_getaffinity(0)),
        "date": time.strftime("%Y-%m-%d"),
        "processor": name[1] if name else facts["machine"],
    }


# Contenders


def _contend(script, folder, *arguments, python=sys.executable):
    """Return what a contender reports, None if it lacks a package."""
    done = subprocess.run(
        [python, HERE / "contenders" / script, folder, *map(str, arguments)],
        env=_environment(),
        capture_output=True,
        text=True,
    )
    if done.returncode == 0:
        return json.loads(done.stdout.strip().splitlines()[-1])
    if "ModuleNotFoundError" in done.stderr:
        print(f"{script} is skipped: {done.stderr.splitlines()[-1]}")
        return None
    raise SystemExit(f"{script} failed:\n{done.stderr}")


def _repeated(repeats, **contenders):
    """Return name -> list of reports; the order turns with every repeat."""
    found = {name: [] for name in contenders}
    for number in range(repeats):
        order = list(contenders)[:: -1 if number % 2 else 1]
        for name in order:
            if None in found[name]:
                continue
            report = contenders[name]()
            found[name].append(report)
            said = f"{_total(report):.1f} s" if report else "skipped"
            print(f"repeat {number + 1}: {name} {said}", file=sys.stderr)
    return {k: v for k, v in found.items() if None not in v}


def _total(report, epochs=None):
    """Return the seconds of `epochs` epochs, all but the first alike."""
    first, *others = report["seconds"]
    if epochs is None or not others:
        return first + sum(others)
    return first + (epochs - 1) * statistics.mean(others)


def _spread(values):
    return [min(values), statistics.median(values), max(values)]


def _compare(found, ours, epochs=None):
    """Return name -> seconds, ratios to ours in the same repeat, accuracy."""
    base = [_total(report, epochs) for report in found[ours]]
    rows = {}
    for name, reports in found.items():
        seconds = [_total(report, epochs) for report in reports]
        rows[name] = {
            "accuracy": _spread([report["accuracy"] for report in reports]),
            "ratio": _spread([a / b for a, b in zip(seconds, base)]),
            "seconds": _spread(seconds),
        }
    return rows


# The parts of the table


def _same_answer(folder, options):
    """The same answer as plain Keras."""
    found = _contend("same_answer.py", folder, 1)
    for name, end in found.items():
        if end["distance"] > TOLERANCE:
            raise SystemExit(f"not the answer of plain Keras: {name}, {end}")
    return {"gate": found}


def _head(folder, options):
    """One head on frozen features of 60,000 images, ten epochs."""
    peers = options.peers or sys.executable
    few, all_ = 2, 10
    found = _repeated(
        options.repeats,
        ours=lambda: _contend("ktransfer_head.py", folder, all_),
        A=lambda: _contend("keras_guide.py", folder, few),
        B=lambda: _contend("keras_cached.py", folder, all_),
        C=lambda: _contend("adapt_fine_tuning.py", folder, few, python=peers),
        D=lambda: _contend("pytorch_head.py", folder, few, python=peers),
        D_cached=lambda: _contend(
            "pytorch_head.py", folder, all_, "cached", python=peers
        ),
    )
    rows = _compare(found, "ours", all_)
    for name in ("A", "C", "D"):
        if name in rows:
            rows[name]["extrapolated_from_epochs"] = few
    # The whole of A once: does its answer agree?
    rows["A"]["accuracy_of_all_epochs"] = _contend(
        "keras_guide.py", folder, all_
    )["accuracy"]
    features = statistics.median(x["features"] for x in found["ours"])
    return {"rows": rows, "profile": _profile(rows, features)}


def _best_rate():
    """Return what one large matrix product reaches here, in GFLOP/s."""
    code = "from ktransfer import backend; print(backend.product_rate(2048, 9))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout.split()[-1])


# Of the network for an image, in multiplications: three convolutions, and the
# head forwards and backwards by its weights and by its hidden values, but not
# by the features, which are frozen.
_CONVOLUTIONS = 30 * 30 * 27 * 32 + 13 * 13 * 288 * 64 + 4 * 4 * 576 * 64
_HEAD = 2 * (1024 * 512 + 512 * 10) + 512 * 10
_LINEAR = 2 * 1024 * 10


def _profile(rows, features):
    """Return where our seconds go, beside what the machine could do at best."""
    training = rows["ours"]["seconds"][1] - features
    rates = {
        "features": 2 * 60_000 * _CONVOLUTIONS / features / 1e9,
        "training": 2 * 600_000 * _HEAD / training / 1e9,
    }
    return {
        "machine": _best_rate(),
        "rates": rates,
        "seconds": {"features": features, "training": training},
    }


def _grid(folder, options):
    """180 heads: six seeds x six label budgets x five heads and rates."""
    jobs = len(os.sched_getaffinity(0))
    found = _repeated(
        options.repeats,
        ours=lambda: _contend("ktransfer_grid.py", folder, 0, jobs),
        A=lambda: _contend("keras_grid.py", folder, 0, "guide"),
        B=lambda: _contend("keras_grid.py", folder, 0, "cached"),
    )
    for name in ("A", "B"):
        for report in found[name]:
            sample = report["seconds"]
            # Linear heads and those with a hidden layer, in turn.
            kinds = [statistics.mean(sample[kind::2]) for kind in (0, 1)]
            whole = sum(n * mean for n, mean in zip(NUM_HEADS, kinds))
            report["seconds"] = [report["once"] + whole]
    rows = _compare(found, "ours")
    for name in ("A", "B"):
        rows[name]["extrapolated_from_heads"] = len(sample)
    images = GRID_STEPS * BATCH
    linear, hidden = NUM_HEADS
    products = 70_000 * _CONVOLUTIONS + images * (
        linear * _LINEAR + hidden * _HEAD
    )
    best = _best_rate()
    spent = {
        kind: statistics.median(
            report["spent"][kind] for report in found["ours"]
        )
        for kind in found["ours"][0]["spent"]
    }
    least = 2 * products / best / 1e9
    peak = max(report["peak"] for report in found["ours"])
    floor = {"best": best, "peak": peak, "seconds": least, **spent}
    return {"rows": rows, "floor": floor}


def _convolutions(folder, options):
    """Pretraining the article's network on CIFAR-10, two epochs."""
    epochs = CONVOLUTION_EPOCHS
    # Every repeat is a seed, the same for the two precisions.
    seeds = {name: itertools.count() for name in ("mixed_bfloat16", "float32")}

    def ours(precision):
        return _contend(
            "ktransfer_convolutions.py",
            folder,
            epochs,
            precision,
            next(seeds[precision]),
        )

    found = _repeated(
        options.repeats,
        bfloat16=lambda: ours("mixed_bfloat16"),
        float32=lambda: ours("float32"),
        A=lambda: _contend("keras_convolutions.py", folder, epochs),
    )
    low, wide = (
        [report["accuracy"] for report in found[name]]
        for name in ("bfloat16", "float32")
    )
    change = paired_interval(low, wide)
    return {
        "rows": _compare(found, "bfloat16"),
        "precision": {
            "change": change.mean,
            "interval": [change.low, change.high],
            "seeds": change.count,
        },
    }


def _regression(folder, options):
    """A linear head to its minimum, 60,000 features of 1,024 values."""
    peers = options.peers or sys.executable
    found = _repeated(
        options.repeats,
        ours=lambda: _contend("ktransfer_regression.py", folder, 0),
        E=lambda: _contend("scikit_regression.py", folder, 0, python=peers),
    )
    rows = _compare(found, "ours")
    for name, reports in found.items():
        rows[name]["objective"] = reports[0]["objective"]
    return {"rows": rows}


def _quick(folder, options):
    """Every method at three seeds from a cold start: `make quick`."""
    jobs = len(os.sched_getaffinity(0))
    found = _repeated(
        options.repeats,
        quick=lambda: _contend("ktransfer_quick.py", folder, jobs),
    )["quick"]
    return {
        "quick": {
            "jobs": jobs,
            "peak": max(report["peak"] for report in found),
            "runs": found[0]["runs"],
            "seconds": _spread([_total(report) for report in found]),
        }
    }


PARTS = {
    "same_answer": _same_answer,
    "head": _head,
    "grid": _grid,
    "convolutions": _convolutions,
    "regression": _regression,
    "quick": _quick,
}
NAMES = {
    "A": "Keras's guide",
    "B": "Keras, cached features and XLA",
    "C": "ADAPT `FineTuning`",
    "D": "PyTorch",
    "D_cached": "PyTorch, cached features",
    "E": "scikit-learn",
    "bfloat16": "**ktransfer in bfloat16**",
    "float32": "ktransfer in float32",
    "ours": "**ktransfer**",
}


# The table


def _table(found):
    machine = found["machine"]
    lines = [
        "# Measured speed",
        "",
        f"{machine['processor']}, {machine['cores']} cores, "
        f"{', '.join(machine['isa'])}; {machine['date']}. "
        "`make bench` measures it again.",
        "",
        "A ratio is of two times within one repeat; its median, and the least "
        "and the largest of the repeats.",
    ]
    for part, measure in PARTS.items():
        if part in found:
            lines += ["", *_part(measure.__doc__, found[part])]
    return "\n".join(lines) + "\n"


def _part(title, found):
    lines = [f"## {title.rstrip('.')}", ""]
    for key, tell in (("gate", _gate_text), ("quick", _quick_text)):
        if key in found:
            return [*lines, tell(found[key])]
    lines += ["| | seconds | times ours | accuracy |", "|---|---|---|---|"]
    lines += [_row(name, row) for name, row in found["rows"].items()]
    for key, tell in (
        ("profile", _profile_text),
        ("floor", _floor_text),
        ("precision", _precision_text),
    ):
        if key in found:
            lines += ["", tell(found[key])]
    objectives = [row.get("objective") for row in found["rows"].values()]
    if all(value is not None for value in objectives):
        named = ", ".join(
            f"{NAMES[n].strip('*')} {row['objective']:.6f}"
            for n, row in found["rows"].items()
        )
        lines += ["", f"Objective reached: {named}."]
    return lines


def _row(name, row):
    low, middle, high = row["ratio"]
    accuracy = row.get("accuracy_of_all_epochs", row["accuracy"][1])
    told = NAMES[name]
    for key, unit in (
        ("extrapolated_from_epochs", "epochs"),
        ("extrapolated_from_heads", "heads"),
    ):
        if key in row:
            told += f" (extrapolated from {row[key]} {unit})"
    return (
        f"| {told} | {row['seconds'][1]:.1f} | {middle:.2f} "
        f"[{low:.2f}, {high:.2f}] | {accuracy:.2%} |"
    )


def _gate_text(gate):
    linear, hidden = gate["linear"], gate["hidden"]
    return (
        "Keras's own `fit` of the whole frozen model, on our start and our "
        "batches, ends at our weights: after "
        f"{linear['steps']} steps of a linear head {linear['distance']:.0e} of "
        f"the way gone apart, after {hidden['steps']} steps of the head with a "
        f"hidden layer {hidden['distance']:.0e} (at most {TOLERANCE:.0e})."
    )


def _quick_text(found):
    low, middle, high = found["seconds"]
    return (
        f"{found['runs']} runs in {middle:.0f} s [{low:.0f}, {high:.0f}] by "
        f"{found['jobs']} workers, table and figure included; the largest "
        f"process took {found['peak']:.2f} GiB."
    )


def _profile_text(profile):
    best = profile["machine"]
    parts = [
        f"{profile['seconds'][part]:.1f} s of {part} at {rate:.0f} GFLOP/s "
        f"({rate / best:.0%})"
        for part, rate in profile["rates"].items()
    ]
    least = sum(
        profile["seconds"][part] * rate / best
        for part, rate in profile["rates"].items()
    )
    return (
        f"Ours: {' and '.join(parts)} of the {best:.0f} GFLOP/s that one large "
        f"matrix product reaches here (F). At that rate throughout it would "
        f"be {least:.1f} s, which no float32 program on this machine can beat."
    )


def _floor_text(floor):
    return (
        f"Ours, in processor seconds: {floor['hidden']:.0f} of methods with a "
        f"hidden layer, {floor['linear']:.0f} of linear ones, "
        f"{floor['other']:.0f} of all else, evaluations and the start of "
        f"the workers among it; the largest worker took {floor['peak']:.2f} "
        "GiB. The matrix products of the grid alone, each "
        f"head trained and all images seen once, take {floor['seconds']:.0f} s "
        f"at the {floor['best']:.0f} GFLOP/s of one large product (F)."
    )


def _precision_text(found):
    low, high = found["interval"]
    passed = "inside" if low > GATE else "outside"
    return (
        f"Accuracy of bfloat16 minus float32 over {found['seeds']} seeds: "
        f"{100 * found['change']:+.2f} pp [{100 * low:+.2f}, "
        f"{100 * high:+.2f}], {passed} the gate of {100 * GATE:+.0f} pp."
    )


if __name__ == "__main__":
    main()
