"""
What one publication holds: the files by name, and what they say when read back.

Rules that must stay true here:

- Whatever is wrong with a file becomes a sentence in the publication's problem, never an exception.
- ``publication.json`` says what the files should hash to, so that an edit by somebody else is seen; it holds no hash of
  the key, which is checked against the leaf instead.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from rotator.adapters.directory.files import File, read_file
from rotator.core.model import Publication, SubjectName
from rotator.errors import Rejected
from rotator.pki.certificates import Material
from rotator.pki.published import BUNDLE, CHAIN, KEY, is_pair, published_bundle, published_leaf
from rotator.ports import Stamp

NOTE = "publication.json"
FILES = (CHAIN, KEY, BUNDLE, NOTE)
"""What a certificate's publication consists of."""


def publication_of(files: Mapping[str, File], number: int, *, target: str, key_mode: int) -> Publication:
    """Return publication *number*, which consists of *files*, with everything that is wrong with it in words."""
    problems: list[str] = [f"{name} is missing" for name in FILES if name not in files]
    note = Note.parse(files[NOTE].content, problems, (CHAIN, BUNDLE)) if NOTE in files else Note()
    problems += edited(note, files)
    parts = {name: file.content for name, file in files.items()}
    leaf = published_leaf(parts, problems)
    pair = is_pair(parts, leaf, problems)
    problems += opened_up(files, KEY, key_mode)
    return Publication(
        target=target,
        number=number,
        leaf=leaf,
        bundle=published_bundle(parts, problems),
        key_matches=pair,
        leaf_published_at=note.leaf_published_at,
        bundle_published_at=note.bundle_published_at,
        problem="; ".join(problems) or None,
        subject=note.subject,
        rotation_id=note.rotation_id,
    )


def edited(note: Note, files: Mapping[str, File]) -> list[str]:
    """Return, in words, which of *files* are not what *note* says that was written."""
    return [
        f"{name} was changed by somebody else"
        for name, digest in note.sha256.items()
        if name in files and hashlib.sha256(files[name].content).hexdigest() != digest
    ]


def opened_up(files: Mapping[str, File], name: str, mode: int) -> list[str]:
    """Return, in words, that the secret file *name* lets more people in than *mode* does; empty if it does not."""
    if name not in files or not files[name].mode & ~mode & 0o077:
        return []
    return [f"{name} is open to others (mode {files[name].mode & 0o777:04o})"]


def contents_of(material: Material, number: int, stamp: Stamp) -> dict[str, bytes]:
    """Return the files of a publication by name. The note holds no hash of the key: the pair is checked by itself."""
    note = {
        "version": 1,
        "number": number,
        "subject": stamp.subject,
        "rotation_id": stamp.rotation_id,
        "leaf_published_at": stamp.leaf_published_at.isoformat(),
        "bundle_published_at": stamp.bundle_published_at.isoformat(),
        "serial": material.leaf.serial,
        "sha256": {
            CHAIN: hashlib.sha256(material.chain_pem).hexdigest(),
            BUNDLE: hashlib.sha256(material.bundle_pem).hexdigest(),
        },
    }
    return {
        CHAIN: material.chain_pem,
        KEY: material.key_pem,
        BUNDLE: material.bundle_pem,
        NOTE: (json.dumps(note, indent=1, sort_keys=True) + "\n").encode(),
    }


def digest_of(files: Mapping[str, File]) -> bytes:
    """Return what tells these files from any others, modes included. Never shown: a key is among them."""
    whole = hashlib.sha256()
    for name, file in files.items():
        whole.update(f"{name} {file.mode} {len(file.content)}\n".encode())
        whole.update(file.content)
    return whole.digest()


def files_of(root: int, folder_name: str, names: tuple[str, ...] = FILES) -> dict[str, File]:
    """Return the files *names* of a publication by name; those that are not there, or no plain files, are left out."""
    try:
        folder = os.open(folder_name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=root)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    files: dict[str, File] = {}
    try:
        for name in names:
            with contextlib.suppress(FileNotFoundError, Rejected):
                files[name] = read_file(folder, name)
    finally:
        os.close(folder)
    return files


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What ``publication.json`` says."""

    subject: SubjectName | None = None
    rotation_id: str | None = None
    leaf_published_at: datetime | None = None
    bundle_published_at: datetime | None = None
    sha256: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, content: bytes, problems: list[str], hashed: tuple[str, ...]) -> Note:
        """Return the note, which has a hash of each of *hashed*; what cannot be read is added to *problems*."""
        try:
            raw = json.loads(content)
            hashes = raw["sha256"]
            return cls(
                subject=SubjectName(str(raw["subject"])),
                rotation_id=str(raw["rotation_id"]),
                leaf_published_at=_moment(raw["leaf_published_at"]),
                bundle_published_at=_moment(raw["bundle_published_at"]),
                sha256={name: str(hashes[name]) for name in hashed},
            )
        except (ValueError, KeyError, TypeError):
            problems.append(f"{NOTE} cannot be read")
            return cls()


def _moment(text: str) -> datetime:
    """Return an aware moment. Raises `ValueError` for one without a time zone: it would not compare."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a moment without a time zone")
    return moment
