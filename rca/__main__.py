"""`python -m rca`: the command `rca`."""

import sys

from rca.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
