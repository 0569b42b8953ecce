"""
Who may read status and log.

Rules that must stay true here:

- Closed unless the settings open it: nobody reads without the right, whatever else fails. A reviewer that does not
  answer lets nobody in.
- A verdict is kept for seconds only, by the token's digest; a right that is taken away ends that soon.
- A stranger costs little: tokens that nobody knows are asked about at a bounded rate, and what is kept is bounded.
- No token reaches a log, an error or a page.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict, deque
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import Final

import structlog

from rotator.errors import AdapterError
from rotator.ports import Clock
from rotator.ports.reviewing import Reviewer
from rotator.settings.service import Readers
from rotator.telemetry import LogEvent

log = structlog.get_logger(__name__)

KEPT_FOR: Final = timedelta(seconds=30)
"""A verdict that lets in: so long a right that was taken away may still be used."""
REFUSED_FOR: Final = timedelta(seconds=5)
"""A verdict that does not: so long somebody who was just given the right may wait."""
MOST_KEPT: Final = 1024
ASKED_A_SECOND: Final = 20
"""Tokens that are not known yet."""


class Verdict(Enum):
    """What becomes of a caller."""

    ADMITTED = "admitted"
    UNKNOWN = "unknown"
    """No token, or none that is good: 401."""
    FORBIDDEN = "forbidden"
    """Known, without the right: 403."""
    CLOSED = "closed"
    """Nobody may read this way: 403."""
    UNANSWERED = "unanswered"
    """Nobody could say: 503."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """What one request shows of who sends it."""

    token: str | None = None
    certified: bool = False
    """Its connection showed a certificate that the settings' bundle verifies."""


class Gate:
    """Lets readers in. Safe from several threads; may take as long as the reviewer does."""

    def __init__(self, readers: Readers, *, clock: Clock, reviewer: Reviewer | None = None) -> None:
        """Let in whom *readers* says; *reviewer* is needed for ``cluster``."""
        self._readers = readers
        self._clock = clock
        self._reviewer = reviewer
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[bytes, str], tuple[Verdict, float]] = OrderedDict()
        self._asked: deque[float] = deque(maxlen=ASKED_A_SECOND)

    def verdict(self, caller: Caller, resource: str) -> Verdict:
        """Return whether *caller* may get *resource* (``status`` or ``log``)."""
        match self._readers:
            case "loopback":
                return Verdict.ADMITTED
            case "certificate":
                return Verdict.ADMITTED if caller.certified else Verdict.UNKNOWN
            case "cluster" if self._reviewer is not None:
                return self._by_token(self._reviewer, caller.token, resource)
            case _:
                return Verdict.CLOSED

    @property
    def takes_tokens(self) -> bool:
        """Return whether a token may open it."""
        return self._readers == "cluster" and self._reviewer is not None

    def _by_token(self, reviewer: Reviewer, token: str | None, resource: str) -> Verdict:
        if not token:
            return Verdict.UNKNOWN
        key = (hashlib.sha256(token.encode()).digest(), resource)
        now = self._clock.monotonic()
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None and now < kept[1]:
                return kept[0]
            if len(self._asked) == ASKED_A_SECOND and now - self._asked[0] < 1:
                return Verdict.UNANSWERED
            self._asked.append(now)
        verdict = self._ask(reviewer, token, resource)
        if verdict is not Verdict.UNANSWERED:
            kept_for = KEPT_FOR if verdict is Verdict.ADMITTED else REFUSED_FOR
            with self._lock:
                self._kept[key] = (verdict, self._clock.monotonic() + kept_for.total_seconds())
                self._kept.move_to_end(key)
                while len(self._kept) > MOST_KEPT:
                    self._kept.popitem(last=False)
        return verdict

    def _ask(self, reviewer: Reviewer, token: str, resource: str) -> Verdict:
        try:
            reader = reviewer.identify(token)
            if reader is None:
                return Verdict.UNKNOWN
            if reviewer.may_get(reader, resource):
                return Verdict.ADMITTED
        except AdapterError as error:
            log.warning(LogEvent.READER_REFUSED, resource=resource, error=str(error))
            return Verdict.UNANSWERED
        log.info(LogEvent.READER_REFUSED, resource=resource, reader=reader.name)
        return Verdict.FORBIDDEN
