"""The certificate that is shown: taken over whole or not at all, new connections at once, old ones undisturbed."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import warnings
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from rotator.errors import Unavailable
from rotator.pki.certificates import Material
from rotator.ports import LeafStore
from rotator.web.listener import CERTIFIED, Listener
from rotator.web.tls import STAND_IN_LIFE, ServedCertificate
from tests.engine.world import World
from tests.fakes.clock import ManualClock
from tests.fakes.leaf_store import MemoryLeafStore
from tests.web.callers import PATIENCE, ask, pair, shown_by, trusting_nobody
from tests.web.house import House
from tests.web.test_listener import hello

NAMES = ("rotator.example",)


class Publishing:
    """A place where a certificate is published anew whenever a test wants it."""

    def __init__(self, world: World) -> None:
        self.store = MemoryLeafStore("memory:http")
        self._world = world
        self.serials: list[str] = []

    def publish(self) -> str:
        """Publish the next one of the world's certificates; return its serial."""
        stores = [target.stores[0] for target in self._world.certificates.values()]
        material = stores[len(self.serials) % len(stores)].material()
        self.put(material)
        self.serials.append(material.leaf.serial)
        return material.leaf.serial

    def put(self, material: Material) -> None:
        """Publish *material*, whatever it is."""
        number = self.store.current + 1
        view = self._world.certificates[next(iter(self._world.certificates))].stores[0].read()
        assert view is not None, "the world is settled"
        self.store.history[number] = (material, replace(view, number=number, leaf=material.leaf))
        self.store.current = number


@pytest.fixture
def publishing(house: House) -> Publishing:
    """Give an empty place."""
    return Publishing(house.world)


def served(store: LeafStore, clock: ManualClock, **more: Path) -> ServedCertificate:
    """Return what is shown of *store*."""
    return ServedCertificate(lambda: store, clock=clock, names=NAMES, **more)


@contextlib.contextmanager
def showing(certificate: ServedCertificate) -> Iterator[int]:
    """Give the port of a listener that shows *certificate*."""
    listener = Listener(hello, ("127.0.0.1", 0), tls=certificate.listening)
    listener.start()
    try:
        yield listener.port
    finally:
        listener.stop()


def serial_of(certificate: x509.Certificate) -> str:
    """Return its serial as rotator writes it."""
    return f"{certificate.serial_number:x}"


def test_probes_are_answered_before_anything_is_issued(house: House, publishing: Publishing) -> None:
    """A stand-in that signs for itself serves whoever verifies nothing, and nobody who verifies."""
    certificate = served(publishing.store, house.world.clock)
    certificate.look()
    with showing(certificate) as port:
        assert ask(port, tls=trusting_nobody()).code == 200
        found = shown_by(port)
        assert found.issuer == found.subject
        with pytest.raises(ssl.SSLCertVerificationError):
            ask(port, tls=ssl.create_default_context())
    assert (True, "") == (certificate.shown.is_stand_in, certificate.problem)


def test_a_stand_in_is_made_anew_before_it_ends(house: House, publishing: Publishing) -> None:
    """However long the first issuance takes, what stands in for it has not ended."""
    certificate, clock = served(publishing.store, house.world.clock), house.world.clock
    for _ in range(10):
        clock.advance(STAND_IN_LIFE / 3)
        certificate.look()
        assert certificate.shown.not_after > clock.now()


def test_new_connections_see_the_new_one_and_old_ones_go_on(house: House, publishing: Publishing) -> None:
    """Whatever is published next is shown to the next handshake; a connection that is open answers on."""
    certificate = served(publishing.store, house.world.clock)
    with showing(certificate) as port:
        first = publishing.publish()
        certificate.look()
        assert first == serial_of(shown_by(port))
        old = http.client.HTTPSConnection("127.0.0.1", port, timeout=PATIENCE, context=trusting_nobody())
        with contextlib.closing(old):
            codes = []
            for _ in range(3):
                expected = publishing.publish()
                certificate.look()
                assert expected == serial_of(shown_by(port))
                old.request("GET", "/old")
                with old.getresponse() as answer:
                    answer.read()
                    codes.append(answer.status)
        assert [200] * 3 == codes


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_no_session_is_resumed_with_an_old_certificate(
    house: House, publishing: Publishing, version: ssl.TLSVersion
) -> None:
    """A client that offers its last session shakes hands in full, and so sees what is shown now."""
    certificate = served(publishing.store, house.world.clock)
    publishing.publish()
    certificate.look()
    context = trusting_nobody()
    context.minimum_version = context.maximum_version = version
    with showing(certificate) as port:
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=PATIENCE, context=context)
        with contextlib.closing(connection):
            # A ticket of TLS 1.3 comes with the first answer.
            connection.request("GET", "/first")
            with connection.getresponse() as answer:
                session = connection.sock.session
                answer.read()
        with (
            socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as plain,
            context.wrap_socket(plain, session=session) as again,
        ):
            assert not again.session_reused


def test_a_broken_pair_is_refused_and_the_one_before_stays(house: House, publishing: Publishing) -> None:
    """Another certificate's key, garbage, and a place that fails: the old one is shown, and it is said."""
    certificate, clock = served(publishing.store, house.world.clock), house.world.clock
    good = publishing.publish()
    certificate.look()
    material = publishing.store.material()
    other_chain, other_key = pair("other")
    with showing(certificate) as port:
        for broken in (
            replace(material, key_pem=other_key),
            replace(material, chain_pem=other_chain),
            replace(material, chain_pem=b"garbage"),
        ):
            publishing.put(broken)
            certificate.look()
            assert (good, True) == (serial_of(shown_by(port)), bool(certificate.problem))

        def fails(_: str) -> None:
            raise Unavailable("the API server did not answer")

        publishing.store.before = fails
        since = certificate.problem_since
        clock.advance(timedelta(minutes=1))
        certificate.look()
        assert ("the API server did not answer", since) == (certificate.problem, certificate.problem_since)
        publishing.store.before = lambda _: None
        mended = publishing.publish()
        certificate.look()
        assert (mended, "", None) == (serial_of(shown_by(port)), certificate.problem, certificate.problem_since)


def test_old_versions_of_tls_are_refused(house: House, publishing: Publishing) -> None:
    """TLS 1.1 gets no handshake."""
    certificate = served(publishing.store, house.world.clock)
    context = trusting_nobody()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with showing(certificate) as port, pytest.raises(ssl.SSLError):
        shown_by(port, context)


def test_callers_may_show_certificates(house: House, publishing: Publishing, tmp_path: Path) -> None:
    """One that the bundle verifies is known, none is no error, another's is refused; a new bundle is taken over."""
    seen: list[object] = []

    async def noting(scope, receive, send):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202 -- ASGI, in a test
        seen.append(scope[CERTIFIED])
        await hello(scope, receive, send)

    def authority(name: str) -> tuple[bytes, tuple[x509.Certificate, ec.EllipticCurvePrivateKey]]:
        pem, key_pem = pair(name)
        key = load_pem_private_key(key_pem, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return pem, (x509.load_pem_x509_certificate(pem), key)

    ours, signer = authority("readers")
    theirs, other_signer = authority("strangers")

    def client(by: tuple[x509.Certificate, ec.EllipticCurvePrivateKey]) -> ssl.SSLContext:
        certificate, key = pair("somebody", signer=by)
        file = tmp_path / "client.pem"
        file.write_bytes(certificate + key)
        context = trusting_nobody()
        context.load_cert_chain(file)
        return context

    bundle = tmp_path / "readers.pem"
    bundle.write_bytes(ours)
    certificate = served(publishing.store, house.world.clock, client_ca_file=bundle)
    publishing.publish()
    certificate.look()
    listener = Listener(noting, ("127.0.0.1", 0), tls=certificate.listening)
    listener.start()
    try:
        ask(listener.port, tls=trusting_nobody())
        ask(listener.port, tls=client(signer))
        with pytest.raises((ssl.SSLError, ConnectionError)):
            ask(listener.port, tls=client(other_signer))
        bundle.write_bytes(theirs)
        certificate.look()
        ask(listener.port, tls=client(other_signer))
        with pytest.raises((ssl.SSLError, ConnectionError)):
            ask(listener.port, tls=client(signer))
    finally:
        listener.stop()
    assert [False, True, True] == seen


def test_law_10_no_key_touches_a_disk(
    house: House, publishing: Publishing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taking a pair over leaves no file anywhere, not even for a moment in the directory for temporary ones."""
    empty = tmp_path / "empty"
    empty.mkdir(mode=0o500)
    monkeypatch.setenv("TMPDIR", str(empty))
    certificate = served(publishing.store, house.world.clock)
    publishing.publish()
    certificate.look()
    assert ("", []) == (certificate.problem, list(empty.iterdir()))
