"""
A webhook: one JSON document for each message, signed so that its receiver knows who wrote it and when.

Rules that must stay true here:

- The body is the contract's (docs/contract.md); additions may come, fields never change meaning.
- The signature covers moment and body: an old message is not taken for a new one. The secret is read at use.
- Every try to deliver one message carries the same delivery id.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

from rotator.adapters.notify.http import Access, Poster, one_address
from rotator.adapters.notify.wording import Links, moment, state
from rotator.ports import Clock, Message, Notice

TIMESTAMP = "Rotator-Timestamp"
SIGNATURE = "Rotator-Signature"
DELIVERY = "Rotator-Delivery"


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """Return ``v1=`` and the HMAC-SHA256 of *timestamp*, a dot and *body* under *secret*, lower-case hex."""
    return "v1=" + hmac.new(secret.encode(), timestamp.encode("ascii") + b"." + body, hashlib.sha256).hexdigest()


class WebhookReceiver:
    """Posts to one address; a `Receiver`."""

    def __init__(
        self,
        name: str,
        url: str | Path,
        *,
        clock: Clock,
        access: Access,
        links: Links,
        secret_file: Path | None = None,
    ) -> None:
        """Post to *url*, or to the address that stands in the file *url*; signed if there is a *secret_file*."""
        self._name = name
        self._url = url if isinstance(url, str) else one_address(name, url)
        self._clock = clock
        self._poster = Poster(name, access)
        self._links = links
        self._secret_file = secret_file

    def send(self, message: Message) -> None:
        """Post *message*."""
        document: dict[str, Any] = {
            "version": 1,
            "id": message.id,
            "sent_at": moment(message.at),
            "environment": self._links.environment,
            "receiver": self._name,
            "left_out": message.left_out,
            "notices": [self._notice(each) for each in message.notices],
        }
        body = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
        headers = {DELIVERY: message.id}
        if self._secret_file is not None:
            headers[TIMESTAMP] = str(int(self._clock.now().timestamp()))
            headers[SIGNATURE] = signature(self._poster.secret(self._secret_file), headers[TIMESTAMP], body)
        self._poster.post(self._url, body, headers)

    def close(self) -> None:
        """Close its connections."""
        self._poster.close()

    def _notice(self, notice: Notice) -> dict[str, Any]:
        return {
            "key": notice.key,
            "kind": notice.kind.value,
            "subject": notice.subject,
            "severity": notice.severity.value,
            "state": state(notice),
            "since": moment(notice.since),
            "ended": None if notice.raised else moment(notice.at),
            "repeated": notice.again,
            "summary": notice.summary,
            "runbook": self._links.runbook(notice.kind),
        }
