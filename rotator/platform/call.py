"""
What was seen of one call: both sides' proxies, the ways between them, who may call, and where Airflow calls.

Rules that must stay true here:

- Facts alone: nothing here says what is right, and what could not be looked at is None or a reason, never a guess.
- A fact says whose it is, so that a finding can name it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Token:
    """The token with which a proxy says who it is to its control plane."""

    name: str
    """As the configuration names it, or its file."""
    not_after: datetime | None = None
    revoked_by: str | None = None
    """The list that holds it; None: no list that could be read does."""
    subject: str | None = None
    """How it is renewed: the name for ``rotator rotate-now``; None if it is none of rotator's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """Whether somebody lets the caller in."""

    admitted: bool
    by: tuple[str, ...] = ()
    """The policies or rules that say so; empty: nobody's word, so it is refused."""
    denied: bool = False
    """A denial says so, not the absence of a permission."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """One outbound of the caller's proxy."""

    at: str
    """Where the caller's workload reaches it: ``240.0.0.4:8080``."""
    meant: bool
    """Whether it is the way to the service, by what it is called or by what leads there."""
    leads_to: tuple[str, ...]
    """SPIFFE IDs of who must show themselves behind it."""
    clusters: tuple[str, ...] = ()
    """Envoy's names of what is behind it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Application:
    """Whether the application behind a proxy takes connections."""

    answers: bool | None
    """None: nobody could tell."""
    seen: str
    """What was seen, or why it was not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sidecar:
    """One proxy of either side."""

    name: str
    online: bool
    connected_before: bool = True
    away_since: datetime | None = None
    sent: int = 0
    rejected: int = 0
    unanswered: int = 0
    """Configurations without an answer, still after a second look."""
    unread: str | None = None
    """Why its own configuration could not be read; None: it was read."""
    names: tuple[str, ...] = ()
    """The URIs in its leaf."""
    leaf_not_after: datetime | None = None
    issuer: str | None = None
    """Who issued the leaf, in words: ``generation 3``; None if that is not known."""
    token: Token | None = None
    held: Decision | None = None
    """Of a destination: what the rules in use say of the caller; None: there are none, or they could not be read."""
    intended: Decision | None = None
    """The same of what its control plane computes for it now."""
    ways: tuple[Way, ...] = ()
    """Of a caller."""
    intended_ways: tuple[Way, ...] | None = None
    not_ready: str | None = None
    """Of a destination: why its inbound counts as not ready; None if it counts as ready."""
    application: Application | None = None
    """Of a destination."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """Who calls, or what is called."""

    title: str
    """For sentences: ``finance (queue finance, production)``."""
    short: str
    """``production/finance``."""
    spiffe_id: str | None
    """Who it ought to be; None if only a proxy was named."""
    environment: str | None
    sidecars: tuple[Sidecar, ...]
    looked_for: str
    """How its proxies were looked for: ``labels kuma.io/workload=finance``."""
    in_cluster: bool = True
    not_asked: int = 0
    """Proxies that are online and were not asked, because there are too many."""

    @property
    def online(self) -> tuple[Sidecar, ...]:
        """Return its proxies that are in contact with their control plane."""
        return tuple(each for each in self.sidecars if each.online)


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """Whether one proxy takes what another shows."""

    by: str
    shown_by: str
    problem: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class HostUse:
    """One place of Airflow's settings that names a host."""

    where: str
    """``AIRFLOW_CONN_LEDGER of workload airflow-workers``."""
    host: str
    port: int | None
    meant: bool
    """Whether it is for this destination, by its name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """Everything that was seen of one call at one moment."""

    now: datetime
    caller: Side
    service: Side
    port: int | None = None
    """Where the service listens."""
    hostnames: tuple[str, ...] = ()
    """The names by which the service is reached; the first is the one to use."""
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    """SPIFFE IDs of the same service in other environments, with their qualified names."""
    others: Mapping[str, str] = field(default_factory=dict)
    """SPIFFE IDs of every other service of the configuration, with their qualified names."""
    asked_for: tuple[str, ...] | None = None
    """Permissions of the configuration that let this call be made; None without a configured platform."""
    documents: Decision | None = None
    """What the MeshTrafficPermissions on the control plane say; None if they could not be read."""
    verifications: tuple[Verification, ...] = ()
    host_uses: tuple[HostUse, ...] = ()
    unseen_hosts: str = ""
    """Why none of Airflow's settings could be read; empty if some were, or nothing was to be read."""
    unasked_airflow: str = ""
    """Why the caller's Airflow could not be asked how it is; empty if it was, or there is none."""
    unhealthy: tuple[str, ...] = ()
    """Parts of the caller's Airflow that it calls unhealthy."""
