"""
What a proxy trusts and serves right now, read off its Envoy's own configuration (``config_dump``).

Rules that must stay true here:

- Pure, and never more than was seen: a validator of the mesh that is named and not loaded trusts nothing.
- A CA counts only if every validator of the mesh in the proxy holds it: the intersection, for each kind (``trusted_ca``
  under the empty name) and for each SPIFFE trust domain.
- Only validators of the mesh count. A Mesh's own CA is the SDS secret of its mesh; a SPIFFE validator is one wherever
  it stands. Other ``trusted_ca`` (an external service's CA, the control plane's at the admin interface) are not asked.
- Leaves of two issuers in one proxy are no leaf: which of them a peer is shown cannot be told, so it is unknown.

Envoy writes snake case, an older control plane passes it on in camel case: both are read.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from cryptography import x509

from rotator.adapters.kuma.control_plane import ProxyView
from rotator.adapters.kuma.dump import TYPE, get, inline, items
from rotator.core.model import Leaf, TrustDomainName
from rotator.errors import Rejected
from rotator.pki.certificates import leaf_of, parse_certificates, uri_names

PLAIN = TrustDomainName("")
"""The name under which `ProxyView.bundles` keeps what a validator trusts that knows no trust domains."""

_SECRETS = "SecretsConfigDump"
_SPIFFE = "SPIFFECertValidatorConfig"
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.DOTALL)

# Where something stands that a proxy no longer uses, or never did.
_UNUSED = frozenset({"draining_state", "drainingState", "error_state", "errorState"})

# The trust of a MeshIdentity's proxies, one secret for all trust domains.
_TRUST_BUNDLE = "system_trust_bundle"


@dataclass(slots=True)
class _Found:
    """What the walk through a dump gathers."""

    secrets: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """Loaded, by name."""
    waiting: set[str] = field(default_factory=set)
    """Subscribed to and not there yet."""
    contexts: list[Mapping[str, Any]] = field(default_factory=list)
    """Every ``common_tls_context`` of a listener or a cluster."""


def view_of(dump: Mapping[str, Any], *, mesh: str) -> ProxyView:
    """Return what the proxy behind *dump* trusts and serves for *mesh*."""
    found = _gathered(dump)
    named = {name for context in found.contexts for name in _names(context)}
    validators = [
        validator
        for name, secret in found.secrets.items()
        if (validator := _validator(get(secret, "validation_context"), _is_trust_of(name, mesh))) is not None
    ]
    validators += [
        validator
        for context in found.contexts
        for inline in _inline_validations(context)
        if (validator := _validator(inline, False)) is not None
    ]
    missing = {
        name
        for name in (named | found.waiting) - set(found.secrets)
        if _is_trust_of(name, mesh) or name == _TRUST_BUNDLE
    }
    leaves = _leaves(found, mesh)
    unserved = any(_is_identity_of(name, mesh) for name in (named | found.waiting) - set(found.secrets))
    served = leaves[0] if len({leaf.issuer for leaf in leaves}) == 1 and not unserved else None
    return ProxyView(
        bundles=_common(validators, trusts_nothing=bool(missing)),
        leaf_serial=served.serial if served else None,
        leaf_issuer=served.issuer if served else None,
        leaf_not_after=max((leaf.not_after for leaf in leaves), default=None),
        relies=bool(validators or missing or leaves or unserved),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What one proxy shows its peers, and with what it verifies theirs."""

    leaf: x509.Certificate | None
    """None if it holds none of the mesh's."""
    validators: tuple[Mapping[TrustDomainName, bytes], ...]
    """The CAs of every validator of the mesh, PEM, by trust domain (`PLAIN` for one that knows none)."""


def shown_by(dump: Mapping[str, Any], *, mesh: str) -> Shown:
    """Return what the proxy behind *dump* shows, and with what it verifies, in *mesh*."""
    found = _gathered(dump)
    contexts = [(get(secret, "validation_context"), _is_trust_of(name, mesh)) for name, secret in found.secrets.items()]
    contexts += [(each, False) for context in found.contexts for each in _inline_validations(context)]
    validators = [bundles for context, plain in contexts if (bundles := _bundles(context, plain)) is not None]
    chains = _chains(found, mesh)
    leaf = next((chain for by_name, chain in chains if _leaf(chain, by_name) is not None), b"")
    return Shown(
        leaf=parse_certificates(leaf, source="a proxy's certificate")[0] if leaf else None,
        validators=tuple(validators),
    )


# --- trust ----------------------------------------------------------------------------------------------------------


def _validator(context: Mapping[str, Any], counts_plain: bool) -> dict[TrustDomainName, frozenset[str]] | None:  # noqa: FBT001 -- a condition, read where it stands
    """Return what a validation context trusts, by trust domain; None if it is none of the mesh's."""
    bundles = _bundles(context, counts_plain)
    return None if bundles is None else {name: _digests(pem) for name, pem in bundles.items()}


def _bundles(context: Mapping[str, Any], counts_plain: bool) -> dict[TrustDomainName, bytes] | None:  # noqa: FBT001 -- a condition, read where it stands
    """Return the CAs of a validation context, PEM, by trust domain; None if it is none of the mesh's."""
    custom = get(get(context, "custom_validator_config"), "typed_config")
    if str(custom.get(TYPE, "")).endswith(_SPIFFE):
        trusted: dict[TrustDomainName, bytes] = {}
        for each in items(custom, "trust_domains"):
            name = TrustDomainName(str(each.get("name", "")))
            trusted[name] = trusted.get(name, b"") + inline(get(each, "trust_bundle")) + b"\n"
        return trusted
    return {PLAIN: inline(get(context, "trusted_ca"))} if counts_plain else None


def _common(
    validators: Iterable[Mapping[TrustDomainName, frozenset[str]]], *, trusts_nothing: bool
) -> dict[TrustDomainName, frozenset[str]]:
    """Return what every validator of one kind trusts, for each trust domain that any of them names."""
    plain = [each[PLAIN] for each in validators if PLAIN in each]
    spiffe = [each for each in validators if PLAIN not in each]
    names = {name for each in spiffe for name in each}
    common = {name: frozenset.intersection(*(each.get(name, frozenset()) for each in spiffe)) for name in names}
    if plain:
        common[PLAIN] = frozenset.intersection(*plain)
    return {name: frozenset() if trusts_nothing else common[name] for name in sorted(common)}


@lru_cache(maxsize=64)
def _digests(pem: bytes) -> frozenset[str]:
    """Return the SHA-256 of every certificate in *pem*; thousands of proxies hold the same few bundles."""
    found: set[str] = set()
    for body in _CERTIFICATE.findall(pem):
        try:
            found.add(hashlib.sha256(base64.b64decode(b"".join(body.split()), validate=True)).hexdigest())
        except binascii.Error:
            continue
    return frozenset(found)


# --- leaves ---------------------------------------------------------------------------------------------------------


def _leaves(found: _Found, mesh: str) -> list[Leaf]:
    """Return every leaf of the mesh's that the proxy holds."""
    return [leaf for by_name, chain in _chains(found, mesh) if (leaf := _leaf(chain, by_name)) is not None]


def _chains(found: _Found, mesh: str) -> list[tuple[bool, bytes]]:
    """Return every chain that may be the mesh's, and whether its name says so."""
    chains = [
        (_is_identity_of(name, mesh), inline(get(get(secret, "tls_certificate"), "certificate_chain")))
        for name, secret in found.secrets.items()
        if not _is_identity_of_another(name, mesh)
    ]
    chains += [
        (False, inline(get(certificate, "certificate_chain")))
        for context in found.contexts
        for certificate in items(context, "tls_certificates")
    ]
    return chains


@lru_cache(maxsize=4096)
def _leaf(chain: bytes, by_name: bool) -> Leaf | None:  # noqa: FBT001 -- a condition, read where it stands
    """Return the leaf of *chain* if it is a workload's; a gateway's own certificate for the world is none."""
    if not chain:
        return None
    try:
        certificates = parse_certificates(chain, source="a proxy's certificate")
        return leaf_of(certificates) if by_name or _is_workloads(certificates[0]) else None
    except Rejected:
        return None


def _is_workloads(certificate: x509.Certificate) -> bool:
    return any(name.startswith("spiffe://") for name in uri_names(certificate))


# --- names of secrets -----------------------------------------------------------------------------------------------


def _is_trust_of(name: str, mesh: str) -> bool:
    """Return whether *name* is the SDS secret of *mesh*'s CA, or of every mesh's CA together."""
    return name in {f"mesh_ca:secret:{mesh}", "mesh_ca:secret:all", f"system_mtls_ca_{mesh}", "system_mtls_ca_all"}


def _is_identity_of(name: str, mesh: str) -> bool:
    return name in {f"identity_cert:secret:{mesh}", f"system_mtls_identity_{mesh}"}


def _is_identity_of_another(name: str, mesh: str) -> bool:
    """Return whether *name* is the SDS secret of another mesh's identity (a zone egress holds one of each)."""
    return name.startswith(("identity_cert:secret:", "system_mtls_identity_")) and not _is_identity_of(name, mesh)


# --- walking --------------------------------------------------------------------------------------------------------


def _gathered(dump: Mapping[str, Any]) -> _Found:
    found = _Found()
    for section in items(dump, "configs"):
        kind = str(section.get(TYPE, ""))
        if kind.endswith(_SECRETS):
            _gather_secrets(section, found)
        elif kind.endswith((f"{_SECRETS}.DynamicSecret", f"{_SECRETS}.StaticSecret")):
            # What a dump with ?resource= holds: the secrets themselves, active ones and waiting ones alike.
            _gather_secret(section, found)
        elif kind.endswith(("ListenersConfigDump", "ClustersConfigDump")):
            found.contexts.extend(_contexts(section))
    return found


def _gather_secrets(section: Mapping[str, Any], found: _Found) -> None:
    for group in ("static_secrets", "dynamic_active_secrets"):
        for each in items(section, group):
            _gather_secret(each, found)
    for each in items(section, "dynamic_warming_secrets"):
        found.waiting.add(str(each.get("name", "")))


def _gather_secret(entry: Mapping[str, Any], found: _Found) -> None:
    secret = get(entry, "secret")
    name = str(entry.get("name") or secret.get("name") or "")
    loaded = any(get(secret, kind) for kind in ("tls_certificate", "validation_context"))
    if loaded:
        found.secrets[name] = secret
    else:
        found.waiting.add(name)


def _contexts(section: object) -> Iterator[Mapping[str, Any]]:
    """Yield every ``common_tls_context`` below *section* that is in use or about to be."""
    # No recursion, since configurations nest deeply; and no step for a plain value, since most of them are.
    pending = [section]
    while pending:
        each = pending.pop()
        if isinstance(each, list):
            pending.extend(value for value in each if isinstance(value, dict | list))
        elif isinstance(each, dict):
            if "common_tls_context" in each or "commonTlsContext" in each:
                yield get(each, "common_tls_context")
            pending.extend(
                value for key, value in each.items() if isinstance(value, dict | list) and key not in _UNUSED
            )


def _names(context: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of the SDS secrets that *context* refers to."""
    combined = get(context, "combined_validation_context")
    references = [
        *items(context, "tls_certificate_sds_secret_configs"),
        get(context, "validation_context_sds_secret_config"),
        get(combined, "validation_context_sds_secret_config"),
    ]
    for each in references:
        if each.get("name"):
            yield str(each["name"])


def _inline_validations(context: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    combined = get(context, "combined_validation_context")
    return get(context, "validation_context"), get(combined, "default_validation_context")
