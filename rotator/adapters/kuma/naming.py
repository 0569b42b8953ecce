"""
What rotator calls its things in a mesh.

Rules that must stay true here:

- Pure. A name says which generation a thing belongs to, so that what a crash left behind is recognised (law 13).
- Names of content carry its digest: content that no longer matches its name was changed by somebody else (law 9).
- Of two identities that select the same proxies Kuma takes the one whose name sorts first: newer generations do.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from rotator.core.model import SubjectName

_HIGHEST: Final = 999_999
"""Identity names count down from here; a generation a minute would take two years to get there."""

_PURPOSE = re.compile(r"g(0|[1-9][0-9]{0,5})-(cert|key)")
_BUNDLE = re.compile(r"bundle-([0-9a-f]{12})")


class Part(StrEnum):
    """What of a generation a secret holds."""

    CERTIFICATE = "cert"
    KEY = "key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Purpose:
    """Which part of which generation a secret holds."""

    number: int
    part: Part

    def __str__(self) -> str:
        return f"g{self.number}-{self.part}"


def purpose_in(text: str) -> Purpose | None:
    """Return the generation and part that *text* names, None if it names something else."""
    found = _PURPOSE.fullmatch(text)
    return Purpose(number=int(found.group(1)), part=Part(found.group(2))) if found else None


def bundle_purpose(pem: bytes) -> str:
    """Return the purpose of the secret that holds *pem* as a bundle."""
    return f"bundle-{hashlib.sha256(pem).hexdigest()[:12]}"


def is_bundle(purpose: str) -> bool:
    """Return whether *purpose* is that of a bundle."""
    return _BUNDLE.fullmatch(purpose) is not None


def identity_name(mesh: str, number: int) -> str:
    """Return the name of generation *number*'s MeshIdentity. The mesh's name stands in it: namespaces hold many."""
    return f"rotator-{mesh}-{_HIGHEST - number:06d}-g{number}"


def identity_number(mesh: str, name: str) -> int | None:
    """Return the generation number in the name of a MeshIdentity, None if rotator did not name it."""
    found = re.fullmatch(r".*-g([1-9][0-9]{0,5})", name)
    if found is None:
        return None
    number = int(found.group(1))
    return number if identity_name(mesh, number) == name else None


def trust_name(mesh: str) -> str:
    """Return the name of rotator's own MeshTrust."""
    return f"rotator-{mesh}"


def mesh_party(mesh: str) -> SubjectName:
    """Return the name under which the mesh itself is a relying party: what joiners are given."""
    return SubjectName(f"mesh:{mesh}")
