"""Where the file of a source lies, and whether it holds. No Keras import."""

import json
import zipfile
from pathlib import Path

import numpy as np

from ktransfer import runs


def path(results, pretraining):
    """Return the file of a source."""
    task = pretraining.task
    if pretraining.after:
        task = f"{task}_after_{pretraining.after}"
    name = (
        f"{task}-{pretraining.backbone}-{pretraining.steps}-{pretraining.seed}"
    )
    if pretraining.recipe != "pretrain":
        name += f"-{pretraining.recipe}"
    return Path(results) / "sources" / f"{name}.npz"


def is_there(results, pretraining):
    """Tell whether the file of a source is there, and of the code as it is.

    Its weights are not read: what is damaged in them shows when they are.
    """
    place = path(results, pretraining)
    try:
        with np.load(place, allow_pickle=False) as archive:
            facts = json.loads(archive["facts"].tobytes())
        kept = facts["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return False
    return kept == runs.source_fingerprint(pretraining)
