"""
``python -m rotator.cli``: the console command where no script was installed.

Rules that must stay true here:

- The same as `rotator`, and nothing more.
"""

import sys

from rotator.cli import main

if __name__ == "__main__":
    sys.exit(main())
