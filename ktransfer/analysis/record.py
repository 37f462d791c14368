"""What a record is: one run, and what came out of it, as one line of JSON.

Everything that is read in `results/` is a `Record`. A field that is
`NotRequired` may be absent, and its comment says when. `runs` writes records,
`runs.records` keeps them; all else reads them.
"""

from typing import Any, Literal, NotRequired, TypedDict

Status = Literal["ok", "diverged", "failed", "not_applicable"]


class CarriedOver(TypedDict):
    """How a record came over a change of code without being run again."""

    # Runs of the sample that were carried out again, with equal numbers.
    rerun: int
    # Runs that were stale, the sample among them.
    of: int
    # As `commit`, of the code that they were carried over to.
    commit: str


class Record(TypedDict):
    """One run and what came out of it.

    Counts are of what they name, accuracies fractions from 0 to 1, losses
    mean cross-entropies in nats.
    """

    # The run, as `runs.Run` has it. Written by `runs.as_fields`.

    # Name of its folder in `results/`.
    experiment: str
    # Name of the method's file.
    method: str
    # Name of the target's task.
    target: str
    # Optimiser steps that the method may take.
    steps: int
    # Of labels, initial weights and the order of images; the unit of analysis.
    seed: int
    # Labelled images of each class, None for all there are.
    labels_per_class: int | None
    # Names of the sources' tasks; `b_after_a` was trained on a, then on b.
    sources: list[str]
    # Seed of every source's training, None without a source.
    source_seed: int | None
    # Optimiser steps of every source, None without a source.
    source_steps: int | None
    # Architecture of the sources.
    backbone: str
    # Hyper-parameters that were given, name -> value; others have defaults.
    hyperparameters: dict[str, Any]
    # What was measured: "validation" or "information". Absent for "test".
    evaluation: NotRequired[str]
    # Tasks whose test images were measured besides. Absent if none.
    also: NotRequired[list[str]]
    # Scores of the source that were asked for. Absent if none.
    scores: NotRequired[list[str]]
    # How the sources were trained. Absent for "pretrain".
    recipe: NotRequired[str]
    # The user's own models, MODEL[:PREPROCESSING] each. Absent if none.
    source_models: NotRequired[list[str]]

    # What it stands on. Written by `carry_out`.

    # Folder of the method's file.
    family: str
    # Default of every hyper-parameter of the method, name -> value. Absent
    # from old records.
    defaults: NotRequired[dict[str, Any]]
    # sha256 of the code that can move a number of it. Absent from old records.
    code: NotRequired[str]
    # sha256 of all that can move a number of it: code, data, run, sources.
    fingerprint: str
    # Hash of processor, versions and settings, kept in `environments/`.
    numerics: str
    # Accuracy of each source on its own test images.
    source_test_accuracies: list[float]
    # sha256 of the choice that it rests on, "" if on none. Absent from old
    # records.
    choice: NotRequired[str]
    # Commit of the code, with "-dirty" if it was changed since, "" outside a
    # checkout. Absent from old records.
    commit: NotRequired[str]

    # The data. Written by `measured`.

    # Classes of the target.
    num_classes: int
    # Their names, in order. Absent where they are numbers, and from old
    # records.
    labels: NotRequired[list[str]]
    # Labelled images of the target, held-out ones among them.
    num_labels: int
    # Fewest and most of these that a class has. Absent from old records.
    label_range: NotRequired[list[int]]
    # What the images of each source are.
    source_origins: list[str]
    # What the images of the target are.
    target_origin: str
    # sha256 of the target's training arrays.
    target_sha256: str

    # What came of it. Written by `measured`; numbers are None and lists empty
    # where nothing was measured.

    # "ok", or in which way not. "diverged" left the finite numbers.
    status: Status
    # Why it is not "ok", in one line; "" if it is.
    reason: str
    # [step, mean training loss since the last point], of all fits in turn.
    curve: list[list[float]]
    # Layers with weights that do not train when the method is done.
    frozen_layers: list[str]
    # Layers with weights that do.
    trained_layers: list[str]
    # Seconds of the processor that the method took, without its evaluation.
    seconds: float | None
    # What became of BatchNorm's statistics, as `fit` has it; "" where no layer
    # with any was trained. Absent from old records.
    statistics: NotRequired[str]
    # Distance of each block's weights from the first source's, relative to
    # their size; of blocks that both have in one shape. Absent from old
    # records.
    moved: NotRequired[dict[str, float]]
    # Optimiser steps that the method took.
    steps_done: int
    # Parameters of the model that the method returned.
    total_parameters: int | None
    # Most that any fit trained, 0 where none did.
    trainable_parameters: int | None

    # On the target's test images. Written by `evaluation.evaluate`; None for
    # a trial, which does not open them.

    # Test images.
    num_test_images: int | None
    # Share of them that is right.
    test_accuracy: float | None
    # Loss on them.
    test_loss: float | None
    # Share that is right, of each class in turn; None of a class that has no
    # test image.
    per_class_accuracy: list[float | None]
    # Mean of these shares. Absent where nothing was measured, and from old
    # records.
    balanced_accuracy: NotRequired[float]
    # Test images by true class, a row each, and by the class they were taken
    # for. Absent as above, and where the classes are 2, or more than 50.
    confusion: NotRequired[list[list[int]]]

    # What a run was asked for. Absent where it was not, or did not end well.

    # Accuracy on held-out labelled images; of evaluation "validation".
    validation_accuracy: NotRequired[float]
    # Its mean over the classes. Absent from old records too.
    validation_balanced_accuracy: NotRequired[float]
    # Mutual information less the loss on the source, in nats; of evaluation
    # "information".
    information: NotRequired[float]
    # Accuracy on the test images of each task of `also`.
    also_accuracies: NotRequired[dict[str, float]]
    # Score of the source, name -> number, for each of `scores`.
    score_values: NotRequired[dict[str, float]]

    # Its file. Written by `records.write` and by `refresh`.

    # Version of this definition.
    schema: int
    # sha256 of all other fields but `stale`.
    sha256: str
    # Absent from a record of a run that was carried out by the code it names.
    carried_over: NotRequired[CarriedOver]

    # Added by `runs.collect`, in no file.

    # Whether code, data or choice have changed since.
    stale: NotRequired[bool]
