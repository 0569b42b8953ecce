"""
Which of the tasks that Airflow knows a member of a workload works on.

Rules that must stay true here:

- Airflow's REST API has no filter by host name (an unknown one is ignored in silence), so it is done here.
- A host name may be written with or without its domain: ``airflow-worker-0`` and
  ``airflow-worker-0.airflow-worker.airflow.svc.cluster.local`` are one; ``airflow-worker-01`` is another.
"""

from __future__ import annotations

from collections.abc import Iterable

from rotator.core.tasks import TaskAttempt


def is_at(host: str, member: str) -> bool:
    """Return whether *host*, as Airflow wrote it, is the machine that *member* names; either may have its domain."""
    one, other = host.casefold().rstrip("."), member.casefold().rstrip(".")
    if not one or not other:
        return False
    return one == other or one.startswith(f"{other}.") or other.startswith(f"{one}.")


def at_work(tasks: Iterable[TaskAttempt], *names: str) -> tuple[TaskAttempt, ...]:
    """Return those of *tasks* that run on the machine called by one of *names* (a host name, an address)."""
    return tuple(task for task in tasks if any(is_at(task.host, name) for name in names if name))
