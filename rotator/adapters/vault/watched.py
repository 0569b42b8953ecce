"""
Issuers at Vault that are looked at, the corporate ones among them.

Rules that must stay true here:

- Reading only. A corporate issuer is read where the signing of CAs reads it, so that it takes no further right; any
  other one is read where Vault shows it to everybody.
"""

from __future__ import annotations

from collections.abc import Sequence

from rotator.adapters.vault.chains import parents_of
from rotator.adapters.vault.listing import certificate_in
from rotator.adapters.vault.session import VaultSession
from rotator.core.foreign import Foreign
from rotator.errors import Rejected
from rotator.pki.foreign import foreign


class WatchedIssuer:
    """One issuer with everything above it; a `Watch`."""

    kind = "vault_issuer"

    def __init__(self, session: VaultSession, mount: str, issuer: str, *, is_corporate: bool = False) -> None:
        """Look at *issuer*, by name or id, of *mount*; *is_corporate*: it signs rotator's CAs."""
        self._session = session
        self._mount = mount
        self._issuer = issuer
        self._path = f"{mount}/issuer/{issuer}" + ("" if is_corporate else "/json")

    @property
    def place(self) -> str:
        """Return mount and issuer."""
        return f"vault:{self._mount}/{self._issuer}"

    def look(self) -> Sequence[Foreign]:
        """Return the issuer with its chain."""
        who = f"issuer {self._issuer} of {self._mount}"
        reply = self._session.read(self._path, doing=f"reading {who}")
        if reply is None:
            raise Rejected(f"{who} is not there")
        certificate = certificate_in(reply, who)
        return (foreign((certificate, *parents_of(certificate, reply.body.get("ca_chain")))),)
