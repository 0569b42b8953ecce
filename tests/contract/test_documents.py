"""The platform's documents in one mesh: one suite for the fake and for every way to reach a control plane."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest

from rotator.adapters.kuma.documents import PLURALS
from rotator.embedded.process import wait_until
from rotator.errors import AdapterError, Conflict, Denied, Rejected
from rotator.platform.documents import Address, Document, document_of, document_with
from rotator.platform.rendering import rendered
from rotator.platform.resources import MANAGED_BY, ROTATOR
from tests.contract.documents_worlds import AT, DocumentsWorld, InCluster, InMemory, OverHTTP, Released
from tests.platform.platforms import example
from tests.platform.test_telemetry import COLLECTOR
from tests.stack.cluster import Cluster
from tests.stack.kuma import released

PERMISSION = "MeshTrafficPermission"
SPIFFE_OF_ANOTHER = {"spiffeID": {"type": "Exact", "value": f"spiffe://{AT}/another"}}
OURS = {MANAGED_BY: ROTATOR}


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A way to keep documents."""

    name: str
    version: str
    cluster: Cluster | None


@pytest.fixture(
    # The server that one way needs is there before a test's own children are counted.
    scope="module",
    params=[
        "memory",
        "http-2.14.3",
        "http-3.0.1",
        pytest.param("cluster-2.14.3", marks=pytest.mark.stack),
        pytest.param("released", marks=pytest.mark.stack),
    ],
)
def way(request: pytest.FixtureRequest) -> Way:
    """Give each way."""
    name, _, version = str(request.param).partition("-")
    if name == "released" and (why := released.missing()) is not None:
        pytest.skip(why)
    return Way(name=name, version=version, cluster=request.getfixturevalue("cluster") if name == "cluster" else None)


@pytest.fixture
def world(way: Way, tmp_path: Path) -> Iterator[DocumentsWorld]:
    """Give a mesh that nobody else uses, reached that way."""
    with ExitStack() as cleanup:
        if way.cluster is not None:
            yield InCluster(way.version, way.cluster, tmp_path, cleanup)
        elif way.name == "released":
            yield Released(tmp_path, cleanup)
        elif way.name == "http":
            yield OverHTTP(way.version, cleanup)
        else:
            yield InMemory()


def permission(world: DocumentsWorld, *callers: str, name: str = "rotator-ledger", ours: bool = True) -> Document:
    """Return a permission for *callers*."""
    allow = [{"spiffeID": {"type": "Exact", "value": f"spiffe://{AT}/{each}"}} for each in callers]
    spec = {"targetRef": {"kind": "Dataplane", "labels": {"app": "ledger"}}, "rules": [{"default": {"allow": allow}}]}
    address = Address(trust_domain=AT, mesh=world.mesh, kind=PERMISSION, name=name)
    return document_with(address, OURS if ours else {}, spec)


def test_what_is_written_reads_back_and_is_listed(world: DocumentsWorld) -> None:
    """A new document stands as it was wanted, whatever the control plane notes on it, and is known for rotator's."""
    assert {} == dict(world.documents.listed())
    wanted = permission(world, "worker")
    written = world.documents.write(wanted, None)
    assert (wanted, True) == (written.document, written.document.is_rotators)
    assert {wanted.address: written} == dict(world.documents.listed())
    assert world.documents.says(written, wanted)
    assert not world.documents.says(written, permission(world, "worker", "scheduler"))


def test_law_14_a_write_carries_what_was_seen(world: DocumentsWorld) -> None:
    """What is there already, gone, or edited since it was seen is not overwritten."""
    first = world.documents.write(permission(world, "worker"), None)
    with pytest.raises(Conflict):
        world.documents.write(permission(world, "scheduler"), None)
    second = world.documents.write(permission(world, "scheduler"), first)
    with pytest.raises(Conflict):
        world.documents.write(permission(world, "worker"), first)
    world.edited(permission(world, "mallory"))
    with pytest.raises(Conflict):
        world.documents.write(permission(world, "worker"), second)
    with pytest.raises(Conflict):
        world.documents.remove(second)
    (standing,) = world.documents.listed().values()
    assert permission(world, "mallory") == standing.document
    world.gone(standing.document.address)
    with pytest.raises(Conflict):
        world.documents.write(permission(world, "worker"), standing)
    world.documents.remove(standing)
    assert {} == dict(world.documents.listed())


def test_what_is_seen_again_is_the_same(world: DocumentsWorld) -> None:
    """Two looks at an untouched document give one revision, so that looking is no change."""
    world.documents.write(permission(world, "worker"), None)
    assert world.documents.listed() == world.documents.listed()


def test_a_document_is_replaced_as_a_whole(world: DocumentsWorld) -> None:
    """What somebody else has added to rotator's document is gone with the next write, labels included."""
    wanted = permission(world, "worker")
    world.documents.write(wanted, None)
    refusing = [{"default": {**wanted.spec["rules"][0]["default"], "deny": [SPIFFE_OF_ANOTHER]}}]
    edited = replace(wanted, spec={**wanted.spec, "rules": refusing}, labels={**OURS, "added": "by-hand"})
    world.edited(edited)
    (seen,) = world.documents.listed().values()
    assert edited == seen.document
    assert wanted == world.documents.write(wanted, seen).document
    (standing,) = world.documents.listed().values()
    assert wanted == standing.document


def test_documents_of_others_are_seen_and_left_alone(world: DocumentsWorld) -> None:
    """A document without rotator's label, or another name, is listed and neither written nor removed."""
    theirs = permission(world, "worker", name="allow-all", ours=False)
    nameless = permission(world, "worker", name="rotator-like", ours=False)
    for each in (theirs, nameless):
        world.edited(each)
    listed = world.documents.listed()
    assert {theirs.address, nameless.address} == set(listed)
    for seen in listed.values():
        assert not seen.document.is_rotators
        with pytest.raises(Rejected):
            world.documents.remove(seen)
        with pytest.raises(Rejected):
            world.documents.write(replace(seen.document, spec={}), seen)
    assert listed == world.documents.listed()


def test_nobody_lags_where_nobody_is(world: DocumentsWorld) -> None:
    """A mesh without proxies waits for nobody."""
    assert () == world.documents.lagging()


def test_everything_that_is_rendered_is_taken(world: DocumentsWorld) -> None:
    """Every kind of the platform is written, reads back as it was rendered, and goes again."""
    if isinstance(world, InMemory):
        pytest.skip("a memory takes everything")
    platform = replace(example(), telemetry=COLLECTOR)
    environments = {each.name: replace(each, mesh=world.mesh) for each in platform.environments}
    platform = replace(
        platform,
        environments=tuple(environments.values()),
        identities=tuple(
            replace(each, environment=environments[each.environment.name]) for each in platform.identities
        ),
        services=tuple(replace(each, environment=environments[each.environment.name]) for each in platform.services),
        permissions=tuple(
            replace(
                each,
                callers=tuple(replace(one, environment=environments[one.environment.name]) for one in each.callers),
                services=tuple(replace(one, environment=environments[one.environment.name]) for one in each.services),
            )
            for each in platform.permissions
        ),
    )
    wanted = {each.address: each for each in (document_of(AT, one) for one in rendered(platform, AT))}
    assert {address.kind for address in wanted} <= set(PLURALS)
    for each in wanted.values():
        world.documents.write(each, None)
    standing = world.documents.listed()
    assert wanted == {address: each.document for address, each in standing.items() if each.document.is_rotators}
    for seen in standing.values():
        if seen.document.is_rotators:
            world.documents.remove(seen)
    assert [] == [each for each in world.documents.listed().values() if each.document.is_rotators]


# --- in a cluster alone -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest) -> Cluster:
    """Give the API server, before a test's own children are counted."""
    found: Cluster = request.getfixturevalue("cluster")
    return found


@pytest.fixture
def in_cluster(server: Cluster, tmp_path: Path) -> Iterator[InCluster]:
    """Give a mesh in a real Kubernetes API."""
    with ExitStack() as cleanup:
        yield InCluster("3.0.1", server, tmp_path, cleanup)


@pytest.mark.stack
def test_what_a_tool_keeps_applying_is_not_taken_from_it(in_cluster: InCluster) -> None:
    """A document that somebody's tool applies is refused with the tool's name; nothing changes."""
    wanted = permission(in_cluster, "worker")
    in_cluster.documents.write(wanted, None)
    in_cluster.applied_by(permission(in_cluster, "mallory"), "argocd")
    (seen,) = in_cluster.documents.listed().values()
    assert {"argocd"} == seen.keepers
    with pytest.raises(Denied, match="argocd"):
        in_cluster.documents.write(wanted, seen)
    assert {wanted.address: seen} == dict(in_cluster.documents.listed())


@pytest.mark.stack
def test_permissions_in_other_namespaces_are_seen(in_cluster: InCluster) -> None:
    """A permission beside an application, even under rotator's name and label, is seen and never rotator's."""
    in_cluster.beside(permission(in_cluster, "mallory"), "airflow-elsewhere")
    (seen,) = in_cluster.documents.listed().values()
    assert ("namespace airflow-elsewhere: rotator-ledger", False) == (
        seen.document.address.name,
        seen.document.is_rotators,
    )


@pytest.mark.stack
def test_the_account_writes_nothing_under_another_name(in_cluster: InCluster) -> None:
    """What the roles would allow, the admission policy refuses: a name that is not rotator's."""
    numbers = itertools.count(1)

    def refused() -> bool:
        try:
            in_cluster.create_as_rotator(permission(in_cluster, "worker", name=f"not-ours-{next(numbers)}"))
        except AdapterError as error:
            return "names no such object" in str(error)
        return False

    # The API server takes up a policy a moment after it is stored.
    wait_until(refused, within=timedelta(seconds=60), what="the policy to be in force")
    in_cluster.create_as_rotator(permission(in_cluster, "worker"))
