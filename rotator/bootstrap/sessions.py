"""
Sessions at Vault, one for each issuer of the configuration, and the one way to the cluster.

Rules that must stay true here:

- Everything that talks to one Vault shares one session; a reload of the configuration keeps those that did not change.
- Nothing is called over the network here: a session logs in when it is first used.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime

from rotator.adapters.vault.auth import JWT, AppRole, Auth, Certificate, Kubernetes, TokenFile
from rotator.adapters.vault.session import VaultSession
from rotator.adapters.vault.transport import Endpoint
from rotator.bootstrap.cluster import access
from rotator.cluster.objects import ClusterAccess, ObjectAPI
from rotator.core.alert_kinds import AlertKind
from rotator.core.foreseen import Alert, AlertPolicy, login_alerts, true_at
from rotator.core.model import SubjectName
from rotator.errors import ConfigError
from rotator.ports import Clock, PauseBook
from rotator.settings import Settings
from rotator.settings.issuers import Login
from rotator.settings.issuers import VaultIssuer as VaultSettings


@dataclass(slots=True)
class Sessions:
    """Vault sessions by issuer name, kept over a reload of the configuration."""

    clock: Clock
    threads: int
    _open: dict[str, tuple[VaultSettings, VaultSession]]
    _missing: dict[str, datetime] = field(default_factory=dict)
    """Since when an issuer's session was seen without a login."""
    pauses: PauseBook | None = None
    """What is paused in Airflows; None for whoever only looks."""
    _cluster: tuple[ClusterAccess, ObjectAPI] | None = None
    _answers: Counter[str] = field(default_factory=Counter)
    """Calls by how they went, also those of sessions that are closed."""
    _counting: threading.Lock = field(default_factory=threading.Lock)

    def of(self, name: str, settings: VaultSettings) -> VaultSession:
        """Return the session of issuer *name*, a new one if its settings have changed."""
        known = self._open.get(name)
        if known is not None and known[0] == settings:
            return known[1]
        if known is not None:
            known[1].close()
        endpoint = Endpoint(
            address=str(settings.address),
            ca_file=settings.ca_file,
            namespace=settings.namespace,
            timeout=settings.timeout,
            connections=max(4, 2 * self.threads),
        )
        session = VaultSession(endpoint, _auth(settings.auth), clock=self.clock, answered=self._answered)
        self._open[name] = (settings, session)
        return session

    def cluster(self, settings: Settings) -> ObjectAPI:
        """Return the API server of the cluster that rotator works in, a new one if its settings have changed."""
        wanted = access(settings)
        if self._cluster is not None and self._cluster[0] == wanted:
            return self._cluster[1]
        opened = ObjectAPI(wanted)
        if self._cluster is not None:
            self._cluster[1].close()
        self._cluster = (wanted, opened)
        return opened

    def all(self) -> tuple[VaultSession, ...]:
        """Return every open session."""
        return tuple(session for _, session in self._open.values())

    def named(self) -> tuple[tuple[str, VaultSession], ...]:
        """Return every open session with its issuer's name."""
        return tuple((name, session) for name, (_, session) in tuple(self._open.items()))

    def answers(self) -> dict[str, int]:
        """Return how many calls went how, since the start."""
        with self._counting:
            return dict(self._answers)

    def _answered(self, result: str) -> None:
        with self._counting:
            self._answers[result] += 1

    def alerts(
        self,
        policy: AlertPolicy,
        now: datetime,
        begun_before: Callable[[AlertKind, SubjectName], datetime | None] = lambda _kind, _issuer: None,
    ) -> Iterator[Alert]:
        """Yield what the logins raise at *now*, by issuer; *begun_before* knows what a process before has raised."""
        for name, (_, session) in tuple(self._open.items()):
            if session.is_logged_in:
                self._missing.pop(name, None)
            else:
                told = begun_before(AlertKind.LOGIN_LOST, SubjectName(name))
                self._missing.setdefault(name, now if told is None else told - policy.overdue_after)
            foreseen = login_alerts(
                SubjectName(name),
                policy,
                not_after=session.token_not_after,
                life=session.token_life,
                missing_since=self._missing.get(name),
            )
            yield from true_at(foreseen, now)

    def close(self) -> None:
        """Close every session."""
        for session in self.all():
            session.close()
        self._open.clear()
        if self._cluster is not None:
            self._cluster[1].close()
            self._cluster = None


def _auth(login: Login) -> Auth:
    """Return how to log in, as the adapter wants it."""
    if login.approle is not None:
        chosen = login.approle
        return AppRole(role_id_file=chosen.role_id_file, secret_id_file=chosen.secret_id_file, mount=chosen.mount)
    if login.kubernetes is not None:
        return Kubernetes(
            role=login.kubernetes.role, token_file=login.kubernetes.token_file, mount=login.kubernetes.mount
        )
    if login.jwt is not None:
        return JWT(role=login.jwt.role, token_file=login.jwt.token_file, mount=login.jwt.mount)
    if login.cert is not None:
        return Certificate(
            role=login.cert.role or "",
            cert_file=login.cert.cert_file,
            key_file=login.cert.key_file,
            mount=login.cert.mount,
        )
    if login.token is not None:
        return TokenFile(token_file=login.token.token_file)
    raise ConfigError("auth names no way to log in")
