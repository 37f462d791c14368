"""One independent random stream a purpose, derived from the seed of a run.

A stream's name says what it feeds ("split", "init", "order", ...) and never
which method asks, so that the methods of one seed are paired: they share
subset, epoch order and the initial weights of equally named layers.
"""

import hashlib


def stream(seed, *names):
    """Return the seed (0 to 2**31 - 1) of the stream `names` of `seed`.

    It rests on sha256, so it is the same on every machine and for every
    PYTHONHASHSEED.
    """
    key = "/".join([str(int(seed)), *map(str, names)])
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") >> 1
