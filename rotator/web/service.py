"""
The HTTP service as a part of the daemon: wired from its settings, started, stopped.

Rules that must stay true here:

- It serves in every role: a standby answers probes, and Prometheus, too.
- It changes nothing: whatever is asked for here, nothing of the world is different afterwards.
- Its certificate is looked at as often as everything else; trouble with it is told of and ends nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

from rotator.adapters.kubernetes.reviews import ClusterReviewer
from rotator.core.foreseen import Alert, shown_certificate_alerts, true_at
from rotator.core.model import SubjectName
from rotator.engine.targets import CertificateTarget
from rotator.errors import Unavailable
from rotator.ports import LeafStore
from rotator.settings import Settings
from rotator.settings.service import HTTPService
from rotator.web.app import Routes
from rotator.web.gate import Gate
from rotator.web.listener import Listener
from rotator.web.metrics import Metrics, Tallies
from rotator.web.seen import Daemon
from rotator.web.tls import ServedCertificate

_JOIN: Final = timedelta(seconds=2)


class Service:
    """Answers over HTTP what the settings say. Implements the daemon's own idea of a service."""

    name = "HTTP service"

    def __init__(self, daemon: Daemon, http: HTTPService, tallies: Tallies) -> None:
        """
        Serve *daemon* as *http* says, once started, with the counts of *tallies*.

        Raises:
            ConfigError: If the cluster that knows the readers cannot be reached with what the settings name.
        """
        wired = daemon.wired
        self._daemon = daemon
        self._http = http
        self._tallies = tallies
        self._served = self._certificate()
        self._listener: Listener | None = None
        self._ending = threading.Event()
        self._looking: threading.Thread | None = None
        wired.engine.alerting.watch(self._alerts)

    @property
    def port(self) -> int:
        """Return the port it listens at; 0 while it does not."""
        return self._listener.port if self._listener is not None else 0

    def start(self) -> None:
        """
        Listen, with what is published already if anything is.

        Raises:
            ConfigError: If the address cannot be listened at, or the cluster cannot be reached with what is named.
        """
        wired, served = self._daemon.wired, self._served
        self._ending.clear()
        readers = self._http.read_by(in_cluster=wired.settings.cluster is not None)
        reviewer = None
        if readers == "cluster" and wired.settings.cluster is not None:
            reviewer = ClusterReviewer(
                wired.sessions.cluster(wired.settings), namespace=wired.settings.cluster.namespace
            )
        routes = Routes(
            self._daemon,
            gate=Gate(readers, clock=wired.clock, reviewer=reviewer),
            metrics=Metrics(self._daemon, self._tallies, served=served),
            tallies=self._tallies,
            status=self._daemon.desk.status,
        )
        if served is not None:
            served.look()
        self._listener = Listener(
            routes.application(), self._http.address, tls=served.listening if served is not None else None
        )
        self._listener.start()
        if served is not None:
            self._looking = threading.Thread(target=self._keep_looking, args=(served,), name="http-tls", daemon=True)
            self._looking.start()

    def stop(self) -> None:
        """Answer no more, within a few seconds whatever happens."""
        self._ending.set()
        if self._listener is not None:
            self._listener.stop()
            self._listener = None
        if self._looking is not None:
            self._looking.join(_JOIN.total_seconds())
            self._looking = None

    def reload(self, settings: Settings) -> None:
        """Take note of nothing: what changes of ``http`` needs a restart, and the rest is read at every request."""

    # --- its certificate --------------------------------------------------------------------------------------------

    def _certificate(self) -> ServedCertificate | None:
        name = self._http.certificate
        if name is None:
            return None
        wired = self._daemon.wired
        return ServedCertificate(
            lambda: self._store(SubjectName(name)),
            clock=wired.clock,
            names=wired.settings.certificates[name].dns_names,
            client_ca_file=self._http.client_ca_file,
        )

    def _store(self, name: SubjectName) -> LeafStore:
        """Return the first place of publication of the certificate *name*, as the configuration has it now."""
        target: CertificateTarget | None = self._daemon.wired.engine.fleet.certificates.get(name)
        if target is None:
            raise Unavailable(f"the configuration names no certificate {name} any more: restart the daemon")
        return target.stores[0]

    def _keep_looking(self, served: ServedCertificate) -> None:
        wired = self._daemon.wired
        while not wired.clock.wait(self._ending, wired.settings.timing.sweep_every):
            served.look()

    # --- what it tells ----------------------------------------------------------------------------------------------

    def _alerts(self, now: datetime) -> Iterator[Alert]:
        """Yield what is wrong with the certificate that is shown."""
        served = self._served
        if served is None or not served.problem or served.problem_since is None:
            return
        foreseen = shown_certificate_alerts(
            SubjectName(self._http.certificate or ""),
            self._daemon.wired.engine.fleet_alerts.policy,
            problem=served.problem,
            since=served.problem_since,
        )
        yield from true_at(foreseen, now)


def service_of(daemon: Daemon, tallies: Tallies) -> Service | None:
    """Return the HTTP service of *daemon*; None if its settings name none. Raises `ConfigError`."""
    http = daemon.wired.settings.http
    return Service(daemon, http, tallies) if http is not None else None
