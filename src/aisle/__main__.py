"""`python -m aisle COMMAND`: the command line where the script `aisle` is not on the path."""

import sys

from aisle.cli import main

if __name__ == "__main__":
    sys.exit(main())
