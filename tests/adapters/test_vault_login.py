"""Every way to log in, at a real OpenBao."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import hvac
import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from rotator.adapters.vault.auth import JWT, AppRole, Auth, Certificate, Kubernetes, TokenFile
from rotator.adapters.vault.session import VaultSession
from rotator.adapters.vault.transport import Endpoint
from rotator.clock import SystemClock
from rotator.core.model import KeyType
from rotator.embedded.loopback_tls import write_private
from rotator.embedded.openbao import OpenBaoServer, write
from rotator.errors import Denied
from rotator.pki.signing_request import PrivateKey, new_key, signing_request
from tests.fakes.certificate_authority import FakeCA
from tests.fakes.identity import TokenMaker, TokenReviewer
from tests.fixtures_openbao import VaultDomain

pytestmark = pytest.mark.external

TOKEN = {"token_ttl": "60s", "token_max_ttl": "600s", "token_no_default_policy": True}


@pytest.fixture
def admin(openbao: OpenBaoServer) -> Iterator[hvac.Client]:
    """Play the operator."""
    with openbao.admin() as client:
        yield client


@pytest.fixture
def policy(vault_domain: VaultDomain) -> str:
    """Name the policy of the module's trust domain."""
    return vault_domain.files.role_id_file.parent.name


def enable(client: hvac.Client, method: str) -> str:
    """Enable *method* at a mount of its own, once; return the mount."""
    mount = f"{method}-tests"
    mounts = client.read("sys/auth")
    assert isinstance(mounts, dict)
    if f"{mount}/" not in mounts["data"]:
        client.sys.enable_auth_method(method, path=mount)
    return mount


def works(domain: VaultDomain, auth: Auth) -> None:
    """Log in as *auth*, use the rights, give the token back."""
    endpoint = Endpoint(address=domain.server.address, ca_file=domain.server.ca_file)
    with VaultSession(endpoint, auth, clock=SystemClock()) as session:
        assert session.token_not_after is None
        session.read(f"{domain.mount}/config/issuers", doing="reading the pointer")
        assert session.token_not_after is not None
        assert timedelta(seconds=30) < session.token_not_after - SystemClock().now() <= timedelta(seconds=60)


def refusal(domain: VaultDomain, auth: Auth) -> str:
    """Try to log in as *auth*; return everything that the error and its causes say."""
    endpoint = Endpoint(address=domain.server.address, ca_file=domain.server.ca_file)
    with VaultSession(endpoint, auth, clock=SystemClock()) as session, pytest.raises(Denied) as caught:
        session.read(f"{domain.mount}/config/issuers", doing="reading the pointer")
    return "".join(traceback.format_exception(caught.value)) + repr(caught.value)


def test_approle(vault_domain: VaultDomain, tmp_path: Path) -> None:
    """Role id and secret id log in; a wrong secret id is denied and never shown."""
    files = vault_domain.files
    works(vault_domain, AppRole(role_id_file=files.role_id_file, secret_id_file=files.secret_id_file))

    wrong = tmp_path / "secret_id"
    wrong.write_text("3f1b2c55-dead-beef-0000-00000badc0de\n")
    said = refusal(vault_domain, AppRole(role_id_file=files.role_id_file, secret_id_file=wrong))
    assert "logging in" in said
    assert "badc0de" not in said


def test_token_file(vault_domain: VaultDomain, admin: hvac.Client, policy: str, tmp_path: Path) -> None:
    """A token that somebody keeps in a file is used and renewed, never given back; a dead one is denied."""
    made = write(admin, "auth/token/create", policies=[policy], no_default_policy=True, ttl="60s")
    token = made["auth"]["client_token"]
    write_private(tmp_path / "token", token.encode())

    works(vault_domain, TokenFile(token_file=tmp_path / "token"))
    works(vault_domain, TokenFile(token_file=tmp_path / "token"))

    write(admin, "auth/token/revoke", token=token)
    assert token not in refusal(vault_domain, TokenFile(token_file=tmp_path / "token"))


def test_jwt(vault_domain: VaultDomain, admin: hvac.Client, policy: str, tmp_path: Path) -> None:
    """A token signed by a key that Vault knows logs in; one signed by another key is denied and never shown."""
    maker, mount = TokenMaker(), enable(admin, "jwt")
    write(admin, f"auth/{mount}/config", jwt_validation_pubkeys=[maker.public_pem])
    write(
        admin,
        f"auth/{mount}/role/rotator",
        role_type="jwt",
        bound_audiences=["vault"],
        user_claim="sub",
        token_policies=[policy],
        **TOKEN,
    )
    claims = {"sub": "rotator", "aud": "vault", "iat": int(time.time()), "exp": int(time.time()) + 300}
    write_private(tmp_path / "jwt", maker.token(**claims).encode())
    works(vault_domain, JWT(role="rotator", token_file=tmp_path / "jwt", mount=mount))

    forged = TokenMaker().token(**claims)
    write_private(tmp_path / "jwt", forged.encode())
    assert forged not in refusal(vault_domain, JWT(role="rotator", token_file=tmp_path / "jwt", mount=mount))


def test_kubernetes(vault_domain: VaultDomain, admin: hvac.Client, policy: str, tmp_path: Path) -> None:
    """A service account's token logs in once the cluster has reviewed it; another one is denied."""
    maker, mount = TokenMaker(), enable(admin, "kubernetes")
    claims = {
        "iss": "https://kubernetes.default.svc.cluster.local",
        "sub": "system:serviceaccount:rotator:rotator",
        "aud": ["vault"],
        "iat": int(time.time()),
        "exp": int(time.time()) + 300,
        "kubernetes.io": {"namespace": "rotator", "serviceaccount": {"name": "rotator", "uid": "9c0d1a7e"}},
    }
    token = maker.token(**claims)
    write_private(tmp_path / "token", token.encode())
    auth = Kubernetes(role="rotator", token_file=tmp_path / "token", mount=mount)
    with TokenReviewer(tmp_path, token=token, namespace="rotator", account="rotator") as cluster:
        write(
            admin,
            f"auth/{mount}/config",
            kubernetes_host=cluster.address,
            kubernetes_ca_cert=cluster.ca_file.read_text(),
            token_reviewer_jwt=token,
            disable_local_ca_jwt=True,
        )
        write(
            admin,
            f"auth/{mount}/role/rotator",
            bound_service_account_names=["rotator"],
            bound_service_account_namespaces=["rotator"],
            token_policies=[policy],
            **TOKEN,
        )
        works(vault_domain, auth)

        write_private(tmp_path / "token", TokenMaker().token(**claims).encode())
        assert "logging in" in refusal(vault_domain, auth)


def client_certificate(ca: FakeCA, key: PrivateKey) -> bytes:
    """Return a client certificate with a common name, which this login cannot do without."""
    request = x509.load_pem_x509_csr(signing_request(key, "spiffe://clients.test/rotator"))
    now = SystemClock().now().replace(microsecond=0)
    names = [x509.UniformResourceIdentifier("spiffe://clients.test/rotator")]
    return ca.sign_builder(
        x509.CertificateBuilder(
            ca.certificate.subject,
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "rotator")]),
            request.public_key(),
            x509.random_serial_number(),
        )
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key()), critical=False)
    )


def test_certificate(vault_domain: VaultDomain, admin: hvac.Client, policy: str, tmp_path: Path) -> None:
    """A TLS client certificate logs in and renews; one of another CA is denied; a rotated file is used at once."""
    now, mount = SystemClock().now(), enable(admin, "cert")
    ca = FakeCA("Rotator clients", "clients.test", now - timedelta(days=1), now + timedelta(days=1))
    write(
        admin,
        f"auth/{mount}/certs/rotator",
        certificate=ca.pem.decode(),
        allowed_uri_sans=["spiffe://clients.test/rotator"],
        token_policies=[policy],
        **TOKEN,
    )
    cert_file, key_file = tmp_path / "client.crt", tmp_path / "client.key"
    auth = Certificate(role="rotator", cert_file=cert_file, key_file=key_file, mount=mount)

    def place(authority: FakeCA) -> None:
        key = new_key(KeyType.ECDSA_P256)
        write_private(cert_file, client_certificate(authority, key))
        write_private(key_file, key.pem())

    place(ca)
    works(vault_domain, auth)

    endpoint = Endpoint(address=vault_domain.server.address, ca_file=vault_domain.server.ca_file)
    with VaultSession(endpoint, auth, clock=SystemClock()) as session:
        session.read(f"{vault_domain.mount}/config/issuers", doing="reading the pointer")
        write(admin, "auth/token/revoke", token=session._token.value if session._token else "")
        place(ca)
        session.read(f"{vault_domain.mount}/config/issuers", doing="reading the pointer")

    place(FakeCA("Somebody else", "clients.test", now - timedelta(days=1), now + timedelta(days=1)))
    assert "logging in" in refusal(vault_domain, auth)


@pytest.mark.parametrize("content", [None, "", "\n", "schlüssel"])
def test_a_secret_that_cannot_be_read_is_denied(vault_domain: VaultDomain, tmp_path: Path, content: str | None) -> None:
    """A missing, empty or garbled secret file is named in the error."""
    secret = tmp_path / "secret_id"
    if content is not None:
        secret.write_text(content, encoding="utf-8")

    said = refusal(vault_domain, AppRole(role_id_file=vault_domain.files.role_id_file, secret_id_file=secret))

    assert str(secret) in said


def test_a_certificate_that_cannot_be_read_is_denied(vault_domain: VaultDomain, tmp_path: Path) -> None:
    """A missing client certificate is named in the error."""
    auth = Certificate(role="rotator", cert_file=tmp_path / "client.crt", key_file=tmp_path / "client.key")

    assert str(tmp_path / "client.crt") in refusal(vault_domain, auth)
