"""
``rotator run`` over one mesh: real OpenBao, real daemon, whichever control plane.

Rules that must stay true here:

- The daemon is driven as an operator and a crash would: its command, its socket, its signals.
- In the identity model the mesh has a root of its own, which says so by its URI (law 6); in the provided model the
  corporate PKI signs the mesh's CAs, as no root goes into the bundle.
"""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from rotator.core.event import EventType
from rotator.core.model import Phase
from rotator.embedded.process import wait_until
from rotator.evidence.ledger import records
from rotator.ports import RotationState
from rotator.store.sql import SQLStore
from tests.e2e.installation import DaemonInstallation
from tests.fixtures_openbao import VaultMesh
from tests.stack.kuma.plane import ControlPlaneUnderTest, Model

PATIENCE = timedelta(minutes=2)
"""How long a rotation may take on two busy cores; nothing waits for the whole of it when all is well."""
AUTHORITY_LIFE = timedelta(hours=6)
_EVERY = timedelta(milliseconds=50)
_ORDER = (Phase.PREPARED, Phase.TRUSTED, Phase.ACTIVATED, Phase.REISSUED, Phase.RETIRED)
"""The phases of a rotation as they follow each other."""
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshPolicy:
    """What a scenario may want otherwise of the trust domain."""

    longest_leaf: str = "10m"
    trust_deadline: Mapping[str, Any] | None = None
    minimum_overlap: str = "5s"


@runtime_checkable
class KeptInCluster(Protocol):
    """A control plane whose documents and secrets rotator reaches through the Kubernetes API."""

    @property
    def kubernetes(self) -> Mapping[str, Any]:
        """Return how, as the configuration says it: ``namespace``, ``kubeconfig_file``."""
        ...


def new_mesh_name() -> str:
    """Return a name for a mesh and its trust domain that no other test has."""
    return f"mesh-{next(_numbers)}"


class MeshInstallation(DaemonInstallation):
    """One daemon over one mesh."""

    def __init__(
        self,
        directory: Path,
        vault: VaultMesh,
        plane: ControlPlaneUnderTest,
        model: Model,
        policy: MeshPolicy = MeshPolicy(),
    ) -> None:
        """Configure the daemon; `start` runs it."""
        control_plane: dict[str, Any] = {"url": plane.url, "timeout": "5s"}
        if plane.token_file is not None:
            control_plane["token_file"] = str(plane.token_file)
        if isinstance(plane, KeptInCluster):
            control_plane["kubernetes"] = dict(plane.kubernetes)
        super().__init__(
            directory,
            vault,
            trust_domain={
                "model": model.value,
                "issuer": "corporate",
                "ca": {
                    "lifetime": f"{int(AUTHORITY_LIFE.total_seconds())}s",
                    "minimum_overlap": policy.minimum_overlap,
                    "crl_interval": "1m",
                },
                "longest_leaf": policy.longest_leaf,
                "trust_deadline": dict(policy.trust_deadline or {"after": "10m"}),
                "mesh": {"name": plane.mesh, "control_plane": control_plane},
            },
        )

    # --- seeing -----------------------------------------------------------------------------------------------------

    def row(self) -> Mapping[str, Any]:
        """Return the trust domain's row of ``status``; empty while the daemon does not answer."""
        status = self.status()
        return {} if status is None else next(row for row in status["subjects"] if row["name"] == self.domain)

    def alerts(self) -> list[str]:
        """Return what the daemon alerts about now, in its words."""
        status = self.status()
        return [] if status is None else [str(alert["summary"]) for alert in status.get("alerts", [])]

    def wait_phase(self, phase: Phase) -> str:
        """Wait until the open rotation has come to *phase* or past it; return the phase that it was found in."""
        late = {each.value for each in _ORDER[_ORDER.index(phase) :]}

        def there() -> bool:
            row = self.row()
            return bool(row) and (row["open_rotation"] is None or row["phase"] in late)

        wait_until(there, within=PATIENCE, what=f"phase {phase.value}: {self.row()}", every=_EVERY)
        return str(self.row().get("phase"))

    def wait_row(self, holds: Callable[[Mapping[str, Any]], bool], what: str, within: timedelta = PATIENCE) -> None:
        """Wait until the trust domain's row fulfils *holds*."""
        wait_until(lambda: bool(row := self.row()) and bool(holds(row)), within=within, what=what, every=_EVERY)

    def wait_done(self, rotation: str, state: RotationState = RotationState.DONE) -> None:
        """Wait until *rotation* has ended, and in *state*."""

        def ended() -> bool:
            with contextlib.suppress(Exception):
                return bool(self.client().progress(rotation)["state"] != RotationState.OPEN.value)
            return False

        try:
            wait_until(ended, within=PATIENCE, what="the rotation to end", every=_EVERY)
        except Exception as error:
            raise AssertionError(f"{error}: {self.row()}") from error
        progress = self.client().progress(rotation)
        assert state.value == progress["state"], progress

    # --- asking -----------------------------------------------------------------------------------------------------

    def command(self, *words: str, within: timedelta = PATIENCE) -> subprocess.CompletedProcess[str]:
        """Run one command as an operator would, as long as it may take."""
        return subprocess.run(
            [sys.executable, "-m", "rotator", "--config", str(self.configuration), *words],
            capture_output=True,
            text=True,
            timeout=within.total_seconds(),
            check=False,
        )

    def adopt(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Take the mesh over and wait until it runs on a generation of rotator's."""
        return self.command("adopt", self.domain, "--reason", "a test takes it over", "--wait", *words)

    # --- accounts ---------------------------------------------------------------------------------------------------

    def wrong(self) -> list[str]:
        """Return every account that does not close, judged with the daemon stopped."""
        found = []
        with contextlib.closing(SQLStore(self.document["store"], environment="test")) as store:
            found += [f"rotation {each.id} is open" for each in store.rotations(state=RotationState.OPEN)]
            issued = [
                each.event.new.serial
                for each in records(store)
                if each.event.type is EventType.ISSUED and each.event.new is not None
            ]
        found += [f"{serial} has {issued.count(serial)} records" for serial in set(issued) if issued.count(serial) > 1]
        verified = self.command("evidence", "verify", str(self.directory / "ledger"), "--key", str(self.verifier_key))
        # 3: whole, though nobody outside has witnessed it.
        if verified.returncode not in {0, 3}:
            found.append(f"evidence verify: {verified.returncode} {verified.stdout[-400:]}{verified.stderr[-400:]}")
        reconciled = self.command("evidence", "reconcile", "--no-record")
        if reconciled.returncode != 0:
            found.append(f"evidence reconcile: {reconciled.stdout[-400:]}{reconciled.stderr[-400:]}")
        return found
