"""
Prometheus Alertmanager, by its API v2.

Rules that must stay true here:

- Every Alertmanager that is named gets every alert: replicas share silences and what was sent, not alerts.
- An alert that lasts is sent again well before the end that it was sent with, as Prometheus does; so what rotator can
  no longer speak of ends by itself there, and a restart raises nothing twice.
- The labels tell alerts apart, severity among them: where it changes, the alert with the old one is ended.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

import structlog

from rotator.adapters.notify.http import Access, Poster
from rotator.adapters.notify.wording import Links, camel, moment
from rotator.core.model import Severity
from rotator.errors import AdapterError
from rotator.ports import Message, Notice
from rotator.telemetry import LogEvent

log = structlog.get_logger(__name__)

LIVES_FOR_REPEATS: Final = 4
"""As Prometheus: three lost messages in a row are borne before an alert that lasts is taken for ended."""


class AlertmanagerReceiver:
    """Keeps one set of Alertmanagers told; a `Receiver`."""

    def __init__(
        self, name: str, urls: Sequence[str], *, access: Access, links: Links, repeat_every: timedelta
    ) -> None:
        """Send to *urls* what lasts every *repeat_every*, of which each notice tells how long it holds."""
        self._name = name
        self._urls = tuple(url.rstrip("/") for url in urls)
        self._poster = Poster(name, access)
        self._links = links
        self._holds_for = LIVES_FOR_REPEATS * repeat_every
        self._severities: dict[str, Severity] = {}
        """With which severity each firing alert was last sent, by key."""

    def send(self, message: Message) -> None:
        """Post every alert of *message* to every Alertmanager; one that takes it is enough."""
        body = json.dumps([each for notice in message.notices for each in self._alerts(notice, message)]).encode()
        failures: list[AdapterError] = []
        for url in self._urls:
            try:
                self._poster.post(f"{url}/api/v2/alerts", body, {})
            except AdapterError as error:
                failures.append(error)
                log.warning(LogEvent.NOTICE_FAILED, receiver=self._name, server=url, error=str(error))
        if len(failures) == len(self._urls):
            raise failures[0]
        for notice in message.notices:
            if notice.raised:
                self._severities[notice.key] = notice.severity
            else:
                self._severities.pop(notice.key, None)

    def close(self) -> None:
        """Close its connections."""
        self._poster.close()

    def _alerts(self, notice: Notice, message: Message) -> list[dict[str, Any]]:
        """Return the alert of *notice*, and the one with another severity that it takes the place of."""
        before = self._severities.get(notice.key, notice.severity)
        ends = message.at + self._holds_for if notice.raised else notice.at
        found = [self._alert(notice, notice.severity, moment(ends))]
        if before is not notice.severity:
            found.append(self._alert(notice, before, moment(message.at if notice.raised else notice.at)))
        return found

    def _alert(self, notice: Notice, severity: Severity, ends_at: str) -> dict[str, Any]:
        return {
            "labels": {
                "alertname": f"Rotator{camel(notice.kind)}",
                "environment": self._links.environment,
                "subject": notice.subject,
                "severity": severity.value,
                "source": "rotator",
            },
            "annotations": {"summary": notice.summary, "runbook_url": self._links.runbook(notice.kind)},
            # An alert that ends before it starts is refused: a beginning in the future is none.
            "startsAt": moment(min(notice.since, notice.at)),
            "endsAt": ends_at,
            **({"generatorURL": self._links.status} if self._links.status else {}),
        }
