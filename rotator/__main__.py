"""``python -m rotator`` is the console command."""

import sys

from rotator.cli import main

if __name__ == "__main__":
    sys.exit(main())
