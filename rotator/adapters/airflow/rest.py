"""
What Airflow itself says of its work: task attempts, runs, executors' workers, and the few switches that rotator uses.

Rules that must stay true here:

- Only names, states and moments leave this module. A run's configuration, rendered fields, notes and extras are not
  even looked at: people put secrets there.
- Airflow ignores a filter that it does not know, in silence; whatever matters is filtered here again.
- Complete or an error: half a list must never be read as "nothing else runs" (law 17).
- Who asked for a run of Airflow 2 stands in its audit log alone, and is told only if that names one person; of an
  event its name, its moment, its run and its owner are looked at, never what was sent along.

Both interfaces are spoken: v2 (Airflow 3) and v1 (Airflow 2.10), which name the same things a little differently.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from rotator.adapters.airflow.api import JSON, AirflowAPI, Query, Version
from rotator.core.long_tasks import length
from rotator.core.tasks import Run, TaskAttempt
from rotator.errors import Denied, Rejected, Unavailable
from rotator.http_exchange import segment

RUNNING_STATES = ("running", "restarting")
"""States in which a worker holds the task. A deferred one waits in a triggerer; a queued one has no worker yet."""

_MOST_LONG = 500
"""Tasks that are looked at of those that are too long: where there are more, the deadline is what has to change."""

_WHO_ASKED = "reading who set a run off"
_ASKED_BY = {"trigger": "ui", "post_dag_run": "rest_api"}
"""Events of Airflow 2's audit log with which a person asks for a run, and Airflow 3's word for the way."""
_ASKED_AROUND = timedelta(seconds=5)
"""So close to a manual run's own date the event lies that asked for it."""
_MOST_EVENTS = 100

_EVERY_TASK = "/dags/~/dagRuns/~/taskInstances"


class AirflowTasks:
    """`rotator.ports.RunningTasks`, `RunHistory` and `LongTasks`. Safe to share between threads."""

    def __init__(self, api: AirflowAPI) -> None:
        """Ask *api*; nothing is sent yet."""
        self._api = api

    def running(self) -> tuple[TaskAttempt, ...]:
        """Return every task attempt that some worker works on now."""
        return self._in_states(RUNNING_STATES)

    def _in_states(self, states: Sequence[str]) -> tuple[TaskAttempt, ...]:
        query = [("state", state) for state in states]
        doing = "listing the running tasks"
        found = [each for each in self._attempts(query, doing=doing) if each.state in states]
        distinct = {each.key: each for each in found}
        if len(distinct) < len(found):
            # v1 knows no order: whoever is seen twice has taken the place of another who was not seen.
            raise Unavailable(f"Airflow's list changed while it was read, seen while {doing}")
        return tuple(distinct.values())

    def held(self) -> tuple[TaskAttempt, ...]:
        """Return what runs, and what an executor has taken and not begun yet."""
        return self._in_states((*RUNNING_STATES, "queued"))

    def unpaused(self) -> tuple[str, ...]:
        """Return the DAGs that are not paused."""
        return self._dags(paused=False)

    def paused(self) -> tuple[str, ...]:
        """Return the DAGs that are paused."""
        return self._dags(paused=True)

    def pause(self, dag: str, *, paused: bool) -> None:
        """Pause *dag*, or let it go on; may be done twice."""
        doing = f"{'pausing' if paused else 'resuming'} {dag}"
        self._api.patch(f"/dags/{segment(dag)}", {"is_paused": paused}, doing=doing)

    def _dags(self, *, paused: bool) -> tuple[str, ...]:
        query = [("paused", "true" if paused else "false")]
        if self._api.version is Version.V2:
            query.append(("order_by", "dag_id"))
        found = self._api.listed("/dags", "dags", doing="listing the DAGs", query=query)
        return tuple(_text(each, "dag_id") for each in found if each.get("is_paused") is paused)

    def ended(self, since: datetime, until: datetime) -> Iterator[TaskAttempt]:
        """Yield every task attempt that ended from *since* on and before *until*, after the earlier tries of each."""
        doing = "copying what ran"
        query = [("end_date_gte", _written(since)), ("end_date_lte", _written(until))]
        seen = set()
        for each in list(self._attempts(query, doing=doing)):
            if each.ended_at is None or not since <= each.ended_at < until or each.key in seen:
                continue
            seen.add(each.key)
            # The list knows the last try only: one that failed and was repeated in between is in the history alone.
            yield from self._earlier_tries(each, doing=doing) if each.attempt > 1 else ()
            yield each

    def longer(self, than: timedelta, *, since: datetime, now: datetime) -> tuple[TaskAttempt, ...]:
        """Return the attempts that took longer *than* that and ended from *since* on, or run for longer by *now*."""
        query = [("end_date_gte", _written(since)), ("duration_gte", f"{than.total_seconds():.3f}")]
        # The second interface sorts: of very many, the longest are seen.
        order = [("order_by", "-duration")] if self._api.version is Version.V2 else []
        doing = "looking for long tasks"
        rows = self._api.listed(_EVERY_TASK, "task_instances", doing=doing, query=[*query, *order])
        ended = (_attempt(each) for each in itertools.islice(rows, _MOST_LONG))
        found = [each for each in ended if each.ended_at is not None and each.ended_at >= since]
        return tuple(each for each in (*self.running(), *found) if length(each, now) > than)

    def runs(self, of: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Run]:
        """Return the runs named by (DAG, run); those that Airflow has forgotten are absent."""
        found = {}
        for dag, run in dict.fromkeys(of):
            path = f"/dags/{segment(dag)}/dagRuns/{segment(run)}"
            try:
                told = self._api.get(path, doing=_WHO_ASKED)
            except Rejected:
                # 404: cleaned up in between. What its tasks were is known all the same.
                continue
            one = found[dag, run] = _run(told)
            if self._api.version is Version.V1 and one.run_type == "manual" and not one.triggering_user:
                found[dag, run] = self._with_asker(one, _moment(told, "execution_date"))
        return found

    def _with_asker(self, run: Run, asked_at: datetime | None) -> Run:
        """Return *run* with whoever the audit log of Airflow 2 says has asked for it; as it is if it names nobody."""
        rows: list[JSON] = []
        for event in _ASKED_BY:
            query = [("dag_id", run.dag), ("event", event), ("order_by", "-when"), ("limit", str(_MOST_EVENTS))]
            if asked_at is not None:
                query.append(("after", _written(asked_at - _ASKED_AROUND)))
            try:
                listed = self._api.get("/eventLogs", doing=_WHO_ASKED, query=query).get("event_logs")
            except (Denied, Rejected):
                # The right to read the audit log is one that a role may do without.
                return run
            rows += [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
        named = [each for each in rows if _text(each, "dag_id") == run.dag and _text(each, "event") in _ASKED_BY]
        by_run = [each for each in named if _text(each, "run_id") == run.run]
        if not by_run and asked_at is not None:
            # What was asked for without a run's name was given one: then the moment tells, if nobody else asked.
            by_run = [
                each
                for each in named
                if not _text(each, "run_id")
                and (when := _moment(each, "when")) is not None
                and abs(when - asked_at) <= _ASKED_AROUND
            ]
        owners = {(_text(each, "owner"), _text(each, "event")) for each in by_run}
        if len({owner for owner, _ in owners}) != 1:
            return run
        ((owner, event),) = list(owners)[:1]
        return replace(run, triggering_user=owner, triggered_by=run.triggered_by or _ASKED_BY[event])

    def _earlier_tries(self, last: TaskAttempt, *, doing: str) -> Iterator[TaskAttempt]:
        path = f"/dags/{segment(last.dag)}/dagRuns/{segment(last.run)}/taskInstances/{segment(last.task)}"
        mapped = f"/{last.map_index}" if last.map_index >= 0 else ""
        try:
            found = self._api.get(f"{path}{mapped}/tries", doing=doing).get("task_instances")
        except Rejected:
            return  # forgotten in between
        for each in found if isinstance(found, list) else ():
            if isinstance(each, dict) and (attempt := _attempt(each)).attempt < last.attempt:
                yield attempt

    def _attempts(self, query: Query, *, doing: str) -> Iterator[TaskAttempt]:
        # By age: what appears while the pages are read comes last, and moves nothing to another page.
        order = [("order_by", "id")] if self._api.version is Version.V2 else []
        for each in self._api.listed(_EVERY_TASK, "task_instances", doing=doing, query=[*query, *order]):
            yield _attempt(each)


def _attempt(found: JSON) -> TaskAttempt:
    return TaskAttempt(
        dag=_text(found, "dag_id"),
        run=_text(found, "dag_run_id"),
        task=_text(found, "task_id"),
        map_index=found["map_index"] if isinstance(found.get("map_index"), int) else -1,
        attempt=found["try_number"] if isinstance(found.get("try_number"), int) else 1,
        state=_text(found, "state"),
        host=_text(found, "hostname"),
        queue=_text(found, "queue"),
        executor=_text(found, "executor"),
        started_at=_moment(found, "start_date"),
        ended_at=_moment(found, "end_date"),
    )


def _run(found: JSON) -> Run:
    versions = found.get("dag_versions")
    version = versions[-1] if isinstance(versions, list) and versions and isinstance(versions[-1], dict) else {}
    bundle = " ".join(filter(None, (_text(version, "bundle_name"), _text(version, "bundle_version"))))
    return Run(
        dag=_text(found, "dag_id"),
        run=_text(found, "dag_run_id"),
        run_type=_text(found, "run_type"),
        triggered_by=_text(found, "triggered_by"),
        triggering_user=_text(found, "triggering_user_name"),
        bundle=bundle,
    )


def _text(found: JSON, name: str) -> str:
    value = found.get(name)
    return value if isinstance(value, str) else ""


def _moment(found: JSON, name: str) -> datetime | None:
    value = found.get(name)
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise Rejected(f"Airflow wrote a {name} that is no moment") from None
    if moment.tzinfo is None:
        raise Rejected(f"Airflow wrote a {name} without a zone")
    return moment


def _written(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
