"""Keep the model of a run: a file of Keras alone, its labels and its card."""

import json
from pathlib import Path
from typing import Any

from ktransfer import __version__, data, files, methods, runs
from ktransfer.analysis import arms
from ktransfer.analysis.record import Record
from ktransfer.models import named
from ktransfer.report.card import Made, card

FILES = ("model.keras", "labels.json", "card.md")
# Training images that a new process answers as this one does.
_CHECKED = 64
# Settings that a control has as well.
_SHARED = ("batch_size", "precision")


def keep(
    folder: str | Path,
    results: str | Path,
    model: Any,
    task: data.Task,
    record: Record,
) -> None:
    """Write the files of a model into `folder`; see `FILES`.

    Args:
        folder: made when absent; files of these names are replaced.
        results: where records of controls are looked for.
        model: of a run that ended well.
        task: what it was trained on.
        record: of the run.

    Raises:
        KTransferError: what `engine.export.save_model` raises.
    """
    from ktransfer.engine.export import save_model

    place, labels = Path(folder), [str(label) for label in task.labels]
    images = task.train.x[:_CHECKED]
    exported = save_model(model, place / FILES[0], images)
    text = json.dumps(labels, ensure_ascii=False)
    files.write(place / FILES[1], f"{text}\n".encode())
    made = _made(place / FILES[0], exported, task, labels, record)
    text = card(record, made, _controls(results, record))
    files.write(place / FILES[2], text.encode())


def _made(path, model, task, labels, record):
    from ktransfer.engine import backend

    facts = backend.facts()
    counts = [int((task.train.y == k).sum()) for k in range(len(labels))]
    run = runs.from_fields(record)
    return Made(
        labels,
        counts,
        task.image_shape,
        _first_layers(model),
        files.sha256(path.read_bytes()),
        [
            *(runs.source_fingerprint(p) for p in runs.pretrainings(run)),
            *map(named.digest, run.source_models),
        ],
        {
            "ktransfer": __version__,
            **{name: facts[name] for name in ("keras", "tensorflow", "python")},
        },
    )


def _first_layers(model):
    """Return what images go through before the first weights, as texts."""
    from ktransfer.models import graph

    found = []
    for node in graph.read(model).nodes:
        layer = node.operation
        if getattr(layer, "weights", ()) and not graph.is_adapted(layer):
            break
        found.append(f"{layer.name} ({type(layer).__name__})")
    return found


def _controls(results, record):
    """Return the fresh records of controls under the settings of a record."""
    run = runs.from_fields(record)
    planned = [
        _control(run, name) for name in arms.CONTROLS if name != run.method
    ]
    found = runs.collect(results, [one for one in planned if one])
    return [r for r in found if r["status"] == "ok" and not r["stale"]]


def _control(run, name):
    """Return the run of a control beside `run`, None if it lacks a source."""
    about = methods.describe(name)
    sources = run.sources[: about.min_sources]
    models = run.source_models[: about.min_sources - len(sources)]
    if len(sources) + len(models) < about.min_sources:
        return None
    shared = [
        (key, value)
        for key, value in run.hyperparameters
        if key in _SHARED and key in about.hyperparameters
    ]
    alone = {} if sources else {"recipe": runs.Run._field_defaults["recipe"]}
    return run._replace(
        method=name,
        sources=sources,
        source_seed=run.source_seed if sources else None,
        source_steps=run.source_steps if sources else None,
        source_models=models,
        hyperparameters=tuple(shared),
        also=(),
        scores=(),
        **alone,
    )
