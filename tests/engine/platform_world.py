"""
A whole engine over one mesh's documents in memory, and what people do to them.

Rules that must stay true here:

- The documents of the stories are those that `rotator.platform` renders, by kind and shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from rotator.control import ApplyRequest, Person, UndoRequest
from rotator.core.approval import ApprovalPolicy
from rotator.core.model import TrustDomainName
from rotator.desk import Desk
from rotator.engine.targets import DomainTarget, Fleet, PlatformTarget
from rotator.platform.documents import PLATFORM, Document
from rotator.platform.drift import Drift
from rotator.platform.model import OnDrift
from rotator.platform.resources import MANAGED_BY, ROTATOR
from tests.engine.world import MESH, World
from tests.fakes.mesh_documents import MemoryDocuments

ALICE = Person(uid=1000, name="alice", groups=frozenset())
BOB = Person(uid=1001, name="bob", groups=frozenset())
OURS = {MANAGED_BY: ROTATOR}
SETTLE = timedelta(seconds=15)
LOOK_EVERY = timedelta(minutes=1)


class PlatformWorld(World):
    """One mesh, what the configuration wants in it, and a desk to ask at."""

    def __init__(self, directory: Path, *, on_drift: OnDrift = OnDrift.TELL) -> None:
        self.on_drift = on_drift
        self.documents: MemoryDocuments | None = None
        self.wanted: tuple[Document, ...] = ()
        self.foreign: tuple[Drift, ...] = ()
        self.policy = ApprovalPolicy()
        super().__init__(directory, certificates=0)
        self.wanted = (self.permission("ledger", "finance"), self.route("ledger", "a"))
        self.restart()

    @property
    def place(self) -> MemoryDocuments:
        """Return the mesh's documents."""
        if self.documents is None:
            self.documents = MemoryDocuments(MESH, "default", self.faults)
        return self.documents

    def domains(self) -> dict[TrustDomainName, DomainTarget]:
        """Return none: the platform is all that is looked after here."""
        return {}

    def fleet(self) -> Fleet:
        """Return the platform as configured now."""
        target = PlatformTarget(
            wanted={each.address: each for each in self.wanted},
            places={MESH: self.place},
            meshes={MESH: "default"},
            on_drift=self.on_drift,
            look_every=LOOK_EVERY,
            settle=SETTLE,
            foreign=lambda _domain, _own, _others: self.foreign,
        )
        return Fleet(environment="test", policy_sha256="0" * 64, platform=target)

    def configure(self, *wanted: Document) -> None:
        """Load a configuration that wants these documents."""
        self.wanted = wanted
        self.engine.use(self.fleet())

    def desk(self) -> Desk:
        """Return the desk of the engine as it is now."""
        return Desk(self.engine, ledger=dict, requests=self.store, approval=lambda: self.policy)

    def desk_status(self) -> Mapping[str, Any]:
        """Return the status as a desk says it that has just looked at what waits."""
        desk = self.desk()
        desk.look()
        return desk.status()

    # --- documents --------------------------------------------------------------------------------------------------

    def permission(self, name: str, *callers: str) -> Document:
        """Return the permission of the service *name* for *callers*."""
        allow = [{"spiffeID": {"type": "Exact", "value": f"spiffe://mesh.test/{each}"}} for each in callers]
        spec = {
            "targetRef": {"kind": "Dataplane", "labels": {"kuma.io/workload": name}},
            "rules": [{"default": {"allow": allow}}],
        }
        return self.place.document("MeshTrafficPermission", f"rotator-{name}", spec, OURS)

    def route(self, name: str, to: str) -> Document:
        """Return the route of the hostname of *name* that leads to *to*."""
        spec = {"targetRef": {"kind": "Mesh"}, "to": [{"rules": [{"default": {"backendRefs": [{"name": to}]}}]}]}
        return self.place.document("MeshHTTPRoute", f"rotator-{name}-route", spec, OURS)

    def service(self, name: str) -> Document:
        """Return the mesh's service *name*."""
        return self.place.document("MeshService", f"rotator-{name}-service", {"ports": [{"port": 80}]}, OURS)

    def there(self) -> Mapping[str, Document]:
        """Return rotator's own documents that stand there, by name."""
        return {each.document.address.name: each.document for each in self.place.listed().values()}

    # --- people -----------------------------------------------------------------------------------------------------

    def apply(self, **fields: Any) -> Mapping[str, Any]:
        """Ask for what the configuration says; return the answer."""
        return self.desk().apply(ApplyRequest(**{"reason": "a test asks", **fields}), ALICE)

    def undo(self, change: str, **fields: Any) -> Mapping[str, Any]:
        """Ask for a change to be undone; return the answer."""
        return self.desk().undo(UndoRequest(**{"reason": "a test asks", "change": change, **fields}), ALICE)

    def applied(self, *wanted: Document) -> str:
        """Have *wanted* (or what is configured) applied to the end; return the change's id."""
        if wanted:
            self.configure(*wanted)
        (opened,) = self.apply()["rotations"]
        self.run(until=lambda: self.engine.memory.open_rotation(PLATFORM) is None)
        found: str = opened["id"]
        return found

    def look(self) -> None:
        """Let the next look for drift happen."""
        self.run(span=LOOK_EVERY + timedelta(seconds=2))

    def drift(self) -> list[str]:
        """Return what drift is known, in words."""
        return [each.in_words for each, _ in self.engine.platform.drift()]

    def alerts(self) -> dict[str, str]:
        """Return what is raised: severity by kind."""
        return {each.kind.value: each.severity.value for each in self.engine.alerting.raised()}


def names(documents: Iterable[Document]) -> set[str]:
    """Return the names of *documents*."""
    return {each.address.name for each in documents}
