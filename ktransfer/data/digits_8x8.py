"""`digits_8x8`: 1,797 handwritten digits of 8 x 8 pixels, of scikit-learn.

The test part of the UCI set "Optical Recognition of Handwritten Digits" of
Alpaydin and Kaynak (1998), which scikit-learn carries. It is not USPS.
"""

import numpy as np

from ktransfer.data.split import Problem, Split, read_only
from ktransfer.errors import KTransferError

NUM_TRAIN = 1000


def load():
    """Return the `Problem`: the first 1,000 digits to train, 797 to test.

    Raises:
        KTransferError: `E_MISSING_PACKAGE` without scikit-learn.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise KTransferError(
            "E_MISSING_PACKAGE",
            "digits_8x8 comes with scikit-learn, which is not installed; run "
            "`pip install 'ktransfer[data]'`.",
        ) from error
    found = load_digits()
    # 17 levels of ink.
    x = np.rint(found.images[..., None] * (255 / 16)).astype("uint8")
    y = found.target.astype("int32")
    train, test = slice(None, NUM_TRAIN), slice(NUM_TRAIN, None)
    return Problem(
        Split(read_only(x[train]), read_only(y[train])),
        Split(read_only(x[test]), read_only(y[test])),
        None,
        tuple(range(10)),
        "digits-8x8",
    )
