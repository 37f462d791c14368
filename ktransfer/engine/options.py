"""How a training goes, by name: what every method hands on to `fit`.

No Keras import, so that a run is checked before Keras is loaded.
"""

import math
from typing import Any, NamedTuple

from ktransfer.errors import KTransferError, unknown

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


# The names that an option may have, by option.
CHOICES = {
    "optimizer": OPTIMIZERS,
    "precision": PRECISIONS,
    "schedule": SCHEDULES,
    "statistics": STATISTICS,
}


def check(options):
    """Refuse options that Keras would accept and misread.

    Raises:
        KTransferError: `E_ARGUMENT` for a number, `E_UNKNOWN` for a name.
    """
    check_numbers(learning_rate=options.learning_rate)
    check_numbers(batch_size=options.batch_size)
    for name, valid in CHOICES.items():
        value = getattr(options, name)
        if value not in valid and not (name == "optimizer" and callable(value)):
            raise unknown(name, value, valid)


def check_numbers(**values):
    """Refuse numbers that Keras would accept and misread.

    Raises:
        KTransferError: `E_ARGUMENT` with the name, the value and the range.
    """
    for name, value in values.items():
        whole = name in ("steps", "batch_size")
        lowest = 0 if name == "steps" else (1 if whole else 0)
        good = (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and math.isfinite(value)
            and (not whole or value == int(value))
            and (value >= lowest if whole else value > 0)
        )
        if not good:
            expected = (
                f"a whole number of at least {lowest}" if whole else "> 0"
            )
            raise KTransferError(
                "E_ARGUMENT", f"{name} is {value!r}; expected {expected}."
            )
