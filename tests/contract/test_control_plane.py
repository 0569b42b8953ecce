"""
Documents, secrets and proxies of one mesh: one suite for every way to reach a control plane.

Whoever adds a way adds a world to `worlds` below, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from rotator.adapters.kuma.alike import covers
from rotator.adapters.kuma.control_plane import ControlPlane, Document, Kind
from rotator.errors import Conflict, Rejected
from tests.contract.cluster_world import ClusterWorld
from tests.contract.kuma_worlds import KumaWorld, StandInWorld
from tests.fakes.certificate_authority import FakeCA
from tests.stack.cluster import Cluster

DOMAIN = "td.example"
EVERYBODY: Mapping[str, Any] = {"dataplane": {"matchLabels": {}}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A way to reach a control plane."""

    version: str
    """Of the control plane."""
    cluster: Cluster | None
    """Where its documents are; None where its own API keeps them."""


def authority(name: str) -> FakeCA:
    now = datetime.now(UTC)
    return FakeCA(name, DOMAIN, now - timedelta(minutes=5), now + timedelta(days=1))


def key_pem(ca: FakeCA) -> bytes:
    return ca.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@pytest.fixture(
    # the server that one way needs is there before a test's own children are counted
    scope="module",
    params=[
        "universal-2.14.3",
        "universal-3.0.1",
        pytest.param("kubernetes-2.14.3", marks=pytest.mark.stack),
        pytest.param("kubernetes-3.0.1", marks=pytest.mark.stack),
    ],
)
def way(request: pytest.FixtureRequest) -> Way:
    """Give each way to reach a control plane."""
    name, _, version = str(request.param).partition("-")
    return Way(version=version, cluster=request.getfixturevalue("cluster") if name == "kubernetes" else None)


@pytest.fixture
def world(way: Way, tmp_path: Path) -> Iterator[KumaWorld]:
    """Give a control plane of its own, reached that way."""
    with ExitStack() as cleanup:
        if way.cluster is None:
            yield StandInWorld(way.version, cleanup)
        else:
            yield ClusterWorld(way.version, way.cluster, tmp_path, cleanup)


@pytest.fixture
def plane(world: KumaWorld) -> ControlPlane:
    """Give a mesh that no other test has."""
    return world.plane()


def trust(plane: ControlPlane, *authorities: FakeCA) -> Document:
    """Return a MeshTrust that is not there yet."""
    bundles = [{"type": "Pem", "pem": {"value": each.pem.decode()}} for each in authorities]
    spec: Mapping[str, Any] = {"trustDomain": DOMAIN, "caBundles": bundles}
    return Document(kind=Kind.TRUST, name=f"rotator-{plane.mesh}", spec=spec)


def identity(plane: ControlPlane, ca: FakeCA, *, selector: Mapping[str, Any]) -> Document:
    """Return a MeshIdentity that is not there yet, with its secrets in place."""
    certificate = plane.secrets.create("g1-cert", ca.pem)
    key = plane.secrets.create("g1-key", key_pem(ca))
    reference = {"type": "Secret", "secretRef": {"kind": "Secret", "name": certificate}}
    bundled = {
        "meshTrustCreation": "Disabled",
        "insecureAllowSelfSigned": True,
        "ca": {
            "certificate": reference,
            "privateKey": {"type": "Secret", "secretRef": {"kind": "Secret", "name": key}},
        },
        "certificateParameters": {"expiry": "12h0m0s"},
    }
    spec = {
        "selector": selector,
        "spiffeID": {"trustDomain": DOMAIN, "path": "/workload/{{ .Workload }}"},
        "provider": {"type": "Bundled", "bundled": bundled},
    }
    return Document(kind=Kind.IDENTITY, name="rotator-999998-g1", spec=spec)


# --- documents ------------------------------------------------------------------------------------------------------


def test_a_control_plane_says_what_it_is(world: KumaWorld, plane: ControlPlane) -> None:
    """Version and environment are what the world says they are."""
    assert (world.version, world.environment) == (plane.about.version, plane.about.environment)


def test_the_mesh_itself_is_a_document(plane: ControlPlane) -> None:
    """A Mesh is read by the mesh's own name, and is the only one of its kind."""
    mesh = plane.documents.read(Kind.MESH, plane.mesh)
    assert mesh is not None
    assert (plane.mesh, "Exclusive") == (mesh.name, mesh.spec["meshServices"]["mode"])
    assert (mesh,) == plane.documents.listed(Kind.MESH)


def test_what_is_absent_is_none(plane: ControlPlane) -> None:
    """Absent documents and kinds without documents are nothing, not errors."""
    assert plane.documents.read(Kind.TRUST, "nowhere") is None
    assert () == plane.documents.listed(Kind.IDENTITY)


def test_a_document_reads_back_as_it_was_written(world: KumaWorld, plane: ControlPlane) -> None:
    """What is created is there for everybody, and reading it twice gives the same revision."""
    made = trust(plane, authority("one"))
    written = plane.documents.write(made)
    assert covers(Kind.TRUST, written.spec, made.spec)
    assert written == world.again(plane).documents.read(Kind.TRUST, made.name)
    assert (written,) == plane.documents.listed(Kind.TRUST)
    assert written.revision


def test_nobody_creates_twice(plane: ControlPlane) -> None:
    """A document that is there already is a conflict for whoever creates it."""
    made = trust(plane, authority("one"))
    plane.documents.write(made)
    with pytest.raises(Conflict):
        plane.documents.write(made)


def test_a_document_is_replaced_by_whoever_has_read_it(world: KumaWorld, plane: ControlPlane) -> None:
    """The last reader writes; one who read before that has a conflict, and nothing of theirs is kept."""
    one, two, three = authority("one"), authority("two"), authority("three")
    first = plane.documents.write(trust(plane, one))
    other = world.again(plane).documents
    second = other.write(first.with_spec(trust(plane, one, two).spec))
    assert first.revision != second.revision
    with pytest.raises(Conflict):
        plane.documents.write(first.with_spec(trust(plane, three).spec))
    kept = plane.documents.read(Kind.TRUST, first.name)
    assert kept is not None
    assert covers(Kind.TRUST, kept.spec, trust(plane, one, two).spec)


def test_a_document_that_is_gone_is_not_brought_back(plane: ControlPlane) -> None:
    """Whoever writes what somebody has removed meanwhile has a conflict."""
    written = plane.documents.write(trust(plane, authority("one")))
    plane.documents.remove(written)
    with pytest.raises(Conflict):
        plane.documents.write(written)
    assert plane.documents.read(Kind.TRUST, written.name) is None


def test_removing_is_for_whoever_has_read_the_last_revision(plane: ControlPlane) -> None:
    """An older reader has a conflict; what is absent is removed already."""
    one, two = authority("one"), authority("two")
    first = plane.documents.write(trust(plane, one))
    second = plane.documents.write(first.with_spec(trust(plane, two).spec))
    with pytest.raises(Conflict):
        plane.documents.remove(first)
    plane.documents.remove(second)
    plane.documents.remove(second)
    assert plane.documents.read(Kind.TRUST, first.name) is None


def test_a_selector_for_nobody_is_not_one_for_everybody(plane: ControlPlane) -> None:
    """``selector: {}`` and empty ``matchLabels`` are kept apart both ways."""
    written = plane.documents.write(identity(plane, authority("one"), selector={}))
    assert {} == written.spec["selector"]
    moved = plane.documents.write(written.with_spec({**written.spec, "selector": EVERYBODY}))
    assert EVERYBODY == moved.spec["selector"]
    back = plane.documents.write(moved.with_spec({**moved.spec, "selector": {}}))
    assert {} == back.spec["selector"]


def test_what_the_control_plane_refuses_is_rejected(plane: ControlPlane) -> None:
    """A trust without a trust domain is refused, and is not there."""
    wrong = Document(kind=Kind.TRUST, name="wrong", spec={"trustDomain": "", "caBundles": []})
    with pytest.raises(Rejected):
        plane.documents.write(wrong)
    assert plane.documents.read(Kind.TRUST, "wrong") is None


def test_a_mesh_keeps_what_is_not_ours(world: KumaWorld, plane: ControlPlane) -> None:
    """A Mesh that is written with one part changed keeps its other parts."""
    mesh = plane.documents.read(Kind.MESH, plane.mesh)
    assert mesh is not None
    written = plane.documents.write(mesh.with_spec({**mesh.spec, "routing": {"zoneEgress": True}}))
    found = world.again(plane).documents.read(Kind.MESH, plane.mesh)
    assert written == found
    assert ({"mode": "Exclusive"}, {"zoneEgress": True}) == (written.spec["meshServices"], written.spec["routing"])


# --- secrets --------------------------------------------------------------------------------------------------------


def test_a_secret_is_kept_under_a_name_of_its_own(world: KumaWorld, plane: ControlPlane) -> None:
    """What is created is held with its purpose, and read by the name that documents refer to it by."""
    name = plane.secrets.create("g1-cert", b"a certificate")
    (held,) = world.again(plane).secrets.held()
    assert (name, "g1-cert", b"a certificate") == (held.name, held.purpose, held.value)
    assert b"a certificate" == plane.secrets.read(name)


def test_creating_a_secret_twice_gives_the_same_name(plane: ControlPlane) -> None:
    """The same content under the same purpose is there already; another content is a conflict and is not kept."""
    name = plane.secrets.create("g1-cert", b"a certificate")
    assert name == plane.secrets.create("g1-cert", b"a certificate")
    with pytest.raises(Conflict):
        plane.secrets.create("g1-cert", b"another")
    assert b"a certificate" == plane.secrets.read(name)


def test_secrets_are_held_by_purpose(plane: ControlPlane) -> None:
    """Every kind of secret that a rotation needs fits, and all are listed in one order."""
    purposes = ("bundle-0123456789ab", "g1-cert", "g1-key", "g2-cert", "g2-key")
    for purpose in reversed(purposes):
        plane.secrets.create(purpose, purpose.encode())
    assert purposes == tuple(each.purpose for each in plane.secrets.held())


def test_a_secret_is_removed_once(plane: ControlPlane) -> None:
    """What was removed is held no longer; removing it again is no error."""
    name = plane.secrets.create("g1-key", b"a key")
    plane.secrets.remove(name)
    plane.secrets.remove(name)
    assert () == plane.secrets.held()


def test_secrets_of_others_are_read_and_left_alone(world: KumaWorld, plane: ControlPlane) -> None:
    """Somebody's secret is not held, can be read by its name, and cannot be removed."""
    name = world.by_hand(plane, "company-ca", b"a CA made by hand")
    assert () == plane.secrets.held()
    assert b"a CA made by hand" == plane.secrets.read(name)
    with pytest.raises(Rejected):
        plane.secrets.remove(name)
    assert b"a CA made by hand" == plane.secrets.read(name)
    assert plane.secrets.read("nobodys-ca") is None


def test_meshes_do_not_share_secrets(world: KumaWorld) -> None:
    """Two meshes keep the same purpose apart."""
    one, two = world.plane(), world.plane()
    first, second = one.secrets.create("g1-cert", b"one"), two.secrets.create("g1-cert", b"two")
    one.secrets.remove(first)
    assert ((), b"two") == (one.secrets.held(), two.secrets.read(second))


def test_no_secret_shows_in_words(plane: ControlPlane) -> None:
    """Neither the list of secrets nor an error about one shows what it holds."""
    plane.secrets.create("g1-key", b"PRIVATE-CONTENT")
    assert "PRIVATE" not in repr(plane.secrets.held())
    with pytest.raises(Conflict) as refused:
        plane.secrets.create("g1-key", b"PRIVATE-OTHER")
    assert "PRIVATE" not in str(refused.value)


# --- proxies --------------------------------------------------------------------------------------------------------


def test_a_mesh_without_proxies_has_none(plane: ControlPlane) -> None:
    """Nothing is reported, and an unknown proxy shows nothing."""
    assert () == plane.proxies.reports()
    assert plane.proxies.view("nobody") is None


def test_a_proxy_trusts_what_the_mesh_gives_and_serves_what_it_signs(world: KumaWorld, plane: ControlPlane) -> None:
    """Under a MeshIdentity a proxy's own configuration shows the trust's CA and a leaf of it."""
    ca = authority("one")
    plane.documents.write(trust(plane, ca))
    plane.documents.write(identity(plane, ca, selector=EVERYBODY))
    name = f"web-{plane.mesh}"
    world.start_proxy(plane, name)
    (report,) = plane.proxies.reports()
    assert (name, True) == (report.name, report.online)
    assert report.connection
    view = plane.proxies.view(name)
    assert view is not None
    assert {DOMAIN: frozenset({ca.authority.sha256})} == dict(view.bundles)
    assert ca.authority.id == view.leaf_issuer
    assert report.certificate_not_after == view.leaf_not_after
    world.stop_proxy(plane, name)
    assert not any(each.online for each in plane.proxies.reports())
    assert plane.proxies.view(name) is None
