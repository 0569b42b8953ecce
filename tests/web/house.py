"""
A daemon around a small world, as the HTTP service sees one: the real life of the daemon, with a role that a test sets.

Rules that must stay true here:

- Everything but the role is real: engine, journal, sessions, settings out of a file.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from rotator.bootstrap import Sessions, Wired
from rotator.bootstrap.exporting import Outlet
from rotator.daemon.life import Life, Role
from rotator.evidence.signer import LocalSigner
from rotator.evidence.tlog import TileLog
from rotator.settings import Settings, load
from tests.engine.world import World

ORIGIN = "rotator.example/test"


def settings_of(directory: Path, http: Mapping[str, Any] | None = None, **more: Any) -> Settings:
    """Return settings out of a small file in *directory*, with *http* and whatever *more* says."""
    document: dict[str, Any] = {
        "version": 1,
        "environment": "test",
        "store": f"sqlite:///{directory}/state.db",
        "socket": f"{directory}/s",
        "ledger": {
            "path": str(directory / "ledger"),
            "origin": ORIGIN,
            "signing_key_file": str(directory / "log.key"),
        },
        "issuers": {
            "corporate": {
                "vault": {
                    "address": "http://127.0.0.1:1",
                    "auth": {"token": {"token_file": "/nowhere"}},
                    "mount": "pki_int",
                    "issuer": "corporate",
                }
            }
        },
        "trust_domains": {
            "mesh.test": {
                "issuer": "corporate",
                "ca": {"mount": "pki", "role": "workload", "lifetime": "7d"},
                "longest_leaf": "1h",
                "trust_deadline": {"after": "30m"},
            }
        },
        **more,
    }
    if http is not None:
        document["http"] = dict(http)
    file = directory / "rotator.yaml"
    file.write_text(yaml.safe_dump(document))
    return load(file)


class House:
    """One world with one life of the daemon around it."""

    def __init__(self, directory: Path, *, certificates: int = 3, **more: Any) -> None:
        """As `settings_of` says with *more*."""
        self.directory = directory
        self.world = World(directory, certificates=certificates)
        signer = LocalSigner.generate(directory / "log.key", ORIGIN)
        settings = settings_of(directory, {"listen": "127.0.0.1:1", "readers": "loopback"}, **more)
        self.wired = Wired(
            settings=settings,
            clock=self.world.clock,
            store=self.world.store,
            lease=self.world.lease,
            sessions=Sessions(self.world.clock, 1, {}),
            engine=self.world.engine,
            log=TileLog(settings.ledger.path, ORIGIN, signer),
            signer=signer,
            outlet=Outlet(settings, self.world.clock),
            policy=["0" * 64],
        )
        self.life = Life(wired=self.wired, role=Role.LEADER)

    def sign(self) -> None:
        """Sign what the ledger holds, as the daemon's checkpoint does."""
        self.life.signed.checkpoint = self.wired.log.publish(self.wired.store)
        self.life.signed.at = self.wired.clock.now()

    def close(self) -> None:
        """Give back what is open."""
        with contextlib.closing(self.world):
            self.wired.sessions.close()
