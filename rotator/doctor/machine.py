"""
This machine: the store, the evidence log and its key, and the daemon itself.

Rules that must stay true here:

- Looked at with the rights of whoever asks: run it as the service's own user to see what the service sees.
- Nothing is opened for writing, and no database is made where there is none.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from rotator.control import ControlClient
from rotator.doctor.findings import Finding, attempted, broken, fine, warning
from rotator.errors import Denied, Unavailable
from rotator.evidence.signer import LocalSigner
from rotator.settings import Settings

_SQLITE = "sqlite:///"


def machine_findings(settings: Settings) -> Iterator[Finding]:
    """Yield what is found on this machine."""
    yield from _key(settings)
    yield from writable("ledger.path", settings.ledger.path)
    if settings.store.startswith(_SQLITE):
        yield from writable("store", Path(settings.store.removeprefix(_SQLITE)).parent)
    yield from _daemon(settings)


def writable(about: str, path: Path) -> Iterator[Finding]:
    """Yield whether files can be made in the directory *path*, or in the nearest one above it that is there."""
    there = path
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        yield broken(about, f"{there} is no directory", "move it away, or mend the path")
    elif not os.access(there, os.W_OK | os.X_OK):
        yield broken(
            about,
            f"nothing can be written in {there} by the user who asks (uid {os.geteuid()})",
            "give rotator's user the directory, or ask as rotator's user",
        )
    else:
        yield fine(about, f"{path} can be written")


def _key(settings: Settings) -> Iterator[Finding]:
    about, path = "ledger.signing_key_file", settings.ledger.signing_key_file

    def read() -> Iterator[Finding]:
        LocalSigner(path, settings.ledger.origin)
        yield fine(about, f"{path} signs for {settings.ledger.origin}")

    yield from attempted(about, read, otherwise="make it with rotator evidence key --make")


def _daemon(settings: Settings) -> Iterator[Finding]:
    about = "socket"
    try:
        ControlClient(settings.socket, timeout=timedelta(seconds=5)).status()
    except Unavailable:
        yield warning(about, f"no daemon answers at {settings.socket}", "start it: systemctl start rotator")
    except Denied as e:
        yield warning(about, str(e), "ask as somebody who may")
    else:
        yield fine(about, f"the daemon answers at {settings.socket}")
