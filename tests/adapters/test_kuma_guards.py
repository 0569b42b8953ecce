"""Why a mesh may not be touched: every guard, at the stand-in control plane, with what is not done meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from rotator.adapters.kuma.about import Model
from rotator.adapters.kuma.control_plane import ControlPlane, Document, Documents, Kind, Mode
from rotator.core.model import KeyType
from rotator.errors import ConfigError, Conflict, InvariantBroken, Unavailable
from tests.adapters.kuma_meshes import DOMAIN, LEAF, MeshWorld
from tests.fakes.certificate_authority import FakeCA
from tests.fakes.kuma.signing import new_root
from tests.fakes.kuma.store import SECRET


@pytest.fixture
def provided() -> Iterator[MeshWorld]:
    """Give a mesh of the provided model on generation 1."""
    with MeshWorld() as world:
        world.first()
        yield world


@pytest.fixture
def identity() -> Iterator[MeshWorld]:
    """Give a mesh of the identity model on generation 1."""
    with MeshWorld(version="3.0.1", model=Model.IDENTITY) as world:
        world.first()
        yield world


def refused(world: MeshWorld, *words: str) -> None:
    """Hold that exactly one refusal is given, with *words* in it, and that nothing is changed meanwhile."""
    refusals = world.look().refusals
    assert 1 == len(refusals), refusals
    for word in words:
        assert word in refusals[0], refusals
    held = world.mesh.observe()
    before = world.standin.document("Mesh", "default")
    with pytest.raises(Conflict):
        world.mesh.prepare(world.order(9))
    with pytest.raises(Conflict):
        world.mesh.publish(tuple(each.authority for each in held.generations))
    for generation in held.generations:
        with pytest.raises(Conflict):
            world.mesh.activate(generation)
        with pytest.raises(Conflict):
            world.mesh.retire(generation, revoke=False)
    assert before == world.standin.document("Mesh", "default")


def mtls(world: MeshWorld) -> dict[str, Any]:
    """Return a copy of ``Mesh.mtls``."""
    found = world.standin.document("Mesh", "default")
    assert found is not None
    section = dict(found["mtls"])
    section["backends"] = [dict(each) for each in section["backends"]]
    return section


def edit(world: MeshWorld, section: Mapping[str, Any]) -> None:
    """Write ``Mesh.mtls`` as somebody else."""
    world.standin.edit_mesh(mtls=section)


def edit_identity(world: MeshWorld, name: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Write the spec of a MeshIdentity as somebody else, status kept."""
    found = world.standin.document("MeshIdentity", name)
    assert found is not None
    change(found["spec"])
    world.standin.apply(found)
    world.standin.run(10)


def about(world: MeshWorld, **said: Any) -> None:
    """Let the control plane say something else of itself."""
    world.plane = replace(world.plane, about=replace(world.plane.about, **said))


# --- the control plane ----------------------------------------------------------------------------------------------


def test_mesh_mtls_is_refused_on_3_x(provided: MeshWorld) -> None:
    """There it issues nothing: the mesh would run plaintext."""
    about(provided, version=(3, 0, 1), version_text="3.0.1")
    refused(provided, "3.0.1 ignores Mesh.mtls", "configure model identity")


def test_mesh_identity_is_refused_below_2_13(identity: MeshWorld) -> None:
    """There two identities may be given each other's CA."""
    about(identity, version=(2, 12, 14), version_text="2.12.14")
    refused(identity, "2.12.14", "update it to 2.13")


def test_mesh_identity_is_refused_on_2_x_without_exclusive_services() -> None:
    """There it never becomes ready."""
    with MeshWorld(version="2.14.3", model=Model.IDENTITY) as world:
        world.standin.edit_mesh(meshServices={"mode": "Disabled"})
        refused(world, "meshServices.mode to Exclusive")


def test_mesh_identity_is_refused_at_a_global_control_plane(identity: MeshWorld) -> None:
    """There nobody knows whether it is ready."""
    about(identity, mode=Mode.GLOBAL)
    refused(identity, "each zone's control plane")


def test_mesh_mtls_is_refused_in_a_zone_of_a_global_control_plane(provided: MeshWorld) -> None:
    """There the Global control plane would change the Mesh back."""
    about(provided, federated=True)
    refused(provided, "at the Global control plane")


class _Managed:
    """Documents of which one is written by somebody else's manager too."""

    def __init__(self, inner: Documents, kind: Kind) -> None:
        self._inner = inner
        self._kind = kind

    def _marked(self, document: Document) -> Document:
        return replace(document, managers=frozenset({"argocd-controller"})) if document.kind is self._kind else document

    def read(self, kind: Kind, name: str) -> Document | None:
        found = self._inner.read(kind, name)
        return None if found is None else self._marked(found)

    def listed(self, kind: Kind) -> tuple[Document, ...]:
        return tuple(map(self._marked, self._inner.listed(kind)))

    def write(self, document: Document) -> Document:
        return self._inner.write(document)

    def remove(self, document: Document) -> None:
        self._inner.remove(document)


def managed(plane: ControlPlane, kind: Kind) -> ControlPlane:
    return replace(plane, documents=_Managed(plane.documents, kind))


def test_a_mesh_that_argo_manages_is_refused(provided: MeshWorld) -> None:
    """It would be changed back."""
    provided.plane = managed(provided.plane, Kind.MESH)
    refused(provided, "Mesh default is managed by argocd-controller", "ignoreDifferences")


def test_a_trust_object_that_argo_manages_is_refused(identity: MeshWorld) -> None:
    """It would be changed back."""
    identity.plane = managed(identity.plane, Kind.TRUST)
    refused(identity, "MeshTrust rotator-default is managed by argocd-controller")


# --- Mesh.mtls ------------------------------------------------------------------------------------------------------


def test_skip_validation_is_refused(provided: MeshWorld) -> None:
    """A torn pair would be taken without a word."""
    edit(provided, mtls(provided) | {"skipValidation": True})
    refused(provided, "skipValidation")


def test_a_second_backend_is_refused() -> None:
    """Kong's edition has several, open source one."""
    with MeshWorld() as world:
        world.first()
        section = mtls(world)
        section["backends"].append({"name": "other", "type": "builtin"})
        world.plane = replace(world.plane, documents=_Other(world.plane.documents, {"mtls": section}))
        refused(world, "has 2 backends", "leave only rotator")


class _Other:
    """Documents whose Mesh says something that this control plane would refuse."""

    def __init__(self, inner: Documents, said: Mapping[str, Any]) -> None:
        self._inner = inner
        self._said = said
        self.listed = inner.listed
        self.write = inner.write
        self.remove = inner.remove

    def read(self, kind: Kind, name: str) -> Document | None:
        found = self._inner.read(kind, name)
        return found.with_spec({**found.spec, **self._said}) if found is not None and kind is Kind.MESH else found


def test_a_backend_of_another_type_is_refused() -> None:
    """Its CA is not in Kuma's secrets."""
    with MeshWorld(model=Model.PROVIDED) as world:
        world.first()
        section = mtls(world)
        section["backends"][0]["type"] = "vault"
        world.plane = replace(world.plane, documents=_Other(world.plane.documents, {"mtls": section}))
        refused(world, "type vault")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"dpCert": {"rotation": {"expiration": "2h"}}}, ("is 2h", "longest_leaf 1h", "3600s")),
        ({}, ("not set, which means", "longest_leaf 1h")),
    ],
)
def test_a_leaf_that_may_outlive_its_ca_is_refused(
    provided: MeshWorld, said: dict[str, Any], words: tuple[str, ...]
) -> None:
    """Longer than configured, or Kuma's default where nothing is said."""
    section = mtls(provided)
    section["backends"][0].pop("dpCert")
    section["backends"][0] |= said
    edit(provided, section)
    refused(provided, *words)


def test_a_mesh_pointed_elsewhere_is_refused_and_goes_on_when_put_back(provided: MeshWorld) -> None:
    """A CA that rotator did not make signs: perhaps a second rotator's."""
    before = mtls(provided)
    other = new_root("other", str(DOMAIN), provided.clock.now())
    provided.standin.keep_secret("other-cert", other.certificate_pem)
    provided.standin.keep_secret("other-key", other.key_pem)
    section = mtls(provided)
    section["backends"][0]["conf"] = {"cert": {"secret": "other-cert"}, "key": {"secret": "other-key"}}
    edit(provided, section)
    refused(provided, "which is not rotator's (is there a second rotator?)")
    edit(provided, before)
    assert () == provided.look().refusals


def test_a_bundle_that_somebody_else_made_is_refused(provided: MeshWorld) -> None:
    """Rotator's CA signs still, from a secret that is not rotator's, beside a stranger."""
    ours = provided.plane.secrets.read("rotator-g1-cert")
    assert ours is not None
    stranger = new_root("stranger", str(DOMAIN), provided.clock.now())
    provided.standin.keep_secret("theirs", ours + stranger.certificate_pem)
    section = mtls(provided)
    section["backends"][0]["conf"] = {"cert": {"secret": "theirs"}, "key": {"secret": "rotator-g1-key"}}
    edit(provided, section)
    refusals = provided.look().refusals
    assert 2 == len(refusals)
    assert "CAs that are not rotator's (CN=stranger" in refusals[0]
    assert "refers to secret theirs" in refusals[1]


@pytest.mark.parametrize("purpose", ["g1-key", "g2-cert", "bundle"])
def test_a_secret_edited_by_hand_in_the_middle_holds_the_rotation(provided: MeshWorld, purpose: str) -> None:
    """It stops with a named reason, and ends by itself once the secret is as it was; no pair was broken by rotator."""
    provided.rotate(until=lambda _: provided.steps[-1:] == ["PublishBundle"])
    name = next(each.name for each in provided.plane.secrets.held() if each.purpose.startswith(purpose))
    before = provided.standin.secret(name)
    assert before is not None
    other = new_root("other", str(DOMAIN), provided.clock.now())
    provided.standin.keep_secret(name, other.key_pem if purpose.endswith("key") else other.certificate_pem)

    refusals = provided.look().refusals
    assert any("was changed by somebody else" in each for each in refusals), refusals
    with pytest.raises(Conflict):
        provided.mesh.activate(provided.mesh.observe().generations[-1])

    provided.standin.keep_secret(name, before)
    provided.rotate(provided.intent())
    assert ([], 2) == (provided.broken, provided.active())


# --- MeshIdentity ---------------------------------------------------------------------------------------------------


def test_an_identity_whose_leaves_live_too_long_is_refused(identity: MeshWorld) -> None:
    """Kuma 3 gives five days where nothing is said."""

    def forget(spec: dict[str, Any]) -> None:
        del spec["provider"]["bundled"]["certificateParameters"]

    edit_identity(identity, "rotator-default-999998-g1", forget)
    refused(identity, "not set, which means 5d", "longest_leaf 1h")


def test_a_narrower_identity_of_somebody_else_is_refused(identity: MeshWorld) -> None:
    """It wins for the proxies that it selects, whatever rotator does."""
    identity.on_identity("narrow")
    found = identity.standin.document("MeshIdentity", "narrow")
    assert found is not None
    found["spec"]["selector"] = {"dataplane": {"matchLabels": {"kuma.io/workload": "web"}}}
    identity.standin.apply(found)
    refusals = identity.look().refusals
    assert any("narrow selects some proxies by label" in each for each in refusals), refusals


def test_an_identity_that_takes_over_is_refused(identity: MeshWorld) -> None:
    """Its name sorts first: rotator's no longer signs."""
    identity.on_identity("a-identity")
    refusals = identity.look().refusals
    assert any("a-identity, which is not rotator's, now signs" in each for each in refusals), refusals


def test_an_identity_that_is_not_ready_is_refused(identity: MeshWorld) -> None:
    """Proxies that it selects lose their identity."""
    identity.standin.delete(SECRET, "rotator-g1-key")
    identity.standin.run(20)
    refusals = identity.look().refusals
    assert any("rotator-default-999998-g1 is not ready" in each for each in refusals), refusals


def test_foreign_cas_in_a_trust_are_refused(identity: MeshWorld) -> None:
    """In rotator's own MeshTrust, and in another of the same trust domain."""
    stranger = new_root("stranger", str(DOMAIN), identity.clock.now())
    bundles = [{"type": "Pem", "pem": {"value": stranger.certificate_pem.decode()}}]
    spec = {"trustDomain": str(DOMAIN), "caBundles": bundles}
    identity.standin.apply({"type": "MeshTrust", "mesh": "default", "name": "theirs", "spec": spec})
    refused(identity, "MeshTrust theirs holds CAs that are not rotator's (CN=stranger")
    identity.standin.delete("MeshTrust", "theirs")

    own = identity.standin.document("MeshTrust", "rotator-default")
    assert own is not None
    own["spec"]["caBundles"] = [*own["spec"]["caBundles"], *bundles]
    identity.standin.apply(own)
    refused(identity, "MeshTrust rotator-default holds CAs that are not rotator's")


def test_an_identity_is_not_activated_before_it_is_ready(identity: MeshWorld) -> None:
    """Until the control plane has looked at it, it selects nobody."""
    prepared = identity.mesh.prepare(identity.order(2)).generation
    with pytest.raises(Unavailable, match="not ready"):
        identity.mesh.activate(prepared)
    assert 1 == identity.active()


# --- certificates ---------------------------------------------------------------------------------------------------


def test_law_06_a_shared_root_is_refused_unless_accepted_in_words() -> None:
    """The corporate root in the bundle would let any CA below it speak for the mesh."""
    with MeshWorld(version="3.0.1", model=Model.IDENTITY) as world:
        now = world.clock.now()
        world.root = FakeCA("corporate", "corp.example", now, now + timedelta(days=1825), path_length=1)
        world.mesh = world.again()
        with pytest.raises(InvariantBroken, match="law 6: the root CN=corporate is not the mesh's own"):
            world.mesh.prepare(world.order(1))

        world.accept_shared_root = "one mesh, one root, ticket 4711"
        world.mesh = world.again()
        world.first()
        assert 1 == world.active()
        assert any("ticket 4711" in each for each in world.look().warnings)


def test_the_root_stays_out_of_a_provided_bundle(provided: MeshWorld) -> None:
    """There an intermediate alone is enough."""
    assert provided.plane.secrets.read("rotator-g1-cert") == next(
        iter(provided.mesh.observe().certificates_pem.values())
    )


@pytest.mark.parametrize("key", [KeyType.ED25519, KeyType.ECDSA_P384])
def test_keys_that_not_every_proxy_verifies_are_refused(provided: MeshWorld, key: KeyType) -> None:
    """Nothing is asked of the corporate PKI then."""
    before = len(provided.mesh.strays())
    with pytest.raises(ConfigError, match="ecdsa-p256"):
        provided.mesh.prepare(provided.order(2, key=key))
    assert before == len(provided.mesh.strays())


def test_a_rotation_of_rsa_keys(provided: MeshWorld) -> None:
    """An RSA generation can follow one of P-256."""
    prepared = provided.mesh.prepare(provided.order(2, key=KeyType.RSA_2048)).generation
    assert prepared.can_sign
    provided.rotate()
    assert ([], 2) == (provided.broken, provided.active())


def test_keys_never_show() -> None:
    """Neither the adapter nor what it read has a key in its repr."""
    with MeshWorld() as world:
        world.on_provided()
        sight = world.mesh._led()._sight()
        assert "PRIVATE" not in repr(sight)
        assert "PRIVATE" not in repr(world.plane.secrets.held())


def test_the_longest_leaf_is_what_the_mesh_is_made_with(provided: MeshWorld) -> None:
    """A backend that rotator makes bounds its leaves."""
    assert f"{int(LEAF.total_seconds())}s" == mtls(provided)["backends"][0]["dpCert"]["rotation"]["expiration"]
