"""The suite beside its peers: one table, measured in one go on one machine.

    make bench

Every contender is a process of its own that reads the same arrays. They take
turns, in the opposite order every other repeat, and what counts is the ratio
within a repeat: its median, and the range that holds the true median with 94 %
confidence at five repeats (the least and the largest). Nothing is timed before
our weights are those of plain Keras on the same batches, and bfloat16 counts
only if it costs at most two points of accuracy. Peers that the suite does not
depend on live in an environment of their own; one that is absent is skipped,
and the table says so.
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

from ktransfer.analysis.intervals import paired_interval

HERE = Path(__file__).resolve().parent
SOURCE_STEPS = 390
# Of the grid: linear, and with a hidden layer.
NUM_HEADS = {"linear": 108, "hidden": 72}
GRID_STEPS, BATCH = 600, 64
# How far our weights may end from those of plain Keras, as a share of the way.
TOLERANCE = 1e-4
# How far apart two minima may be, in the objective.
SAME_OBJECTIVE = 1e-5
# Accuracy that bfloat16 may cost: the low end of the paired interval.
GATE = -0.02
CONVOLUTION_EPOCHS = 2
# TensorFlow leaves oneDNN off where a processor lacks AVX-512. The suite turns
# it on, and so does the best plain Keras; the guide says nothing of it.
ONEDNN = {"TF_ENABLE_ONEDNN_OPTS": "1"}


def main():
    options = _options()
    place = Path(options.results) / "bench"
    place.mkdir(parents=True, exist_ok=True)
    kept = place / "measured.json"
    # A part that is measured on its own joins the others of its machine.
    measured = json.loads(kept.read_text()) if kept.exists() else {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print("preparing data and source ...", file=sys.stderr)
        _prepare(folder, options.repeats)
        machine = _machine(folder)
        found = measured.setdefault(_described(machine), {})
        for part in dict.fromkeys(["same_answer", *options.parts]):
            found[part] = {
                **PARTS[part](folder, options),
                "machine": machine,
                "repeats": options.repeats,
            }
            text = json.dumps(measured, indent=1, sort_keys=True)
            kept.write_text(f"{text}\n")
            (place / "README.md").write_text(_table(measured))
    print(_table(measured))


def _options():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peers", help="Python with torch, adapt, sklearn")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--results", default="results")
    parser.add_argument("--parts", nargs="+", default=list(PARTS))
    return parser.parse_args()


# What all read


def _prepare(folder, starts):
    """Write the arrays and the networks that all contenders read."""
    # In a process of its own, so that this one stays without TensorFlow.
    subprocess.run(
        [sys.executable, HERE / "prepare.py", folder]
        + [str(SOURCE_STEPS), str(starts)],
        check=True,
        env=_environment(),
    )


def _environment():
    """Return the variables of a contender, without what we set for ourselves.

    To import anything of the suite here has put them into our environment.
    """
    kept = {k: v for k, v in os.environ.items() if k not in ONEDNN}
    return {**kept, "TF_CPP_MIN_LOG_LEVEL": "3"}


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


def _described(machine):
    return ", ".join(
        [machine["processor"], f"{machine['cores']} cores", *machine["isa"]]
    )


# Contenders


def _contend(script, folder, *arguments, peers=None, switches=None):
    """Return what a contender reports.

    Args:
        switches: environment variables of this one alone.
        peers: the Python of one that the suite does not depend on; it returns
            None where its package is absent.
    """
    done = subprocess.run(
        [peers or sys.executable, HERE / "contenders" / script, folder]
        + [str(argument) for argument in arguments],
        env={**_environment(), **(switches or {})},
        capture_output=True,
        text=True,
    )
    if done.returncode == 0:
        return json.loads(done.stdout.strip().splitlines()[-1])
    if peers and "ModuleNotFoundError" in done.stderr:
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
    """Return name -> seconds, ratios to ours in the same repeat, accuracy.

    One that was not run for all of the `epochs` has no accuracy of them.
    """
    base = [_total(report, epochs) for report in found[ours]]
    rows = {}
    for name, reports in found.items():
        seconds = [_total(report, epochs) for report in reports]
        done = len(reports[0]["seconds"])
        whole = epochs is None or done in (1, epochs)
        reached = [report["accuracy"] for report in reports]
        rows[name] = {
            "accuracy": _spread(reached) if whole else None,
            "ratio": _spread([a / b for a, b in zip(seconds, base)]),
            "seconds": _spread(seconds),
        }
    return rows


# The parts of the table


def _same_answer(folder, options):
    """The same answer as plain Keras."""
    found = _contend("same_answer.py", folder, 1)
    for name in ("linear", "hidden"):
        if found[name]["distance"] > TOLERANCE:
            raise SystemExit(f"not the answer of plain Keras: {found[name]}")
    return {"gate": found}


def _head(folder, options):
    """One head on frozen features of 60,000 images, ten epochs."""
    peers = options.peers or sys.executable
    few, all_ = 2, 10
    found = _repeated(
        options.repeats,
        ours=lambda: _contend("ktransfer_head.py", folder, all_),
        A=lambda: _contend("keras_guide.py", folder, few),
        B=lambda: _contend("keras_cached.py", folder, all_, switches=ONEDNN),
        C=lambda: _contend("adapt_fine_tuning.py", folder, few, peers=peers),
        D=lambda: _contend("pytorch_head.py", folder, few, peers=peers),
        D_cached=lambda: _contend(
            "pytorch_head.py", folder, all_, "cached", peers=peers
        ),
        F=_product_rate,
    )
    rates = _spread([report["rate"] for report in found.pop("F")])
    rows = _compare(found, "ours", all_)
    for name in ("A", "C", "D"):
        if name in rows:
            rows[name]["extrapolated_from_epochs"] = few
    # The whole of A once: does its answer agree?
    whole = _contend("keras_guide.py", folder, all_)["accuracy"]
    rows["A"]["accuracy"] = [whole] * 3
    features = statistics.median(x["features"] for x in found["ours"])
    return {
        "rows": rows,
        "absent": [n for n in ("C", "D", "D_cached") if n not in rows],
        "profile": _profile(rows, features, rates),
    }


def _product_rate():
    """Return F: what one large matrix product reaches here, in GFLOP/s."""
    code = "from ktransfer import backend; print(backend.product_rate(2048, 9))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    rate = float(done.stdout.split()[-1])
    return {"seconds": [2 * 2048**3 / rate / 1e9], "rate": rate}


# Of the network for an image, in multiplications: three convolutions, and the
# head forwards and backwards by its weights and by its hidden values, but not
# by the features, which are frozen.
_CONVOLUTIONS = 30 * 30 * 27 * 32 + 13 * 13 * 288 * 64 + 4 * 4 * 576 * 64
_HEAD = 2 * (1024 * 512 + 512 * 10) + 512 * 10
_LINEAR = 2 * 1024 * 10


def _profile(rows, features, best):
    """Return where our seconds go, beside what the machine could do at best."""
    training = rows["ours"]["seconds"][1] - features
    rates = {
        "features": 2 * 60_000 * _CONVOLUTIONS / features / 1e9,
        "training": 2 * 600_000 * _HEAD / training / 1e9,
    }
    return {
        "best": best,
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
        B=lambda: _contend(
            "keras_grid.py", folder, 0, "cached", switches=ONEDNN
        ),
        F=_product_rate,
    )
    rates = _spread([report["rate"] for report in found.pop("F")])
    for name in ("A", "B"):
        for report in found[name]:
            report["seconds"] = [_of_all_heads(report)]
    rows = _compare(found, "ours")
    for name in ("A", "B"):
        kinds = found[name][0]["kinds"].values()
        rows[name]["extrapolated_from_heads"] = sum(map(len, kinds))
    ours = found["ours"]
    return {
        "rows": rows,
        "floor": {
            "best": rates,
            "least": _least_seconds(rates[1] / jobs),
            "peak": max(report["peak"] for report in ours),
            "spent": _spent(ours),
            "stacked": _contend("stacked_heads.py", folder, 0, switches=ONEDNN)[
                "milliseconds"
            ],
        },
    }


def _spent(reports):
    """Return kind -> median of the processor seconds that `reports` tell."""
    return {
        kind: statistics.median(report["spent"][kind] for report in reports)
        for kind in reports[0]["spent"]
    }


def _of_all_heads(report):
    """Return the seconds of the whole grid, by a sample of each kind."""
    (once,) = report["seconds"]
    means = {k: statistics.mean(v) for k, v in report["kinds"].items()}
    return once + sum(NUM_HEADS[kind] * means[kind] for kind in means)


def _least_seconds(rate):
    """Return the processor seconds of the grid's products alone, by kind.

    Args:
        rate: of one core, in GFLOP/s.
    """
    images = GRID_STEPS * BATCH
    products = {
        "features": 70_000 * _CONVOLUTIONS,
        "hidden": NUM_HEADS["hidden"] * images * _HEAD,
        "linear": NUM_HEADS["linear"] * images * _LINEAR,
    }
    return {kind: 2 * n / rate / 1e9 for kind, n in products.items()}


def _convolutions(folder, options):
    """Pretraining the article's network on CIFAR-10, two epochs."""
    epochs = CONVOLUTION_EPOCHS
    # Every repeat is a seed of weights and batches, the same for all.
    seeds = {name: itertools.count() for name in ("low", "wide", "keras")}

    def ours(name, precision):
        seed = next(seeds[name])
        script = "ktransfer_convolutions.py"
        return _contend(
            script, folder, epochs, precision, seed, switches=ONEDNN
        )

    found = _repeated(
        options.repeats,
        bfloat16=lambda: ours("low", "mixed_bfloat16"),
        float32=lambda: ours("wide", "float32"),
        keras=lambda: _contend(
            "keras_convolutions.py",
            folder,
            epochs,
            next(seeds["keras"]),
            switches=ONEDNN,
        ),
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
        E=lambda: _contend("scikit_regression.py", folder, 0, peers=peers),
    )
    rows = _compare(found, "ours")
    for name, reports in found.items():
        rows[name]["objective"] = reports[0]["objective"]
    reached = [row["objective"] for row in rows.values()]
    if max(reached) - min(reached) > SAME_OBJECTIVE:
        raise SystemExit(f"not one minimum: {reached}")
    return {"rows": rows, "absent": [n for n in ("E",) if n not in rows]}


def _quick(folder, options):
    """Every method once from a cold start: `make quick`."""
    jobs = len(os.sched_getaffinity(0))
    # With nothing beside it, there is no ratio to repeat.
    found = _repeated(
        min(options.repeats, 2),
        quick=lambda: _contend("ktransfer_quick.py", folder, jobs),
    )["quick"]
    return {
        "quick": {
            "jobs": jobs,
            "peak": max(report["peak"] for report in found),
            "runs": found[0]["runs"],
            "seconds": _spread([_total(report) for report in found]),
            "spent": _spent(found),
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
    "ours": "**ktransfer**",
    "bfloat16": "**ktransfer in bfloat16**",
    "float32": "ktransfer in float32",
    "A": "Keras's guide",
    "keras": "plain Keras, oneDNN",
    "B": "Keras, cached features, XLA and oneDNN",
    "C": "ADAPT `FineTuning`",
    "D": "PyTorch",
    "D_cached": "PyTorch, cached features",
    "E": "scikit-learn",
}


# The table


def _table(measured):
    """Return the page: every part, on every machine that it was measured on."""
    lines = [
        "# Measured speed",
        "",
        "`make bench` measures it again. A ratio is of two times within one "
        "repeat; its median, and the least and the largest of the repeats. A "
        "machine has the day on which it was measured, and the code of that "
        "day.",
    ]
    for part, measure in PARTS.items():
        found = [of[part] for of in measured.values() if part in of]
        if found:
            lines += ["", f"## {measure.__doc__.partition('.')[0]}"]
        for one in sorted(found, key=lambda x: x["machine"]["date"])[::-1]:
            lines += ["", *_part(one)]
    return "\n".join(lines) + "\n"


def _part(found):
    machine = found["machine"]
    lines = [f"**{_described(machine)}**; {machine['date']}."]
    if "rows" in found:
        lines[-1] += f" Repeats: {found['repeats']}."
        lines += ["", "| | seconds | times ours | accuracy |"]
        lines += ["|---|---|---|---|"]
        rows = found["rows"]
        lines += [_row(name, rows[name]) for name in NAMES if name in rows]
        lines += [f"| {NAMES[n]} | not installed | | |" for n in _absent(found)]
    for key, tell in TEXTS.items():
        if key in found:
            lines += ["", tell(found[key])]
    return lines


def _absent(found):
    return found.get("absent", [])


def _row(name, row):
    low, middle, high = row["ratio"]
    told = NAMES[name]
    for key, unit in (
        ("extrapolated_from_epochs", "epochs"),
        ("extrapolated_from_heads", "heads"),
    ):
        if key in row:
            told += f" (extrapolated from {row[key]} {unit})"
    if "objective" in row:
        told += f", objective {row['objective']:.6f}"
    accuracy = f"{row['accuracy'][1]:.2%}" if row["accuracy"] else "–"
    return (
        f"| {told} | {row['seconds'][1]:.1f} | {middle:.2f} "
        f"[{low:.2f}, {high:.2f}] | {accuracy} |"
    )


def _gate_text(gate):
    linear, hidden, whole = (gate[k] for k in ("linear", "hidden", "whole"))
    return (
        "Keras's own `fit` of the whole frozen model, on our start and our "
        "batches, ends at our weights: after "
        f"{linear['steps']} steps of a linear head {linear['distance']:.0e} of "
        f"the way gone apart, after {hidden['steps']} steps of the head with a "
        f"hidden layer {hidden['distance']:.0e} (at most {TOLERANCE:.0e}). "
        "From there on rounding grows, whoever trains: after "
        f"{whole['steps']} steps ours is {whole['distance']:.2f} of the way "
        "from Keras's, and Keras's under XLA "
        f"{whole['distance_of_keras_to_itself']:.2f} from Keras's without."
    )


def _quick_text(found):
    low, middle, high = found["seconds"]
    return (
        f"{found['runs']} runs in {middle:.0f} s [{low:.0f}, {high:.0f}] by "
        f"{found['jobs']} workers, table and figure included; the largest "
        f"process took {found['peak']:.2f} GiB."
        + _quick_spent(found.get("spent"))
    )


def _quick_spent(spent):
    """Return where the processor seconds of `make quick` go, if measured."""
    if not spent:
        return ""
    return (
        f" In processor seconds: all runs {spent['again']:.0f}, what the first "
        "run of a method takes more than its later ones, which share its "
        f"traces and kernels, {spent['first']:.0f}, and sources, the start of "
        f"the workers, table and figure {spent['others']:.0f}."
    )


def _profile_text(profile):
    low, best, high = profile["best"]
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
        f"Ours: {' and '.join(parts)} of the {best:.0f} [{low:.0f}, "
        f"{high:.0f}] GFLOP/s that one large matrix product reaches here (F). "
        f"At that rate the same products would take {least:.1f} s."
    )


def _floor_text(floor):
    spent, least = floor["spent"], floor["least"]
    stacked = ", ".join(
        f"{count} together {value:.2f}"
        for count, value in sorted(
            floor["stacked"].items(), key=lambda item: int(item[0])
        )
    )
    return (
        "Ours in processor seconds, and what the matrix products of it take at "
        f"the {floor['best'][1]:.0f} GFLOP/s of one large product on all cores "
        f"(F): heads with a hidden layer {spent['hidden']:.0f} "
        f"({least['hidden']:.0f}), linear heads {spent['linear']:.0f} "
        f"({least['linear']:.0f}), features, evaluations, records and the "
        f"start of the workers {spent['other']:.0f} ({least['features']:.0f}); "
        f"the largest process took {floor['peak']:.2f} GiB. Linear heads are "
        "not stacked into one program: a step of one, in ms, alone and with "
        f"others, is {stacked}, since it waits for features from memory. What "
        "is left of them, and of all else, is the building, checking and "
        "recording of runs."
    )


def _precision_text(found):
    low, high = found["interval"]
    passed = "inside" if low > GATE else "OUTSIDE, so the ratio does not count"
    return (
        f"Accuracy of bfloat16 minus float32 over {found['seeds']} seeds: "
        f"{100 * found['change']:+.2f} pp [{100 * low:+.2f}, "
        f"{100 * high:+.2f}]; gate, at most {-100 * GATE:.0f} pp lower: "
        f"{passed}."
    )


TEXTS = {
    "gate": _gate_text,
    "floor": _floor_text,
    "precision": _precision_text,
    "profile": _profile_text,
    "quick": _quick_text,
}


if __name__ == "__main__":
    main()
