"""``python -m layoutdsl.cli``: the same as the console script."""

import sys

from layoutdsl.cli import main

if __name__ == "__main__":
    sys.exit(main())
