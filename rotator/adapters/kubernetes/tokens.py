"""
A Secret in which one token is published, under the key ``token``.

Rules that must stay true here:

- The Secret is of type Opaque and switched by one write of one object (laws 9 and 14); keys that others keep in it are
  left alone.
- Nothing is kept beside it: of a token that is replaced a new one can be had at any time.
"""

from __future__ import annotations

import base64
import binascii
from datetime import timedelta
from typing import Final

from rotator.adapters.kubernetes.notes import Dress, Note, changed
from rotator.adapters.kubernetes.place import Content, Kind, Place
from rotator.cluster.objects import JSON, ObjectAPI
from rotator.core.model import Publication, SubjectName
from rotator.errors import Rejected
from rotator.pki.token import TOKEN, parse_token
from rotator.ports import Clock, Stamp

TYPE: Final = "Opaque"

_KIND: Final = Kind(kind="Secret", plural="secrets", type=TYPE, noted=(TOKEN,), has_serial=True)


class TokenSecret:
    """`TokenStore` over one Secret. Every call looks at the API server."""

    def __init__(
        self,
        api: ObjectAPI,
        *,
        namespace: str,
        name: str,
        subject: SubjectName,
        clock: Clock,
        dress: Dress | None = None,
        adopt: bool = False,
        patience: timedelta = timedelta(seconds=5),
    ) -> None:
        """Name the Secret; it is made at the first `put_token`, its namespace is not."""
        self._target = f"kubernetes_secret:{namespace}/{name}"
        self._place = Place(
            api,
            kind=_KIND,
            namespace=namespace,
            name=name,
            subject=subject,
            dress=dress or Dress(),
            adopt=adopt,
            clock=clock,
            patience=patience,
            reading=self._understand,
        )

    @property
    def target(self) -> str:
        """Return the place as people name it."""
        return self._target

    def read(self) -> Publication | None:
        """Return what the Secret holds. Raises `Rejected` if somebody else's is there."""
        return self._place.read()

    def text(self) -> str:
        """Return the token that is published now. Raises `Rejected` if there is none."""
        whole = self._place.whole()
        text = None if whole is None else _text(whole)
        if text is None:
            raise Rejected(f"no token is published in {self._target}")
        return text.strip()

    def put_token(self, text: str, *, expected: int, stamp: Stamp) -> Publication:
        """Publish *text* as the publication after *expected*; `Conflict` if another is there or is stored."""
        wanted = parse_token(text, source="the new token")
        content = Content(
            fields={"type": TYPE, "data": {TOKEN: base64.b64encode(text.encode("ascii")).decode("ascii")}},
            noted={TOKEN: text.encode("ascii")},
            serial=wanted.id,
        )
        return self._place.put(content, stamp, expected=expected, holds=lambda seen: wanted == seen.token)

    def forget(self, *, keep: frozenset[int]) -> None:
        """Do nothing: of a token nothing is kept beside it."""

    def _understand(self, whole: JSON, note: Note) -> Publication:
        text = _text(whole)
        parts = {} if text is None else {TOKEN: text.encode("ascii", errors="replace")}
        problems = [] if parts else [f"{TOKEN} is missing"]
        problems += [f"{key} was changed by somebody else" for key in changed(note, parts)]
        token = None
        if text is not None:
            try:
                token = parse_token(text, source=TOKEN)
            except Rejected as e:
                problems.append(str(e))
        return Publication(
            target=self._target,
            number=note.number,
            leaf=None,
            token=token,
            leaf_published_at=note.leaf_published_at,
            problem="; ".join(problems) or None,
            subject=note.subject,
            rotation_id=note.rotation_id,
        )


def _text(whole: JSON) -> str | None:
    """Return the token in a Secret; None if there is none, or no text."""
    coded = (whole.get("data") or {}).get(TOKEN)
    try:
        return None if coded is None else base64.b64decode(coded, validate=True).decode("ascii")
    except (binascii.Error, ValueError, TypeError):
        return ""
