"""
The host name that a worker of the tests goes by: several of them share one machine, as pods never do.

Rules that must stay true here: none; it is what ``[core] hostname_callable`` names.
"""

import os


def of_this_worker() -> str:
    """Return the name that this process was started with."""
    return os.environ["AIRFLOW_TEST_HOST"]
