"""Every refusal of the suite: one line that says what, where and how to fix.

The command line prints a `KTransferError` as
`ktransfer: error[E_NAME]: message` and exits with its code. No Keras import.
"""

import difflib
import traceback
from pathlib import Path

EXIT_CODES = {
    # 1: the sweep ended, and some of its runs failed
    "E_FAILED_RUNS": 1,
    # 2: bad arguments or configuration
    "E_ARGUMENT": 2,
    "E_UNKNOWN": 2,
    "E_NOT_APPLICABLE": 2,
    # 3: data or an artifact failed its integrity check
    "E_DATA_HASH": 3,
    "E_IMAGES": 3,
    "E_LABELS": 3,
    "E_RECORD": 3,
    "E_SUBSET": 3,
    "E_WEIGHTS": 3,
    # 4: the environment
    "E_DISK": 4,
    "E_MEMORY": 4,
    "E_MISSING_PACKAGE": 4,
    "E_OFFLINE": 4,
    "E_RESULTS_DIR": 4,
    "E_SYSTEM": 4,
    # 5: waiting for a lock timed out
    "E_BUSY": 5,
    # 6: an internal invariant is broken
    "E_INVARIANT": 6,
    "E_INTERRUPTED": 130,
}


class KTransferError(Exception):
    """An error with a name of `EXIT_CODES` and a message of one line."""

    def __init__(self, name, message):
        super().__init__(name, message)
        self.name = name
        self.message = message

    @property
    def exit_code(self):
        return EXIT_CODES[self.name]

    def __str__(self):
        return f"error[{self.name}]: {self.message}"


class NotApplicable(KTransferError):
    """A method's need is not met by this target or these sources.

    It is a result, not a fault: the sweep lists the method with the reason.
    """

    def __init__(self, message):
        super().__init__("E_NOT_APPLICABLE", message)

    def __reduce__(self):
        return type(self), (self.message,)


class Diverged(Exception):
    """Training left the finite numbers; recorded as a result, not an error."""


def unknown(kind, name, valid):
    """Return the error for a `name` that is not one of the `valid` names."""
    valid = sorted(map(str, valid))
    near = difflib.get_close_matches(str(name), valid, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    known = f"Valid: {', '.join(valid)}." if valid else "There is none."
    return KTransferError(
        "E_UNKNOWN", f"unknown {kind} {str(name)!r}.{hint} {known}"
    )


def place_of(error, folder):
    """Return `file:line` of where an error came from, "" if from elsewhere.

    Args:
        error: an exception that was caught.
        folder: in which to look; the file is given relative to it.
    """
    frames = traceback.extract_tb(error.__traceback__)
    places = [(frame.filename, frame.lineno) for frame in frames]
    if isinstance(error, SyntaxError) and error.filename:
        places.append((error.filename, error.lineno))
    for name, line in reversed(places):
        if Path(name).is_relative_to(folder):
            return f"{Path(name).relative_to(folder).as_posix()}:{line}"
    return ""
