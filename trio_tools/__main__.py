"""`python -m trio_tools` is the command line."""

import sys

from trio_tools.cli import main

if __name__ == "__main__":
    sys.exit(main())
