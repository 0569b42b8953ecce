"""
The tokens by which rotator itself enters control planes: how long they last.

Rules that must stay true here:

- A login is watched as the one at Vault is: what ends is told of before it ends.
- A file is read again when it has changed, and only what its token says of itself is kept (law 10).
- What is no token of Kuma's (a password, a client certificate) ends at no known moment and raises nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from rotator.core.alert_kinds import AlertKind
from rotator.core.foreseen import Alert, AlertPolicy, login_alerts, true_at
from rotator.core.model import SubjectName, Token
from rotator.errors import Rejected
from rotator.http_exchange import stamp_of
from rotator.pki.token import parse_token
from rotator.settings import Settings


@dataclass(slots=True)
class PlaneLogins:
    """The logins at the control planes of every mesh, by trust domain. Called by one thread at a time."""

    settings: Callable[[], Settings]
    _known: dict[Path, tuple[object, Token | None]] = field(default_factory=dict)
    _missing: dict[str, datetime] = field(default_factory=dict)
    """Since when a login's file was seen not to be there."""

    def tokens(self) -> Iterator[tuple[str, Token]]:
        """Yield every login whose end is known, by trust domain."""
        for name, path in self._files():
            token = self._read(path)
            if token is not None:
                yield name, token

    def alerts(
        self,
        policy: AlertPolicy,
        now: datetime,
        begun_before: Callable[[AlertKind, SubjectName], datetime | None] = lambda _kind, _subject: None,
    ) -> Iterator[Alert]:
        """Yield what the logins raise at *now*; *begun_before* knows what a process before has raised."""
        for name, path in self._files():
            subject, token = SubjectName(name), self._read(path)
            if path in self._known:
                self._missing.pop(name, None)
            else:
                told = begun_before(AlertKind.LOGIN_LOST, subject)
                self._missing.setdefault(name, now if told is None else told - policy.overdue_after)
            foreseen = login_alerts(
                subject,
                policy,
                not_after=token.not_after if token is not None else None,
                life=token.not_after - token.not_before if token is not None else None,
                missing_since=self._missing.get(name),
            )
            yield from true_at(foreseen, now)

    def _files(self) -> Iterator[tuple[str, Path]]:
        for name, domain in self.settings().trust_domains.items():
            if domain.mesh is not None and domain.mesh.control_plane.token_file is not None:
                yield name, domain.mesh.control_plane.token_file

    def _read(self, path: Path) -> Token | None:
        """Return what the token at *path* says of itself; None if it says nothing, or cannot be read."""
        try:
            stamp = stamp_of(path)
            known = self._known.get(path)
            if known is not None and known[0] == stamp:
                return known[1]
            text = path.read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError):
            self._known.pop(path, None)
            return None
        try:
            token = parse_token(text, source=str(path))
        except Rejected:
            token = None
        self._known[path] = (stamp, token)
        return token
