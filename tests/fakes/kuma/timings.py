"""
How long a control plane takes for what, by Kuma's own defaults.

Rules that must stay true here:

- The defaults are those of a released control plane; a test that shortens them says so by naming the field.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Every delay between a write and its effect."""

    store_cache: timedelta = timedelta(seconds=1)
    """How old what the control plane itself reads may be."""
    watchdog: timedelta = timedelta(seconds=1)
    """How often each proxy's configuration is computed."""
    insight_flush: timedelta = timedelta(seconds=10)
    """How often a proxy's insight is written."""
    ca_cache: timedelta = timedelta(seconds=5)
    """How long the CA pair of a MeshIdentity is kept, by the identity's name."""
    status: timedelta = timedelta(seconds=5)
    """How often the conditions of MeshIdentities are computed."""
    sync: timedelta = timedelta(seconds=1)
    """How often zones and their global control plane tell each other."""
    base_backoff: timedelta = timedelta(seconds=5)
    max_backoff: timedelta = timedelta(minutes=5)
    breaker_proxies: int = 10
    """How many proxies must fail before nobody is issued anything for a while."""
    silence: timedelta = timedelta(seconds=3)
    """How long a proxy that asks over HTTP may be silent before its stream counts as closed (a stand-in's own)."""

    @classmethod
    def quick(cls) -> Timings:
        """Return delays of a fifth, for tests in real time that mean the order of things and not their length."""
        return cls(
            store_cache=timedelta(seconds=0.2),
            watchdog=timedelta(seconds=0.2),
            insight_flush=timedelta(seconds=2),
            ca_cache=timedelta(seconds=1),
            status=timedelta(seconds=1),
            sync=timedelta(seconds=0.2),
            base_backoff=timedelta(seconds=1),
            max_backoff=timedelta(seconds=60),
        )
