"""
``rotator run`` over one mesh whose CA nobody has given it, and a platform in that mesh.

Rules that must stay true here:

- The daemon is driven by its commands, and the control plane by somebody else's hand through its own API.
"""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from rotator.core.event import Event, EventType
from rotator.embedded.process import wait_until
from rotator.evidence.ledger import records
from rotator.store.sql import SQLStore
from tests.e2e.installation import DaemonInstallation
from tests.fixtures_openbao import VaultMesh

PATIENCE: Final = timedelta(seconds=60)

PLATFORM: Final[Mapping[str, Any]] = {
    "settle": "1s",
    "drift": {"look_every": "1s"},
    "domains": {"finance": {"owner": "Finance Data"}},
    "identities": {"worker": {"component": "worker", "queue": "finance", "domain": "finance"}},
    "services": {"ledger": {"protocol": "http", "port": 8080, "domain": "finance", "hostname": "ledger.internal"}},
    "permissions": {
        "finance": {
            "callers": {"domains": ["finance"]},
            "may_call": {"domains": ["finance"]},
            "reason": "finance reads its own ledger",
        }
    },
}


class PlatformInstallation(DaemonInstallation):
    """One daemon over one platform."""

    def __init__(self, directory: Path, vault: VaultMesh, mesh: str, control_plane: Mapping[str, Any]) -> None:
        """Configure it; `start` runs it."""
        super().__init__(
            directory,
            vault,
            trust_domain={
                "model": "identity",
                "issuer": "corporate",
                "ca": {"lifetime": "6h", "minimum_overlap": "1s"},
                "longest_leaf": "30m",
                "trust_deadline": {"after": "1m"},
                "mesh": {"name": mesh, "control_plane": dict(control_plane)},
            },
        )
        environment = {"trust_domain": vault.trust_domain, "namespace": "airflow"}
        self.document["platform"] = copy.deepcopy({"environments": {"production": environment}, **PLATFORM})
        self.write()

    def permit(self, *components: str) -> None:
        """Let the identities of *components* call beside the finance domain, in the configuration."""
        for each in components:
            self.document["platform"]["identities"][each] = {"component": each}
            self.document["platform"]["permissions"][each] = {
                "callers": {"identities": [each]},
                "may_call": {"services": ["ledger"]},
                "reason": "a test permits it",
            }
        self.load()

    def then(self, word: str) -> None:
        """Say in the configuration what is done about drift."""
        self.document["platform"]["drift"] = {"look_every": "1s", "then": word}
        self.load()

    def load(self) -> None:
        """Write the configuration and wait until the daemon has taken it up."""
        before = len(self.events(EventType.CONFIG_LOADED))
        self.write()
        wait_until(
            lambda: len(self.events(EventType.CONFIG_LOADED)) > before, within=PATIENCE, what="the configuration"
        )

    def platform(self) -> Mapping[str, Any]:
        """Return the platform's part of the status."""
        status = self.status()
        found: Mapping[str, Any] = {} if status is None else status["platform"]
        return found

    def alerts(self) -> set[str]:
        """Return the keys of what is raised."""
        status = self.status()
        return set() if status is None else {each["key"] for each in status["alerts"]}

    def wait(self, what: str, holds: Callable[[], bool]) -> None:
        """Wait until *holds* is true."""
        wait_until(holds, within=PATIENCE, what=f"{what}: {self.platform()}")

    def planned(self) -> Mapping[str, Any]:
        """Return what ``rotator platform diff --json`` says."""
        found: Mapping[str, Any] = json.loads(self.run("--json", "platform", "diff").stdout)
        return found

    def events(self, *types: EventType) -> list[Event]:
        """Return the records of *types*."""
        with contextlib.closing(SQLStore(self.document["store"], environment="test")) as store:
            return [each.event for each in records(store) if each.event.type in types]
