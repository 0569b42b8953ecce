"""What real control planes do that is easily taken for granted: the shapes that Kuma's own source shows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import timedelta

import pytest

from rotator.adapters.kuma.about import Model, about_of, model_used
from rotator.adapters.kuma.api import ControlPlaneAPI, Endpoint
from rotator.adapters.kuma.control_plane import Document, Kind
from rotator.pki.certificates import authority_of, parse_certificates
from tests.adapters.kuma_meshes import MeshWorld

ABOUT = about_of({"version": "2.14.3"}, {"environment": "universal"})


@pytest.fixture
def by_identity() -> Iterator[MeshWorld]:
    """Give a mesh that is led by MeshIdentity and has nothing of rotator's yet."""
    with MeshWorld(model=Model.IDENTITY) as world:
        yield world


def identity(selector: object) -> Document:
    """Return somebody's MeshIdentity with *selector*."""
    return Document(kind=Kind.IDENTITY, name="identity", spec={"selector": selector})


@pytest.mark.parametrize(
    ("selector", "model"),
    [
        ({}, Model.PROVIDED),
        ({"dataplane": None}, Model.PROVIDED),
        ({"dataplane": {}}, Model.IDENTITY),
        ({"dataplane": {"matchLabels": None}}, Model.IDENTITY),
        ({"dataplane": {"matchLabels": {}}}, Model.IDENTITY),
    ],
)
def test_a_selector_of_proxies_without_labels_selects_them_all(selector: object, model: Model) -> None:
    """Kuma matches everybody unless a label says otherwise, so the mesh runs on that MeshIdentity."""
    mesh = Document(kind=Kind.MESH, name="default", spec={"mtls": {"enabledBackend": "ca-1"}})

    assert model == model_used(ABOUT, mesh, [identity(selector)])


def test_the_stand_in_lets_a_selector_without_labels_select_everybody(by_identity: MeshWorld) -> None:
    """Its proxies have that identity's leaves."""
    by_identity.on_identity()
    found = by_identity.standin.document("MeshIdentity", "identity")
    assert found is not None

    by_identity.standin.apply({**found, "spec": {**found["spec"], "selector": {"dataplane": {}}}})
    by_identity.tick(20)

    assert all(each.served_issuer is not None for each in by_identity.look().parties[1:])


def test_a_document_that_is_put_without_its_status_loses_it(by_identity: MeshWorld) -> None:
    """Kuma keeps the status that it is sent, none included, until it looks at the identity again."""
    by_identity.on_identity()
    found = by_identity.standin.document("MeshIdentity", "identity")
    assert found is not None

    without_status = {key: value for key, value in found.items() if key != "status"}
    api = ControlPlaneAPI(Endpoint(url=by_identity.standin.url))
    api.put("/meshes/default/meshidentities/identity", without_status, doing="writing it as it was")
    api.close()

    assert "status" not in (by_identity.standin.document("MeshIdentity", "identity") or {})


def test_a_builtin_ca_is_read_although_its_serial_number_is_zero() -> None:
    """That is what Kuma gives it: no certificate authority ought to, and every builtin mesh has one."""
    with MeshWorld(model=Model.PROVIDED) as world:
        world.on_builtin()
        certificate = parse_certificates(
            world.standin.secret("default.ca-builtin-cert-ca-1") or b"", source="the builtin CA"
        )[0]

        assert ("0", "CN=default,OU=Mesh,O=Kuma") == (
            authority_of(certificate).serial,
            certificate.subject.rfc4514_string(),
        )
        assert (0,) == world.numbers()


def test_an_adopted_identity_makes_no_trust_any_more_once_it_signs_no_more(by_identity: MeshWorld) -> None:
    """Its MeshTrust would come back, with the old CA in it, if it were removed while the control plane still looks."""
    by_identity.on_own_identity()

    by_identity.rotate(until=lambda _: by_identity.steps[-1:] == ["activate"], within=timedelta(hours=2))

    found = by_identity.standin.document("MeshIdentity", "identity")
    assert found is not None
    assert "Disabled" == found["spec"]["provider"]["bundled"]["meshTrustCreation"]
    by_identity.rotate(within=timedelta(hours=6))
    assert ([], None) == (by_identity.broken, by_identity.standin.document("MeshTrust", "identity"))


def test_law_19_no_secret_goes_while_a_control_plane_may_still_take_the_mesh_from_its_cache() -> None:
    """A proxy that joins then would be given nothing and back off: what was just let go of is left alone a while."""
    with MeshWorld(model=Model.PROVIDED) as world:
        world.first()
        old = world.mesh.observe().generations[0]
        world.rotate(until=lambda _: 2 == world.steps.count("PublishBundle"))
        let_go_at = world.clock.now()

        world.mesh.retire(old, revoke=False)

        assert None is world.standin.secret("rotator-g1-key")
        assert world.clock.now() - let_go_at >= timedelta(seconds=2)


def test_law_10_a_key_that_stands_in_a_document_shows_in_no_repr() -> None:
    """A Mesh may hold its CA's key inline: no log, no traceback may show it."""
    key = "-----BEGIN RSA PRIVATE KEY-----"
    document = Document(kind=Kind.MESH, name="default", spec={"mtls": {"backends": [{"conf": {"key": key}}]}})

    assert key not in repr(document)
    assert key not in repr(dataclasses.replace(document, status={"seen": True}))
