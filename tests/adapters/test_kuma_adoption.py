"""Taking over a mesh that runs on somebody else's CA, or on none, at the stand-in control plane."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest

from rotator.adapters.kuma.about import Model
from rotator.core.model import IntentKind
from rotator.ports import Adoption
from tests.adapters.kuma_meshes import MeshWorld
from tests.fakes.kuma.store import IDENTITY, SECRET, TRUST


@pytest.fixture
def legacy() -> Iterator[MeshWorld]:
    """Give a mesh at Kuma 2.14 without any CA."""
    with MeshWorld() as world:
        yield world


@pytest.fixture(params=["2.14.3", "3.0.1"])
def modern(request: pytest.FixtureRequest) -> Iterator[MeshWorld]:
    """Give a mesh that is led by MeshIdentity, without any yet."""
    with MeshWorld(version=request.param, model=Model.IDENTITY) as world:
        yield world


def adoption(world: MeshWorld) -> Adoption:
    """Return what the adapter says of taking *world* over."""
    view = world.look()
    assert () == view.refusals
    assert view.adoption is not None
    return view.adoption


def secrets(world: MeshWorld) -> set[str]:
    """Return the names of every secret in the mesh."""
    return {each.name for each in world.standin.store.list(SECRET, "default")}


def test_a_builtin_ca_is_taken_over_without_a_refused_pair(legacy: MeshWorld) -> None:
    """Its backend becomes a provided one of the same name; its secrets are left."""
    legacy.on_builtin()
    plan = adoption(legacy)
    assert ("the builtin CA of backend ca-1", None) == (plan.found, plan.interrupts)
    assert (0, (0,)) == (legacy.active(), legacy.numbers())

    legacy.rotate()

    assert ([], 1, (1,)) == (legacy.broken, legacy.active(), legacy.numbers())
    assert {"default.ca-builtin-cert-ca-1", "default.ca-builtin-key-ca-1"} <= secrets(legacy)
    assert legacy.look().adoption is None
    legacy.rotate()
    assert ([], 2) == (legacy.broken, legacy.active())
    assert {"g2-cert", "g2-key"} == {each.purpose for each in legacy.plane.secrets.held()}


def test_a_ca_provided_by_hand_is_taken_over_without_a_refused_pair(legacy: MeshWorld) -> None:
    """The mesh moves from its people's secrets to rotator's; theirs are left."""
    legacy.on_provided()
    plan = adoption(legacy)
    assert ("the CA provided by hand to backend ca-1", None) == (plan.found, plan.interrupts)

    legacy.rotate()

    assert ([], 1, (1,)) == (legacy.broken, legacy.active(), legacy.numbers())
    assert {"hand-cert", "hand-key"} <= secrets(legacy)
    mesh = legacy.standin.document("Mesh", "default")
    assert mesh is not None
    assert ("STRICT", "1h") == (
        mesh["mtls"]["backends"][0]["mode"],
        mesh["mtls"]["backends"][0]["dpCert"]["rotation"]["expiration"],
    )


def test_a_ca_that_stands_in_the_mesh_itself_moves_to_secrets(legacy: MeshWorld) -> None:
    """Inline certificate and key are taken over too, and no key is left in the Mesh."""
    pair = legacy.on_provided()
    legacy.on_provided(
        cert={"inlineString": pair.certificate_pem.decode()},
        key={"inline": base64.b64encode(pair.key_pem).decode()},
    )
    legacy.broken.clear()
    assert "moves from the Mesh into a secret" in " ".join(adoption(legacy).plan)

    legacy.rotate()

    assert ([], 1) == (legacy.broken, legacy.active())
    assert "inline" not in str(legacy.standin.document("Mesh", "default"))


def test_an_adoption_can_be_rolled_back(legacy: MeshWorld) -> None:
    """Until its last leaf is gone the CA that was there before can sign again."""
    legacy.on_builtin()
    legacy.rotate(until=lambda _: legacy.steps[-1:] == ["activate"])
    legacy.tick(20)

    legacy.rotate(legacy.intent(IntentKind.ROLL_BACK))

    assert ([], 0, (0,)) == (legacy.broken, legacy.active(), legacy.numbers())
    assert legacy.look().adoption is not None


def test_a_mesh_without_mtls_says_what_is_interrupted(legacy: MeshWorld) -> None:
    """Switching mTLS on admits plaintext still; what may fail is said."""
    plan = adoption(legacy)
    assert "a mesh without mTLS" == plan.found
    assert plan.interrupts is not None
    assert "MeshTrafficPermission" in plan.interrupts

    legacy.first()

    view = legacy.look()
    assert (1, None) == (legacy.active(), view.adoption)
    assert ("the mesh admits plaintext: mode PERMISSIVE",) == view.warnings


def test_a_mesh_without_identity_says_what_is_interrupted(modern: MeshWorld) -> None:
    """The first MeshIdentity is an interruption, said beforehand."""
    plan = adoption(modern)
    assert "a mesh without any MeshIdentity" == plan.found
    assert plan.interrupts is not None

    modern.first()

    assert (1, None) == (modern.active(), modern.look().adoption)


def test_a_first_identity_beside_mesh_mtls_is_said_to_be_one() -> None:
    """Where proxies have leaves of Mesh.mtls they are what is left; switching it off is its people's."""
    with MeshWorld(model=Model.IDENTITY) as world:
        world.on_builtin()
        plan = adoption(world)
        assert "Mesh.mtls, and no MeshIdentity" == plan.found
        assert plan.interrupts is not None
        assert plan.plan[-1].startswith("leave Mesh.mtls to you")


@pytest.mark.parametrize("name", ["identity", "z-identity"])
def test_somebodys_identity_is_taken_over_without_a_refused_pair(modern: MeshWorld, name: str) -> None:
    """Whether its name sorts before rotator's or after: its MeshTrust stays until its last leaf is gone."""
    modern.on_identity(name)
    plan = adoption(modern)
    assert (f"MeshIdentity {name}", None) == (plan.found, plan.interrupts)
    assert (name == "identity") == ("select nobody, because" in " ".join(plan.plan))

    modern.rotate()

    assert ([], 1, (1,)) == (modern.broken, modern.active(), modern.numbers())
    identities = {each.name for each in modern.standin.store.list(IDENTITY, "default")}
    assert {"rotator-default-999998-g1"} == identities
    assert {"rotator-default"} == {each.name for each in modern.standin.store.list(TRUST, "default")}
    modern.rotate()
    assert ([], 2, (2,)) == (modern.broken, modern.active(), modern.numbers())


def test_a_ca_that_its_people_gave_to_an_identity_stays_in_its_secrets(modern: MeshWorld) -> None:
    """Their MeshIdentity and MeshTrust go, their secrets do not."""
    modern.on_own_identity()

    modern.rotate()

    assert ([], 1, (1,)) == (modern.broken, modern.active(), modern.numbers())
    assert {"hand-cert", "hand-key"} <= secrets(modern)
    assert {"rotator-default"} == {each.name for each in modern.standin.store.list(TRUST, "default")}


@pytest.mark.parametrize("name", ["identity", "z-identity"])
def test_the_takeover_of_an_identity_can_be_rolled_back(modern: MeshWorld, name: str) -> None:
    """Its people's identity selects everybody again."""
    modern.on_identity(name)
    modern.rotate(until=lambda _: modern.steps[-1:] == ["activate"])
    modern.tick(20)

    modern.rotate(modern.intent(IntentKind.ROLL_BACK))

    assert ([], 0, (0,)) == (modern.broken, modern.active(), modern.numbers())
