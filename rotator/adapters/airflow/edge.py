"""
Draining Edge workers: maintenance mode, through the API that the provider's plugin serves.

Rules that must stay true here:

- A worker that is stopped by TERM kills its jobs. It is put into maintenance first, and stopped when it has none left.
- Maintenance outlives the worker's process: the new one comes up in it, and is taken out of it again.
- Maintenance that a person asked for stays a person's: it is never ended here. Ours is known by its comment.
- A worker is idle when it is *in* maintenance and shows no active job; asked for is not yet in it, but is not asked for
  again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from rotator.adapters.airflow.api import JSON, AirflowAPI
from rotator.core.model import Member
from rotator.errors import Rejected
from rotator.http_exchange import segment

COMMENT: Final = "rotator: its certificate is renewed"
"""By which our own maintenance is known."""

_ROOT: Final = "/edge_worker/ui/worker"
_AT_WORK: Final = frozenset({"running", "idle"})
_IN: Final = frozenset({"maintenance mode"})
_ASKED: Final = frozenset({"maintenance request", "maintenance pending"})
_SILENT: Final = frozenset({"unknown"})
"""Airflow has not heard of it for a while: it keeps what it was asked."""
_ON_THE_WAY: Final = _ASKED | {"offline maintenance"}
"""Of one that runs: the last is what its predecessor left, until it has told of itself."""


class EdgeDrainer:
    """`rotator.ports.Drainer` for Edge workers."""

    def __init__(self, api: AirflowAPI, names: Mapping[str, str] | None) -> None:
        """Ask *api*; *names* gives the Edge worker's name for each member's; None: pods, each by its host name."""
        self._api = api
        self._names = dict(names) if names is not None else None

    def inspect(self, members: Sequence[Member]) -> tuple[Member, ...]:
        """Return *members* with their jobs as Airflow shows them."""
        answer = self._api.plugin("GET", _ROOT, doing="listing the Edge workers")
        found = answer.get("workers")
        if not isinstance(found, list):
            raise Rejected("Airflow's answer lists no Edge workers: is the edge3 provider installed there?")
        known = {str(each.get("worker_name")): each for each in found if isinstance(each, dict)}
        return tuple(self._seen(member, known.get(self._name(member))) for member in members)

    def drain(self, member: Member) -> None:
        """Ask for maintenance; jobs go on to their end."""
        path = f"{_ROOT}/{segment(self._name(member))}/maintenance"
        doing = f"asking for maintenance of Edge worker {member.name}"
        self._api.plugin("POST", path, doing=doing, body={"maintenance_comment": COMMENT})

    def undrain(self, member: Member) -> None:
        """End maintenance if it is ours. Raises `Rejected` if a person asked for it."""
        doing = f"reading the maintenance of Edge worker {member.name}"
        answer = self._api.plugin("GET", _ROOT, doing=doing).get("workers")
        workers = answer if isinstance(answer, list) else []
        one = next((each for each in workers if each.get("worker_name") == self._name(member)), None)
        if one is None or not _is_maintained(one):
            return
        if not _is_ours(one):
            raise Rejected(f"Edge worker {member.name} is in maintenance by a person's word: end it there")
        path = f"{_ROOT}/{segment(self._name(member))}/maintenance"
        self._api.plugin("DELETE", path, doing=f"ending the maintenance of Edge worker {member.name}")

    def _seen(self, member: Member, found: JSON | None) -> Member:
        if not member.running:
            return replace(member, ready=False, busy=None, detail=member.detail or "it does not run")
        if found is None:
            return replace(member, ready=False, busy=None, detail="Airflow does not know an Edge worker of its name")
        state, jobs = str(found.get("state")), found.get("jobs_active")
        queues = frozenset(map(str, found.get("queues") or ()))
        busy = jobs if isinstance(jobs, int) else None
        detail = "" if state in _AT_WORK else f"Airflow shows it as {state!r}"
        if _is_maintained(found) and not _is_ours(found):
            detail = f"{detail}, by a person's word"
        return replace(
            member,
            draining=state in _IN or (state in _ASKED | _SILENT and _is_ours(found)),
            # On its way into maintenance it may still have fetched a job that is not counted yet.
            busy=None if state not in _IN | _AT_WORK else busy,
            queues=queues,
            ready=state in _AT_WORK,
            detail=detail,
        )

    def _name(self, member: Member) -> str:
        if self._names is None:
            return member.host or member.name
        try:
            return self._names[member.name]
        except KeyError:
            raise Rejected(f"{member.workload} has no Edge worker for its member {member.name}") from None


def _is_maintained(found: JSON) -> bool:
    return str(found.get("state")) in _IN | _ON_THE_WAY


def _is_ours(found: JSON) -> bool:
    return COMMENT in str(found.get("maintenance_comments") or found.get("maintenance_comment") or "")
