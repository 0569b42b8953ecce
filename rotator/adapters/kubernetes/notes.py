"""
What a published object says of itself: annotations, and what they tell when read back.

Rules that must stay true here:

- Pure. Whatever is wrong becomes a sentence, never an exception.
- The annotations say what chain and bundle should hash to, so that an edit by somebody else is seen; they hold no hash
  of the key, which is checked against the leaf instead.
- Nothing that a person typed reaches a record: of foreign field managers only well-known programs are named (law 24).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from rotator.cluster.objects import FIELD_MANAGER, JSON
from rotator.core.model import SubjectName
from rotator.ports import Stamp

PREFIX: Final = "rotator.io/"
SUBJECT: Final = f"{PREFIX}subject"
GENERATION: Final = f"{PREFIX}generation"
SERIAL: Final = f"{PREFIX}serial"
ROTATION_ID: Final = f"{PREFIX}rotation-id"
LEAF_AT: Final = f"{PREFIX}leaf-published-at"
BUNDLE_AT: Final = f"{PREFIX}bundle-published-at"
DRESS: Final = f"{PREFIX}dress-sha256"
_DIGEST: Final = "-sha256"

_NUMBER: Final = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)

MANAGED_BY: Final = "app.kubernetes.io/managed-by"

_PROGRAMS: Final = (
    "kubectl",
    "helm",
    "argocd",
    "flux",
    "kustomize",
    "cert-manager",
    "external-secrets",
    "reflector",
    "terraform",
    "kube-",
    "before-first-apply",
)
"""Beginnings of field managers that are programs; any other may be a person's name, given on a command line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dress:
    """Labels and annotations that the configuration adds to a published object."""

    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def all_labels(self) -> dict[str, str]:
        """Return every label, the one that says who manages the object included."""
        return {MANAGED_BY: FIELD_MANAGER, **self.labels}

    @property
    def digest(self) -> str:
        """Return what tells this dress from any other."""
        whole = hashlib.sha256()
        for kind in (self.all_labels, self.annotations):
            for name, value in sorted(kind.items()):
                whole.update(f"{len(name)} {name} {len(value)} {value}\n".encode())
            whole.update(b"\n")
        return whole.hexdigest()[:32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What the annotations of one object say."""

    number: int = 0
    """0: they do not say."""
    subject: SubjectName | None = None
    rotation_id: str | None = None
    leaf_published_at: datetime | None = None
    bundle_published_at: datetime | None = None
    digests: Mapping[str, str] = field(default_factory=dict)
    """Key of the content -> SHA-256 as it was written."""
    dress: str | None = None
    wrong: tuple[str, ...] = ()
    """Annotations that are missing or cannot be read."""


def annotations_of(
    number: int, stamp: Stamp, *, serial: str | None, contents: Mapping[str, bytes], dress: Dress
) -> dict[str, str]:
    """Return every annotation of publication *number*; *contents* are the parts whose hash is noted, no key."""
    found = {
        **dress.annotations,
        SUBJECT: str(stamp.subject),
        GENERATION: str(number),
        ROTATION_ID: stamp.rotation_id,
        LEAF_AT: stamp.leaf_published_at.isoformat(),
        BUNDLE_AT: stamp.bundle_published_at.isoformat(),
        DRESS: dress.digest,
    }
    if serial is not None:
        found[SERIAL] = serial
    return found | {_digest_name(key): digest(content) for key, content in contents.items()}


def note_of(metadata: Mapping[str, Any], keys: tuple[str, ...], *, serial: bool) -> Note:
    """Return what *metadata* says; *keys* are those whose hash should be noted, *serial* whether there is one."""
    said: Mapping[str, str] = metadata.get("annotations") or {}
    wanted = (SUBJECT, GENERATION, ROTATION_ID, LEAF_AT, BUNDLE_AT, DRESS, *map(_digest_name, keys))
    wrong = [name for name in (*wanted, *((SERIAL,) if serial else ())) if name not in said]
    number = said.get(GENERATION, "")
    is_number = _NUMBER.fullmatch(number) is not None
    if GENERATION in said and not is_number:
        wrong.append(GENERATION)
    return Note(
        number=int(number) if is_number else 0,
        subject=SubjectName(said[SUBJECT]) if SUBJECT in said else None,
        rotation_id=said.get(ROTATION_ID),
        leaf_published_at=_moment(said, LEAF_AT, wrong),
        bundle_published_at=_moment(said, BUNDLE_AT, wrong),
        digests={key: said[_digest_name(key)] for key in keys if _digest_name(key) in said},
        dress=said.get(DRESS),
        wrong=tuple(wrong),
    )


def undressed(metadata: Mapping[str, Any], dress: Dress) -> tuple[str, ...]:
    """Return the configured labels and annotations that *metadata* does not bear, named."""
    labels, said = metadata.get("labels") or {}, metadata.get("annotations") or {}
    return (
        *(f"label {name}" for name, value in sorted(dress.all_labels.items()) if labels.get(name) != value),
        *(f"annotation {name}" for name, value in sorted(dress.annotations.items()) if said.get(name) != value),
    )


def is_marked(metadata: Mapping[str, Any]) -> bool:
    """Return whether an object bears any trace of rotator: an annotation, or a field that it wrote."""
    if any(name.startswith(PREFIX) for name in metadata.get("annotations") or {}):
        return True
    return any(entry.get("manager") == FIELD_MANAGER for entry in metadata.get("managedFields") or ())


def writers_of(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """Return which programs besides rotator own fields of what rotator writes, latest first, for the record."""
    found = [
        (str(entry.get("time", "")), str(entry.get("manager", "")), str(entry.get("operation", "")))
        for entry in metadata.get("managedFields") or ()
        if entry.get("manager") != FIELD_MANAGER and entry.get("subresource") in {None, ""}
    ]
    return tuple(f"{_program(manager)} ({operation} {time})" for time, manager, operation in sorted(found)[::-1])


def created_as_update(metadata: Mapping[str, Any]) -> list[JSON] | None:
    """
    Return the field owners of an object as they should be noted, None if they are right.

    What a POST creates is noted as *updated* by rotator. Applied over, such fields would have two owners, both
    rotator, and one that it no longer applies would stay for ever: the entry is turned into an applied one.
    """
    entries: list[JSON] = [dict(entry) for entry in metadata.get("managedFields") or ()]
    mine = [entry for entry in entries if entry.get("manager") == FIELD_MANAGER and not entry.get("subresource")]
    if not any(entry["operation"] == "Update" for entry in mine):
        return None
    if any(entry["operation"] == "Apply" for entry in mine):
        return [entry for entry in entries if entry not in mine or entry["operation"] == "Apply"]
    return [entry | ({"operation": "Apply"} if entry in mine else {}) for entry in entries]


def digest(content: bytes) -> str:
    """Return the SHA-256 that is noted of *content*."""
    return hashlib.sha256(content).hexdigest()


def changed(note: Note, contents: Mapping[str, bytes]) -> Iterator[str]:
    """Yield the keys whose content is not what was written."""
    for key, was in note.digests.items():
        if key in contents and digest(contents[key]) != was:
            yield key


def _digest_name(key: str) -> str:
    return f"{PREFIX}{key}{_DIGEST}"


def _moment(said: Mapping[str, str], name: str, wrong: list[str]) -> datetime | None:
    if name not in said:
        return None
    try:
        moment = datetime.fromisoformat(said[name])
    except ValueError:
        moment = None
    # A moment without a time zone would not compare.
    if moment is None or moment.tzinfo is None:
        wrong.append(name)
        return None
    return moment


def _program(manager: str) -> str:
    return manager if manager.startswith(_PROGRAMS) else "another field manager"
