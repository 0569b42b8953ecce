"""Lists of revoked tokens and signing keys at a control plane: one suite for its HTTP API and for its cluster."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from rotator.adapters.kuma.api import ControlPlaneAPI, Endpoint
from rotator.adapters.kuma.cluster_secrets import KEYS_AT_ONCE, WHOLE_ROW_EVERY, ClusterShelves
from rotator.adapters.kuma.rights import token_secret_rights
from rotator.adapters.kuma.signing_keys import ADMIN_TOKEN, KumaSigningKeys
from rotator.adapters.kuma.token_secrets import HTTPShelves, NamedSecret, Shelves
from rotator.adapters.kuma.tokens import KumaTokens, list_name
from rotator.cluster.objects import ClusterAccess, ObjectAPI
from rotator.cluster.rbac import Account
from rotator.core.model import Serial, TokenGrant, TokenKind
from rotator.errors import Conflict, Denied, Rejected
from tests.fakes.clock import ManualClock
from tests.fakes.kuma.standin import StandIn
from tests.fakes.kuma.store import GLOBAL_SECRET, SECRET
from tests.fakes.kuma.tokens import TokenRefused
from tests.stack.cluster import Cluster
from tests.stack.kuma_store import KubernetesStore
from tests.stack.published import grant as granted

MESH = "default"
HOUR = timedelta(hours=1)
WEB = TokenGrant(kind=TokenKind.DATAPLANE, name="web", mesh=MESH)
EAST = TokenGrant(kind=TokenKind.ZONE, zone="east", scope=("egress",))
ADMIN = TokenGrant(kind=TokenKind.USER, name="rotator", groups=("mesh-system:admin",))
GRANTS = {each.kind: each for each in (WEB, EAST, ADMIN)}


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """One control plane, and rotator's way to its secrets."""

    standin: StandIn
    api: ControlPlaneAPI
    shelves: Shelves
    cluster: Cluster | None = None
    namespace: str = ""

    @property
    def tokens(self) -> KumaTokens:
        """Return who issues and revokes."""
        return KumaTokens(self.api, clock=self.standin.clock, skew=timedelta(minutes=5), shelves=self.shelves)

    def keys(self, kind: TokenKind) -> KumaSigningKeys:
        """Return the keys of *kind*."""
        return KumaSigningKeys(self.shelves, kind=kind, mesh=MESH, place="cp")

    def put(self, kind: str, name: str, text: str) -> None:
        """Keep a secret as somebody else."""
        of = {"mesh": MESH} if kind == SECRET else {}
        self.standin.apply({"type": kind, **of, "name": name, "data": base64.b64encode(text.encode()).decode()})

    def text(self, kind: str, name: str) -> str | None:
        """Return what the control plane has under a name, None if nothing."""
        found = self.standin.store.get(kind, MESH if kind == SECRET else "", name)
        return None if found is None else base64.b64decode(found.spec["data"]).decode()


@pytest.fixture(scope="module", params=["http", pytest.param("cluster", marks=pytest.mark.stack)], ids=str)
def way(request: pytest.FixtureRequest) -> Cluster | None:
    """Give the cluster of the one way, nothing for the other."""
    found: Cluster | None = request.getfixturevalue("cluster") if request.param == "cluster" else None
    return found


@pytest.fixture
def world(way: Cluster | None, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """Give a control plane that nobody else uses, and in a cluster an account with rotator's rights and no other."""
    with ExitStack() as cleanup:
        if way is None:
            standin = cleanup.enter_context(StandIn(clock=ManualClock(), local_is_admin=True))
            standin.edit_mesh(MESH)
            api = cleanup.enter_context(contextlib.closing(ControlPlaneAPI(Endpoint(url=standin.url))))
            yield World(standin=standin, api=api, shelves=HTTPShelves(api))
            return
        namespace = str(request.getfixturevalue("system_namespace"))
        store = cleanup.enter_context(KubernetesStore(way, namespace))
        standin = cleanup.enter_context(
            StandIn(clock=ManualClock(), environment="kubernetes", store=store, local_is_admin=True)
        )
        if standin.store.get("Mesh", "", MESH) is None:
            standin.edit_mesh(MESH)
        api = cleanup.enter_context(contextlib.closing(ControlPlaneAPI(Endpoint(url=standin.url))))
        rights = token_secret_rights(namespace, MESH, revoked=TokenKind, keys=dict.fromkeys(TokenKind, 1))
        token = granted(way, Account(namespace=namespace), rights)
        kubeconfig = way.kubeconfig_for(token, namespace, tmp_path / "kubeconfig")
        objects = cleanup.enter_context(
            contextlib.closing(ObjectAPI(ClusterAccess(namespace=namespace, kubeconfig_file=kubeconfig)))
        )
        shelves = ClusterShelves(lambda: objects, namespace=namespace, clock=standin.clock)
        yield World(standin=standin, api=api, shelves=shelves, cluster=way, namespace=namespace)


@pytest.mark.parametrize("kind", TokenKind)
def test_a_list_is_merged_and_leaves_with_its_last_name(world: World, kind: TokenKind) -> None:
    """What people wrote stays; the control plane refuses whom rotator named; what is taken off is rotator's alone."""
    chosen = GRANTS[kind]
    world.put(GLOBAL_SECRET, list_name(chosen), "one, two\n")
    world.tokens.revoke(chosen, add=frozenset({Serial("three")}), drop=frozenset())
    assert "one,two,three" == world.text(GLOBAL_SECRET, list_name(chosen))
    assert {"one", "two", "three"} == world.tokens.revoked(chosen)
    world.tokens.revoke(chosen, add=frozenset(), drop=frozenset({Serial("three")}))
    assert "one,two" == world.text(GLOBAL_SECRET, list_name(chosen))
    world.tokens.revoke(chosen, add=frozenset(), drop=frozenset({Serial("one"), Serial("two")}))
    assert None is world.text(GLOBAL_SECRET, list_name(chosen))


def test_a_revoked_token_lets_nobody_in(world: World) -> None:
    """The list that rotator writes is the one that the control plane reads."""
    issued = world.tokens.issue(WEB, HOUR)
    world.standin.tokens.admit_dataplane(issued.text, mesh=MESH, name="web")
    world.tokens.revoke(WEB, add=frozenset({issued.token.id}), drop=frozenset())
    with pytest.raises(TokenRefused, match="revoked"):
        world.standin.tokens.admit_dataplane(issued.text, mesh=MESH, name="web")


def test_law_14_a_list_that_somebody_else_writes_is_not_overwritten(world: World) -> None:
    """Neither replaced nor removed once it is not as it was read."""
    shelf = world.shelves.everywhere()
    name = list_name(EAST)
    shelf.write(name, b"one", seen=None)
    seen = shelf.read(name)
    assert seen is not None
    world.put(GLOBAL_SECRET, name, "one,two")
    with pytest.raises(Conflict):
        shelf.write(name, b"one,three", seen=seen)
    with pytest.raises(Conflict):
        shelf.remove(name, seen=seen)
    with pytest.raises(Conflict):
        shelf.write(name, b"three", seen=None)
    assert "one,two" == world.text(GLOBAL_SECRET, name)


@pytest.mark.parametrize("kind", TokenKind)
def test_a_new_key_signs_and_the_one_before_verifies_until_it_goes(world: World, kind: TokenKind) -> None:
    """Added once, found by its serial, never the newest removed; what a removed one signed is refused."""
    keys = world.keys(kind)
    first = world.tokens.issue(GRANTS[kind], HOUR)
    assert [1] == [each.serial for each in keys.held()]
    keys.add(2)
    keys.add(2)
    second = world.tokens.issue(GRANTS[kind], HOUR)
    assert (1, 2, [1, 2]) == (first.token.key, second.token.key, [each.serial for each in keys.held()])
    assert all(each.created_at is not None for each in keys.held())
    with pytest.raises(Rejected, match="the newest"):
        keys.remove(2)
    keys.remove(1)
    keys.remove(1)
    assert [2] == [each.serial for each in keys.held()]


def test_user_keys_know_the_first_administrators_token(world: World) -> None:
    """It is read by its name, where it is."""
    issued = world.tokens.issue(ADMIN, HOUR)
    world.put(GLOBAL_SECRET, ADMIN_TOKEN, issued.text)
    (known,) = world.keys(TokenKind.USER).known_tokens()
    assert (f"GlobalSecret {ADMIN_TOKEN}", 1) == (known.name, known.key)


# --- a cluster alone --------------------------------------------------------------------------------------------------


def test_in_a_cluster_a_list_of_the_other_type_is_refused(world: World) -> None:
    """Nothing reads a mesh's Secret of that name, and two cannot share it: the error says what to do."""
    if world.cluster is None:
        pytest.skip("over HTTP both kinds have names of their own")
    world.put(SECRET, list_name(WEB), "one")
    with pytest.raises(Rejected, match="delete it, and rotator keeps its own"):
        world.tokens.revoke(WEB, add=frozenset({Serial("two")}), drop=frozenset())
    assert "one" == world.text(SECRET, list_name(WEB))


def test_in_a_cluster_nothing_else_can_be_created_or_read(world: World) -> None:
    """Neither by name, nor of another type, nor a serial beyond the row, nor a change of a key."""
    if world.cluster is None:
        pytest.skip("over HTTP an administrator may do everything")
    mesh, everywhere = world.shelves.of_mesh(MESH), world.shelves.everywhere()
    key = "dataplane-token-signing-key-default"
    for shelf, name in (
        (everywhere, "somebodys-secret"),
        (everywhere, f"{key}-3"),
        (mesh, list_name(EAST)),
        (mesh, "zone-token-signing-key-3"),
    ):
        with pytest.raises((Denied, Rejected)):
            shelf.write(name, b"x", seen=None)
    assert [] == [each for each in world.standin.store.list(SECRET, MESH) if each.name.endswith("-3")]
    with pytest.raises(Rejected, match="first_serial"):
        world.keys(TokenKind.ZONE).add(KEYS_AT_ONCE + 1)
    world.keys(TokenKind.DATAPLANE).add(1)
    present = mesh.read(f"{key}-1")
    assert present is not None
    with pytest.raises(Denied):
        mesh.write(f"{key}-1", b"another", seen=present)
    world.put(GLOBAL_SECRET, "somebodys-secret", "x")
    with pytest.raises(Denied):
        everywhere.read("somebodys-secret")


def test_in_a_cluster_the_whole_row_is_looked_at_once_a_minute(world: World) -> None:
    """A key that follows is seen at once, one that is added far away within a minute, and one that goes at once."""
    if world.cluster is None:
        pytest.skip("over HTTP one list shows every key")
    keys = world.keys(TokenKind.ZONE)

    def serials() -> list[int]:
        return [each.serial for each in keys.held()]

    world.put(GLOBAL_SECRET, "zone-token-signing-key-1", "a key")
    assert [1] == serials()
    for serial in (3, 40):
        world.put(GLOBAL_SECRET, f"zone-token-signing-key-{serial}", "a key")
    assert [1, 3] == serials()
    world.standin.run(WHOLE_ROW_EVERY)
    assert [1, 3, 40] == serials()
    world.standin.delete(GLOBAL_SECRET, "zone-token-signing-key-1", mesh="")
    assert [3, 40] == serials()


def test_in_a_cluster_a_list_that_a_tool_applies_is_not_taken_from_it(world: World) -> None:
    """It would come back, and so would rotator."""
    if world.cluster is None:
        pytest.skip("over HTTP nobody knows who keeps a secret")
    name = list_name(EAST)
    path = f"/api/v1/namespaces/{world.namespace}/secrets/{name}"
    kept = {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "system.kuma.io/global-secret",
        "metadata": {"name": name, "namespace": world.namespace},
        "data": {"value": base64.b64encode(b"one").decode()},
    }
    world.cluster.call(
        "PATCH", path, kept, content_type="application/apply-patch+yaml", query={"fieldManager": "argocd"}
    )
    with pytest.raises(Denied, match="argocd"):
        world.tokens.revoke(EAST, add=frozenset({Serial("two")}), drop=frozenset())
    assert "one" == world.text(GLOBAL_SECRET, name)


def test_a_value_is_never_shown() -> None:
    """Law 10: a secret's content stands in no text of it."""
    assert "abc" not in repr(NamedSecret(name="key", value=b"abc"))
