"""
The virtual proxies judge a connection as real Envoys do, bundle by bundle and under both validators.

Rules that must stay true here:

- Every row is asked of both; a row where they differ is a wrong stand-in, whatever was expected.
- A server with the row's bundle is spoken to by a client with the row's leaf; everything else between them is in order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pytest
import urllib3
from cryptography.hazmat.primitives import serialization

from rotator.clock import SystemClock
from rotator.embedded.process import LOOPBACK, wait_until
from tests.fakes.certificate_authority import FakeCA
from tests.fakes.kuma.desired import Desired, Identity, Inbound, Trust, Upstream
from tests.fakes.kuma.envoy_config import Ports
from tests.fakes.kuma.envoy_proxy import PATIENCE, EnvoyProxy
from tests.fakes.kuma.ports import QuietPorts
from tests.fakes.kuma.signing import sign_leaf
from tests.fakes.kuma.virtual import Meeting, VirtualProxy, meet

pytestmark = pytest.mark.external

DOMAIN = "airflow.test"
CLIENT, SERVER = "client", "server"


class Cast:
    """The authorities of every row, around the moment at which they are made."""

    def __init__(self, now: datetime) -> None:
        day = timedelta(days=1)

        def make(name: str, *, parent: FakeCA | None = None, like: FakeCA | None = None, ended: bool = False) -> FakeCA:
            return FakeCA(
                name,
                DOMAIN,
                now - 2 * day,
                now - day if ended else now + day,
                parent,
                path_length=1 if parent is None else 0,
                key=like.key if like is not None else None,
            )

        self.root = make("root")
        self.a = make("issuing a", parent=self.root)
        self.b = make("issuing b", parent=self.root)
        self.old = make("alone, old")
        self.new = make("alone, new")
        self.twin = make("alone, old")
        self.ended = make("alone, ended", ended=True)
        self.renewed = make("alone, ended", like=self.ended)

    def blob(self, names: str) -> str:
        """Return the certificates of *names*, in order."""
        return "".join(getattr(self, name).pem.decode() for name in names.split())


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """The two data planes, each with the same client and server."""

    cast: Cast
    ports: dict[str, Ports]
    envoys: dict[str, EnvoyProxy]
    virtual: dict[str, VirtualProxy]
    http: urllib3.PoolManager = field(default_factory=lambda: urllib3.PoolManager(retries=False, timeout=5.0))

    def desired(self, name: str, version: str, *, signer: str, bundle: str, by_domain: bool) -> Desired:
        """Return what *name* runs: a leaf of *signer*, and trust in *bundle*."""
        ca: FakeCA = getattr(self.cast, signer)
        key_pem = ca.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        pair = sign_leaf(
            ca.pem,
            key_pem,
            uris=[f"spiffe://{DOMAIN}/{name}"],
            lifetime=timedelta(hours=1),
            now=SystemClock().now(),
            like_ca=True,
        )
        blob = self.cast.blob(bundle)
        trust = (
            Trust(name="system_trust_bundle", by_trust_domain={DOMAIN: blob})
            if by_domain
            else Trust(name="mesh_ca:secret:default", trusted_ca=blob)
        )
        there = ((LOOPBACK, self.ports[SERVER].inbound),)
        ways = {SERVER: Upstream(addresses=there, tls=True, identities=(f"spiffe://{DOMAIN}/{SERVER}",))}
        return Desired(
            version=version,
            identity=Identity(
                name="identity", certificate_pem=pair.certificate_pem.decode(), key_pem=pair.key_pem.decode()
            ),
            trust=trust,
            inbound=Inbound.STRICT,
            peers=(f"spiffe://{DOMAIN}/",),
            upstreams=ways if name == CLIENT else {},
        )

    def run(self, name: str, desired: Desired) -> None:
        """Let both proxies called *name* run *desired*; return once the Envoy does."""
        self.virtual[name].runs = desired
        envoy = self.envoys[name]
        envoy._apply(desired)
        if not envoy.alive:
            envoy._write("bootstrap.json", envoy._bootstrap())
            envoy._envoy.start(ready=envoy._is_ready)
        wait_until(lambda: envoy._state() is True, within=PATIENCE, what=f"{name} to run {desired.version}")

    def admitted(self) -> tuple[bool, bool]:
        """Return whether the server admits the client: the Envoys' answer, and the virtual one."""
        port = self.ports[CLIENT].outbound[SERVER]
        answer = self.http.request("GET", f"http://{LOOPBACK}:{port}/", headers={"Connection": "close"})
        found = meet(self.virtual[CLIENT], self.virtual[SERVER], SystemClock().now())
        return answer.status == 200, found.meeting is Meeting.MTLS


@pytest.fixture(scope="module")
def side(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Side]:
    """Return the client and the server of both data planes."""
    free, work = QuietPorts(), tmp_path_factory.mktemp("envoys")
    ports = {
        CLIENT: Ports(inbound=free.take(), workload=free.take(), outbound={SERVER: free.take()}),
        SERVER: Ports(inbound=free.take(), workload=free.take()),
    }
    envoys = {
        name: EnvoyProxy(
            "http://127.0.0.1:1",
            work,
            name=name,
            service=name,
            ports=each,
            admin_port=free.take(),
            mesh="default",
            zone="",
            labels={},
        )
        for name, each in ports.items()
    }
    virtual = {name: VirtualProxy("default", name, name, each, zone="", labels={}) for name, each in ports.items()}
    found = Side(cast=Cast(SystemClock().now()), ports=ports, envoys=envoys, virtual=virtual)
    for name in (SERVER, CLIENT):
        found.run(name, found.desired(name, "the first", signer="new", bundle="new", by_domain=False))
    yield found
    found.http.clear()
    for envoy in envoys.values():
        envoy.kill()


# signer of the client's leaf, bundle of the server: admitted by trusted_ca, admitted by a trust domain's validator
ROWS = [
    ("a", "a", True, False),
    ("b", "a", False, False),
    ("a", "a root", True, True),
    ("b", "a root", False, False),
    ("a", "root", False, False),
    ("a", "a b", True, False),
    ("b", "a b root", True, True),
    ("a", "b root", False, False),
    ("old", "old", True, True),
    ("old", "new old", True, True),
    ("new", "old new", True, True),
    ("old", "new", False, False),
    ("twin", "old twin", True, True),
    ("old", "ended old", True, True),
    ("renewed", "renewed ended", True, True),
    ("renewed", "ended renewed", False, False),
    ("ended", "ended", False, False),
]


@pytest.mark.parametrize(("signer", "bundle", "by_blob", "by_domain"), ROWS)
@pytest.mark.parametrize("validator", ["trusted_ca", "trust domain"])
def test_virtual_and_real_proxies_agree(
    side: Side, signer: str, bundle: str, validator: str, *, by_blob: bool, by_domain: bool
) -> None:
    """Both admit, or both refuse, and as it was expected."""
    in_domain = validator == "trust domain"
    version = f"{validator}, {signer} under {bundle}"
    # The client trusts the server's leaf whatever the row is about.
    side.run(SERVER, side.desired(SERVER, version, signer="new", bundle=bundle, by_domain=in_domain))
    side.run(CLIENT, side.desired(CLIENT, version, signer=signer, bundle="new", by_domain=in_domain))
    expected = by_domain if in_domain else by_blob
    assert (expected, expected) == side.admitted()
