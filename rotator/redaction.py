"""
Takes secrets out of text before anything writes it down.

Rules that must stay true here:

- Pure text work, standard library only, so that every room may use it.
- Two nets: the name of a field, and the look of a value. Either is enough to remove it (law 10).
- What is removed is replaced by words, never by a part or a digest of the secret.
- The cost is linear in the text: no pattern can be driven to backtrack by hostile input.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

REMOVED: Final = "[removed]"

_SECRET_NAME: Final = re.compile(
    r"(?:^|[_\-.])(?:password|passwd|passphrase|secret|secrets|secret[_-]?id|token|api[_-]?key|private[_-]?key|key[_-]pem|"
    r"authorization|cookie|credentials?|broker[_-]url|args|kwargs|argsrepr|kwargsrepr|unseal[_-]keys?|x[_-]vault[_-]token)$",
    re.IGNORECASE,
)

_PEM: Final = re.compile(r"-----BEGIN [A-Z0-9 ]{1,40}-----(?:[^-]|-(?!----END))*(?:-----END [A-Z0-9 ]{1,40}-----)?")
_VALUES: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    # Vault and OpenBao: service, batch and recovery tokens, old and new spelling.
    (re.compile(r"\b(?:hv[sbr]|[sbr])\.[A-Za-z0-9_-]{20,}"), REMOVED),
    # JSON web tokens: header, payload and signature, also with an empty signature.
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]*"), REMOVED),
    # scheme://user:password@host; greedy up to the last @, because people forget to escape it.
    (re.compile(r"([A-Za-z][A-Za-z0-9+.\-]{0,30}://)[^/\s@:]{0,256}:[^/\s]{0,1024}@"), r"\1" + REMOVED + "@"),
    (re.compile(r"\b(bearer|basic)\s{1,4}[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE), r"\1 " + REMOVED),
    # name=value and "name": "value" inside a sentence or a query string.
    (
        re.compile(
            r"""(password|passwd|passphrase|secret_?id|client_secret|api_?key|\btoken|\bsecret)(["']?\s{0,4}=\s{0,4}|["']\s{0,4}:\s{0,4})"""
            r"""(?:"[^"]*"|'[^']*'|[^\s&,;"']+)""",
            re.IGNORECASE,
        ),
        r"\1\2" + REMOVED,
    ),
    # A DER private key in base64 without its PEM lines (PKCS#8, SEC 1 and PKCS#1 all start this way).
    (re.compile(r"\bM(?:I[GIHC]|C4|HcCAQEE)[A-Za-z0-9+/]{44,}={0,2}"), REMOVED),
)
_DEEPEST: Final = 6


def names_secret(name: str) -> bool:
    """Return whether a field called *name* holds a secret itself (``token``), not a place of one (``token_file``)."""
    return _SECRET_NAME.search(name) is not None


def redacted_text(text: str) -> str:
    """Return *text* without PEM blocks, Vault tokens, JSON web tokens, passwords in URLs and the like."""
    if "-----BEGIN" in text:
        text = _PEM.sub("[pem removed]", text)
    for pattern, instead in _VALUES:
        text = pattern.sub(instead, text)
    return text


def holds_secret(text: str) -> bool:
    """Return whether `redacted_text` would remove something from *text*."""
    return redacted_text(text) != text


def redacted(value: object, *, depth: int = 0) -> object:
    """
    Return *value* with every secret in it removed; mappings and sequences are walked, the rest is made text.

    Numbers, booleans and None come back as they are. Below six levels the whole branch is removed: what is nested
    deeper than that was not meant for a log.
    """
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return redacted_text(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return redacted_text(bytes(value).decode("utf-8", errors="replace"))
    if depth >= _DEEPEST:
        return REMOVED
    if isinstance(value, Mapping):
        return {
            str(key): REMOVED if names_secret(str(key)) and inner is not None else redacted(inner, depth=depth + 1)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [redacted(inner, depth=depth + 1) for inner in value]
    return redacted_text(str(value))
