"""
A real OpenBao for every test that wants one: one server a session, mounts of its own for each module.

Loaded as a plugin by ``tests/conftest.py``: every test may ask for `openbao` or `vault_domain`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest

from rotator.adapters.vault.auth import AppRole
from rotator.adapters.vault.authorities import VaultAuthorities
from rotator.adapters.vault.corporate import CorporateIssuer, NameConstraints
from rotator.adapters.vault.issuer import VaultIssuer
from rotator.adapters.vault.parent import VaultAuthoritySigner
from rotator.adapters.vault.policies import DomainRights, MeshRights, domain_policy, mesh_policy
from rotator.adapters.vault.session import Transport, VaultSession
from rotator.adapters.vault.transport import Endpoint
from rotator.clock import SystemClock
from rotator.core.model import KeyType, TrustDomainName
from rotator.embedded.openbao import (
    CORPORATE_ISSUER,
    CORPORATE_ISSUING,
    MESH_ROOT,
    AppRoleFiles,
    OpenBaoServer,
    TrustDomainMount,
)
from rotator.ports import Clock

SKEW = timedelta(seconds=1)
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultMesh:
    """The trust domain of one mesh at the real server: an AppRole with the shipped policy for it and nothing else."""

    server: OpenBaoServer
    trust_domain: TrustDomainName
    rights: MeshRights
    files: AppRoleFiles

    @property
    def lifetime(self) -> timedelta:
        """The first of the lifetimes that its policy allows for a CA."""
        return self.rights.lifetimes[0]

    def session(
        self,
        *,
        transport: Transport = Transport.POOLED,
        timeout: timedelta = timedelta(seconds=10),
        address: str | None = None,
        clock: Clock | None = None,
    ) -> VaultSession:
        """Return a new session, through *address* if that is another way to the server; close it."""
        endpoint = Endpoint(
            address=address or self.server.address, ca_file=self.server.ca_file, timeout=timeout, connections=8
        )
        auth = AppRole(role_id_file=self.files.role_id_file, secret_id_file=self.files.secret_id_file)
        return VaultSession(endpoint, auth, clock=clock or SystemClock(), transport=transport)

    def signer(self, session: VaultSession, *, clock: Clock | None = None) -> VaultAuthoritySigner:
        """Return who has its CAs signed, their keys being made elsewhere."""
        return VaultAuthoritySigner(
            session,
            clock=clock or SystemClock(),
            trust_domain=self.trust_domain,
            corporate=CorporateIssuer(mount=self.rights.corporate_mount, issuer=self.rights.corporate_issuer),
            skew=SKEW,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultDomain(VaultMesh):
    """One standalone trust domain at the real server, with an AppRole that holds the shipped policy for it alone."""

    rights: DomainRights

    @property
    def mount(self) -> str:
        """The trust domain's PKI mount."""
        return self.rights.mount

    def issuer(self, session: VaultSession) -> VaultIssuer:
        """Return the issuer of its leaves."""
        return VaultIssuer(
            session,
            clock=SystemClock(),
            trust_domain=self.trust_domain,
            mount=self.mount,
            role=self.rights.role,
            skew=SKEW,
        )

    def authorities(
        self, session: VaultSession, name_constraints: NameConstraints | None = None, *, clock: Clock | None = None
    ) -> VaultAuthorities:
        """Return the keeper of its generations."""
        return VaultAuthorities(
            session,
            clock=clock or SystemClock(),
            trust_domain=self.trust_domain,
            mount=self.mount,
            corporate=CorporateIssuer(mount=self.rights.corporate_mount, issuer=self.rights.corporate_issuer),
            skew=SKEW,
            name_constraints=name_constraints or NameConstraints(),
        )


def new_domain(
    server: OpenBaoServer,
    directory: Path,
    *,
    longest_leaf: timedelta = timedelta(hours=1),
    lifetimes: tuple[timedelta, ...] = (timedelta(hours=6), timedelta(minutes=2)),
    key: KeyType = KeyType.ECDSA_P256,
    permitted_dns_domains: tuple[str, ...] = (),
    allowed_domains: tuple[str, ...] = (),
    token_life: timedelta = timedelta(seconds=60),
    token_longest_life: timedelta = timedelta(minutes=10),
    corporate_issuer: str = CORPORATE_ISSUER,
) -> VaultDomain:
    """Make a trust domain of a name that no other test has, with mount, role, policy and AppRole of its own."""
    number = next(_numbers)
    rights = DomainRights(
        trust_domain=TrustDomainName(f"td{number}.test"),
        mount=f"pki_td{number}",
        role="workload",
        lifetimes=lifetimes,
        key=key,
        corporate_mount=CORPORATE_ISSUING,
        corporate_issuer=corporate_issuer,
        permitted_dns_domains=permitted_dns_domains,
    )
    server.provision_trust_domain(
        TrustDomainMount(
            trust_domain=rights.trust_domain,
            mount=rights.mount,
            longest_leaf=longest_leaf,
            allowed_domains=allowed_domains,
        )
    )
    name = f"rotator-td{number}"
    files = server.provision_approle(
        {name: domain_policy(rights)},
        directory=directory / name,
        name=name,
        token_life=token_life,
        token_longest_life=token_longest_life,
    )
    return VaultDomain(server=server, trust_domain=rights.trust_domain, rights=rights, files=files)


def new_mesh(
    server: OpenBaoServer,
    directory: Path,
    *,
    trust_domain: str | None = None,
    lifetimes: tuple[timedelta, ...] = (timedelta(hours=6), timedelta(minutes=2)),
    mesh_root: bool = True,
) -> VaultMesh:
    """
    Make the trust domain of a mesh, of a name that no other test has unless one is given, with an AppRole of its own.

    Its CAs are signed by a root of the mesh's own, or with *mesh_root* false by the corporate issuer.
    """
    number = next(_numbers)
    name = TrustDomainName(trust_domain or f"mesh{number}.test")
    rights = MeshRights(trust_domain=name, lifetimes=lifetimes, corporate_mount=CORPORATE_ISSUING)
    if mesh_root:
        mount = f"pki_mesh{number}"
        server.provision_mesh_root(mount, name)
        rights = replace(rights, corporate_mount=mount, corporate_issuer=MESH_ROOT)
    role = f"rotator-mesh{number}"
    files = server.provision_approle({role: mesh_policy(rights)}, directory=directory / role, name=role)
    return VaultMesh(server=server, trust_domain=name, rights=rights, files=files)


@pytest.fixture(scope="session")
def openbao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBaoServer]:
    """Give a real server with a corporate PKI; started once, two seconds."""
    with OpenBaoServer(tmp_path_factory.mktemp("openbao")) as server:
        server.provision_corporate()
        yield server


@pytest.fixture(scope="module")
def vault_domain(openbao: OpenBaoServer, tmp_path_factory: pytest.TempPathFactory) -> VaultDomain:
    """Give this module a trust domain of its own on the real server."""
    return new_domain(openbao, tmp_path_factory.mktemp("credentials"))
