"""
What the workers of the tests are given: tasks of a wanted length, by three operators, on two queues.

Rules that must stay true here:

- Each task leaves a line when it begins and one when it ends, by itself: what was killed in between is seen by that,
  whatever Airflow says of it.
- `on_kill` leaves a mark.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.python import PythonOperator
from airflow.providers.standard.sensors.time_delta import TimeDeltaSensor
from airflow.sdk import DAG

MARKS = Path(os.environ.get("AIRFLOW_TEST_MARKS", "/nonexistent"))
"""A file of one JSON object a line, appended to by every task."""


def mark(what: str, context: dict[str, Any]) -> None:
    """Append one line: what a task attempt did, and where."""
    instance = context["ti"]
    line = {
        "what": what,
        "dag": instance.dag_id,
        "run": instance.run_id,
        "try": instance.try_number,
        "host": os.environ.get("AIRFLOW_TEST_HOST", ""),
        "generation": os.environ.get("AIRFLOW_TEST_GENERATION", ""),
        "time": time.time(),
    }
    with MARKS.open("a", encoding="utf-8") as marks:
        marks.write(json.dumps(line) + "\n")


def _seconds(context: dict[str, Any]) -> float:
    return float(context["dag_run"].conf.get("seconds", 1))


def _work(**context: Any) -> None:
    mark("begun", context)
    until = context["dag_run"].conf.get("until")
    # A process of its own, as tasks have them: a signal to the group would reach it.
    wait = ["sh", "-c", 'until [ -e "$0" ]; do sleep 0.2; done', until] if until else ["sleep", str(_seconds(context))]
    subprocess.run(wait, check=True)
    mark("ended", context)


class MarkedPython(PythonOperator):
    """Python that says when it is killed."""

    def execute(self, context: Any) -> Any:
        """Run as ever, and remember the attempt for `on_kill`."""
        self._context = context
        return super().execute(context)

    def on_kill(self) -> None:
        """Leave a mark."""
        mark("killed", self._context)


class MarkedBash(BashOperator):
    """A shell command that says when it is killed."""

    def execute(self, context: Any) -> Any:
        """Run as ever between two marks."""
        self._context = context
        mark("begun", context)
        found = super().execute(context)
        mark("ended", context)
        return found

    def on_kill(self) -> None:
        """Leave a mark, then end the command."""
        mark("killed", self._context)
        super().on_kill()


class MarkedDeferral(TimeDeltaSensor):
    """A wait that leaves the worker and comes back to one."""

    def execute(self, context: Any) -> Any:
        """Defer, between two marks that different workers may leave."""
        mark("begun", context)
        mark("ended", context)
        return super().execute(context)

    def execute_complete(self, context: Any, event: Any = None) -> Any:
        """Come back."""
        mark("begun", context)
        found = super().execute_complete(context, event)
        mark("ended", context)
        return found


_COMMON: dict[str, Any] = {
    "start_date": datetime(2026, 1, 1),  # noqa: DTZ001 -- Airflow dates a DAG in its own default zone
    "catchup": False,
    "max_active_runs": 100,
    "max_active_tasks": 100,
}

with DAG("python_load", schedule=None, **_COMMON):
    MarkedPython(task_id="work", python_callable=_work, queue="default")

with DAG("bash_load", schedule=None, **_COMMON):
    MarkedBash(
        task_id="work",
        bash_command=(
            "{% if dag_run.conf.get('until') %}until [ -e '{{ dag_run.conf['until'] }}' ]; do sleep 0.2; done"
            "{% else %}exec sleep {{ dag_run.conf.get('seconds', 1) }}{% endif %}"
        ),
        queue="heavy",
    )

if "EdgeExecutor" in os.environ.get("AIRFLOW__CORE__EXECUTOR", ""):
    # A task of an executor that an installation does not have would keep all others from being read.
    with DAG("edge_load", schedule=None, **_COMMON):
        MarkedPython(task_id="work", python_callable=_work, queue="edge", executor="EdgeExecutor")

with DAG("deferrable_load", schedule=None, **_COMMON):
    MarkedDeferral(task_id="work", delta=timedelta(seconds=5), deferrable=True, queue="default")
