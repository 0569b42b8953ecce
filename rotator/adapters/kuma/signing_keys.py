"""
The keys that sign tokens, kept in secrets of a control plane.

Rules that must stay true here:

- A key is made here, goes into its secret and nowhere else, and is never overwritten (laws 9 and 10).
- The newest key is never removed: Kuma would make another first one, and every token would be refused.
- Names count on with the serials, so which keys there are is asked by their common beginning.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from rotator.adapters.kuma.token_secrets import Shelves
from rotator.core.model import SigningKey, TokenKind
from rotator.errors import Rejected
from rotator.pki.token import key_prefix, parse_token
from rotator.ports import KnownToken

BITS: Final = 2048
"""What Kuma makes itself; its tokens are RS256."""

ADMIN_TOKEN: Final = "admin-user-token"  # noqa: S105 -- the name of a secret
"""GlobalSecret of the token that a control plane issues to its first administrator."""


class KumaSigningKeys:
    """`SigningKeys` in the secrets of one control plane."""

    def __init__(
        self, shelves: Shelves, *, kind: TokenKind, mesh: str, place: str, logins: Sequence[Path] = ()
    ) -> None:
        """
        Keep the keys of *kind* (of *mesh*, for dataplane tokens) in *shelves*; *place* names the control plane.

        *logins* are files with tokens of rotator's own, which user keys sign.
        """
        self._prefix = key_prefix(kind, mesh)
        self._global = shelves.everywhere()
        self._shelf = shelves.of_mesh(mesh) if kind is TokenKind.DATAPLANE else self._global
        self._kind = kind
        self._logins = tuple(logins)
        self._place = f"{place}/{self._prefix}"
        self._serial = re.compile(rf"{re.escape(self._prefix)}-([1-9][0-9]{{0,8}})")

    @property
    def place(self) -> str:
        """Return what tells these keys from any others."""
        return self._place

    def held(self) -> tuple[SigningKey, ...]:
        """Return the keys that are there, ascending by serial."""
        found = []
        for each in self._shelf.numbered(f"{self._prefix}-"):
            match = self._serial.fullmatch(each.name)
            if match is not None:
                found.append(SigningKey(serial=int(match[1]), created_at=each.created_at))
        return tuple(sorted(found, key=lambda each: each.serial))

    def add(self, serial: int) -> None:
        """Make a key and keep it under *serial*; one that is there already is left alone."""
        name = f"{self._prefix}-{serial}"
        if self._shelf.read(name) is not None:
            return
        key = rsa.generate_private_key(public_exponent=65537, key_size=BITS)
        # PKCS#1, as Kuma writes its own.
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
        # One that appeared meanwhile is a conflict: somebody else rotates it too.
        self._shelf.write(name, pem, seen=None)

    def remove(self, serial: int) -> None:
        """Remove one key. Raises `Rejected` if there is no newer one."""
        if not any(each.serial > serial for each in self.held()):
            raise Rejected(f"signing key {self._prefix}-{serial} is the newest: removing it would refuse every token")
        self._shelf.remove(f"{self._prefix}-{serial}")

    def known_tokens(self) -> tuple[KnownToken, ...]:
        """Return rotator's own logins and the first administrator's token, where these keys sign them."""
        if self._kind is not TokenKind.USER:
            return ()
        found = []
        for path in self._logins:
            try:
                text = path.read_text(encoding="ascii")
            except (OSError, UnicodeDecodeError) as e:
                raise Rejected(f"the token in {path} cannot be read, so nobody knows which key signed it") from e
            try:
                token = parse_token(text, source=str(path))
            except Rejected:
                # Not every control plane is entered with a token of Kuma's own.
                continue
            found.append(KnownToken(name=f"rotator's own login ({path})", key=token.key, not_after=token.not_after))
        admin = self._global.read(ADMIN_TOKEN)
        if admin is not None:
            try:
                token = parse_token(admin.value.decode("ascii", errors="replace"), source=ADMIN_TOKEN)
            except Rejected:
                return tuple(found)
            found.append(KnownToken(name=f"GlobalSecret {ADMIN_TOKEN}", key=token.key, not_after=token.not_after))
        return tuple(found)
