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
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
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
from rotator.engine.targets import CertificateTarget, DomainTarget
from rotator.pki.signing_request import new_key, signing_request
from rotator.ports import LeafOrder, Rotation, RotationState
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
AT_ONCE = (1, 8)
"""Also how many threads go the whole path."""
ROUNDS = 3
SUBJECTS = 64
"""Certificates in the fleet; each thread goes round its own part of them: a multiple of the threads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one way of issuing gave."""

    count: int
    spent: Spent

    def __add__(self, other: Measured) -> Measured:
        """Return both together."""
        mine, its = self.spent, other.spent
        spent = Spent(wall=mine.wall + its.wall, cpu=mine.cpu + its.cpu, server=mine.server + its.server)
        return Measured(count=self.count + other.count, spent=spent)

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


def measure(threads: int, seconds: float, server: int, work: Callable[[int], None]) -> Measured:
    """Return how often *threads* threads together do *work*, which is given a number that no other thread has."""
    counts = [0] * threads
    failures: list[Exception] = []
    ready = threading.Barrier(threads + 1)

    def run(number: int) -> None:
        try:
            work(number)  # connections are made and caches are filled before the clock starts
            ready.wait(timeout=60)
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                counts[number] += 1
                work(number + threads * counts[number])
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

    def open_path(self, transport: Transport, undo: ExitStack) -> IssuingPath:
        """Return the whole path over *transport*, every certificate published once."""
        place = self.directory / transport
        place.mkdir()
        targets = [certificate(number, DirectoryStore(place / f"tls-{number}")) for number in range(SUBJECTS)]
        domain = self.domain(undo.enter_context(self.session(transport)))
        installation = undo.enter_context(Installation(place, domain, targets, SystemClock()))
        # The domain's first visit makes or finds its authority; the certificates' first ones publish them all.
        while len(_published(installation)) < SUBJECTS:
            installation.engine.sweep()
        return IssuingPath(installation=installation, domain=domain, targets=targets)


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuingPath:
    """An engine that is ready to issue."""

    installation: Installation
    domain: DomainTarget
    targets: list[CertificateTarget]

    def reissue(self, turn: int) -> None:
        """Take one certificate through the whole path."""
        engine = self.installation.engine
        engine.leaves.reissue(engine.fleet, self.targets[turn % SUBJECTS], accepted=frozenset(), cause=_wave())

    def sign(self, turn: int) -> None:
        """Do only what comes before publishing and recording: a key, a request, the signature, law 11's comparison."""
        wanted = self.targets[turn % SUBJECTS].certificate
        state = self.installation.engine.domains.get(DOMAIN)
        assert state is not None, "the domain was visited"
        assert state.signer is not None, "its authority signs"
        assert self.domain.issuer is not None, "a standalone domain signs its leaves at Vault"
        key = new_key(KeyType.ECDSA_P256)
        self.domain.issuer.sign(
            LeafOrder(
                csr_pem=signing_request(key, wanted.identity),
                spki_sha256=key.spki_sha256,
                identity=wanted.identity,
                dns_names=(),
                lifetime=wanted.lifetime,
                signer=state.signer,
                key=key.type,
            )
        )


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
        return _figures(_measure(Bench(server=server, files=files, directory=directory), seconds))


def _measure(bench: Bench, seconds: float) -> dict[str, Measured]:
    """
    Return what each way gives, by its name.

    Every way has its turn in every round: a server that fills up and a machine that others use are the same for all.
    """
    with ExitStack() as undo:
        own = bench.open_path(Transport.POOLED, undo)
        hvacs = bench.open_path(Transport.REQUESTS, undo)
        works = {"own": own.reissue, "hvac": hvacs.reissue, "sign": own.sign, "hvac-sign": hvacs.sign}
        total: dict[str, Measured] = {}
        for _ in range(ROUNDS):
            for connections in AT_ONCE:
                found = {f"raw {connections}": bench.raw(connections, seconds / ROUNDS)}
                for way, work in works.items():
                    found[f"{way} {connections}"] = measure(connections, seconds / ROUNDS, bench.server.pid, work)
                for name, part in found.items():
                    total[name] = total[name] + part if name in total else part
        return total


def _figures(found: dict[str, Measured]) -> list[Figure]:
    def figure(name: str, value: float, unit: str, aim: str | None = None) -> Figure:
        return Figure(bench=NAME, name=name, value=value, unit=unit, aim=aim)

    one, most = AT_ONCE
    raw, own, hvacs, signed, hvacs_signed = (
        found[f"{way} {most}"] for way in ("raw", "own", "hvac", "sign", "hvac-sign")
    )
    all_cpu = own.server + own.client
    figures = [
        figure(f"whole path, {most} threads / raw signing, {most} connections", own.rate / raw.rate, "ratio", ">= 0.5"),
        figure(
            "whole path, 1 thread / raw signing, 1 connection",
            found[f"own {one}"].rate / found[f"raw {one}"].rate,
            "ratio",
        ),
        figure(
            f"signing alone (key, request, call, comparison), {most} threads / raw", signed.rate / raw.rate, "ratio"
        ),
        figure(f"whole path, own transport / hvac's, {most} threads", own.rate / hvacs.rate, "ratio"),
        figure(
            f"signing alone, own transport / hvac's, {most} threads", signed.rate / hvacs_signed.rate, "ratio", ">= 1"
        ),
        figure("CPU of a raw signature / of the whole path, client and server", raw.server / all_cpu, "ratio"),
    ]
    titles = {
        "raw": "raw signing by wrk",
        "own": "whole path",
        "hvac": "whole path, hvac's transport",
        "sign": "signing alone",
        "hvac-sign": "signing alone, hvac's transport",
    }
    for name, each in found.items():
        way, _, threads = name.partition(" ")
        figures.append(figure(f"{titles[way]}, {threads} at once", each.rate, "a second"))
        if way != "raw":
            figures.append(figure("- client CPU a certificate", each.client, "ms"))
        figures.append(figure("- server CPU a certificate", each.server, "ms"))
    return figures
