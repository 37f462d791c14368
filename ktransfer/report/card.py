"""The card of a model that is kept: records -> Markdown."""

from collections.abc import Sequence
from typing import NamedTuple

from ktransfer import methods
from ktransfer.analysis import intervals, outcomes, words
from ktransfer.analysis.record import Record
from ktransfer.report.texts import code, markdown

# Lines of code that read the files of a kept model.
LOAD = """\
import json, keras, numpy as np
model = keras.saving.load_model("model.keras")
labels = json.load(open("labels.json", encoding="utf-8"))
images = np.zeros({shape}, "uint8")  # yours, as they are: 0 to 255
print([labels[k] for k in model.predict(images, verbose=0).argmax(axis=-1)])
"""


class Made(NamedTuple):
    """What a card says of a model besides its record.

    Fields:
        labels: class names, in the order of the logits.
        counts: labelled images of each class.
        image_shape: (height, width, channels).
        first_layers: what the images go through before the first weights,
            such as "resize (Resizing)".
        sha256: of the file.
        sources: sha256 of all that each source was made of, its fingerprint.
        versions: name -> version of the packages that made it.
    """

    labels: Sequence[str]
    counts: Sequence[int]
    image_shape: Sequence[int]
    first_layers: Sequence[str]
    sha256: str
    sources: Sequence[str]
    versions: dict[str, str]


def card(record: Record, made: Made, controls: Sequence[Record] = ()) -> str:
    """Return the card of a model as Markdown.

    Args:
        record: of the run that made it, which ended well.
        made: of the model.
        controls: records of what takes no knowledge from a source, under the
            same settings.
    """
    parts = {
        "Use": _use(made),
        "How it was made": _making(record, made),
        "Data": _data(record, made),
        "How good it is": _measures(record, made),
        "Beside controls": _beside(record, controls),
        "Limits": _limits(record),
        "What it stands on": _versions(record, made),
    }
    title = f"# {markdown(record['target'])} by {code(record['method'])}"
    blocks = [title, _summary(record)]
    blocks += [f"## {name}\n\n{text}" for name, text in parts.items()]
    return "\n\n".join(blocks) + "\n"


def _summary(record):
    return (
        f"A Keras model that tells {record['num_classes']} classes of images "
        f"apart ({markdown(record['target_origin'])}). {_accuracy(record)}."
    )


def _accuracy(record):
    value, count = record["test_accuracy"], record["num_test_images"]
    if value is None or not count:
        return "No test image was opened for it"
    interval = intervals.wilson_interval(value, count)
    share = words.percent(interval[:3], ".1f")
    return f"{share} % of {words.count(count, 'test image')} are right"


def _use(made):
    shape = ", ".join(map(str, made.image_shape))
    first = ", ".join(map(code, made.first_layers)) or "nothing"
    return (
        f"```python\n{LOAD.format(shape=f'(1, {shape})')}```\n\n"
        f"It reads raw images `(batch, {shape})`, uint8 from 0 to 255. What "
        f"prepares them is inside, before the first weights: {first}. It "
        f"answers with logits `(batch, {len(made.labels)})`, the classes in "
        "the order of `labels.json`; their softmax are probabilities. It is "
        "of layers and operations of Keras alone."
    )


def _making(record, made):
    about = methods.describe(record["method"])
    settings = {**record.get("defaults", {}), **record["hyperparameters"]}
    rows = [
        f"| {code(name)} | {code(value)} | "
        f"{'given' if name in record['hyperparameters'] else 'default'} |"
        for name, value in settings.items()
    ]
    parameters = ", ".join(
        f"{words.format_count(record[key])} {text}"
        for key, text in (
            ("total_parameters", "parameters"),
            ("trainable_parameters", "of them trained at most"),
        )
    )
    return "\n\n".join(
        [
            f"{code(record['method'])}: {markdown(about.summary)}",
            f"Paper: {about.citation}",
            "\n".join(_sources(record, made)) or "It has no source.",
            f"{words.count(record['steps_done'], 'step')} of at most "
            f"{record['steps']:,}, seed {record['seed']}, "
            f"{words.format_seconds(record['seconds'])} s of a processor; "
            f"{parameters}.",
            "\n".join(["| setting | value | |", "| --- | --- | --- |", *rows]),
        ]
    )


def _sources(record, made):
    """Return a line a source: how it was trained, and its fingerprint."""
    trained = len(record["sources"])
    for name, sha256 in zip(
        record.get("source_models", ()), made.sources[trained:], strict=True
    ):
        yield (
            f"- Source: {code(name)}, as it was given; sha256 of its "
            f"architecture and weights {code(sha256)}"
        )
    rows = zip(
        record["sources"],
        record["source_origins"][:trained],
        record["source_test_accuracies"],
        made.sources[:trained],
        strict=True,
    )
    for name, origin, accuracy, sha256 in rows:
        task, _, after = name.partition("_after_")
        on = f"{after}, then on {task}" if after else task
        recipe = record.get("recipe", "pretrain")
        recipe = "" if recipe == "pretrain" else f" by {code(recipe)}"
        yield (
            f"- Source: {code(record['backbone'])}, trained{recipe} on "
            f"{markdown(on)} ({markdown(origin)}) for "
            f"{words.count(record['source_steps'], 'step')} from seed "
            f"{record['source_seed']}; {100 * accuracy:.1f} % right on its own "
            f"test images; sha256 of all that it was made of {code(sha256)}"
        )


def _data(record, made):
    least, most = min(made.counts), max(made.counts)
    each = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    images = words.count(sum(made.counts), "labelled image")
    lines = [
        f"- {code(record['target'])}: {markdown(record['target_origin'])}",
        f"- trained on {images}, {each} a class",
        f"- sha256 of the training arrays {code(record['target_sha256'])}",
    ]
    if tested := record["num_test_images"]:
        lines.insert(2, f"- tested on {words.count(tested, 'other image')}")
    return "\n".join(lines)


def _measures(record, made):
    loss = record["test_loss"]
    lines = [f"{_accuracy(record)}; the interval is Wilson's, of 95 %."]
    if loss is not None:
        lines[0] += f" Their mean cross-entropy is {loss:.3f} nats."
    if accuracies := record["per_class_accuracy"]:
        rows = [
            f"| {code(label)} | {count:,} | {100 * value:.1f} |"
            for label, count, value in zip(made.labels, made.counts, accuracies)
        ]
        head = ["| class | labels | right, % |", "| --- | ---: | ---: |"]
        lines.append("\n".join([*head, *rows]))
    return "\n\n".join(lines)


def _beside(record, controls):
    if not controls:
        text = "None was carried out under these settings"
        if not (record["sources"] or record.get("source_models")):
            return f"{text}."
        return (
            f"{text}, so it is not known whether the source helped: run "
            "`scratch` and the other controls into the same results, then "
            "keep the model again."
        )
    own = outcomes.accuracy(record)
    rows = [
        f"| {code(other['method'])} | {_accuracy(other)} | "
        f"{100 * (own - outcomes.accuracy(other)):+.1f} |"
        for other in controls
    ]
    head = ["| control | | gain, pp |", "| --- | --- | ---: |"]
    return "\n".join([*head, *rows, "", "One seed each: no verdict."])


def _limits(record):
    labels = words.count(record["num_labels"], "label")
    return "\n".join(
        [
            f"- One run, of one seed and {labels}: other labels and another "
            "seed give another model. The interval is of the test images "
            "alone.",
            "- The test images are of one origin with the training images. "
            "It was not tested on others, nor under other light, blur or "
            "noise.",
            "- It names one of its classes for any image, also for one of "
            "none.",
            "- Its probabilities were not calibrated.",
        ]
    )


def _versions(record, made):
    versions = ", ".join(f"{n} {v}" for n, v in made.versions.items())
    return "\n".join(
        [
            f"- {versions}",
            f"- commit {code(record.get('commit') or 'unknown')}",
            f"- sha256 of `model.keras` {code(made.sha256)}",
            f"- fingerprint of the run {code(record['fingerprint'])}",
        ]
    )
