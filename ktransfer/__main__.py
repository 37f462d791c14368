"""`python -m ktransfer` is the command `ktransfer`."""

import sys

from ktransfer.cli import main

if __name__ == "__main__":
    sys.exit(main())
