"""
How the file names the read-only HTTP service.

Rules that must stay true here:

- Attributes are named as the file's keys; the sentence below each is the key's description in the JSON Schema.
- What may be plain is decided in `rotator.settings.service_checks`: a loopback address alone.
"""

from __future__ import annotations

import ipaddress
from datetime import timedelta
from typing import Final, Literal
from urllib.parse import urlsplit

from rotator.settings.keys import Keys
from rotator.settings.values import AbsolutePath, Endpoint, Name, PositiveDuration

_STUCK_SWEEPS: Final = 30
"""So many sweeps in a row are not missed by a slow machine."""

_STUCK_LEAST: Final = timedelta(minutes=5)
"""A restart costs more than some minutes without a sweep."""

Readers = Literal["cluster", "certificate", "loopback", "nobody"]


class HTTPService(Keys):
    """The read-only HTTP service: health, metrics, status page, the evidence log."""

    listen: Endpoint
    """Address and port; on anything but a loopback address with TLS."""
    certificate: Name | None = None
    """One of the certificates, whose first place of publication is read again at every sweep; plain without one."""
    client_ca_file: AbsolutePath | None = None
    """Who signs certificates that callers may show; read again with the certificate."""
    readers: Readers | None = None
    """Who may read status and log: cluster (token and the right get), certificate, loopback, nobody."""
    stuck_after: PositiveDuration | None = None
    """Without a sweep for so long the daemon is not live; 30 sweeps, at least five minutes, if not given."""

    @property
    def address(self) -> tuple[str, int]:
        """Return host and port to listen at."""
        parts = urlsplit(f"//{self.listen}")
        return parts.hostname or "", parts.port or 0

    @property
    def on_loopback(self) -> bool:
        """Return whether nobody outside this machine can reach it."""
        host, _ = self.address
        if host == "localhost":
            return True
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False

    def not_live_after(self, sweep_every: timedelta) -> timedelta:
        """Return how long the daemon may be without a sweep and still be called live."""
        return self.stuck_after or max(_STUCK_SWEEPS * sweep_every, _STUCK_LEAST)

    def read_by(self, *, in_cluster: bool) -> Readers:
        """Return who may read status and log: in a cluster whoever has the right, else nobody, unless it is said."""
        return self.readers or ("cluster" if in_cluster else "nobody")
