"""The shipped policies at a real OpenBao: what rotator does is allowed (every other test), all else is not."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from rotator.adapters.vault.corporate import NameConstraints
from rotator.adapters.vault.naming import generation_name, ttl
from rotator.adapters.vault.policies import DomainRights, MeshRights, domain_policy, mesh_policy
from rotator.adapters.vault.session import VaultSession
from rotator.core.model import KeyType, TrustDomainName
from rotator.embedded.openbao import MESH_ROOT, OpenBaoServer
from rotator.errors import Denied, Rejected
from rotator.pki.authority_name import common_name
from rotator.pki.signing_request import new_key, signing_request
from rotator.ports import AuthorityOrder
from tests.fixtures_openbao import VaultDomain, new_domain, new_mesh

SHIPPED = Path(__file__).parents[2] / "deploy" / "vault" / "rotator-airflow-prod.hcl"

EXAMPLE = DomainRights(
    trust_domain=TrustDomainName("airflow.prod"),
    mount="pki_airflow",
    role="workload",
    lifetimes=(timedelta(days=7),),
)
"""The trust domain of the example configuration."""


SHIPPED_MESH = SHIPPED.with_name("rotator-mesh-prod.hcl")

MESH_EXAMPLE = MeshRights(
    trust_domain=TrustDomainName("mesh.prod"),
    lifetimes=(timedelta(days=30),),
    corporate_mount="pki_mesh_prod",
    corporate_issuer="mesh-root",
)
"""The mesh of the example configuration."""


@pytest.fixture
def session(vault_domain: VaultDomain) -> Iterator[VaultSession]:
    """Hold what the shipped policy gives, and nothing else."""
    with vault_domain.session() as session:
        yield session


def csr(domain: VaultDomain, identity: str = "workload") -> str:
    """Return a signing request of the trust domain."""
    return signing_request(new_key(KeyType.ECDSA_P256), f"spiffe://{domain.trust_domain}/{identity}").decode()


def sign_intermediate(domain: VaultDomain, **changed: object) -> tuple[str, dict[str, object]]:
    """Return path and body by which rotator has a CA signed, but for what is *changed*; None takes a parameter away."""
    body: dict[str, object] = {
        "csr": csr(domain),
        "common_name": common_name(domain.trust_domain, 1, "1b4e28ba"),
        "max_path_length": "0",
        "ttl": ttl(domain.lifetime),
        "uri_sans": f"spiffe://{domain.trust_domain}",
        "use_csr_values": False,
        "exclude_cn_from_sans": True,
        "not_before_duration": "1s",
        **changed,
    }
    path = f"{domain.rights.corporate_mount}/issuer/{domain.rights.corporate_issuer}/sign-intermediate"
    return path, {name: value for name, value in body.items() if value is not None}


def test_the_shipped_policy_is_the_one_that_tests_run_with() -> None:
    """The file for operators is what the code renders for the example configuration, word for word."""
    assert SHIPPED.read_text(encoding="utf-8") == domain_policy(EXAMPLE)
    assert SHIPPED_MESH.read_text(encoding="utf-8") == mesh_policy(MESH_EXAMPLE)


def test_law_06_operators_make_a_meshs_root_as_tests_do() -> None:
    """The command that the README shows for a mesh's root says what the root of the tests says."""
    (command,) = re.findall(
        r"root/generate/internal \\\n((?:.*\\\n)*.*)", (SHIPPED.parent / "README.md").read_text(encoding="utf-8")
    )
    shown = dict(each.split("=", 1) for each in shlex.split(command.replace("\\\n", " ")))

    assert {
        "common_name": "mesh.prod mesh root",
        "exclude_cn_from_sans": "true",
        "uri_sans": "spiffe://mesh.prod",
        "max_path_length": "1",
        "issuer_name": MESH_ROOT,
        "key_type": "ec",
        "key_bits": "256",
        "ttl": "43800h",
    } == shown


@pytest.mark.external
def test_a_meshs_policy_gives_no_right_to_its_root(openbao: OpenBaoServer, tmp_path: Path) -> None:
    """With the policy of a mesh nobody makes, changes or deletes a root, or signs anything but a CA as ordered."""
    mesh = new_mesh(openbao, tmp_path)
    mount, issuer = mesh.rights.corporate_mount, mesh.rights.corporate_issuer
    with mesh.session() as session:
        for path in (
            f"{mount}/root/generate/internal",
            f"{mount}/root/rotate/internal",
            f"{mount}/issuer/{issuer}",
            f"{mount}/config/issuers",
            f"{mount}/issuer/{issuer}/sign-verbatim",
            f"{mount}/roles/any",
        ):
            with pytest.raises(Denied):
                session.write(path, {"common_name": "x", "ttl": "1h"}, doing=f"trying {path}")
        with pytest.raises(Denied):
            session.delete(f"{mount}/issuer/{issuer}", doing="deleting the root")


@pytest.mark.external
def test_a_ca_as_rotator_orders_it_is_signed(session: VaultSession, vault_domain: VaultDomain) -> None:
    """The order that every refusal below changes in one point is allowed."""
    path, body = sign_intermediate(vault_domain)

    assert session.write(path, body, doing="having a CA signed").body["certificate"]


@pytest.mark.external
@pytest.mark.parametrize(
    "changed",
    [
        {"max_path_length": "1"},
        {"max_path_length": None},
        {"max_path_length": "-1"},
        {"ttl": "87600h"},
        {"ttl": None},
        {"common_name": "Corp Root"},
        {"common_name": None},
        {"uri_sans": "spiffe://elsewhere.test"},
        {"uri_sans": None},
        {"uri_sans": "spiffe://elsewhere.test,spiffe://another.test"},
        {"use_csr_values": True},
        {"use_csr_values": None},
        {"not_before_duration": "8760h"},
        {"not_after": "2099-12-31T23:59:59Z"},
        {"alt_names": "www.example.com"},
        {"ip_sans": "127.0.0.1"},
        {"other_sans": "1.2.3.4;UTF8:x"},
        {"key_usage": "DigitalSignature"},
        {"ext_key_usage": "ServerAuth"},
        {"issuer_ref": "default"},
        {"permitted_dns_domains": "example.com"},
    ],
    ids=str,
)
def test_law_04_no_other_ca_can_be_ordered(
    session: VaultSession, vault_domain: VaultDomain, changed: dict[str, object]
) -> None:
    """Another path length, lifetime, name or usage of a CA is denied, and so is leaving one of them open."""
    path, body = sign_intermediate(vault_domain, **changed)

    with pytest.raises(Denied):
        session.write(path, body, doing="having a CA signed")


@pytest.mark.external
@pytest.mark.parametrize(
    ("path", "body"),
    [
        # The corporate PKI: only the pinned issuer, only CAs.
        ("pki_int/root/sign-intermediate", {"csr": "x", "common_name": "x"}),
        ("pki_int/issuer/default/sign-intermediate", {"csr": "x", "common_name": "x"}),
        ("pki_int/sign-verbatim", {"csr": "x"}),
        ("pki_int/issuer/corp-issuing/sign-verbatim", {"csr": "x"}),
        ("pki_int/issuer/corp-issuing/sign-self-issued", {"certificate": "x"}),
        ("pki_int/issuer/corp-issuing", {"issuer_name": "mine"}),
        ("pki_int/issuers/generate/root/exported", {"common_name": "x"}),
        ("pki_int/config/issuers", {"default": "x"}),
        ("pki_int/roles/mine", {"allow_any_name": True}),
        ("pki_root/root/sign-intermediate", {"csr": "x", "common_name": "x"}),
        ("pki_root/issue/any", {"common_name": "x"}),
        # Its own mount: no change of the rules, no key but by a generation, none that can be exported.
        ("{mount}/roles/workload", {"allow_any_name": True}),
        ("{mount}/roles/mine", {"allow_any_name": True}),
        ("{mount}/sign-verbatim", {"csr": "x"}),
        ("{mount}/sign/workload", {"csr": "x"}),
        ("{mount}/issue/workload", {"common_name": "x"}),
        ("{mount}/issuer/any/sign-verbatim", {"csr": "x"}),
        ("{mount}/issuer/any/sign-intermediate", {"csr": "x"}),
        ("{mount}/issuer/any/issue/workload", {"common_name": "x"}),
        ("{mount}/issuer/any/revoke", {}),
        ("{mount}/issuers/generate/root/internal", {"common_name": "x"}),
        ("{mount}/issuers/generate/intermediate/exported", {"common_name": "x"}),
        ("{mount}/issuers/import/bundle", {"pem_bundle": "x"}),
        ("{mount}/keys/generate/exported", {"key_type": "ec"}),
        ("{mount}/keys/import", {"pem_bundle": "x"}),
        ("{mount}/config/urls", {"issuing_certificates": "x"}),
        ("{mount}/config/crl", {"disable": True}),
        ("{mount}/config/ca", {"pem_bundle": "x"}),
        ("{mount}/config/auto-tidy", {"enabled": True}),
        ("{mount}/tidy", {"tidy_cert_store": True}),
        ("{mount}/revoke-with-key", {"serial_number": "x"}),
        ("{mount}/revoke", {"certificate": "x", "serial_number": "x"}),
        ("{mount}/config/issuers", {"default": "x", "default_follows_latest_issuer": True}),
        ("{mount}/issuer/any", {"issuer_name": "corp-issuing"}),
        ("{mount}/issuer/any", {"leaf_not_after_behavior": "permit"}),
        ("{mount}/issuer/any", {"leaf_not_after_behavior": "err", "usage": "read-only"}),
        ("{mount}/issuer/any/sign/workload", {"csr": "x", "ttl": "60s", "not_after": "2099-12-31T23:59:59Z"}),
        ("{mount}/issuer/any/sign/workload", {"csr": "x", "ttl": "60s", "uri_sans": "spiffe://elsewhere.test/x"}),
        # Everything else.
        ("sys/policies/acl/rotator", {"policy": 'path "*" { capabilities = ["sudo"] }'}),
        ("sys/mounts/pki_mine", {"type": "pki"}),
        ("sys/auth/mine", {"type": "approle"}),
        ("sys/seal", {}),
        ("sys/tools/hash", {"input": "eA=="}),
        ("sys/wrapping/wrap", {"x": "y"}),
        ("auth/token/create", {}),
        ("auth/approle/role/rotator/secret-id", {}),
        ("cubbyhole/mine", {"x": "y"}),
    ],
    ids=str,
)
def test_everything_else_is_denied(
    session: VaultSession, vault_domain: VaultDomain, path: str, body: dict[str, object]
) -> None:
    """No change of rules, no other way to sign, no key out, nothing of the default policy."""
    with pytest.raises(Denied):
        session.write(path.format(mount=vault_domain.mount), body, doing="going too far")


@pytest.mark.external
@pytest.mark.parametrize(
    "path",
    [
        "{mount}/roles/workload",
        "{mount}/config/urls",
        "pki_root/config/issuers",
        "pki_int/roles/any",
        "pki_int/config/issuers",
        "sys/mounts",
        "sys/policies/acl/default",
        "cubbyhole/mine",
        "identity/entity/id",
    ],
)
def test_nothing_else_is_read(session: VaultSession, vault_domain: VaultDomain, path: str) -> None:
    """What rotator does not need it does not see."""
    with pytest.raises(Denied):
        session.read(path.format(mount=vault_domain.mount), doing="looking too far")


@pytest.mark.external
def test_another_trust_domain_is_out_of_reach(session: VaultSession, openbao: OpenBaoServer, tmp_path: Path) -> None:
    """One trust domain's rights do not reach into another's mount, nor to CAs in its name."""
    other = new_domain(openbao, tmp_path)
    path, body = sign_intermediate(other)

    attempts: tuple[Callable[[], object], ...] = (
        lambda: session.write(path, body, doing="having another's CA signed"),
        lambda: session.list(f"{other.mount}/keys", doing="listing another's keys"),
        lambda: session.write(f"{other.mount}/revoke", {"serial_number": "01"}, doing="revoking another's leaf"),
        lambda: session.write(
            f"{other.mount}/issuers/generate/intermediate/internal",
            {"common_name": "x", "key_name": generation_name(other.trust_domain, 1), "key_type": "ec"},
            doing="making another's key",
        ),
    )
    for attempt in attempts:
        with pytest.raises(Denied):
            attempt()


@pytest.mark.external
def test_the_role_limits_leaves(session: VaultSession, vault_domain: VaultDomain) -> None:
    """Within the policy the role still refuses other names and longer lives, cut short silently at no time."""
    authorities = vault_domain.authorities(session)
    generation = authorities.prepare(
        AuthorityOrder(
            trust_domain=vault_domain.trust_domain,
            number=1,
            lifetime=vault_domain.lifetime,
            key=KeyType.ECDSA_P256,
            rotation_id="1b4e28ba",
            announce=lambda _: None,
        )
    ).generation
    path = f"{vault_domain.mount}/issuer/{generation.reference}/sign/workload"
    elsewhere = signing_request(new_key(KeyType.ECDSA_P256), "spiffe://elsewhere.test/x").decode()
    dns = signing_request(
        new_key(KeyType.ECDSA_P256), f"spiffe://{vault_domain.trust_domain}/x", ["www.example.com"]
    ).decode()
    weak = signing_request(new_key(KeyType.RSA_2048), f"spiffe://{vault_domain.trust_domain}/x").decode()

    for request in (elsewhere, dns, weak):
        with pytest.raises(Rejected):
            session.write(path, {"csr": request, "ttl": "60s"}, doing="signing a leaf")
    with pytest.raises(Rejected):
        session.write(path, {"csr": csr(vault_domain), "ttl": "2h"}, doing="signing a leaf")


@pytest.mark.external
def test_configured_name_constraints_are_signed_and_checked(openbao: OpenBaoServer, tmp_path: Path) -> None:
    """Where the configuration constrains DNS names the policy demands it, and the CA carries it."""
    domain = new_domain(openbao, tmp_path, permitted_dns_domains=("airflow.test", "workers.test"))
    order = AuthorityOrder(
        trust_domain=domain.trust_domain,
        number=1,
        lifetime=domain.lifetime,
        key=KeyType.ECDSA_P256,
        rotation_id="1b4e28ba",
        announce=lambda _: None,
    )
    with domain.session() as session:
        with pytest.raises(Denied):
            domain.authorities(session).prepare(order)
        constraints = NameConstraints(permitted_dns_domains=("airflow.test", "workers.test"))
        assert domain.authorities(session, constraints).prepare(order).generation.can_sign
