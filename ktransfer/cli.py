"""The command `ktransfer`: list, run, report, data, images, doctor.

Everything that can be refused is refused before TensorFlow is imported.
"""

import argparse
import ast
import contextlib
import functools
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from ktransfer import __version__, data, files, methods, plots, report, runs
from ktransfer.engine.options import PRECISIONS
from ktransfer.errors import EXIT_CODES, KTransferError
from ktransfer.models import named
from ktransfer.models.names import LAYERS
from ktransfer.report import inspected, kept, readme, recommendation
from ktransfer.runs import checks, progress, refresh, scripts, workers
from ktransfer.runs.sweep import sweep

# Of one run; the parser leaves them None, so that an experiment can tell.
_USUAL: dict[str, Any] = {
    "steps": 600,
    "seed": 0,
    "source_steps": 2000,
    "source_seed": 0,
    "backbone": "convnet",
}
_SINGLE = (
    *("method", "target", "source", "source_model", "labels_per_class", "set"),
    *("save_model", *_USUAL),
)


def main(arguments=None):
    """Run the command line and return the exit code."""
    for stream in (sys.stdout, sys.stderr):
        # Not every terminal has the letters of a class name.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        _check_environment()
        return options.act(options) or 0
    except KTransferError as error:
        if os.environ.get("KT_DEBUG") == "1":
            traceback.print_exc()
        print(f"ktransfer: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(
            "ktransfer: error[E_INTERRUPTED]: stopped; what is finished is "
            "kept, the same command goes on from there.",
            file=sys.stderr,
        )
        return EXIT_CODES["E_INTERRUPTED"]
    except BrokenPipeError:
        # `ktransfer list | head` is no failure.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _terminated(_number, _frame):
    sys.exit(143)


def _check_environment():
    files.check_system()
    chosen = os.environ.get("KERAS_BACKEND", "tensorflow")
    if chosen != "tensorflow":
        raise KTransferError(
            "E_ARGUMENT",
            f"KERAS_BACKEND is {chosen!r}; the suite's numbers are defined for "
            "'tensorflow'. Unset it.",
        )


def _parser():
    parser = argparse.ArgumentParser(
        prog="ktransfer",
        description="Every way of transferring knowledge between Keras models.",
    )
    parser.add_argument(
        "--version", action="version", version=f"ktransfer {__version__}"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_list(commands)
    _add_run(commands)
    _add_recommend(commands)
    _add_inspect(commands)
    _add_report(commands)
    _add_refresh(commands)
    about = "show a data set: origin, shapes, images a class, sha256"
    command = commands.add_parser("data", help=about, description=about)
    command.add_argument("name", help="such as mnist, mnist_5to9, digits")
    command.set_defaults(act=_data)
    _add_images(commands)
    about = "show what this machine runs: versions, settings, data, speed"
    command = commands.add_parser("doctor", help=about, description=about)
    command.set_defaults(act=_doctor)
    return parser


def _add_list(commands):
    about = "list methods, data sets, backbones or experiments"
    command = commands.add_parser("list", help=about, description=about)
    command.add_argument(
        "what",
        nargs="?",
        default="methods",
        choices=["methods", "data", "backbones", "experiments"],
    )
    command.add_argument(
        "--into",
        metavar="FILE",
        help="put the table of methods between the marks of a Markdown file",
    )
    command.set_defaults(act=_list)


def _add_run(commands):
    about = "carry out an experiment, or one run of one method"
    command = commands.add_parser("run", help=about, description=about)
    command.add_argument(
        "experiment", nargs="?", help="a script, or its name in experiments/"
    )
    _add_places(command)
    _add_jobs(command)
    one = command.add_argument_group("one run instead of an experiment")
    one.add_argument("--method", help="see: ktransfer list methods")
    one.add_argument("--target", help="data set to transfer to")
    one.add_argument(
        "--source", action="append", default=[], help="data set; may repeat"
    )
    _add_source_model(one)
    one.add_argument("--labels-per-class", type=int, help="default: all")
    for name, usual in _USUAL.items():
        one.add_argument(
            _flag(name), type=type(usual), help=f"default: {usual}"
        )
    one.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a hyper-parameter of the method; may repeat",
    )
    one.add_argument(
        "--save-model",
        metavar="FOLDER",
        help="keep the model, its labels and its card there",
    )
    command.set_defaults(act=_run)


def _add_recommend(commands):
    about = "say which way of transferring suits your images, and show why"
    command = commands.add_parser("recommend", help=about, description=about)
    command.add_argument(
        "images", help="name of a data set, or a folder of images"
    )
    _add_source_model(command)
    command.add_argument("--labels-per-class", type=int, help="default: all")
    command.add_argument(
        "--time-limit", default="10m", metavar="TIME", help="90s, 10m or 1h"
    )
    command.add_argument(
        "--metric", default="accuracy", help="accuracy or balanced_accuracy"
    )
    _add_image_options(command)
    command.add_argument("--results", default="results")
    _add_jobs(command)
    command.set_defaults(act=_recommend)


def _add_inspect(commands):
    about = "show what a model is, and how long each method takes with it"
    command = commands.add_parser("inspect", help=about, description=about)
    command.add_argument("model", help="as of --source-model")
    command.add_argument(
        "--images", help="name of a data set, or a folder of images"
    )
    _add_image_options(command)
    _add_jobs(command)
    command.set_defaults(act=_inspect)


def _add_source_model(command):
    command.add_argument(
        "--source-model",
        action="append",
        default=[],
        metavar="MODEL[:PIXELS]",
        help="a .keras file, imagenet_lite0 or a network of "
        "keras.applications, MobileNetV2[@none|@FILE]; pixels are "
        f"{', '.join(named.MODES)}; may repeat",
    )


def _flag(name):
    return f"--{name.replace('_', '-')}"


def _add_report(commands):
    about = "draw an experiment's table and figures again, from records alone"
    command = commands.add_parser("report", help=about, description=about)
    command.add_argument("experiment")
    _add_places(command)
    command.add_argument(
        "--partial", action="store_true", help="also when runs are missing"
    )
    command.add_argument(
        "--into",
        metavar="FILE",
        help="put table and figures between the marks of a Markdown file",
    )
    command.set_defaults(act=_report)


def _add_refresh(commands):
    about = (
        "carry records over a change of code that moves no number: carry a "
        "sample out again, and compare"
    )
    command = commands.add_parser("refresh", help=about, description=about)
    command.add_argument("experiment")
    _add_places(command)
    _add_jobs(command)
    command.add_argument(
        "--sample",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="of the runs of each arm and budget, at least one (default: 0.1)",
    )
    command.set_defaults(act=_refresh)


def _add_images(commands):
    about = "read a folder of images, report what is in it, and pack it"
    command = commands.add_parser("images", help=about, description=about)
    command.add_argument("folder", help="with a folder of images a class")
    _add_image_options(command)
    command.add_argument(
        "--into",
        metavar="FILE.npz",
        help="write them; in $KTRANSFER_DATA it is a data set of that name",
    )
    command.set_defaults(act=_images)


def _add_image_options(command):
    group = command.add_argument_group("reading a folder of images")
    group.add_argument(
        "--image-size", type=int, metavar="N", help="pixels a side"
    )
    group.add_argument(
        "--fit",
        choices=data.FITS,
        help="how an image of another size gets it (default: pad)",
    )
    group.add_argument(
        "--test-share",
        type=float,
        metavar="SHARE",
        help="of each class, where there is no test part (default: 0.2)",
    )
    group.add_argument(
        "--seed", type=int, metavar="SEED", help="of that choice"
    )


def _image_options(options):
    """Return what is asked of the reader, name -> value."""
    asked = {
        "image_size": options.image_size,
        "fit": options.fit,
        "test_share": options.test_share,
        "seed": options.seed,
    }
    return {key: value for key, value in asked.items() if value is not None}


def _add_jobs(command):
    command.add_argument(
        "--jobs",
        type=int,
        default=workers.num_cores(),
        help="runs side by side, one thread each (default: one a core)",
    )


def _add_places(command):
    command.add_argument(
        "--quick",
        action="store_true",
        help="the experiment at its small size, on the embedded data",
    )
    command.add_argument(
        "--precision",
        default="float32",
        choices=PRECISIONS,
        help="of all trainings; any but float32 has a results folder of its "
        "own (default: float32)",
    )
    command.add_argument(
        "--results",
        type=_folder,
        default="results",
        help="folder of records and figures",
    )
    command.add_argument(
        "--mix",
        action="store_true",
        help="show records of different numerical environments together",
    )


def _folder(text):
    if not text:
        raise argparse.ArgumentTypeError("expected the name of a folder")
    return text


# list


def _list(options):
    if options.into:
        readme.fill(options.into, "methods", readme.method_table())
        return
    lines = {
        "backbones": lambda: sorted(LAYERS),
        "data": data.names,
        "experiments": scripts.names,
        "methods": _method_lines,
    }
    print("\n".join(lines[options.what]()))


def _method_lines():
    rows = []
    for name, family in methods.names().items():
        about = methods.describe(name)
        row = ",".join(readme.articles(about)) or "-"
        rows.append((family, name, row, about))
    wide = max(len(name) for _, name, _, _ in rows)
    return [
        f"{family:<11} {name:<{wide}} {row:<7} {about.citation}"
        for family, name, row, about in rows
    ]


# run and report


def _run(options):
    _check_jobs(options)
    _check_what_to_run(options)
    start = time.monotonic()
    loaded = _loaded(options) if options.experiment else None
    single = [] if loaded else [_single(options)]
    # What is wrong with a plan is said before its trials have run.
    _check(scripts.rehearse(loaded) if loaded else single)
    if loaded:
        tuning = scripts.trials(loaded)
        counts = _carry_out(tuning, options)
        if tuning:
            scripts.write_choice(tuning, options.results)
        planned = scripts.planned(loaded, options.results)
        choice = scripts.choice(loaded, options.results)
    else:
        counts, planned, choice = (0, 0, 0), single, ""
    more = _carry_out(planned, options, choice)
    counts = [a + b for a, b in zip(counts, more)]
    records = runs.collect(options.results, planned, choice)
    if loaded:
        _show(loaded, records, options, len(planned))
    else:
        _show_single(records, options)
    print(
        f"{counts[1]} of {counts[0]} runs carried out in "
        f"{time.monotonic() - start:.0f} s, the others were there.",
        file=sys.stderr,
    )
    if options.save_model and not _say_kept(records[0], options.save_model):
        return EXIT_CODES["E_FAILED_RUNS"]
    return EXIT_CODES["E_FAILED_RUNS"] if counts[2] else 0


def _show_single(records, options):
    _print_table(records, mix=options.mix)
    for line in report.by_class(records[0]):
        print(line)
    if moved := records[0].get("moved"):
        blocks = ", ".join(f"{n} {x:.2g}" for n, x in moved.items())
        print(f"moved from the source, relative to its size: {blocks}")


def _say_kept(record, folder):
    """Say what was kept of a run, and tell whether it was."""
    if record["status"] != "ok":
        reason = f"{record['status'].replace('_', ' ')}: {record['reason']}"
        print(f"no model was kept; {reason}", file=sys.stderr)
        return False
    print(*(f"kept: {Path(folder) / name}" for name in kept.FILES), sep="\n")
    return True


def _check_what_to_run(options):
    given = [n for n in _SINGLE if getattr(options, n) not in (None, [])]
    if options.experiment is None and options.method is None:
        raise KTransferError(
            "E_ARGUMENT", "name an experiment or a --method, one of the two."
        )
    if options.experiment and given:
        raise KTransferError(
            "E_ARGUMENT",
            f"{', '.join(map(_flag, given))} belong to one run of a --method, "
            f"and {options.experiment} plans its own. Leave them out, or the "
            "experiment.",
        )


def _check_jobs(options):
    workers.end_if_imported()
    if options.jobs < 1:
        raise KTransferError(
            "E_ARGUMENT", f"jobs is {options.jobs}; expected at least 1."
        )


def _loaded(options):
    return scripts.load(options.experiment, options.quick, options.precision)


def _carry_out(planned, options, choice=""):
    """Return how many runs there are, were carried out, and failed."""
    if not planned:
        return 0, 0, 0
    for run in planned:
        checks.check_run(run)
    keep = None
    if getattr(options, "save_model", None):
        runs.check_results_folder(options.save_model, "--save-model")
        keep = functools.partial(kept.keep, options.save_model, options.results)
    with _working(options) as (executor, screen):
        found = sweep(
            planned,
            options.results,
            executor,
            screen,
            choice,
            screen.show,
            keep,
        )
        return len(planned), *found


def _check(planned):
    """Refuse what cannot be carried out, before anything is."""
    for run in planned:
        checks.check_run(run)
    progress.Screen()(progress.reading(planned))
    checks.check_data(planned)


@contextlib.contextmanager
def _working(options):
    """Yield worker processes, and the screen that says what they do."""
    executor, screen = workers.local_executor(options.jobs), progress.Screen()
    try:
        yield executor, screen
    finally:
        screen.clear()
        workers.stop(executor)


def _single(options):
    if not options.target:
        raise KTransferError("E_ARGUMENT", "a --method needs a --target.")
    given = {name: getattr(options, name) for name in _USUAL}
    fields = {n: _USUAL[n] if x is None else x for n, x in given.items()}
    if not options.source:
        fields |= {"source_seed": None, "source_steps": None}
    run = runs.Run(
        experiment="single",
        method=options.method,
        target=options.target,
        labels_per_class=options.labels_per_class,
        sources=tuple(options.source),
        hyperparameters=_hyperparameters(options.set),
        source_models=tuple(options.source_model),
        **fields,
    )
    return runs.in_precision(run, options.precision)


def _hyperparameters(texts):
    """Return the pairs in `NAME=VALUE` texts, sorted by name."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or name in found:
            why = "that name is given twice" if equals else "it has no ="
            raise KTransferError(
                "E_ARGUMENT",
                f"--set {text!r}: {why}; expected NAME=VALUE, each name once.",
            )
        found[name] = _value(value)
    return tuple(sorted(found.items()))


def _value(text):
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _recommend(options):
    _check_jobs(options)
    found = recommendation.recommend(
        options.images,
        options.source_model,
        time_limit=options.time_limit,
        labels_per_class=options.labels_per_class,
        metric=options.metric,
        results=options.results,
        jobs=options.jobs,
        **_image_options(options),
    )
    print(found.table)
    plots.save(found.figure(), found.folder / "gain.png")
    print(f"written: {found.folder / 'gain.png'}")
    print(f"the model: {found.model}")


def _inspect(options):
    _check_jobs(options)
    size = options.image_size
    with tempfile.TemporaryDirectory() as place:
        target, _ = recommendation.read_images(
            options.images or "digits",
            Path(place),
            _image_options(options),
            progress.Screen(),
        )
        for line in inspected.lines(
            options.model, target, size, options.jobs, progress.Screen()
        ):
            print(line)


def _report(options):
    loaded = _loaded(options)
    planned = scripts.planned(loaded, options.results)
    choice = scripts.choice(loaded, options.results)
    records = runs.collect(options.results, planned, choice)
    if len(records) < len(planned) and not options.partial:
        raise KTransferError(
            "E_RECORD",
            f"{len(records)} of {len(planned)} runs have a record; run the "
            "experiment, or ask for --partial.",
        )
    _show(loaded, records, options, len(planned))
    if options.into:
        name = scripts.folder(loaded)
        block = readme.result_block(
            name,
            records,
            options.results,
            loaded.experiment.headline,
            loaded.experiment.baseline,
            options.into,
        )
        readme.fill(options.into, name, block)


def _refresh(options):
    _check_jobs(options)
    loaded = _loaded(options)
    tuning = scripts.trials(loaded)
    if not _carried_over("trials", tuning, "", options):
        return EXIT_CODES["E_FAILED_RUNS"]
    planned = scripts.planned(loaded, options.results)
    choice = scripts.choice(loaded, options.results)
    if not _carried_over("runs", planned, choice, options):
        return EXIT_CODES["E_FAILED_RUNS"]
    return 0


def _carried_over(kind, planned, choice, options):
    """Carry records over, say so, and tell whether no number has moved."""
    if not planned:
        return True
    for run in planned:
        checks.check_run(run)
    with _working(options) as (executor, screen):
        found = refresh.refresh(
            planned,
            options.results,
            executor,
            share=options.sample,
            choice=choice,
            say=screen,
        )
    for run, field, was, now in found.changes:
        budget = run.labels_per_class or "all"
        print(
            f"{run.method}, {budget} labels per class, seed {run.seed}: "
            f"{field} was {was!r} and is {now!r}"
        )
    print(
        f"{kind}: of {found.stale} that were stale {found.rerun} were carried "
        f"out again, {found.carried} carried over"
        + (", since numbers have moved" if found.changes else "")
    )
    return not found.changes


def _show(loaded, records, options, planned):
    settings = {
        "baseline": loaded.experiment.baseline,
        "mix": options.mix,
        "planned": planned,
    }
    # First, since figures may fail, and a folder not be writable.
    _print_table(records, **settings)
    figures = scripts.figures(loaded, records, mix=options.mix)
    folder = Path(options.results) / scripts.folder(loaded)
    written = report.write(folder, records, figures, **settings)
    print(*(f"written: {path}" for path in written), sep="\n")


def _print_table(records, **settings):
    width = shutil.get_terminal_size((80, 24)).columns
    print(report.to_terminal(report.table(records, **settings), width))


# images, data and doctor


def _images(options):
    chosen = _image_options(options)
    if options.into:
        print(data.pack(options.folder, options.into, **chosen).report)
        print(f"written: {options.into}")
    else:
        print(data.load_images(options.folder, **chosen).report)


def _data(options):
    import numpy as np

    data.check_name(options.name)
    task = data.load(options.name)
    test = data.test_split(options.name)
    height, width, channels = task.image_shape
    print(f"{task.name}: {task.origin}")
    print(f"images {height} x {width} x {channels}, {task.num_classes} classes")
    print(f"labels {', '.join(map(str, task.labels))}")
    for name, split in (("train", task.train), ("test", test)):
        counts = np.bincount(split.y, minlength=task.num_classes).tolist()
        listed = ", ".join(f"{a}: {n:,}" for a, n in zip(task.labels, counts))
        print(f"{name} {len(split.y):,} images, a class {listed}")
    print(f"sha256 of the training arrays {task.sha256}")
    print(f"sha256 of train and test {data.digest(options.name)}")


def _doctor(options):
    from ktransfer.engine import backend

    backend.pin()
    backend.check_settings()
    for name, value in backend.facts().items():
        print(f"{name:<12} {value}")
    print(f"{'data':<12} {', '.join(data.names())}")
    print(f"{'cores':<12} {workers.num_cores()}")
    print(
        f"{'speed':<12} {backend.product_rate():.0f} GFLOP/s a thread, float32"
    )


if __name__ == "__main__":
    sys.exit(main())
