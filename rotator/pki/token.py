"""
A token's own claims, read by decoding it.

Rules that must stay true here:

- Pure. The signature is not checked here: what is read is compared with what was asked for (law 11), and who checks the
  signature is the control plane that the token is for.
- No error quotes any part of a token (law 10).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from rotator.core.model import IssuerId, Serial, Token, TokenGrant, TokenKind
from rotator.errors import Rejected

TOKEN: Final = "token"  # noqa: S105 -- the name of the file and of the key that holds one
"""The name of the file, and the key of the Secret, that holds a published token."""

LONGEST_TOKEN: Final = 64 << 10
"""Bytes: a token travels in a header."""

_FORM: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_ID: Final = re.compile(r"[A-Za-z0-9_.:-]{1,128}")


def parse_token(text: str, *, source: str) -> Token:
    """Return what the token *text*, seen at *source*, says of itself. Raises `Rejected` if it says nothing usable."""
    text = text.strip()
    if len(text) > LONGEST_TOKEN or _FORM.fullmatch(text) is None:
        raise Rejected(f"{source} holds no token")
    head, body = (_object(part, source) for part in text.split(".")[:2])
    name, key = body.get("jti"), str(head.get("kid", ""))
    # The name goes into a list with commas between, and into records.
    if not isinstance(name, str) or _ID.fullmatch(name) is None:
        raise Rejected(f"{source} holds a token without a name (jti)")
    if not key.isdecimal():
        raise Rejected(f"{source} holds a token that names no signing key (kid)")
    grant = _grant(body)
    return Token(
        id=Serial(name),
        key=int(key),
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        grant=grant,
        issuer=IssuerId(f"{key_prefix(grant.kind, grant.mesh)}-{int(key)}"),
        not_before=_moment(body, "iat" if "iat" in body else "nbf", source),
        not_after=_moment(body, "exp", source),
    )


def key_prefix(kind: TokenKind, mesh: str) -> str:
    """Return what the names of the signing keys begin with."""
    return f"{kind}-token-signing-key" + (f"-{mesh}" if kind is TokenKind.DATAPLANE else "")


def _grant(body: Mapping[str, Any]) -> TokenGrant:
    """Return for whom a token speaks: each kind has a claim that the others lack."""
    if "Mesh" in body:
        tags = body.get("Tags")
        return TokenGrant(
            kind=TokenKind.DATAPLANE,
            name=_text(body, "Name"),
            mesh=_text(body, "Mesh"),
            tags=tuple(sorted((str(tag), _texts(values)) for tag, values in tags.items()))
            if isinstance(tags, Mapping)
            else (),
            proxy_type=_text(body, "Type"),
            workload=_text(body, "Workload"),
        )
    if "Zone" in body:
        return TokenGrant(kind=TokenKind.ZONE, zone=_text(body, "Zone"), scope=_texts(body.get("Scope")))
    return TokenGrant(kind=TokenKind.USER, name=_text(body, "Name"), groups=_texts(body.get("Groups")))


def _text(body: Mapping[str, Any], claim: str) -> str:
    return str(body.get(claim) or "")


def _texts(found: object) -> tuple[str, ...]:
    # A set of tags is written as a list, or as an object of true.
    return tuple(sorted(map(str, found))) if isinstance(found, list | Mapping) else ()


def _moment(body: Mapping[str, Any], claim: str, source: str) -> datetime:
    said = body.get(claim)
    if not isinstance(said, int | float) or isinstance(said, bool):
        raise Rejected(f"{source} holds a token that does not say when it begins and ends")
    try:
        return datetime.fromtimestamp(said, UTC)
    except (ValueError, OverflowError, OSError) as e:
        raise Rejected(f"{source} holds a token that ends at no moment") from e


def _object(part: str, source: str) -> Mapping[str, Any]:
    try:
        said = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (binascii.Error, ValueError) as e:
        raise Rejected(f"{source} holds no readable token") from e
    if not isinstance(said, dict):
        raise Rejected(f"{source} holds no readable token")
    return said
