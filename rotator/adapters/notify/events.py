"""
Kubernetes Events: ``kubectl get events`` and ``kubectl describe`` show what rotator tells.

Rules that must stay true here:

- One Event for each time an alert is true, with a count that grows: repeats change its series and make no new object.
- Names come from what they tell, so a restart and a try whose reply was lost find the same Event again.
- An Event about a Secret lies in the Secret's namespace, everything else in rotator's own; rotator needs to create and
  patch Events in those alone (`event_rights`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from rotator.adapters.notify.wording import camel
from rotator.cluster.objects import ObjectAPI
from rotator.cluster.paths import path_of
from rotator.cluster.rights import Rights, rule
from rotator.core.model import SubjectName
from rotator.errors import Conflict
from rotator.ports import Message, Notice

CONTROLLER: Final = "rotator.io/rotator"
"""Who says it, in every Event."""

_LONGEST_NOTE: Final = 1024
"""Bytes, by the API server's own rule."""
_VERSION: Final = "events.k8s.io/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """The object that an Event is about."""

    version: str
    """``v1`` for a Secret."""
    kind: str
    namespace: str
    name: str


def event_rights(namespaces: Iterable[str]) -> Rights:
    """Return what rotator needs to tell something by Events in each of *namespaces*."""
    # Names of Events are made as they come: RBAC cannot know them.
    return Rights(namespaces={each: (rule("events", "create", "patch", group="events.k8s.io"),) for each in namespaces})


class EventReceiver:
    """Writes Events into one cluster; a `Receiver`."""

    def __init__(
        self,
        cluster: ObjectAPI,
        *,
        instance: str,
        repeat_every: timedelta,
        about: Callable[[SubjectName], About],
    ) -> None:
        """Write as *instance* (this replica's name); *about* gives what an alert of a subject is about."""
        self._cluster = cluster
        self._instance = instance[:128]
        self._repeat_every = repeat_every
        self._about = about

    def send(self, message: Message) -> None:
        """Write one Event for each notice of *message*."""
        for notice in message.notices:
            self._write(notice, message)

    def close(self) -> None:
        """The cluster's connections belong to whoever opened them."""

    def _write(self, notice: Notice, message: Message) -> None:
        about = self._about(notice.subject)
        name = _name(notice)
        series = self._series(notice, message.at) if notice.again else None
        where = path_of(_VERSION, "events", namespace=about.namespace)
        one = path_of(_VERSION, "events", namespace=about.namespace, name=name)
        if series is not None:
            try:
                self._cluster.merge(one, {"series": series})
            except Conflict:
                # The API server forgets Events after an hour.
                pass
            else:
                return
        try:
            self._cluster.create(where, self._event(notice, about, name, series, message.at))
        except Conflict:
            # There already: written before a restart, or by a try whose reply was lost.
            return

    def _event(
        self, notice: Notice, about: About, name: str, series: dict[str, Any] | None, now: datetime
    ) -> dict[str, Any]:
        note = notice.summary if notice.raised else f"over: {notice.summary}"
        body: dict[str, Any] = {
            "apiVersion": _VERSION,
            "kind": "Event",
            "metadata": {"name": name, "namespace": about.namespace},
            "eventTime": _micro(now),
            "reportingController": CONTROLLER,
            "reportingInstance": self._instance,
            "action": "Alert" if notice.raised else "Resolve",
            "reason": camel(notice.kind) if notice.raised else f"{camel(notice.kind)}Resolved",
            "regarding": {
                "apiVersion": about.version,
                "kind": about.kind,
                "namespace": about.namespace,
                "name": about.name,
            },
            "note": note.encode()[:_LONGEST_NOTE].decode(errors="ignore"),
            "type": "Warning" if notice.raised else "Normal",
        }
        return body if series is None else body | {"series": series}

    def _series(self, notice: Notice, now: datetime) -> dict[str, Any]:
        """Return how often it was told: counted by the time that passed, so that a restart counts on."""
        count = 1 + max(1, round((now - notice.at) / self._repeat_every))
        return {"count": count, "lastObservedTime": _micro(now)}


def _name(notice: Notice) -> str:
    """Return the Event's name: the same for every telling of one raise, or of one end."""
    told = f"{notice.key}|{notice.severity.value}|{notice.raised}|{notice.at.isoformat()}"
    return f"rotator-{hashlib.sha256(told.encode()).hexdigest()[:24]}"


def _micro(at: datetime) -> str:
    """Return *at* as Kubernetes' MicroTime."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
