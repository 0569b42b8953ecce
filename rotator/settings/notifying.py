"""
How the file names those who are told of alerts.

Rules that must stay true here:

- Attributes are named as the file's keys; the sentence below each is the key's description in the JSON Schema.
- A secret is named by its file and never stands here; neither does an address that is one (``url_file``).
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import Field, model_validator

from rotator.settings.keys import Keys
from rotator.settings.values import (
    AbsolutePath,
    Duration,
    Name,
    OpenText,
    PositiveDuration,
    SecretFile,
    WebURL,
    refused,
)

_SECOND = timedelta(seconds=1)
_MINUTE = timedelta(minutes=1)


class Links(Keys):
    """Addresses that stand in notices, so that a reader finds more."""

    status: WebURL | None = None
    """Where the status page of this installation is served, for those who may see it."""
    runbooks: WebURL | None = None
    """Below which the runbooks are served; without it notices name the page alone."""


class Alertmanager(Keys):
    """Prometheus Alertmanager, by its API v2."""

    urls: tuple[WebURL, ...] = Field(min_length=1)
    """Every replica: each is sent each alert. Plain http without credentials only."""
    ca_file: AbsolutePath | None = None
    """CA certificates that sign the servers' own; the system's if not given."""
    bearer_token_file: SecretFile | None = None
    """File that holds a bearer token; read again at each message."""
    username: OpenText | None = None
    """Basic authentication, with password_file."""
    password_file: SecretFile | None = None
    """File that holds the password; read again at each message."""
    client_certificate_file: AbsolutePath | None = None
    """Client certificate, where the servers ask for one."""
    client_key_file: SecretFile | None = None
    """Its key; both or neither."""
    timeout: PositiveDuration = 10 * _SECOND
    """Of one request."""


class Webhook(Keys):
    """An address that is posted one JSON document a message; see docs/contract.md."""

    url: WebURL | None = None
    """Where to post; exactly one of url and url_file."""
    url_file: SecretFile | None = None
    """File that holds the address, where the address itself is a secret."""
    secret_file: SecretFile | None = None
    """File that holds the secret that signs each message; unsigned if not given."""
    ca_file: AbsolutePath | None = None
    """CA certificates that sign the server's own; the system's if not given."""
    bearer_token_file: SecretFile | None = None
    """File that holds a bearer token; read again at each message."""
    timeout: PositiveDuration = 10 * _SECOND
    """Of one request."""


class KubernetesEvents(Keys):
    """Events in the cluster, in rotator's own namespace."""

    about_secrets: bool = False
    """Alerts of what stands in a Secret become Events of that Secret, in its namespace; a right of its own."""


class Apprise(Keys):
    """Mail, chat and everything else that apprise reaches; takes the extra rotator[apprise]."""

    urls_file: SecretFile
    """File that holds apprise's addresses, one a line; they hold passwords."""


class MessageRate(Keys):
    """At most so many messages in so much time."""

    messages: int = Field(default=30, ge=1, strict=True)
    """Messages, each with many notices."""
    within: PositiveDuration = _MINUTE
    """In this time."""


_KINDS: Final = ("alertmanager", "webhook", "kubernetes_events", "apprise")
_REPEATS: Final = {
    # Its alerts end by themselves when they are not sent again.
    "alertmanager": _MINUTE,
    "webhook": timedelta(hours=4),
    # The API server forgets Events after an hour.
    "kubernetes_events": timedelta(minutes=30),
    "apprise": timedelta(hours=24),
}


class NotifyReceiver(Keys):
    """One receiver of alerts, exactly one of the kinds."""

    name: Name
    """What logs and metrics call it."""
    alertmanager: Alertmanager | None = None
    """Prometheus Alertmanager."""
    webhook: Webhook | None = None
    """An address that takes JSON."""
    kubernetes_events: KubernetesEvents | None = None
    """Events in the cluster."""
    apprise: Apprise | None = None
    """Mail, chat and more."""
    minimum_severity: Literal["warning", "critical"] = "warning"
    """Least grave alerts that it is told."""
    subjects: tuple[OpenText, ...] | Literal["all"] = "all"
    """Certificates, trust domains, workloads, issuers and watched names it is told of."""
    repeat_every: Duration | None = None
    """How often what lasts is told again; 0s: never. Its kind's own if not given."""
    rate: MessageRate = MessageRate()
    """Most messages that it is sent; what comes faster is gathered into the next one."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        given = [kind for kind in _KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise refused(f"exactly one of {' | '.join(_KINDS)}", "choose one" if given else "name one")
        return self

    @property
    def kind(self) -> str:
        """Return the one kind that is given."""
        return next(kind for kind in _KINDS if getattr(self, kind) is not None)

    @property
    def repeats(self) -> timedelta:
        """Return how often what lasts is told again, its kind's own if nothing is said."""
        return _REPEATS[self.kind] if self.repeat_every is None else self.repeat_every


def credential_files(receiver: NotifyReceiver) -> tuple[tuple[str, Path], ...]:
    """Return key and path of every file that *receiver* shows to its server as a proof of who we are."""
    inner = receiver.alertmanager or receiver.webhook
    keys = ("bearer_token_file", "password_file")
    found = ((key, getattr(inner, key, None)) for key in keys)
    return tuple((key, file) for key, file in found if file is not None)
