"""
One document on a control plane, as it is compared, shown and kept.

Rules that must stay true here:

- Equal is what says the same: the order of keys makes no difference, and what a control plane notes by itself (times,
  status, labels of Kuma's own) is not in it.
- A document that `rotator.platform.resources` does not know for rotator's own is never written or removed.

Pure.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from rotator.core.model import SubjectName, TrustDomainName
from rotator.platform.resources import Resource, canonical_yaml, universal

PLATFORM: Final = SubjectName("platform")
"""Under which name people ask for changes of all this, and records tell of them."""

KUMAS_LABELS: Final = ("kuma.io/", "k8s.kuma.io/")
"""How labels begin that a control plane puts on documents by itself."""


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Address:
    """Where one document is: which control plane, which mesh, which kind, which name."""

    trust_domain: TrustDomainName
    mesh: str
    kind: str
    name: str

    @property
    def in_words(self) -> str:
        """Return it for a sentence: ``MeshTrafficPermission rotator-ledger in mesh default``."""
        return f"{self.kind} {self.name}" + (f" in mesh {self.mesh}" if self.mesh else "")


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """What people write in one document."""

    address: Address
    labels: Mapping[str, str] = field(default_factory=dict)
    """Without those that a control plane puts there by itself."""
    spec: Mapping[str, Any] = field(default_factory=dict)
    marks: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Labels of Kuma's own that it is written with; a control plane adds others, so they are not compared."""

    @property
    def is_rotators(self) -> bool:
        """Return whether it is one of rotator's own."""
        return self.resource.is_rotators

    @property
    def resource(self) -> Resource:
        """Return it as Kuma's resource."""
        return Resource(
            kind=self.address.kind,
            mesh=self.address.mesh,
            name=self.address.name,
            labels={**self.marks, **self.labels},
            spec=self.spec,
        )

    @property
    def sha256(self) -> str:
        """Return a digest of what it says."""
        return sha256_of({"labels": self.labels, "spec": self.spec})

    @property
    def text(self) -> str:
        """Return it as canonical YAML, as Kuma's own API spells it."""
        return canonical_yaml([plain_order(universal(replace(self.resource, labels=self.labels)))])


def document_of(trust_domain: TrustDomainName, resource: Resource) -> Document:
    """Return *resource* as the document of the control plane of *trust_domain*."""
    address = Address(trust_domain=trust_domain, mesh=resource.mesh, kind=resource.kind, name=resource.name)
    return document_with(address, resource.labels, resource.spec)


def document_with(address: Address, labels: Mapping[str, str], spec: Mapping[str, Any]) -> Document:
    """Return the document at *address*, with those of its *labels* apart that are Kuma's own."""
    return Document(
        address=address,
        labels={key: labels[key] for key in sorted(labels) if not key.startswith(KUMAS_LABELS)},
        spec=plain(spec),
        marks={key: labels[key] for key in sorted(labels) if key.startswith(KUMAS_LABELS)},
    )


def sha256_of(value: object) -> str:
    """Return the SHA-256 of a JSON value; the order of keys makes no difference."""
    return hashlib.sha256(json_of(value).encode()).hexdigest()


def json_of(value: object) -> str:
    """Return *value* as canonical JSON."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def plain(value: object) -> Any:  # noqa: ANN401 -- any JSON value
    """Return *value* of plain dictionaries and lists, keys in order."""
    if isinstance(value, Mapping):
        return {str(key): plain(value[key]) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value


def plain_order(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return *document* with its head in its own order, and everything below by name."""
    return {key: plain(value) for key, value in document.items()}


def document_json(document: Document | None) -> dict[str, Any] | None:
    """Return *document* without its address as it is kept, None for an absent one."""
    if document is None:
        return None
    return {"labels": plain(document.labels), "marks": plain(document.marks), "spec": plain(document.spec)}


def document_in(address: Address, kept: Mapping[str, Any] | None) -> Document | None:
    """Return the document at *address* as it was *kept*."""
    if kept is None:
        return None
    return Document(address=address, labels=kept["labels"], spec=kept["spec"], marks=kept["marks"])


def address_json(address: Address) -> dict[str, str]:
    """Return *address* as it is kept."""
    return {
        "trust_domain": address.trust_domain,
        "mesh": address.mesh,
        "kind": address.kind,
        "name": address.name,
    }


def address_in(kept: Mapping[str, str]) -> Address:
    """Return the address that was *kept*."""
    return Address(
        trust_domain=TrustDomainName(kept["trust_domain"]),
        mesh=kept["mesh"],
        kind=kept["kind"],
        name=kept["name"],
    )
