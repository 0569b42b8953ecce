"""
The example's control plane and its proxies, started and at rest.

Rules that must stay true here:

- Documents pass the control plane's own admission, in the order in which they are applied.
- A scene is at rest when every proxy speaks mutual TLS with every service: what is refused then is refused by
  permission.
"""

from __future__ import annotations

import base64
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from rotator.clock import SystemClock
from rotator.embedded.process import wait_until
from rotator.platform.model import InCluster
from tests.example.documents import Example
from tests.example.matrix import Matrix
from tests.example.workloads import Workloads
from tests.fakes.kuma.machines import Machines, Outcome
from tests.fakes.kuma.process import StandInProcess
from tests.fakes.kuma.signing import new_root
from tests.fakes.kuma.store import Json

PATIENCE = timedelta(minutes=3)
# Twenty proxies on two busy cores may be late: one that is taken for gone would be given everything anew.
_SILENCE = timedelta(minutes=2)


class Scene:
    """One run of the example; as a context manager it starts everything and leaves nothing behind."""

    def __init__(self, example: Example, work: Path, *, version: str = "3.0.1", dataplane_tokens: bool = False) -> None:
        """Describe it; its files stand below *work*. With *dataplane_tokens* proxies show a token when they connect."""
        self.example = example
        self.workloads = Workloads(example)
        ((self.trust_domain, self.mesh),) = self.workloads.platform.meshes()
        self.standin = StandInProcess(
            work / "cp", version=version, dataplane_tokens=dataplane_tokens, forgets=True, silence=_SILENCE
        )
        self._work = work
        self._undo = ExitStack()

    def __enter__(self) -> Self:
        self._undo.enter_context(self.standin)
        self.standin.apply({"type": "Mesh", "name": self.mesh, "meshServices": {"mode": "Exclusive"}})
        return self

    def give_identities(self) -> None:
        """Give every workload an identity by a CA that nobody rotates: what rotator does for a mesh it leads."""
        root = new_root("example", self.trust_domain, SystemClock().now(), by_rsa=False)
        for name, content in (("example-cert", root.certificate_pem), ("example-key", root.key_pem)):
            data = base64.b64encode(content).decode()
            self.standin.apply({"type": "Secret", "mesh": self.mesh, "name": name, "data": data})
        ca = {
            part: {"type": "Secret", "secretRef": {"kind": "Secret", "name": f"example-{what}"}}
            for part, what in (("certificate", "cert"), ("privateKey", "key"))
        }
        provider = {"type": "Bundled", "bundled": {"insecureAllowSelfSigned": True, "ca": ca}}
        names = {"trustDomain": self.trust_domain, "path": self.path}
        spec = {"selector": {"dataplane": {"matchLabels": {}}}, "spiffeID": names, "provider": provider}
        self.standin.apply({"type": "MeshIdentity", "mesh": self.mesh, "name": "example", "spec": spec})

    @property
    def path(self) -> str:
        """Return the path of SPIFFE IDs: Kuma's own, which the stand-in would else take for machines' everywhere."""
        in_cluster = any(isinstance(each.place, InCluster) for each in self.workloads.platform.identities)
        return "/ns/{{ .Namespace }}/sa/{{ .ServiceAccount }}" if in_cluster else "/workload/{{ .Workload }}"

    def apply(self, *, leaving_out: str = "") -> int:
        """Apply every rendered document but those of the kind *leaving_out*; return how many."""
        documents: list[Json] = [*self.workloads.services_of_cluster(), *self.example.documents()]
        # Proxies bring their own Dataplanes.
        wanted = [each for each in documents if each["type"] not in {"Dataplane", leaving_out}]
        for each in wanted:
            self.standin.apply(each)
        return len(wanted)

    def start(self, *, tokens: Path | None = None) -> Matrix:
        """Start every workload's proxy, and return the matrix once the mesh is at rest."""
        dataplanes = self.workloads.dataplanes()
        machines = Machines(self.standin.url, self._work / "proxies", dataplanes, tokens=tokens)
        self.machines = self._undo.enter_context(machines)
        self.machines.start()
        matrix = Matrix(self.workloads, self.machines)
        wait_until(
            lambda: all(each.call.outcome is not Outcome.FAILED for each in matrix.tried()),
            within=PATIENCE,
            what="every proxy to speak with every service",
            every=timedelta(seconds=1),
        )
        return matrix

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.close()
