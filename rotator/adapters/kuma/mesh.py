"""
Readings and edits of Kuma's documents, shared by both models.

Rules that must stay true here:

- Pure: a spec goes in, a fact or another spec comes out; nothing that came in is changed.
- An edit touches what it is for and leaves every other field as it was read, known to rotator or not.
- Values are compared by what they mean: Kuma spells durations and empty selectors as it likes.
- A private key never shows in a ``repr`` or an error.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from rotator.adapters.kuma.control_plane import Document
from rotator.errors import Rejected

PROVIDED: Final = "provided"
BUILTIN: Final = "builtin"
BUNDLED: Final = "Bundled"

_MTLS_UNITS: Final = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
    "y": timedelta(days=365),
}
_GO_UNITS: Final = {
    "ns": timedelta(microseconds=1) / 1000,
    "us": timedelta(microseconds=1),
    "µs": timedelta(microseconds=1),
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
}


# --- sources --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a document says that a certificate or a key is to be found."""

    secret: str = ""
    """The secret's name; empty if it lies elsewhere."""
    inline: bytes | None = field(default=None, repr=False)
    """The content, if it stands in the document itself."""
    elsewhere: str = ""
    """What else it is, in words: ``a file of the control plane's host``; empty if it can be read."""


def mtls_source(given: object) -> Source:
    """Return what a data source of ``Mesh.mtls`` means."""
    source = _mapping(given)
    if isinstance(source.get("secret"), str):
        return Source(secret=source["secret"])
    if isinstance(source.get("inlineString"), str):
        return Source(inline=source["inlineString"].encode())
    if isinstance(source.get("inline"), str):
        try:
            return Source(inline=base64.b64decode(source["inline"], validate=True))
        except binascii.Error:
            return Source(elsewhere="inline bytes that are no base64")
    return Source(elsewhere="a file of the control plane's host" if "file" in source else "nothing")


def identity_source(given: object) -> Source:
    """Return what a data source of a MeshIdentity means."""
    source = _mapping(given)
    match source.get("type"):
        case "Secret":
            return Source(secret=str(_mapping(source.get("secretRef")).get("name") or ""))
        case "InsecureInline":
            return Source(inline=str(_mapping(source.get("insecureInline")).get("value") or "").encode())
        case "File":
            return Source(elsewhere="a file of the control plane's host")
        case "EnvVar":
            return Source(elsewhere="an environment variable of the control plane")
        case other:
            return Source(elsewhere=f"a source of type {other}")


# --- Mesh.mtls ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """One backend of ``Mesh.mtls``."""

    name: str
    type: str
    certificate: Source
    key: Source
    mode: str = ""
    expiration: str = ""
    """Of proxies' certificates, as it is written there; empty for Kuma's default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mtls:
    """The part of a Mesh that says who signs."""

    enabled: Backend
    count: int
    """How many backends there are, the enabled one included."""
    skip_validation: bool


def mtls_of(spec: Mapping[str, Any]) -> Mtls | None:
    """Return who signs in a Mesh, None while mTLS is off. Raises `Rejected` if the enabled backend is not there."""
    mtls = _mapping(spec.get("mtls"))
    enabled = str(mtls.get("enabledBackend") or "")
    if not enabled:
        return None
    backends = [_mapping(each) for each in _sequence(mtls.get("backends"))]
    for backend in backends:
        if backend.get("name") == enabled:
            conf = _mapping(backend.get("conf"))
            return Mtls(
                enabled=Backend(
                    name=enabled,
                    type=str(backend.get("type") or ""),
                    certificate=mtls_source(conf.get("cert")),
                    key=mtls_source(conf.get("key")),
                    mode=str(backend.get("mode") or ""),
                    expiration=str(_mapping(_mapping(backend.get("dpCert")).get("rotation")).get("expiration") or ""),
                ),
                count=len(backends),
                skip_validation=bool(mtls.get("skipValidation")),
            )
    raise Rejected(f"Mesh.mtls enables backend {enabled}, which it does not have")


def pointing_at(spec: Mapping[str, Any], *, certificate: str, key: str) -> dict[str, Any]:
    """Return *spec* with the enabled backend signing from these secrets: its type and sources move, nothing else."""
    edited = deepcopy(dict(spec))
    for backend in edited["mtls"]["backends"]:
        if backend.get("name") == edited["mtls"]["enabledBackend"]:
            backend["type"] = PROVIDED
            backend["conf"] = {"cert": {"secret": certificate}, "key": {"secret": key}}
    return edited


def switched_on(
    spec: Mapping[str, Any], *, name: str, certificate: str, key: str, longest_leaf: timedelta
) -> dict[str, Any]:
    """Return *spec* with mTLS on, admitting plaintext still: a person makes it strict."""
    edited = deepcopy(dict(spec))
    backend = {
        "name": name,
        "type": PROVIDED,
        "mode": "PERMISSIVE",
        "dpCert": {"rotation": {"expiration": f"{int(longest_leaf.total_seconds())}s"}},
        "conf": {"cert": {"secret": certificate}, "key": {"secret": key}},
    }
    edited["mtls"] = {"enabledBackend": name, "backends": [backend]}
    return edited


def builtin_secrets(mesh: str, backend: str) -> tuple[str, str]:
    """Return the names of the secrets in which Kuma keeps the certificate and the key of a builtin backend."""
    return f"{mesh}.ca-builtin-cert-{backend}", f"{mesh}.ca-builtin-key-{backend}"


def has_exclusive_services(spec: Mapping[str, Any]) -> bool:
    """Return whether a Mesh uses MeshServices alone, as MeshIdentity needs it on 2.x."""
    return str(_mapping(spec.get("meshServices")).get("mode") or "") == "Exclusive"


# --- MeshIdentity ---------------------------------------------------------------------------------------------------


def selected_by(spec: Mapping[str, Any]) -> Mapping[str, str] | None:
    """Return the labels that a MeshIdentity's proxies carry (none: every proxy), None if it selects nobody."""
    dataplane = _mapping(spec.get("selector")).get("dataplane")
    if not isinstance(dataplane, Mapping):
        return None
    return {str(key): str(value) for key, value in _mapping(dataplane.get("matchLabels")).items()}


def selecting(spec: Mapping[str, Any], *, everybody: bool) -> dict[str, Any]:
    """Return *spec* of a MeshIdentity that selects everybody, or nobody."""
    edited = deepcopy(dict(spec))
    edited["selector"] = {"dataplane": {"matchLabels": {}}} if everybody else {}
    return edited


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundled:
    """How a MeshIdentity of provider ``Bundled`` signs."""

    certificate: Source
    key: Source
    expiry: str
    """Of proxies' certificates, as it is written there; empty for Kuma's default."""
    makes_trust: bool
    """The control plane appends this identity's CA to a MeshTrust of the same name."""


def bundled_of(identity: Document) -> Bundled | None:
    """Return how *identity* signs, None if its provider is another one."""
    provider = _mapping(identity.spec.get("provider"))
    if provider.get("type") != BUNDLED:
        return None
    bundled = _mapping(provider.get("bundled"))
    if _mapping(bundled.get("autogenerate")).get("enabled"):
        certificate, key = Source(secret=f"{identity.name}-root-ca"), Source(secret=f"{identity.name}-private-key")
    else:
        ca = _mapping(bundled.get("ca"))
        certificate, key = identity_source(ca.get("certificate")), identity_source(ca.get("privateKey"))
    return Bundled(
        certificate=certificate,
        key=key,
        expiry=str(_mapping(bundled.get("certificateParameters")).get("expiry") or ""),
        makes_trust=bundled.get("meshTrustCreation", "Enabled") != "Disabled",
    )


def without_trust(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return *spec* of a MeshIdentity of provider ``Bundled`` whose CA the control plane adds to no MeshTrust."""
    edited = deepcopy(dict(spec))
    edited["provider"]["bundled"]["meshTrustCreation"] = "Disabled"
    return edited


def identity_spec(
    *, certificate: str, key: str, trust_domain: str, path: str | None, longest_leaf: timedelta, self_signed: bool
) -> dict[str, Any]:
    """Return the spec of a MeshIdentity that signs from these secrets and selects nobody yet."""
    spiffe_id = {"trustDomain": trust_domain} | ({} if path is None else {"path": path})
    return {
        "selector": {},
        "spiffeID": spiffe_id,
        "provider": {
            "type": BUNDLED,
            "bundled": {
                "meshTrustCreation": "Disabled",
                "insecureAllowSelfSigned": self_signed,
                # said although it is the default: some versions read it without looking whether it is there
                "autogenerate": {"enabled": False},
                "certificateParameters": {"expiry": f"{int(longest_leaf.total_seconds())}s"},
                "ca": {"certificate": _secret(certificate), "privateKey": _secret(key)},
            },
        },
    }


def path_of(spec: Mapping[str, Any]) -> str | None:
    """Return the path template of a MeshIdentity's SPIFFE IDs, None for Kuma's default."""
    path = _mapping(spec.get("spiffeID")).get("path")
    return path if isinstance(path, str) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """What the control plane says of a MeshIdentity."""

    ready: bool | None
    """None until the control plane has looked at it."""
    why_not: str = ""


def readiness_of(status: Mapping[str, Any]) -> Readiness:
    """Return whether a MeshIdentity can sign, by its conditions."""
    conditions = [_mapping(each) for each in _sequence(status.get("conditions"))]
    ready = next((each for each in conditions if each.get("type") == "Ready"), None)
    if ready is None:
        return Readiness(ready=None)
    if ready.get("status") == "True":
        return Readiness(ready=True)
    broken = [each for each in conditions if each.get("status") == "False"]
    said = [f"{each.get('reason')}: {each.get('message')}" for each in broken if each.get("type") != "Ready"] or [
        f"{ready.get('reason')}: {ready.get('message')}"
    ]
    return Readiness(ready=False, why_not="; ".join(said))


# --- MeshTrust ------------------------------------------------------------------------------------------------------


def trusted_by(spec: Mapping[str, Any]) -> tuple[bytes, ...]:
    """Return the PEM of every bundle of a MeshTrust."""
    bundles = (_mapping(each) for each in _sequence(spec.get("caBundles")))
    return tuple(str(_mapping(each.get("pem")).get("value") or "").encode() for each in bundles)


def trust_domain_of(spec: Mapping[str, Any]) -> str:
    """Return the trust domain of a MeshTrust."""
    return str(spec.get("trustDomain") or "")


def trusting(trust_domain: str, pems: Sequence[bytes]) -> dict[str, Any]:
    """Return the spec of a MeshTrust that holds *pems*, one bundle each."""
    bundles = [{"type": "Pem", "pem": {"value": pem.decode("ascii")}} for pem in pems]
    return {"trustDomain": trust_domain, "caBundles": bundles}


# --- durations ------------------------------------------------------------------------------------------------------


def mtls_duration(text: str) -> timedelta | None:
    """Return a duration as ``Mesh.mtls`` writes it (one number, one unit: ``24h``, ``1d``), None if it is none."""
    found = re.fullmatch(r"([0-9]+)(ms|s|m|h|d|w|y)", text)
    return int(found.group(1)) * _MTLS_UNITS[found.group(2)] if found else None


def go_duration(text: str) -> timedelta | None:
    """Return a duration as MeshIdentity writes it (Go's: ``24h0m0s``), None if it is none."""
    parts = re.findall(r"([0-9]+(?:\.[0-9]+)?)(ns|us|µs|ms|s|m|h)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum((float(number) * _GO_UNITS[unit] for number, unit in parts), timedelta())


# --- reading what may be anything -----------------------------------------------------------------------------------


def _secret(name: str) -> dict[str, Any]:
    return {"type": "Secret", "secretRef": {"kind": "Secret", "name": name}}


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _sequence(value: object) -> Sequence[Any]:
    return value if isinstance(value, Sequence) and not isinstance(value, str | bytes) else ()
