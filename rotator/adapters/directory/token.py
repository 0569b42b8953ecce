"""
A directory in which one token is published: versions side by side, one symlink says which counts.

::

    CURRENT -> publication-7        replaced by rename
    publication-7/token             the token, 0600
    publication-7/publication.json  whose it is, since when
    publication-6/                  the one before, until `forget`

Rules that must stay true here: those of `rotator.adapters.directory.switched`, and:

- A hash of a token gives nothing away: the signature in it is longer than anybody can guess.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from rotator.adapters.directory.files import File
from rotator.adapters.directory.publication import NOTE, Note, edited, opened_up
from rotator.adapters.directory.switched import Access, SwitchedDirectory
from rotator.core.model import Publication
from rotator.errors import Rejected
from rotator.pki.token import TOKEN, parse_token
from rotator.ports import Stamp


class TokenDirectory(SwitchedDirectory):
    """`TokenStore` over one directory."""

    def __init__(self, path: Path, *, access: Access | None = None) -> None:
        """Name the directory, as `SwitchedDirectory` does."""
        chosen = access or Access()
        reading = partial(_publication, target=f"directory:{path}", mode=chosen.key_mode)
        super().__init__(path, names=(TOKEN, NOTE), secret=frozenset({TOKEN}), reading=reading, access=chosen)

    def text(self) -> str:
        """Return the token that is published now. Raises `Rejected` if there is none."""
        _, files = self.contents()
        if TOKEN not in files:
            raise Rejected(f"{self.target} lacks its {TOKEN}")
        return files[TOKEN].decode("ascii", errors="replace").strip()

    def put_token(self, text: str, *, expected: int, stamp: Stamp) -> Publication:
        """Publish *text* as the publication after *expected*; errors as `SwitchedDirectory.publish`."""
        wanted = parse_token(text, source="the new token")
        return self.publish(
            lambda number: _contents(text, number, stamp), lambda seen: seen.token == wanted, expected=expected
        )


def _publication(files: Mapping[str, File], number: int, *, target: str, mode: int) -> Publication:
    """Return publication *number*, which consists of *files*, with everything that is wrong with it in words."""
    problems = [f"{name} is missing" for name in (TOKEN, NOTE) if name not in files]
    note = Note.parse(files[NOTE].content, problems, (TOKEN,)) if NOTE in files else Note()
    problems += edited(note, files)
    problems += opened_up(files, TOKEN, mode)
    token = None
    if TOKEN in files:
        try:
            token = parse_token(files[TOKEN].content.decode("ascii", errors="replace"), source=TOKEN)
        except Rejected as e:
            problems.append(str(e))
    return Publication(
        target=target,
        number=number,
        leaf=None,
        token=token,
        leaf_published_at=note.leaf_published_at,
        problem="; ".join(problems) or None,
        subject=note.subject,
        rotation_id=note.rotation_id,
    )


def _contents(text: str, number: int, stamp: Stamp) -> dict[str, bytes]:
    """Return the files of a publication by name."""
    content = text.encode("ascii")
    note = {
        "version": 1,
        "number": number,
        "subject": stamp.subject,
        "rotation_id": stamp.rotation_id,
        "leaf_published_at": stamp.leaf_published_at.isoformat(),
        "bundle_published_at": stamp.bundle_published_at.isoformat(),
        "sha256": {TOKEN: hashlib.sha256(content).hexdigest()},
    }
    return {TOKEN: content, NOTE: (json.dumps(note, indent=1, sort_keys=True) + "\n").encode()}
