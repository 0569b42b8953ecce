"""
The whole configuration file: one class for each mapping, one attribute for each key.

Rules that must stay true here:

- Attributes are named as the file's keys (``from`` and ``for`` are Python's words: ``from_``, ``for_``).
- What is not built yet has its place in the shape and is refused by `rotator.settings.checks` in one line.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Literal

from pydantic import Field

from rotator.settings.airflow import AirflowInstallation
from rotator.settings.approval import Approval
from rotator.settings.cluster import Cluster
from rotator.settings.issuers import IssuerSettings
from rotator.settings.keys import Keys
from rotator.settings.notifying import Links, NotifyReceiver
from rotator.settings.platform import PlatformSettings
from rotator.settings.service import HTTPService
from rotator.settings.telemetry import Telemetry
from rotator.settings.tokens import SigningKeySettings, TokenSettings
from rotator.settings.trust import CertificateSettings, TrustDomain
from rotator.settings.values import (
    AbsolutePath,
    Duration,
    GroupName,
    Moment,
    Name,
    OpenText,
    PositiveDuration,
    Ratio,
    SecretFile,
    StoreURL,
    TimeOfDay,
    TrustDomainKey,
    Zone,
)
from rotator.settings.watching import WatchSettings
from rotator.settings.workloads import Workload

_SECOND = timedelta(seconds=1)
_MINUTE = timedelta(minutes=1)
_HOUR = timedelta(hours=1)


class Log(Keys):
    """What is written to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least important lines that are written."""
    format: Literal["auto", "json", "console"] = "auto"
    """One JSON object a line, or text for people; auto: text on a terminal."""


class LedgerSettings(Keys):
    """The evidence log."""

    path: AbsolutePath
    """Directory of the log: tiles, checkpoints and entry bundles."""
    origin: OpenText
    """The log's name in every checkpoint; never change it for a log that exists."""
    signing_key_file: SecretFile
    """Ed25519 key that signs checkpoints; outside the log's directory."""
    checkpoint_every: PositiveDuration = _MINUTE
    """How often new records are signed."""
    heartbeat_every: PositiveDuration = _HOUR
    """How often a record is written although nothing happened, so that silence is visible."""


class People(Keys):
    """Who may ask for what over the control socket, by Unix group; root and the service's own user may operate."""

    socket_group: GroupName | None = None
    """Group that may open the socket and read; the service's own group if not given."""
    operate: tuple[GroupName, ...] = ()
    """Groups that may rotate, pause, resume and roll back."""
    emergency: tuple[GroupName, ...] = ()
    """Groups that may also skip windows and freezes, and declare a compromise."""
    approve: tuple[GroupName, ...] = ()
    """Groups that may approve and reject what others ask for."""


class Timing(Keys):
    """How long things may take; the safety line and law 4 are computed from these."""

    skew: Duration = 5 * _SECOND
    """Allowed clock difference between this machine, the CA and the consumers."""
    propagation: Duration = 5 * _SECOND
    """From a decision that a CA stops signing to no request reaching it any more."""
    issue: Duration = 5 * _SECOND
    """One certificate at the issuer."""
    publish: Duration = 5 * _SECOND
    """Writing one publication and reading it back."""
    proof: Duration = 30 * _SECOND
    """From the publication to the consumer being seen using it."""
    retry_budget: Duration = 5 * _MINUTE
    """Time for tries after the first, when something does not answer."""
    sweep_every: PositiveDuration = 10 * _SECOND
    """How often everything is looked at."""
    backdate: Duration = 30 * _SECOND
    """How far the CA sets notBefore back; the role's not_before_duration."""


class IssuanceLimit(Keys):
    """When a loop of successful issuance trips the breaker."""

    count: int = Field(default=10, ge=1, strict=True)
    """Certificates."""
    within: PositiveDuration = _HOUR
    """In this time."""


class Limits(Keys):
    """Bounds on what rotator does at once."""

    threads: int = Field(default=8, ge=1, le=256, strict=True)
    """Subjects worked on at the same time."""
    vault_requests_per_second: float = Field(default=100, gt=0)
    """Most requests to one issuer."""
    issuances_per_subject: IssuanceLimit = IssuanceLimit()
    """More than this for one certificate stops issuing for it until a person looks."""
    stop_within: PositiveDuration = 25 * _SECOND
    """Time to finish steps after SIGTERM; below the service manager's own."""


Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
Subjects = tuple[str, ...] | Literal["all"]


class MaintenanceWindowSettings(Keys):
    """A weekly time in which planned work may start; without any, it may start at any time."""

    name: Name
    """What status and plan call it."""
    subjects: Subjects = "all"
    """Certificates, trust domains, tokens and signing keys it is for."""
    days: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    """Days on which it starts."""
    from_: TimeOfDay = Field(alias="from")
    """When it starts, in its zone."""
    for_: PositiveDuration = Field(alias="for")
    """How long it lasts; may reach past midnight."""
    zone: Zone = Field(default=timedelta(), json_schema_extra={"default": "UTC"})
    """UTC or an offset; it does not follow daylight saving time."""


class FreezeSettings(Keys):
    """A time in which planned work does not start, whatever the windows say."""

    name: Name
    """What status and plan call it."""
    from_: Moment = Field(alias="from")
    """When it begins."""
    until: Moment
    """When it ends."""
    subjects: Subjects = "all"
    """Certificates, trust domains, tokens and signing keys it is for."""


class Alerts(Keys):
    """When people are told."""

    expiry_ratio_warning: Ratio = 0.8
    """Share of a lifetime that is used up without a renewal: warning."""
    expiry_ratio_critical: Ratio = 0.95
    """The same: critical."""
    overdue_after: Duration = 10 * _MINUTE
    """How long a renewal may be overdue before the warning."""
    expires_within_critical: Duration = timedelta()
    """Remaining life that is critical whatever its share; 0s: only the shares count."""
    links: Links = Links()
    """Addresses that stand in notices."""
    notify: tuple[NotifyReceiver, ...] = ()
    """Who is told beside log and status."""


class Settings(Keys):
    """The whole file."""

    version: Literal[1]
    """Of this format."""
    environment: Name
    """Stands in every record: prod, staging."""
    store: StoreURL
    """Journal and ledger database."""
    stand_by: PositiveDuration | None = None
    """How often a daemon that finds another one at work tries to take over; not given: it ends at once."""
    socket: AbsolutePath
    """The control socket."""
    log: Log = Log()
    """The daemon's own log."""
    ledger: LedgerSettings
    """The evidence log."""
    people: People = People()
    """Rights on the control socket."""
    timing: Timing = Timing()
    """How long things may take."""
    limits: Limits = Limits()
    """Bounds on what is done at once."""
    cluster: Cluster | None = None
    """The cluster that rotator works in; not given on a single machine."""
    http: HTTPService | None = None
    """The read-only HTTP service; none if not given."""
    telemetry: Telemetry = Telemetry()
    """What rotator tells of itself beyond log and HTTP service."""
    issuers: Mapping[Name, IssuerSettings] = Field(min_length=1)
    """Corporate PKIs by name."""
    trust_domains: Mapping[TrustDomainKey, TrustDomain] = Field(min_length=1)
    """Trust domains by name."""
    certificates: Mapping[Name, CertificateSettings] = Field(default_factory=dict)
    """Certificates by name."""
    tokens: Mapping[Name, TokenSettings] = Field(default_factory=dict)
    """Tokens of Kuma's control planes by name."""
    signing_keys: Mapping[Name, SigningKeySettings] = Field(default_factory=dict)
    """Keys that sign such tokens by a name of your choice."""
    airflow: Mapping[Name, AirflowInstallation] = Field(default_factory=dict)
    """Airflows by name."""
    workloads: Mapping[Name, Workload] = Field(default_factory=dict)
    """Workloads by name."""
    windows: tuple[MaintenanceWindowSettings, ...] = ()
    """Maintenance windows."""
    freezes: tuple[FreezeSettings, ...] = ()
    """Times without planned work."""
    alerts: Alerts = Alerts()
    """When people are told."""
    watch: Mapping[Name, WatchSettings] = Field(default_factory=dict)
    """Certificates by name that rotator does not manage and keeps an eye on."""
    approval: Approval = Approval()
    """Where a second person's word is needed."""
    platform: PlatformSettings | None = None
    """Who is who in the meshes, and who may call what; rotator renders and applies it if given."""
