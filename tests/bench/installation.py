"""
The engine as the daemon runs it, over whatever a bench gives it.

Rules that must stay true here:

- Nothing is left out of the path that is measured: the same objects that `rotator.bootstrap` wires.
- What is measured is CPU time beside wall time: a machine may be busy with something else.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Self

from rotator.core.authority_policy import AuthorityPolicy
from rotator.core.model import ManagedCertificate, SubjectName, TrustDomainName
from rotator.core.window import Budget, Calendar, LeafPolicy
from rotator.engine.engine import Engine
from rotator.engine.limits import IssuanceLimit, Limits
from rotator.engine.targets import CertificateTarget, DomainTarget, Fleet
from rotator.ports import Clock, LeafStore
from rotator.store.lease import FileLease
from rotator.store.spool import Spool
from rotator.store.sql import SQLStore
from rotator.telemetry import configure_logging

DOMAIN = TrustDomainName("bench.test")
LEAF_LIFE = timedelta(minutes=30)
AUTHORITY_LIFE = timedelta(days=7)
SKEW = timedelta(seconds=5)

AUTHORITY_POLICY = AuthorityPolicy(
    trust_domain=DOMAIN,
    longest_leaf=LEAF_LIFE,
    lifetime=AUTHORITY_LIFE,
    renew_at=0.5,
    trust_deadline=timedelta(minutes=30),
    skew=SKEW,
    propagation=timedelta(seconds=5),
    retry_budget=timedelta(minutes=5),
    minimum_overlap=timedelta(minutes=10),
)
LEAF_POLICY = LeafPolicy(
    renew_at=0.5,
    skew=SKEW,
    budget=Budget(
        issue=timedelta(seconds=5),
        publish=timedelta(seconds=5),
        drain=timedelta(0),
        proof=timedelta(seconds=30),
        retry=timedelta(minutes=5),
    ),
    backdate=timedelta(seconds=30),
    calendar=Calendar(),
)


def certificate(number: int, store: LeafStore) -> CertificateTarget:
    """Return certificate *number*, published in *store* and proven by reading it back."""
    name = SubjectName(f"service-{number}")
    return CertificateTarget(
        certificate=ManagedCertificate(
            name=name, trust_domain=DOMAIN, identity=f"spiffe://{DOMAIN}/{name}", lifetime=LEAF_LIFE
        ),
        policy=LEAF_POLICY,
        stores=(store,),
    )


class Installation:
    """One engine with its journal, lease and spool below one directory; *threads* 0: all in the caller's thread."""

    def __init__(
        self,
        directory: Path,
        domain: DomainTarget,
        certificates: Iterable[CertificateTarget],
        clock: Clock,
        *,
        threads: int = 0,
    ) -> None:
        """Open the journal, take the lease and load what is remembered."""
        self._undo = ExitStack()
        log = self._undo.enter_context((directory / "daemon.log").open("a", encoding="utf-8"))
        self._undo.callback(configure_logging("info", "json", log))
        self.store = SQLStore(f"sqlite:///{directory / 'state.db'}", environment="bench")
        self._undo.callback(self.store.close)
        lease = FileLease(directory / "state.lease")
        lease.acquire()
        self._undo.callback(lease.release)
        self.engine = Engine(
            fleet=Fleet(
                environment="bench",
                policy_sha256="0" * 64,
                domains={DOMAIN: domain},
                certificates={each.name: each for each in certificates},
            ),
            journal=self.store,
            ledger=self.store,
            lease=lease,
            spool=Spool(directory / "spool.jsonl", clock=clock),
            clock=clock,
            threads=threads,
            limits=Limits(
                clock, issuer_per_second=1e6, per_subject=IssuanceLimit(count=10**6, within=timedelta(hours=1))
            ),
        )
        self.engine.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What a piece of work cost."""

    wall: float
    """Seconds."""
    cpu: float
    """Seconds of this process, all threads, kernel included."""
    server: float = 0.0
    """Seconds of another process, kernel included."""


class Meter:
    """Measures between its making and `spent`."""

    def __init__(self, server: int | None = None) -> None:
        """*server* is the pid of another process to watch."""
        self._server = server
        self._at = self._now()

    def spent(self) -> Spent:
        """Return what was spent since."""
        before, after = self._at, self._now()
        return Spent(wall=after[0] - before[0], cpu=after[1] - before[1], server=after[2] - before[2])

    def _now(self) -> tuple[float, float, float]:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return (
            time.perf_counter(),
            usage.ru_utime + usage.ru_stime,
            0.0 if self._server is None else cpu_of(self._server),
        )


def cpu_of(pid: int) -> float:
    """Return the CPU seconds of process *pid* so far."""
    # The name in parentheses may hold anything; utime and stime are fields 14 and 15 of proc(5).
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
