"""
Celery workers of demonstration and tests: their command line, and the account of their tasks.

Rules that must stay true here:

- A worker is started as Airflow starts its own: late acknowledgement, one message ahead, fair, remote control on.
- A task counts as finished by its own line in the results file, not by what the broker says.
"""

from __future__ import annotations

import json
import sys
import threading
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from celery import Celery

from rotator.embedded.tasks import WAIT

# The golden ratio spreads durations evenly without a random draw: a run can be repeated.
_SPREAD = 0.6180339887498949


def node_name(name: str) -> str:
    """Return the Celery node name of the worker *name*."""
    return f"celery@{name}"


def worker_command(name: str, *, queues: Iterable[str] = ("default",), concurrency: int = 2) -> tuple[str, ...]:
    """Return the command of the worker *name*; its environment is `tasks.Place.environment`."""
    return (
        sys.executable,
        "-m",
        "rotator.embedded.tasks",
        "worker",
        "-O",
        "fair",
        "--pool=prefork",
        f"--concurrency={concurrency}",
        "--without-gossip",
        "--without-mingle",
        "--loglevel=INFO",
        f"--hostname={node_name(name)}",
        "--queues=" + ",".join(queues),
    )


class TaskLedger:
    """Which tasks were given out and which were finished."""

    def __init__(self, broker_url: str, results: Path) -> None:
        """Give tasks out through *broker_url*; *results* is the file that the workers append to."""
        self._app = Celery("rotator-ledger", broker=broker_url, set_as_current=False)
        self._app.conf.task_default_queue = "default"
        self._results = results
        self._lock = threading.Lock()
        self._submitted: list[str] = []

    @property
    def submitted(self) -> tuple[str, ...]:
        """Return the ids of all tasks given out, in order."""
        with self._lock:
            return tuple(self._submitted)

    def submit(
        self,
        count: int,
        *,
        seconds: tuple[float, float] = (0, 0),
        task: str = WAIT,
        queue: str = "default",
        note: str = "",
        until: Path | None = None,
    ) -> tuple[str, ...]:
        """
        Give out *count* tasks that last between *seconds*; return their ids. A lost reply raises.

        Those that only wait may be told to go on *until* a file is there, too.
        """
        low, high = seconds
        ids = []
        with self._app.connection_for_write() as connection:
            for _ in range(count):
                with self._lock:
                    share = (len(self._submitted) * _SPREAD) % 1.0
                    arguments = [low + (high - low) * share, *([note] if note else [])]
                    named = {"until": str(until)} if until is not None else {}
                    sent = self._app.send_task(task, args=arguments, kwargs=named, queue=queue, connection=connection)
                    self._submitted.append(str(sent.id))
                ids.append(str(sent.id))
        return tuple(ids)

    def lines(self) -> tuple[dict[str, object], ...]:
        """Return what the workers wrote, in order; a line that is still being written is left out."""
        try:
            text = self._results.read_text(encoding="utf-8")
        except FileNotFoundError:
            return ()
        return tuple(json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n"))

    def finished(self) -> Counter[str]:
        """Return how often each task was finished."""
        return Counter(str(line["task"]) for line in self.lines())

    def lost(self) -> frozenset[str]:
        """Return the tasks that were given out and not finished; true only once no worker has any work left."""
        return frozenset(self.submitted) - frozenset(self.finished())

    def repeated(self) -> frozenset[str]:
        """Return the tasks that were finished more than once."""
        return frozenset(task for task, times in self.finished().items() if times > 1)

    def close(self) -> None:
        """Close every connection."""
        self._app.close()
