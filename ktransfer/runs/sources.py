"""Trained models to transfer from: made once, kept as strict `.npz`, shared.

A file holds weights and facts only; the architecture comes from code. Sources
lie in `results/sources/` and are not committed: their fingerprint makes them
again, bit for bit on the same machine.
"""

import io
import json
import sys
import time
import zipfile

import numpy as np
from keras import ops

from ktransfer import data, files, runs
from ktransfer.engine import backend, prediction, training
from ktransfer.engine.losses import cross_entropy
from ktransfer.errors import NotApplicable
from ktransfer.models.backbones import BUILDERS
from ktransfer.models.own import Source
from ktransfer.models.surgery import (
    adapt_input,
    assign,
    attach_head,
    copy_backbone,
)
from ktransfer.runs.source_files import path

# Width of the article's own Dense layer between the features and the logits.
_HEAD_UNITS = 64


def build(pretraining, task):
    """Return the untrained model of a source: raw images -> logits."""
    backbone = BUILDERS[pretraining.backbone](seed=pretraining.seed)
    return _with_head(backbone, pretraining, task)


def _with_head(backbone, pretraining, task):
    """Return raw images of `task` -> logits, through `backbone`."""
    return attach_head(
        adapt_input(backbone, task.image_shape),
        task.num_classes,
        seed=pretraining.seed,
        hidden_units=_HEAD_UNITS,
    )


def pretrain(pretraining, task, base=None, **training_options):
    """Return the trained model of a source.

    Adam at 1e-3 and batches of 64, the article's recipe (article 002).

    Args:
        task: what to train on.
        base: model whose features it starts from, or None for fresh weights.
        training_options: of `fit`.
    """
    model = build(pretraining, task)
    if base is not None:
        model = _with_head(copy_backbone(base), pretraining, task)
    training.fit(
        model,
        task.train,
        steps=pretraining.steps,
        seed=pretraining.seed,
        **training_options,
    )
    return model


def mixed_bfloat16(pretraining, task, base=None):
    """Return the trained model of a source, computed in bfloat16.

    All else as in `pretrain`, the weights float32 too.
    Source: Micikevicius et al. 2018, section 3.1, arXiv:1710.03740.
    """
    return pretrain(pretraining, task, base, precision="mixed_bfloat16")


def label_smoothing(pretraining, task, base=None):
    """Return the trained model of a source, its labels smoothed by 0.1.

    All else as in `pretrain`.
    Source: Szegedy et al. 2016, section 7, arXiv:1512.00567.
    """
    if base is not None:
        raise NotApplicable(
            "smoothed labels are for a source of one task; expected no "
            "second one."
        )

    def smoothed(labels, logits):
        even = -ops.mean(ops.log_softmax(logits, axis=-1))
        return 0.9 * cross_entropy(labels, logits) + 0.1 * even

    return pretrain(pretraining, task, loss=smoothed)


# A run's hash follows the one that is asked for, so the table is literal.
RECIPES = {
    "label_smoothing": label_smoothing,
    "mixed_bfloat16": mixed_bfloat16,
    "pretrain": pretrain,
}


def load(results, pretraining):
    """Return the `Source`, and its facts, trained now if it is not there.

    The facts are `test_accuracy` on the source's own task and `seconds`.
    """
    place = path(results, pretraining)
    task = data.load(pretraining.task)
    lock = place.parent.parent / ".locks" / "sources" / place.name
    with files.lock(lock):
        kept = _read(place, runs.source_fingerprint(pretraining))
        if kept is None:
            kept = make(results, pretraining, task)
    arrays, facts = kept
    model = build(pretraining, task)
    assign(model, arrays)
    return Source(model, task), facts


def make(results, pretraining, task):
    """Train a source, write its file, and return its arrays and facts."""
    base = runs.before(pretraining)
    start = time.monotonic()
    train = RECIPES[pretraining.recipe]
    model = train(pretraining, task, base and load(results, base)[0].model)
    seconds = time.monotonic() - start
    test = data.test_split(pretraining.task)
    guessed = prediction.predict(model, test.x).argmax(axis=-1)
    facts = {
        "fingerprint": runs.source_fingerprint(pretraining),
        "seconds": round(seconds, 1),
        "test_accuracy": float(np.mean(guessed == test.y)),
    }
    arrays = [variable.numpy() for variable in model.variables]
    content = io.BytesIO()
    np.savez(
        content,
        facts=np.frombuffer(json.dumps(facts).encode(), "uint8"),
        **{f"weight_{i:04}": array for i, array in enumerate(arrays)},
    )
    files.write(path(results, pretraining), content.getvalue())
    backend.clear_session()
    return arrays, facts


def _read(place, fingerprint):
    """Return (arrays, facts) of a source file, None if absent or outdated."""
    if not place.exists():
        return None
    try:
        with np.load(place, allow_pickle=False) as archive:
            facts = json.loads(archive["facts"].tobytes())
            names = sorted(n for n in archive.files if n.startswith("weight_"))
            arrays = [archive[name] for name in names]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        # Our own file: it can be made again, so damage costs time alone.
        print(
            f"warning: {place} is damaged ({error}); it is trained again",
            file=sys.stderr,
        )
        return None
    return (arrays, facts) if facts["fingerprint"] == fingerprint else None
