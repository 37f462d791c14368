"""Runs as experiments plan them. No Keras import."""

from ktransfer import methods
from ktransfer.runs.run import Run

# They take the architecture of a source, and none of its weights.
_ARCHITECTURE = ("random_features", "structure_transfer")


def reads_weights(run: Run) -> bool:
    """Tell whether the weights of its sources can move a number of `run`.

    What learns source and target together, or adapts one to the other, reads
    the images of the source's task, and weights only if told `from_source`.
    """
    if not run.sources or run.method in _ARCHITECTURE:
        return False
    known = methods.describe(run.method).hyperparameters
    return {**known, **dict(run.hyperparameters)}.get("from_source", True)


def outcome(run: Run) -> Run:
    """Return `run` without what its method does not read.

    Two runs that differ and have equal outcomes would be one training, done
    twice: its source was trained from another seed, and no weight of it is
    read, or it is training from scratch under another name.
    """
    if reads_weights(run):
        return run
    usual = Run._field_defaults["backbone"]
    if run.method == "structure_transfer" and run.backbone == usual:
        run = run._replace(method="scratch", sources=())
    return run._replace(
        backbone=run.backbone if run.sources else usual,
        source_seed=None,
        source_steps=None,
        recipe=Run._field_defaults["recipe"],
    )
