"""How a training goes, by name: what every method hands on to `fit`.

No Keras import, so that a run is checked before Keras is loaded.
"""

from typing import Any, NamedTuple

from ktransfer.engine.kinds import KINDS, one_of

OPTIMIZERS = ("adam", "sgd")
SCHEDULES = ("constant", "cosine", "annealed")
PRECISIONS = ("float32", "mixed_bfloat16")
STATISTICS = ("reestimated", "trained", "frozen")


class Options(NamedTuple):
    """The options of a training, which `fit` takes by their names.

    Fields:
        learning_rate: the rate at the first step.
        batch_size: images of each stream a step.
        optimizer: one of `OPTIMIZERS`, or a class or function learning_rate ->
            fresh Keras optimiser, whose rate is then set at every step.
        schedule: one of `SCHEDULES`; what multiplies the rate, by the share of
            the steps done.
        precision: one of `PRECISIONS`; what layers compute in while they
            train. Weights, losses, heads and the model that comes out are
            float32.
        statistics: one of `STATISTICS`; what becomes of the statistics of
            thawed BatchNorm layers. They are estimated anew on the images when
            training ends, since a moving average is unfinished after few
            steps; or they are that moving average; or they stay as they were,
            and training uses them too.
    """

    learning_rate: float = 1e-3
    batch_size: int = 64
    optimizer: Any = "adam"
    schedule: str = "constant"
    precision: str = "float32"
    statistics: str = "reestimated"


# What each option may be in a run, by option.
OPTION_KINDS = {
    "learning_rate": KINDS["Positive"],
    "batch_size": KINDS["Count"],
    "optimizer": one_of(OPTIMIZERS),
    "schedule": one_of(SCHEDULES),
    "precision": one_of(PRECISIONS),
    "statistics": one_of(STATISTICS),
}


def check_options(options: Options) -> None:
    """Refuse options that Keras would accept and misread.

    Raises:
        KTransferError: `E_ARGUMENT` for a number, `E_UNKNOWN` for a name.
    """
    for name, kind in OPTION_KINDS.items():
        value = getattr(options, name)
        if not (name == "optimizer" and callable(value)):
            kind.check(name, value)
