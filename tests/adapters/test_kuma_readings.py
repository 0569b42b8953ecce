"""Readings and edits of Kuma's documents, names, proofs and the choice of the model: pure, or over fakes."""

from __future__ import annotations

import base64
import threading
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509

from rotator.adapters.kuma import guards
from rotator.adapters.kuma.about import Model
from rotator.adapters.kuma.control_plane import ControlPlane, Document, Kind, ProxyReport, ProxyView, StoredSecret
from rotator.adapters.kuma.generations import chain_of, shelf_of
from rotator.adapters.kuma.mesh import (
    Source,
    bundled_of,
    go_duration,
    identity_source,
    identity_spec,
    mtls_duration,
    mtls_of,
    mtls_source,
    pointing_at,
    readiness_of,
    selected_by,
    selecting,
    switched_on,
    trusted_by,
    trusting,
)
from rotator.adapters.kuma.models import KumaMesh
from rotator.adapters.kuma.naming import bundle_purpose, identity_name, identity_number, is_bundle, purpose_in
from rotator.adapters.kuma.proofs import AT_ONCE, Proofs
from rotator.adapters.kuma.revocations import Revocations
from rotator.core.model import IssuerId, Serial, TrustDomainName
from rotator.errors import Rejected, Unavailable
from rotator.pki.authority_name import common_name, number_in_name
from rotator.pki.certificates import sha256_of
from tests.adapters.kuma_meshes import MeshWorld
from tests.fakes.certificate_authority import FakeCA
from tests.fakes.clock import ManualClock
from tests.fakes.vault import FakeVault

NOW = datetime(2030, 1, 1, tzinfo=UTC)
DOMAIN = TrustDomainName("airflow.test")

MESH: dict[str, Any] = {
    "meshServices": {"mode": "Exclusive"},
    "mtls": {
        "enabledBackend": "ca-1",
        "skipValidation": False,
        "backends": [
            {
                "name": "ca-1",
                "type": "builtin",
                "mode": "STRICT",
                "dpCert": {"rotation": {"expiration": "1d"}, "requestTimeout": "3s"},
                "rootChain": {"requestTimeout": "5s"},
                "conf": {"caCert": {"RSAbits": 2048}},
            }
        ],
    },
    "unheard-of": {"kept": True},
}


def kept_in(name: str) -> Source:
    """Return the source that a secret of *name* is."""
    return Source(secret=name)


class TestNames:
    """Names that say what they are for."""

    def test_purposes(self) -> None:
        """A secret says which part of which generation it holds, or that it is a bundle."""
        found = purpose_in("g12-key")
        assert found is not None
        assert (12, "key", "g12-key") == (found.number, found.part, str(found))
        for other in ("g-key", "g1", "g01-cert", "bundle-0", "g1-certs"):
            assert purpose_in(other) is None, other
        assert is_bundle(bundle_purpose(b"x"))
        assert not is_bundle("bundle-xyz")

    def test_newer_identities_sort_first(self) -> None:
        """Kuma takes the first name; every generation's precedes those before it."""
        names = [identity_name("default", number) for number in (1, 2, 9, 10, 99, 100, 12345)]
        assert sorted(names, reverse=True) == names
        assert [1, 2, 9, 10, 99, 100, 12345] == [identity_number("default", name) for name in names]

    @pytest.mark.parametrize("name", ["identity", "rotator-default-999998-g2", "rotator-other-999998-g1", "x-g1"])
    def test_others_names_are_nobodys_generation(self, name: str) -> None:
        """What merely looks like it is somebody else's."""
        assert identity_number("default", name) is None

    def test_common_names_tell_generation_and_trust_domain(self) -> None:
        """Also where the trust domain is too long to be written out."""
        for domain in (DOMAIN, TrustDomainName("a" * 60), TrustDomainName("a" * 59 + "b")):
            name = common_name(domain, 7, "0123456789")
            assert 7 == number_in_name(domain, name)
            assert len(name) <= 64
        assert number_in_name(DOMAIN, common_name(TrustDomainName("other.test"), 7, "r")) is None


class TestMesh:
    """``Mesh.mtls``."""

    def test_an_edit_moves_references_and_nothing_else(self) -> None:
        """Every field that is not about the CA stays, known or not; what came in is not changed."""
        before = deepcopy(MESH)

        edited = pointing_at(MESH, certificate="c", key="k")

        assert before == MESH
        wanted = deepcopy(MESH)
        wanted["mtls"]["backends"][0]["type"] = "provided"
        wanted["mtls"]["backends"][0]["conf"] = {"cert": {"secret": "c"}, "key": {"secret": "k"}}
        assert wanted == edited

    def test_switching_on_admits_plaintext_and_bounds_leaves(self) -> None:
        """The rest of the Mesh stays."""
        spec = switched_on({"routing": {}}, name="b", certificate="c", key="k", longest_leaf=timedelta(hours=12))
        mtls = mtls_of(spec)
        assert mtls is not None
        assert ("b", "provided", "PERMISSIVE", "43200s") == (
            mtls.enabled.name,
            mtls.enabled.type,
            mtls.enabled.mode,
            mtls.enabled.expiration,
        )
        assert {} == spec["routing"]

    def test_off_is_none_and_a_missing_backend_is_rejected(self) -> None:
        """MTLS is off without an enabled backend; a dangling name is no reading at all."""
        assert mtls_of({}) is None
        assert mtls_of({"mtls": {"backends": [{"name": "x"}]}}) is None
        with pytest.raises(Rejected, match="enables backend y"):
            mtls_of({"mtls": {"enabledBackend": "y", "backends": [{"name": "x"}]}})

    @pytest.mark.parametrize(
        ("given", "meant"),
        [
            ({"secret": "s"}, kept_in("s")),
            ({"inlineString": "pem"}, Source(inline=b"pem")),
            ({"inline": base64.b64encode(b"pem").decode()}, Source(inline=b"pem")),
            ({"inline": "%"}, Source(elsewhere="inline bytes that are no base64")),
            ({"file": "/ca.pem"}, Source(elsewhere="a file of the control plane's host")),
            (None, Source(elsewhere="nothing")),
        ],
    )
    def test_sources(self, given: object, meant: Source) -> None:
        """Where a certificate or key lies; inline content never shows."""
        assert meant == mtls_source(given)
        assert "pem" not in repr(meant)

    @pytest.mark.parametrize(
        ("text", "meant"),
        [
            ("24h", timedelta(days=1)),
            ("1d", timedelta(days=1)),
            ("2w", timedelta(weeks=2)),
            ("1y", timedelta(days=365)),
            ("1440m", timedelta(days=1)),
            ("500ms", timedelta(milliseconds=500)),
            ("1h30m", None),
            ("day", None),
        ],
    )
    def test_durations_of_mtls(self, text: str, meant: timedelta | None) -> None:
        """One number and one unit."""
        assert meant == mtls_duration(text)


class TestIdentity:
    """MeshIdentity and MeshTrust."""

    def test_nobody_and_everybody_are_opposites(self) -> None:
        """An empty selector selects nobody, empty labels everybody."""
        assert selected_by({}) is None
        assert selected_by({"selector": {}}) is None
        assert {} == selected_by({"selector": {"dataplane": {"matchLabels": {}}}})
        assert {"a": "b"} == selected_by({"selector": {"dataplane": {"matchLabels": {"a": "b"}}}})
        for everybody in (True, False):
            assert ({} if everybody else None) == selected_by(selecting({"x": 1}, everybody=everybody))

    def test_what_is_made_reads_back(self) -> None:
        """Sources, life and trust creation of rotator's own MeshIdentity."""
        spec = identity_spec(
            certificate="c", key="k", trust_domain="d", path=None, longest_leaf=timedelta(hours=1), self_signed=False
        )
        bundled = bundled_of(Document(kind=Kind.IDENTITY, name="i", spec=spec))
        assert bundled is not None
        assert (kept_in("c"), kept_in("k"), False) == (
            bundled.certificate,
            bundled.key,
            bundled.makes_trust,
        )
        assert timedelta(hours=1) == go_duration(bundled.expiry)
        assert selected_by(spec) is None

    def test_a_generated_ca_lies_under_the_names_of_its_identity(self) -> None:
        """Kuma's own names."""
        spec = {"provider": {"type": "Bundled", "bundled": {"autogenerate": {"enabled": True}}}}
        bundled = bundled_of(Document(kind=Kind.IDENTITY, name="i", spec=spec))
        assert bundled is not None
        assert (kept_in("i-root-ca"), kept_in("i-private-key"), True) == (
            bundled.certificate,
            bundled.key,
            bundled.makes_trust,
        )
        assert bundled_of(Document(kind=Kind.IDENTITY, name="i", spec={"provider": {"type": "Spire"}})) is None

    @pytest.mark.parametrize("kind", ["File", "EnvVar", "Unheard"])
    def test_what_lies_elsewhere_is_said(self, kind: str) -> None:
        """It cannot be read from here."""
        assert identity_source({"type": kind}).elsewhere
        assert Source(inline=b"x") == identity_source({"type": "InsecureInline", "insecureInline": {"value": "x"}})

    @pytest.mark.parametrize(
        ("text", "meant"),
        [
            ("24h0m0s", timedelta(days=1)),
            ("1h30m", timedelta(minutes=90)),
            ("1.5h", timedelta(minutes=90)),
            ("3600s", timedelta(hours=1)),
            ("1d", None),
            ("", None),
        ],
    )
    def test_durations_of_go(self, text: str, meant: timedelta | None) -> None:
        """Several numbers, each with its unit; no days."""
        assert meant == go_duration(text)

    def test_readiness(self) -> None:
        """Not looked at, ready, and not ready with the reason of the condition that failed."""
        assert readiness_of({}).ready is None
        assert readiness_of({"conditions": [{"type": "Ready", "status": "True"}]}).ready is True
        failed = readiness_of(
            {
                "conditions": [
                    {"type": "DependenciesReady", "status": "False", "reason": "MeshServicesDisabled", "message": "m"},
                    {"type": "Ready", "status": "False", "reason": "Failure", "message": "one step failed"},
                ]
            }
        )
        assert (False, "MeshServicesDisabled: m") == (failed.ready, failed.why_not)

    def test_trust_reads_back(self) -> None:
        """One bundle for each PEM."""
        assert (b"one\n", b"two\n") == trusted_by(trusting("d", [b"one\n", b"two\n"]))


class TestGenerations:
    """What secrets mean."""

    def test_a_secret_of_another_trust_domain_or_number_is_somebody_elses_hand(self) -> None:
        """Its content is not what its purpose says."""
        ours = FakeCA(common_name(DOMAIN, 1, "r"), DOMAIN)
        other = FakeCA(common_name(TrustDomainName("other.test"), 1, "r"), "other.test")
        good = StoredSecret(name="s1", purpose="g1-cert", value=ours.pem)
        assert (1,) == tuple(each.number for each in shelf_of([good], DOMAIN).kept)
        for purpose, pem in (("g2-cert", ours.pem), ("g1-cert", other.pem), ("g1-cert", b"no PEM")):
            shelf = shelf_of([StoredSecret(name="s1", purpose=purpose, value=pem)], DOMAIN)
            assert () == shelf.kept
            assert 1 == len(shelf.problems)
            assert "secret s1" in shelf.problems[0]

    def test_a_key_without_certificate_is_unfinished(self) -> None:
        """A crash left it there."""
        shelf = shelf_of([StoredSecret(name="s1", purpose="g3-key", value=b"key")], DOMAIN)
        assert ((), ("s1",), ()) == (shelf.kept, shelf.unfinished, shelf.problems)
        assert {} == dict(shelf.values)

    def test_a_chain_is_told_from_strangers(self) -> None:
        """In any order; what signs nobody in it is no part of it."""
        root = FakeCA("root", DOMAIN, path_length=1)
        middle = FakeCA("middle", DOMAIN, parent=root)
        stranger = FakeCA("stranger", DOMAIN)
        certificates: list[x509.Certificate] = [middle.certificate, root.certificate]
        assert (root.certificate,) == chain_of(certificates)
        assert () == chain_of([middle.certificate])
        assert chain_of([middle.certificate, stranger.certificate]) is None


class TestGuards:
    """Guards that need no control plane."""

    def test_two_cas_of_one_name(self) -> None:
        """Only one of them would be found by some readers."""
        one, two, three = FakeCA("same", DOMAIN), FakeCA("same", DOMAIN), FakeCA("other", DOMAIN)
        assert guards.cas_share_a_name([one.authority, three.authority]) is None
        said = guards.cas_share_a_name([one.authority, two.authority])
        assert said is not None
        assert "CN=same" in said

    @pytest.mark.parametrize("name", ["airflow.test", "corp.example"])
    def test_a_root_is_the_meshs_own_by_its_name(self, name: str) -> None:
        """Or is accepted in words."""
        root = FakeCA("root", name, path_length=1).certificate
        if name == DOMAIN:
            guards.check_root(root, DOMAIN, None)
        else:
            with pytest.raises(Exception, match="law 6"):
                guards.check_root(root, DOMAIN, None)
            guards.check_root(root, DOMAIN, "because")

    def test_a_root_is_the_meshs_own_by_its_constraint(self) -> None:
        """It can speak for no other URI."""
        permitted = x509.NameConstraints([x509.UniformResourceIdentifier(str(DOMAIN))], None)
        root = FakeCA("root", "corp.example", path_length=1, name_constraints=permitted).certificate
        guards.check_root(root, DOMAIN, None)


# --- proofs ---------------------------------------------------------------------------------------------------------


@dataclass
class CountingProxies:
    """Proxies that all show the same, and count who asks."""

    view_now: ProxyView | None
    asked: list[str] = field(default_factory=list)
    at_once: int = 0
    most: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def reports(self) -> tuple[ProxyReport, ...]:
        return ()

    def view(self, name: str) -> ProxyView | None:
        with self.lock:
            self.asked.append(name)
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        with self.lock:
            self.at_once -= 1
        return self.view_now


def reports(count: int, **said: Any) -> list[ProxyReport]:
    return [
        ProxyReport(name=f"p{number:04d}", zone="z", **{"online": True, "connection": "c1", **said})
        for number in range(count)
    ]


SIGNER = IssuerId("aa")
CA = "ab" * 32
PROVEN = ProxyView(bundles={DOMAIN: frozenset({CA})}, leaf_issuer=SIGNER)


def ask(proofs: Proofs, proxies: CountingProxies, found: list[ProxyReport], revision: str = "r1") -> int:
    """Return how many were asked, and hold that everybody online has an answer."""
    before = len(proxies.asked)
    views = proofs.views(proxies, found, token=revision, wanted=frozenset({CA}), signer=SIGNER, domain=DOMAIN)
    assert {each.name for each in found if each.online} == set(views)
    return len(proxies.asked) - before


class TestProofs:
    """Who is asked again, and who is not."""

    def test_a_thousand_proven_proxies_are_not_asked_again(self) -> None:
        """Not while proxy, connection and everything that bundles are made of stay; and at most so many at a time."""
        proofs, proxies, found = Proofs(), CountingProxies(PROVEN), reports(1000)
        assert 1000 == ask(proofs, proxies, found)
        assert 0 == ask(proofs, proxies, found)
        assert proxies.most <= AT_ONCE

    def test_a_new_connection_or_leaf_is_asked(self) -> None:
        """It may hold something else."""
        proofs, proxies = Proofs(), CountingProxies(PROVEN)
        assert 3 == ask(proofs, proxies, reports(3))
        assert 3 == ask(proofs, proxies, reports(3, connection="c2"))
        assert 3 == ask(proofs, proxies, reports(3, connection="c2", certificate_issued_at=NOW))
        assert 0 == ask(proofs, proxies, reports(3, connection="c2", certificate_issued_at=NOW))

    def test_law_01_a_bundle_that_comes_back_is_proven_anew(self) -> None:
        """What was proven before something else was published proves nothing."""
        proofs, proxies = Proofs(), CountingProxies(PROVEN)
        for revision in ("A1", "B", "A2"):
            assert 2 == ask(proofs, proxies, reports(2), revision)

    @pytest.mark.parametrize(
        "view",
        [
            None,
            ProxyView(bundles={}, leaf_issuer=SIGNER),
            ProxyView(bundles={DOMAIN: frozenset({CA, "cd" * 32})}, leaf_issuer=SIGNER),
            ProxyView(bundles={DOMAIN: frozenset({CA})}, leaf_issuer=IssuerId("bb")),
        ],
    )
    def test_who_does_not_show_what_is_published_is_asked_again(self, view: ProxyView | None) -> None:
        """Silence, less, more, and another's leaf."""
        proofs, proxies = Proofs(), CountingProxies(view)
        assert 2 == ask(proofs, proxies, reports(2))
        assert 2 == ask(proofs, proxies, reports(2))

    def test_who_is_offline_is_not_asked(self) -> None:
        """Nobody would answer."""
        assert 0 == ask(Proofs(), CountingProxies(PROVEN), reports(2, online=False))


# --- revocations ----------------------------------------------------------------------------------------------------


def test_a_revocation_is_asked_seldom_and_never_forgotten() -> None:
    """A PKI that does not answer leaves the last word standing; without one its silence is raised."""
    clock = ManualClock()
    vault = FakeVault(clock)
    root = FakeCA("root", DOMAIN, clock.now(), clock.now() + timedelta(days=1), path_length=1)
    signer = vault.signer(DOMAIN, root)
    asked: list[Serial] = []
    silent = False

    class Counting:
        sign_authority, strays, revoke_authority = signer.sign_authority, signer.strays, signer.revoke_authority

        def is_revoked(self, serial: Serial) -> bool:
            asked.append(serial)
            if silent:
                raise Unavailable("no answer")
            return signer.is_revoked(serial)

    revocations = Revocations(Counting(), clock)
    serial = Serial("1")
    assert (False, False, 1) == (revocations.has(serial), revocations.has(serial), len(asked))
    clock.advance(timedelta(minutes=2))
    silent = True
    assert (False, 2) == (revocations.has(serial), len(asked))
    with pytest.raises(Unavailable):
        revocations.has(Serial("2"))


# --- the model ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "on", "model"),
    [
        ("2.14.3", None, Model.PROVIDED),
        ("3.0.1", None, Model.IDENTITY),
        ("2.14.3", "builtin", Model.PROVIDED),
        ("2.14.3", "identity", Model.IDENTITY),
    ],
)
def test_the_model_is_read_off_the_mesh(version: str, on: str | None, model: Model) -> None:
    """By what it runs on; by the version where it runs on nothing."""
    with MeshWorld(version=version) as world:
        if on == "builtin":
            world.on_builtin()
        if on == "identity":
            world.on_identity()
        assert model is world.mesh.model


def test_nothing_is_called_before_the_first_look() -> None:
    """An adapter can be made while no control plane answers; strays are the corporate PKI's to tell."""

    def nobody() -> ControlPlane:
        raise Unavailable("no control plane answers")

    clock = ManualClock()
    root = FakeCA("root", DOMAIN, clock.now(), clock.now() + timedelta(days=1), path_length=1)
    hour, second = timedelta(hours=1), timedelta(seconds=1)
    mesh = KumaMesh(nobody, FakeVault(clock).signer(DOMAIN, root), clock, DOMAIN, hour, second)
    assert () == mesh.strays()
    with pytest.raises(Unavailable):
        mesh.look(proofs=False)


def test_a_digest_names_a_certificate_once() -> None:
    """The same certificate has the same digest wherever it is read."""
    ca = FakeCA("one", DOMAIN)
    assert sha256_of(ca.certificate) == ca.authority.sha256
