"""What is done in the backend itself, the one place that knows which it is."""

from ktransfer.engine.backend.tensorflow import (
    Trainer,
    check_settings,
    clear_session,
    facts,
    is_worker,
    pin,
    product_rate,
    squared_gradients,
    start,
    take_rows,
    value_and_gradients,
)

__all__ = [
    "Trainer",
    "check_settings",
    "clear_session",
    "facts",
    "is_worker",
    "pin",
    "product_rate",
    "squared_gradients",
    "start",
    "take_rows",
    "value_and_gradients",
]
