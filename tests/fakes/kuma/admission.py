"""
What a control plane refuses to store.

Rules that must stay true here:

- A CA pair is looked at when the Mesh is written, never when a secret is.
- Under one backend name everything may change; the name itself may not while mTLS stays on.
- A secret that an mTLS backend uses cannot be deleted; one that only a MeshIdentity uses can.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from tests.fakes.kuma.signing import pair_violations
from tests.fakes.kuma.store import DATAPLANE, IDENTITY, MESH, SECRET, TRUST, Json, Resource

PROVIDED = "provided"
BUILTIN = "builtin"

_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "y": 31536000}
_DURATION = re.compile(r"([0-9]+)(ms|s|m|h|d|w|y)")
_GO_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|h|m|s)")
_GO_DURATIONS = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:ms|h|m|s))+")
_NAME = re.compile(r"[0-9a-z]([-0-9a-z._]*[0-9a-z])?")

ReadSource = Callable[[str, Json], bytes | None]
"""(mesh, data source of a provided CA) -> its content, None if there is none."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One reason for a refusal."""

    field: str
    message: str


class Invalid(Exception):
    """A resource that is refused."""

    def __init__(self, *violations: Violation) -> None:
        super().__init__("; ".join(f"{each.field}: {each.message}" for each in violations))
        self.violations = violations


def duration(text: str) -> timedelta | None:
    """Return a Mesh's duration, one number with one unit; None if it is not one."""
    match = _DURATION.fullmatch(text)
    return timedelta(seconds=int(match[1]) * _UNITS[match[2]]) if match else None


def go_duration(text: str) -> timedelta | None:
    """Return a duration as Kubernetes types write it: ``24h0m0s``; None if it is not one."""
    if not _GO_DURATIONS.fullmatch(text):
        return None
    return sum((timedelta(seconds=float(n) * _UNITS[unit]) for n, unit in _GO_DURATION.findall(text)), timedelta(0))


def enabled_backend(mesh: Json) -> Json | None:
    """Return the backend that issues in this mesh, None if mTLS is off."""
    mtls = mesh.get("mtls") or {}
    name = mtls.get("enabledBackend")
    return next((each for each in mtls.get("backends") or [] if name and each.get("name") == name), None)


def builtin_secrets(mesh: str, backend: str) -> tuple[str, str]:
    """Return the names of the secrets in which a builtin CA lives: certificate, key."""
    return f"{mesh}.ca-builtin-cert-{backend}", f"{mesh}.ca-builtin-key-{backend}"


def used_secrets(mesh: str, spec: Json) -> dict[str, str]:
    """Return the secrets that the mTLS backends use, each with the backend's name."""
    used: dict[str, str] = {}
    for backend in (spec.get("mtls") or {}).get("backends") or []:
        if backend.get("type") == BUILTIN:
            used |= dict.fromkeys(builtin_secrets(mesh, backend["name"]), backend["name"])
        for source in (backend.get("conf") or {}).values():
            if isinstance(source, dict) and source.get("secret"):
                used[source["secret"]] = backend["name"]
    return used


def check_name(name: str) -> None:
    """Raise `Invalid` if a resource may not be called *name*."""
    if not _NAME.fullmatch(name) or len(name) > 253:
        raise Invalid(Violation("name", "invalid characters: must consist of lower case alphanumeric characters"))


def check(resource: Resource, before: Resource | None, read: ReadSource) -> None:
    """Raise `Invalid` if *resource* may not replace *before*."""
    checks: dict[str, Callable[[], list[Violation]]] = {
        MESH: lambda: _mesh_violations(resource, before, read),
        SECRET: lambda: _secret_violations(resource.spec),
        IDENTITY: lambda: _identity_violations(resource.spec),
        TRUST: lambda: _trust_violations(resource.spec),
        DATAPLANE: lambda: _dataplane_violations(resource.spec),
    }
    found = checks[resource.type]() if resource.type in checks else []
    if found:
        raise Invalid(*found)


def _mesh_violations(mesh: Resource, before: Resource | None, read: ReadSource) -> list[Violation]:
    mtls = mesh.spec.get("mtls") or {}
    backends = mtls.get("backends") or []
    found: list[Violation] = []
    if len(backends) > 1:
        found.append(Violation("mtls.backends", "cannot have more than 1 backends"))
    if mtls.get("enabledBackend") and enabled_backend(mesh.spec) is None:
        found.append(Violation("mtls.enabledBackend", "has to be set to one of the backends in the mesh"))
    for backend in backends:
        if "dpCert" in backend:
            text = ((backend["dpCert"] or {}).get("rotation") or {}).get("expiration", "")
            if duration(text) is None:
                found.append(Violation("mtls.dpcert.rotation.expiration", "has to be a valid format"))
    if before is not None:
        old, new = enabled_backend(before.spec), enabled_backend(mesh.spec)
        if old is not None and new is not None and old["name"] != new["name"]:
            text = "Changing CA when mTLS is enabled is forbidden. Disable mTLS first and then change the CA"
            found.append(Violation("mtls.enabledBackend", text))
    if not found:
        for index, backend in enumerate(backends):
            found += _backend_violations(mesh, f"mtls.backends[{index}]", backend, read)
    return found


def _backend_violations(mesh: Resource, at: str, backend: Json, read: ReadSource) -> list[Violation]:
    kind = backend.get("type")
    if kind not in {PROVIDED, BUILTIN}:
        return [Violation(f"{at}.type", "could not find installed plugin for this type")]
    if kind == BUILTIN or (mesh.spec.get("mtls") or {}).get("skipValidation"):
        return []
    conf = backend.get("conf") or {}
    missing = [Violation(f"{at}.conf.{part}", "has to be defined") for part in ("cert", "key") if not conf.get(part)]
    if missing:
        return missing
    pair = [read(mesh.name, conf[part]) for part in ("cert", "key")]
    if pair[0] is None or pair[1] is None:
        unread = [part for part, content in zip(("cert", "key"), pair, strict=True) if content is None]
        return [Violation(f"{at}.conf.{part}", "could not load data") for part in unread]
    return [Violation(f"{at}.conf.cert", why) for why in pair_violations(pair[0], pair[1])]


def _secret_violations(spec: Json) -> list[Violation]:
    try:
        content = base64.b64decode(spec.get("data") or "", validate=True)
    except (binascii.Error, ValueError):
        return [Violation("data", "illegal base64 data")]
    return [] if content else [Violation("data", "cannot be empty")]


def _identity_violations(spec: Json) -> list[Violation]:
    provider = spec.get("provider")
    if provider is None:
        return []
    if provider.get("type") not in {"Bundled", "Spire", "Extension"}:
        return [Violation("spec.provider.type", f"type: {provider.get('type')} is not supported")]
    if provider["type"] != "Bundled":
        return []
    at, bundled = "spec.provider.bundled", provider.get("bundled")
    if bundled is None:
        return [Violation(at, "configuration needs to be defined")]
    found = []
    if bundled.get("meshTrustCreation", "Enabled") not in {"Enabled", "Disabled"}:
        found.append(Violation(f"{at}.meshTrustCreation", f"has incorrect value: {bundled['meshTrustCreation']}"))
    ca, autogenerate = bundled.get("ca") or {}, (bundled.get("autogenerate") or {}).get("enabled", False)
    for part in ("certificate", "privateKey"):
        if autogenerate and ca.get(part):
            found.append(Violation(f"{at}.ca.{part}", "shouldn't be defined once using autogenerated"))
        if not autogenerate and not ca.get(part):
            found.append(Violation(f"{at}.ca.{part}", "needs to be defined"))
    expiry = (bundled.get("certificateParameters") or {}).get("expiry")
    if expiry is not None and go_duration(expiry) is None:
        found.append(Violation(f"{at}.certificateParameters.expiry", f"time: invalid duration {expiry!r}"))
    return found


def _trust_violations(spec: Json) -> list[Violation]:
    found = []
    if not spec.get("trustDomain"):
        found.append(Violation("spec.trustDomain", "must not be empty"))
    if not spec.get("caBundles"):
        found.append(Violation("spec.caBundles", "must not be empty"))
    for index, bundle in enumerate(spec.get("caBundles") or []):
        value = (bundle.get("pem") or {}).get("value", "")
        if "-----BEGIN CERTIFICATE-----" not in value.partition("-----END")[0]:
            found.append(Violation(f"spec.caBundles[{index}].pem.value", "must be a PEM encoded certificate"))
    return found


def _dataplane_violations(spec: Json) -> list[Violation]:
    networking = spec.get("networking") or {}
    if networking.get("address") in {None, "", "0.0.0.0", "::"}:  # noqa: S104 -- what is refused, nothing is bound
        return [Violation("networking.address", "must not be 0.0.0.0 or ::")]
    return []
