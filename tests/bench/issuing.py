"""
Certificates issued, checked, published and recorded a second, against the raw signing rate of the same server.

Rules that must stay true here:

- One OpenBao (raft, TLS, audit), one run: raw rate before and after, everything else in between.
- The path is the daemon's own: a wave of the engine over published leaves, so each has a new key, the intent committed
  before the call, law 11's comparison, the publication synced to disk and read back, what it replaces ended and
  removed, and every record committed.
- CPU seconds stand beside the rates: where server, wrk and rotator share the cores, they say what the rates would be
  elsewhere.
"""

from __future__ import annotations

import contextlib
import functools
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from rotator.adapters.directory.store import DirectoryStore
from rotator.adapters.vault.auth import AppRole
from rotator.adapters.vault.authorities import CorporateIssuer, VaultAuthorities
from rotator.adapters.vault.issuer import VaultIssuer
from rotator.adapters.vault.policies import DomainRights, domain_policy
from rotator.adapters.vault.session import Transport, VaultSession
from rotator.adapters.vault.transport import Endpoint
from rotator.clock import SystemClock
from rotator.core.event import Trigger
from rotator.core.model import IntentKind, KeyType, SubjectKind, SubjectName
from rotator.embedded.openbao import AppRoleFiles, OpenBaoServer, TrustDomainMount
from rotator.engine.targets import DomainTarget
from rotator.pki.signing_request import new_key, signing_request
from rotator.ports import Rotation, RotationState
from tests.bench.figures import Figure
from tests.bench.installation import (
    AUTHORITY_LIFE,
    AUTHORITY_POLICY,
    DOMAIN,
    LEAF_LIFE,
    SKEW,
    Installation,
    Meter,
    Spent,
    certificate,
)
from tests.bench.raw import wrk_rate

NAME = "issuing"
MOUNT = TrustDomainMount(trust_domain=DOMAIN, mount="pki_bench", longest_leaf=timedelta(hours=1))
THREADS = (1, 4, 8)
RAW_CONNECTIONS = 8
SUBJECTS = 64
"""Certificates in the fleet; each thread goes round its own part of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one way of issuing gave."""

    count: int
    spent: Spent

    @property
    def rate(self) -> float:
        """Return certificates a second."""
        return self.count / self.spent.wall

    @property
    def client(self) -> float:
        """Return rotator's CPU milliseconds a certificate."""
        return self.spent.cpu * 1000 / self.count

    @property
    def server(self) -> float:
        """Return the server's CPU milliseconds a certificate."""
        return self.spent.server * 1000 / self.count


def measure(threads: int, seconds: float, server: int, work: Callable[[int, int], None]) -> Measured:
    """Return how often *threads* threads together do *work*, which is given the thread's number and a count from 0."""
    counts = [0] * threads
    failures: list[Exception] = []
    ready = threading.Barrier(threads + 1)

    def run(number: int) -> None:
        try:
            work(number, 0)  # connections are made and caches are filled before the clock starts
            ready.wait(timeout=60)
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                counts[number] += 1
                work(number, counts[number])
        except Exception as e:  # noqa: BLE001 -- given to the thread that waits, which raises it
            failures.append(e)
            ready.abort()

    workers = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    with contextlib.suppress(threading.BrokenBarrierError):  # the failure below says why
        ready.wait(timeout=60)
    meter = Meter(server)
    for worker in workers:
        worker.join(timeout=seconds + 120)
    spent = meter.spent()
    if failures:
        raise failures[0]
    return Measured(count=sum(counts), spent=spent)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """One server and what reaches it."""

    server: OpenBaoServer
    files: AppRoleFiles
    directory: Path

    def session(self, transport: Transport) -> VaultSession:
        """Return a session as the daemon's."""
        endpoint = Endpoint(address=self.server.address, ca_file=self.server.ca_file)
        auth = AppRole(role_id_file=self.files.role_id_file, secret_id_file=self.files.secret_id_file)
        return VaultSession(endpoint, auth, clock=SystemClock(), transport=transport)

    def domain(self, session: VaultSession) -> DomainTarget:
        """Return the trust domain, signed for at the server."""
        clock = SystemClock()
        authorities = VaultAuthorities(
            session,
            clock=clock,
            trust_domain=DOMAIN,
            mount=MOUNT.mount,
            corporate=CorporateIssuer(mount="pki_int", issuer="corp-issuing"),
            skew=SKEW,
        )
        return DomainTarget(
            name=DOMAIN,
            policy=AUTHORITY_POLICY,
            issuer=VaultIssuer(
                session, clock=clock, trust_domain=DOMAIN, mount=MOUNT.mount, role=MOUNT.role, skew=SKEW
            ),
            authorities=authorities,
            parent=authorities,
            # What a wave replaces ends before a CRL would reach anybody: it lapses, as short leaves do.
            crl_interval=LEAF_LIFE * 2,
        )

    def raw(self, connections: int, seconds: float) -> Measured:
        """Return what wrk gets, with a login like rotator's: the raw rate pays for the same checks."""
        with self.server.admin() as client:
            answer = client.auth.approle.login(
                self.files.role_id_file.read_text(), self.files.secret_id_file.read_text(), use_token=False
            )
        with self.session(Transport.POOLED) as session:
            held = self.domain(session).authorities.observe()
            signer = next(each for each in held.generations if each.authority.id == held.active)
        request = signing_request(new_key(KeyType.ECDSA_P256), f"spiffe://{DOMAIN}/raw").decode()
        meter = Meter(self.server.pid)
        rate = wrk_rate(
            f"{self.server.address}/v1/{MOUNT.mount}/issuer/{signer.reference}/sign/{MOUNT.role}",
            {"csr": request, "ttl": f"{int(LEAF_LIFE.total_seconds())}s"},
            token=str(answer["auth"]["client_token"]),
            connections=connections,
            seconds=seconds,
            directory=self.directory,
        )
        spent = meter.spent()
        return Measured(count=round(rate * spent.wall), spent=spent)

    def path(self, transport: Transport, seconds: float) -> dict[int, Measured]:
        """Return what the whole path gives over *transport*, by the number of threads."""
        place = self.directory / transport
        place.mkdir()
        targets = [certificate(number, DirectoryStore(place / f"tls-{number}")) for number in range(SUBJECTS)]
        with (
            self.session(transport) as session,
            Installation(place, self.domain(session), targets, SystemClock()) as installation,
        ):
            engine = installation.engine
            # The domain's first visit makes or finds its authority; the certificates' first ones publish them all.
            while any(each.name not in _published(installation) for each in targets):
                engine.sweep()

            def one(threads: int, number: int, count: int) -> None:
                target = targets[(number + threads * count) % SUBJECTS]
                engine.leaves.reissue(engine.fleet, target, accepted=frozenset(), cause=_wave())

            return {
                threads: measure(
                    threads,
                    seconds,
                    self.server.pid,
                    functools.partial(one, threads),
                )
                for threads in THREADS
            }


def _published(installation: Installation) -> set[SubjectName]:
    """Return the certificates whose leaf is proven in use."""
    leaves = installation.engine.leaves
    views = {name: leaves.view(name) for name in installation.engine.fleet.certificates}
    return {name for name, view in views.items() if view is not None and view.proof.proven}


def _wave() -> Rotation:
    """Return a reason to issue anew: the rotation of the domain that a wave belongs to."""
    return Rotation(
        id=secrets.token_hex(16),
        subject=SubjectName(DOMAIN),
        kind=SubjectKind.TRUST_DOMAIN,
        intent=IntentKind.ROTATE,
        trigger=Trigger.SCHEDULE,
        state=RotationState.OPEN,
        opened_at=SystemClock().now(),
    )


def bench(directory: Path, seconds: float) -> list[Figure]:
    """Measure over rotator's own transport and over hvac's."""
    rights = DomainRights(trust_domain=DOMAIN, mount=MOUNT.mount, role=MOUNT.role, lifetimes=(AUTHORITY_LIFE,))
    server = OpenBaoServer(directory / "openbao")
    with server:
        server.provision_corporate()
        server.provision_trust_domain(MOUNT)
        files = server.provision_approle(
            {"rotator-bench": domain_policy(rights)},
            directory=directory / "approle",
            token_life=timedelta(hours=1),
            token_longest_life=timedelta(hours=2),
        )
        bench = Bench(server=server, files=files, directory=directory)
        hvacs = bench.path(Transport.REQUESTS, seconds)
        before = bench.raw(RAW_CONNECTIONS, seconds)
        own = bench.path(Transport.POOLED, seconds)
        after = bench.raw(RAW_CONNECTIONS, seconds)
        alone = bench.raw(1, seconds)
    return _figures(before, after, alone, own, hvacs)


def _figures(
    before: Measured, after: Measured, alone: Measured, own: dict[int, Measured], hvacs: dict[int, Measured]
) -> list[Figure]:
    raw, most = (before.rate + after.rate) / 2, max(THREADS)

    def figure(name: str, value: float, unit: str, aim: str | None = None) -> Figure:
        return Figure(bench=NAME, name=name, value=value, unit=unit, aim=aim)

    found = [
        figure(f"whole path, {most} threads / raw signing, 8 connections", own[most].rate / raw, "ratio", ">= 0.5"),
        figure("whole path, 1 thread / raw signing, 1 connection", own[1].rate / alone.rate, "ratio"),
        figure(f"whole path, own transport / hvac's, {most} threads", own[most].rate / hvacs[most].rate, "ratio"),
        figure("whole path, own transport / hvac's, 1 thread", own[1].rate / hvacs[1].rate, "ratio"),
        figure("client CPU, hvac's transport / own, 1 thread", hvacs[1].client / own[1].client, "ratio", ">= 1"),
        figure(
            "CPU of server alone / of server and client, 8 threads",
            before.server / (own[most].server + own[most].client),
            "ratio",
        ),
        figure("raw signing after / before (the server fills up)", after.rate / before.rate, "ratio"),
        figure("raw signing by wrk, 8 connections", raw, "a second"),
        figure("raw signing by wrk, 1 connection", alone.rate, "a second"),
        figure("server CPU, raw signing", (before.server + after.server) / 2, "ms"),
    ]
    for name, ways in (("own transport", own), ("hvac's transport", hvacs)):
        for threads, each in ways.items():
            found.append(figure(f"whole path, {name}, {threads} thread(s)", each.rate, "a second"))
            found.append(figure("- client CPU a certificate", each.client, "ms"))
            found.append(figure("- server CPU a certificate", each.server, "ms"))
    return found
