"""
The least rights at Vault that rotator works with, as HCL.

Rules that must stay true here:

- Pure. What `issuer` and `authorities` send is what is allowed here, word for word; tests run with exactly these
  policies and try what lies outside.
- A trust domain's CA cannot be asked for with another path length, lifetime, name or key: the parameters are fixed
  by value, the deciding ones must be there, and every parameter that is not listed is refused by Vault.
- No right on roles, mounts, other policies or secrets; no way to issue a key, to export one or to sign as it comes
  (``sign-verbatim``). The token may look at, renew and give back itself, so the ``default`` policy is not needed.

What policies cannot fix is written in ``deploy/vault/README.md``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from rotator.adapters.vault.naming import (
    BACKDATE,
    EXPIRY_BEHAVIOR,
    KEY_PARAMETERS,
    PATH_LENGTH,
    generation_name,
    ttl,
)
from rotator.core.model import KeyType, TrustDomainName
from rotator.pki.authority_name import common_name_stem

OWN_RIGHTS: Final = "sys/capabilities-self"
"""Where a token asks what it may do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshRights:
    """What the trust domain of a mesh needs at Vault: its CAs' keys are made elsewhere, and signed here."""

    trust_domain: TrustDomainName
    lifetimes: tuple[timedelta, ...]
    """Of its CAs; more than one while the configuration changes from one to the next."""
    corporate_mount: str = "pki_int"
    corporate_issuer: str = "corp-issuing"
    permitted_dns_domains: tuple[str, ...] = ()
    """Name constraints; none means that none may be asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainRights(MeshRights):
    """What one standalone trust domain needs at Vault: its CAs and its leaves have a mount of their own there."""

    mount: str
    role: str
    key: KeyType = KeyType.ECDSA_P256


@dataclass(frozen=True, slots=True, kw_only=True)
class _Path:
    """One path with what may be done there."""

    path: str
    why: str
    capabilities: tuple[str, ...]
    allowed: dict[str, list[object]] | None = None
    """Parameter to its allowed values, an empty list for any; None if the call takes no parameters worth fixing."""
    required: tuple[str, ...] = ()
    """Parameters that must be given. OpenBao wants them of reads too, so only where nothing is read."""

    def hcl(self) -> str:
        """Return the stanza."""
        lines = [f"# {self.why}", f'path "{self.path}" {{', f"  capabilities = {json.dumps(self.capabilities)}"]
        if self.required:
            lines.append(f"  required_parameters = {json.dumps(self.required)}")
        if self.allowed is not None:
            lines.append("  allowed_parameters = {")
            width = max(len(name) for name in self.allowed)
            lines += [f"    {name:<{width}} = {json.dumps(values)}" for name, values in self.allowed.items()]
            lines.append("  }")
        return "\n".join([*lines, "}"])


def domain_policy(rights: DomainRights) -> str:
    """Return the policy for one standalone trust domain, token paths included: enough on its own."""
    return _policy(rights)


def mesh_policy(rights: MeshRights) -> str:
    """Return the policy for the trust domain of one mesh, token paths included: enough on its own."""
    return _policy(rights)


def needed(rights: MeshRights) -> Mapping[str, tuple[str, ...]]:
    """Return every path that is used for one trust domain, ``+`` for any one part, with what is done there."""
    return {each.path: each.capabilities for each in _paths(rights)}


def _policy(rights: MeshRights) -> str:
    title = f"# rotator's rights for trust domain {rights.trust_domain}. Made by rotator.adapters.vault.policies."
    return "\n\n".join([title, *(each.hcl() for each in _paths(rights))]) + "\n"


def _paths(rights: MeshRights) -> list[_Path]:
    own = [*_generations(rights), *_leaves(rights)] if isinstance(rights, DomainRights) else []
    return [*_token(), *_corporate(rights), *own]


def _token() -> list[_Path]:
    return [
        _Path(path="auth/token/lookup-self", why="Is the token still alive?", capabilities=("read",)),
        _Path(path="auth/token/renew-self", why="Renew it before its end.", capabilities=("update",)),
        _Path(path="auth/token/revoke-self", why="Give it back.", capabilities=("update",)),
        _Path(
            path=OWN_RIGHTS,
            why="Which of these rights does it have? Asked by the doctor alone.",
            capabilities=("update",),
            allowed={"paths": []},
        ),
    ]


def _corporate(rights: MeshRights) -> list[_Path]:
    issuer = f"{rights.corporate_mount}/issuer/{rights.corporate_issuer}"
    fixed: dict[str, list[object]] = {
        "csr": [],
        "common_name": [f"{common_name_stem(rights.trust_domain)}*"],
        "max_path_length": [PATH_LENGTH],
        "ttl": [ttl(lifetime) for lifetime in rights.lifetimes],
        "uri_sans": [f"spiffe://{rights.trust_domain}"],
        "use_csr_values": [False],
        "exclude_cn_from_sans": [True],
        "not_before_duration": [BACKDATE],
    }
    if rights.permitted_dns_domains:
        fixed["permitted_dns_domains"] = [",".join(rights.permitted_dns_domains)]
    return [
        _Path(path=issuer, why="Is the pinned corporate issuer fit to sign (law 6)?", capabilities=("read",)),
        _Path(
            path=f"{issuer}/sign-intermediate",
            why="Have a CA generation signed: this name, this path length, this lifetime.",
            capabilities=("create", "update"),
            required=tuple(name for name in fixed if name != "csr"),
            allowed=fixed,
        ),
        _Path(
            path=f"{rights.corporate_mount}/certs",
            why="Find CA certificates that a crash left behind (law 13).",
            capabilities=("list",),
        ),
        _Path(path=f"{rights.corporate_mount}/certs/detailed", why="The same, in one call.", capabilities=("list",)),
        _Path(
            path=f"{rights.corporate_mount}/cert/+", why="What was signed, and is it revoked?", capabilities=("read",)
        ),
        _Path(
            path=f"{rights.corporate_mount}/revoke",
            why="Revoke a CA generation at its parent.",
            capabilities=("create", "update"),
            required=("serial_number",),
            allowed={"serial_number": []},
        ),
    ]


def _generations(rights: DomainRights) -> list[_Path]:
    mount, name = rights.mount, generation_name(rights.trust_domain, "*")
    key_type, key_bits = KEY_PARAMETERS[rights.key]
    return [
        _Path(
            path=f"{mount}/issuers/generate/intermediate/internal",
            why="Make a CA key inside Vault; it never leaves.",
            capabilities=("create", "update"),
            required=("key_name", "key_type"),
            allowed={
                "common_name": [f"{common_name_stem(rights.trust_domain)}*"],
                "key_name": [name],
                "key_type": [key_type],
                "key_bits": [key_bits],
            },
        ),
        _Path(
            path=f"{mount}/intermediate/set-signed",
            why="Install what the corporate PKI signed.",
            capabilities=("create", "update"),
            allowed={"certificate": []},
        ),
        _Path(
            path=f"{mount}/issuers/import/cert",
            why="Put the corporate CA's certificate, without key, where the pointer rests before the first activation.",
            capabilities=("create", "update"),
            allowed={"pem_bundle": []},
        ),
        _Path(path=f"{mount}/issuers", why="Which generations are there?", capabilities=("list",)),
        _Path(path=f"{mount}/keys", why="Which keys are there, left-overs included?", capabilities=("list",)),
        _Path(path=f"{mount}/key/+", why="Remove a retired generation's key.", capabilities=("read", "delete")),
        _Path(
            path=f"{mount}/issuer/+",
            why="Read, name and retire a generation; leaves that outlive it stay refused.",
            capabilities=("read", "create", "update", "delete"),
            allowed={"issuer_name": [name], "leaf_not_after_behavior": [EXPIRY_BEHAVIOR]},
        ),
        _Path(
            path=f"{mount}/config/issuers",
            why="The pointer that says which generation signs.",
            capabilities=("read", "create", "update"),
            allowed={"default": [], "default_follows_latest_issuer": [False]},
        ),
    ]


def _leaves(rights: DomainRights) -> list[_Path]:
    mount = rights.mount
    return [
        _Path(
            path=f"{mount}/issuer/+/sign/{rights.role}",
            why="Sign a leaf by a named generation; the role decides which names and how long.",
            capabilities=("create", "update"),
            required=("csr", "ttl"),
            allowed={"csr": [], "ttl": []},
        ),
        _Path(path=f"{mount}/issuer/+/crl", why="What is revoked?", capabilities=("read",)),
        _Path(path=f"{mount}/certs", why="Compare Vault's own list with the ledger.", capabilities=("list",)),
        _Path(path=f"{mount}/certs/detailed", why="The same, with lifetimes.", capabilities=("list",)),
        _Path(path=f"{mount}/cert/+", why="Read a certificate on that list.", capabilities=("read",)),
        _Path(
            path=f"{mount}/revoke",
            why="Revoke a leaf.",
            capabilities=("create", "update"),
            required=("serial_number",),
            allowed={"serial_number": []},
        ),
    ]
