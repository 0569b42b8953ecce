"""
Who may be issued a certificate now: backoff for a proxy that failed, a breaker when many did.

Rules that must stay true here:

- One proxy that fails and fails never stops the others; ten different ones stop everybody for a while.
- The state lives in memory: a restarted control plane tries at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from tests.fakes.kuma.timings import Timings


@dataclass(slots=True)
class _Backend:
    failing: dict[str, tuple[datetime, datetime, timedelta]] = field(default_factory=dict)
    """proxy -> (failed last, may try again, delay)"""
    open_until: datetime | None = None


class Limiter:
    """As Kuma has it since 2.14.2; without jitter, so that tests in virtual time are exact."""

    def __init__(self, timings: Timings, *, active: bool) -> None:
        self._timings = timings
        self._active = active
        self._backends: dict[str, _Backend] = {}

    def allows(self, backend: str, proxy: str, now: datetime) -> bool:
        """Return whether *proxy* may be issued something by *backend* now."""
        state = self._backends.get(backend)
        if state is None:
            return True
        if state.open_until is not None:
            return now >= state.open_until
        return proxy not in state.failing or now >= state.failing[proxy][1]

    def succeeded(self, backend: str, proxy: str) -> None:
        """Note a success: it closes the breaker."""
        state = self._backends.get(backend)
        if state is not None:
            state.failing.pop(proxy, None)
            state.open_until = None

    def failed(self, backend: str, proxy: str, now: datetime) -> None:
        """Note a failure."""
        if not self._active:
            return
        state = self._backends.setdefault(backend, _Backend())
        delay = self._timings.base_backoff
        if proxy in state.failing:
            delay = min(state.failing[proxy][2] * 2, self._timings.max_backoff)
        state.failing[proxy] = (now, now + delay, delay)
        if state.open_until is not None:
            state.open_until = now + self._timings.max_backoff
            return
        recent = {name: each for name, each in state.failing.items() if now - each[0] <= self._timings.max_backoff}
        state.failing = recent
        if len(recent) >= self._timings.breaker_proxies:
            state.open_until = now + self._timings.max_backoff

    def forget(self, proxy: str) -> None:
        """Drop what is known of one proxy: it has disconnected."""
        for state in self._backends.values():
            state.failing.pop(proxy, None)
