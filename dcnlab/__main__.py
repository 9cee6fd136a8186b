"""`python -m dcnlab` is the `dcnlab` command."""

import sys

from dcnlab.cli import main

if __name__ == "__main__":
    sys.exit(main())
