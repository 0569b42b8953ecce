"""
The stand-in's data plane is real Envoys: what they admit agrees with what the virtual one foresees.

Rules that must stay true here:

- Every request is a handshake of its own; each condition is waited for, with a deadline.
"""

from __future__ import annotations

import base64
import threading
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Self

import pytest
import urllib3

from rotator.clock import SystemClock
from rotator.embedded.process import LOOPBACK, wait_until
from tests.fakes.kuma.dataplane import DataPlane
from tests.fakes.kuma.process import StandInProcess
from tests.fakes.kuma.signing import KeyPair, new_root
from tests.fakes.kuma.store import Json
from tests.fixtures_kuma import MeshStack, NewMeshStack

pytestmark = pytest.mark.external

PATIENCE = timedelta(seconds=30)
DOMAIN = "airflow.test"


class Load:
    """One request after the other over all pairs, from a thread of its own, until it is stopped."""

    def __init__(self, data_plane: DataPlane) -> None:
        self.outcomes: Counter[str] = Counter()
        self._data_plane = data_plane
        self._http = urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(connect=2.0, read=10.0), maxsize=32)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load")

    def once(self) -> Counter[str]:
        """Return the outcomes of one request for each pair: ``mtls``, ``plaintext`` or the refusing status."""
        found: Counter[str] = Counter()
        for port in self._data_plane.outbounds().values():
            answer = self._http.request("GET", f"http://{LOOPBACK}:{port}/", headers={"Connection": "close"})
            shown = "mtls" if answer.headers.get("x-peer-serial") else "plaintext"
            found[shown if answer.status == 200 else str(answer.status)] += 1
        return found

    def _run(self) -> None:
        while not self._stop.is_set():
            self.outcomes.update(self.once())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._http.clear()


def write(control_plane: StandInProcess, kind: str, path: str, said: Json) -> None:
    """Write a resource as an administrator."""
    name = path.rpartition("/")[2]
    mesh = {} if kind == "Mesh" else {"mesh": "default"}
    status, answer = control_plane.call("PUT", path, {"type": kind, "name": name, **mesh, **said})
    assert status in {200, 201}, answer


def generation(control_plane: StandInProcess, number: int) -> KeyPair:
    """Keep a new CA in secrets ``g<n>-cert`` and ``g<n>-key``."""
    pair = new_root(f"generation {number}", DOMAIN, SystemClock().now(), by_rsa=False)
    keep(control_plane, f"g{number}-cert", pair.certificate_pem)
    keep(control_plane, f"g{number}-key", pair.key_pem)
    return pair


def keep(control_plane: StandInProcess, name: str, content: bytes) -> None:
    """Create or overwrite a secret."""
    write(control_plane, "Secret", f"/meshes/default/secrets/{name}", {"data": base64.b64encode(content).decode()})


def use(control_plane: StandInProcess, cert: str, key: str) -> None:
    """Let the mesh run on a provided CA."""
    conf = {"cert": {"secret": cert}, "key": {"secret": key}}
    mtls = {"enabledBackend": "ca-1", "backends": [{"name": "ca-1", "type": "provided", "conf": conf}]}
    write(control_plane, "Mesh", "/meshes/default", {"mtls": mtls, "meshServices": {"mode": "Exclusive"}})


def select(control_plane: StandInProcess, name: str, number: int, selector: Json) -> None:
    """Write a MeshIdentity that issues by generation *number*."""
    parts = (("certificate", "cert"), ("privateKey", "key"))
    ca = {
        part: {"type": "Secret", "secretRef": {"kind": "Secret", "name": f"g{number}-{what}"}} for part, what in parts
    }
    bundled = {"meshTrustCreation": "Disabled", "insecureAllowSelfSigned": True, "ca": ca}
    provider = {"type": "Bundled", "bundled": bundled}
    spec = {"selector": selector, "spiffeID": {"trustDomain": DOMAIN}, "provider": provider}
    path = f"/meshes/default/meshidentities/{name}"
    # What is sent without its status has none, and is not Ready until the next look at it.
    code, there = control_plane.call("GET", path)
    status = {"status": there["status"]} if code == 200 and "status" in there else {}
    write(control_plane, "MeshIdentity", path, {"spec": spec, **status})


def trust(control_plane: StandInProcess, *pairs: KeyPair) -> None:
    """Write the MeshTrust of the tests' trust domain."""
    bundles = [{"type": "Pem", "pem": {"value": pair.certificate_pem.decode()}} for pair in pairs]
    spec = {"trustDomain": DOMAIN, "caBundles": bundles}
    write(control_plane, "MeshTrust", "/meshes/default/meshtrusts/own", {"spec": spec})


def total(control_plane: StandInProcess, name: str) -> tuple[int, int]:
    """Return how many responses were sent to a proxy and acknowledged by it, by its insight."""
    _, found = control_plane.call("GET", f"/meshes/default/dataplanes/{name}/_overview")
    counts = found["dataplaneInsight"]["subscriptions"][-1]["status"]["total"]
    return int(counts.get("responsesSent", 0)), int(counts.get("responsesAcknowledged", 0))


def settled(stack: MeshStack) -> Callable[[], bool]:
    """Return whether every proxy has acknowledged something of a version later than when this was called."""
    before = {name: proxy.answered for name, proxy in stack.data_plane.proxies.items()}

    def has_moved() -> bool:
        return all(proxy.answered not in {"", before[name]} for name, proxy in stack.data_plane.proxies.items())

    return has_moved


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for *condition* with patience."""
    wait_until(condition, within=PATIENCE, what=what, every=timedelta(seconds=0.1))


def all_by_mtls(load: Load) -> Callable[[], bool]:
    """Return whether every pair speaks mutual TLS."""
    return lambda: {"mtls"} == set(load.once())


def test_a_provided_ca_moves_without_a_failure_and_the_naive_way_with_many(mesh_stack: MeshStack) -> None:
    """Trust, sign, prune under load refuse nobody; overwriting a secret and two joiners refuse eight pairs and more."""
    control_plane, load = mesh_stack.control_plane, Load(mesh_stack.data_plane)
    one = generation(control_plane, 1)
    use(control_plane, "g1-cert", "g1-key")
    until(all_by_mtls(load), "mutual TLS everywhere")
    two = generation(control_plane, 2)
    keep(control_plane, "old-new", one.certificate_pem + two.certificate_pem)
    keep(control_plane, "new-old", two.certificate_pem + one.certificate_pem)
    with load:
        for cert, key in (("old-new", "g1-key"), ("new-old", "g2-key"), ("g2-cert", "g2-key")):
            moved = settled(mesh_stack)
            use(control_plane, cert, key)
            until(moved, f"every proxy to acknowledge {cert}")
    assert {"mtls"} == set(load.outcomes)

    three = new_root("generation 3", DOMAIN, SystemClock().now(), by_rsa=False)
    keep(control_plane, "g2-cert", three.certificate_pem)
    keep(control_plane, "g2-key", three.key_pem)
    mesh_stack.data_plane.stop_proxy("web")
    # Two caches of a quick control plane: what it reads of a secret is at most this old.
    SystemClock().wait(threading.Event(), timedelta(seconds=0.5))
    mesh_stack.data_plane.start_proxy("web")
    assert Counter({"mtls": 12, "503": 8}) == load.once()


@pytest.mark.parametrize("version", ["2.14.3", "3.0.1"])
def test_a_mesh_identity_moves_without_a_failure(new_mesh_stack: NewMeshStack, version: str) -> None:
    """Trust both, create the next for nobody, let it win, delete the old one, trust one: refuse nobody."""
    stack = new_mesh_stack(version=version, quick=True)
    control_plane, load = stack.control_plane, Load(stack.data_plane)
    one = generation(control_plane, 1)
    trust(control_plane, one)
    select(control_plane, "b-1", 1, {"dataplane": {"matchLabels": {}}})
    until(all_by_mtls(load), "mutual TLS everywhere")
    two = generation(control_plane, 2)

    def ready() -> bool:
        found = control_plane.call("GET", "/meshes/default/meshidentities/a-2")[1]
        conditions: list[dict[str, Any]] = found.get("status", {}).get("conditions", [])
        return any((each["type"], each["status"]) == ("Ready", "True") for each in conditions)

    with load:
        moved = settled(stack)
        trust(control_plane, two, one)
        until(moved, "every proxy to acknowledge both")
        select(control_plane, "a-2", 2, {})
        until(ready, "the next identity to be Ready")
        moved = settled(stack)
        select(control_plane, "a-2", 2, {"dataplane": {"matchLabels": {}}})
        until(moved, "every proxy to have its new leaf")
        control_plane.call("DELETE", "/meshes/default/meshidentities/b-1")
        moved = settled(stack)
        trust(control_plane, two)
        until(moved, "every proxy to acknowledge the new one")
    assert {"mtls"} == set(load.outcomes)


def test_a_frozen_proxy_acknowledges_nothing_and_serves_on(mesh_stack: MeshStack) -> None:
    """The insight shows it out of step, and its dump the CAs of before."""
    control_plane, load = mesh_stack.control_plane, Load(mesh_stack.data_plane)
    one = generation(control_plane, 1)
    use(control_plane, "g1-cert", "g1-key")
    until(all_by_mtls(load), "mutual TLS everywhere")
    mesh_stack.data_plane.freeze_proxy("web")
    two = generation(control_plane, 2)
    keep(control_plane, "old-new", one.certificate_pem + two.certificate_pem)
    use(control_plane, "old-new", "g1-key")

    def behind() -> set[str]:
        counts = {name: total(control_plane, name) for name in mesh_stack.data_plane.proxies}
        return {name for name, (sent, acknowledged) in counts.items() if sent > acknowledged}

    until(lambda: behind() == {"web"}, "the insight to show who is behind")
    assert {"mtls": 20} == load.once()
    mesh_stack.data_plane.thaw_proxy("web")
    until(lambda: not behind(), "everybody in step")


def test_a_killed_control_plane_stops_no_traffic(mesh_stack: MeshStack) -> None:
    """Envoys go on; when it is back they connect anew and are given everything afresh."""
    control_plane, load = mesh_stack.control_plane, Load(mesh_stack.data_plane)
    generation(control_plane, 1)
    use(control_plane, "g1-cert", "g1-key")
    until(all_by_mtls(load), "mutual TLS everywhere")
    with load:
        moved = settled(mesh_stack)
        control_plane.restart()
        until(moved, "every proxy to be served by the new one")
    assert {"mtls"} == set(load.outcomes)
