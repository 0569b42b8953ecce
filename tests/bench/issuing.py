"""
Certificates issued, checked, published and recorded a second, against the raw signing rate of the same server.

Rules that must stay true here:

- One OpenBao (raft, TLS, audit), one run: raw rate before and after, everything else in between.
- The path is the whole one: a new key for every leaf, the intent committed before the call, law 11's comparison, the
  publication synced to disk and read back, the records committed after it.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

from rotator.adapters.directory.store import DirectoryStore
from rotator.adapters.vault.auth import AppRole
from rotator.adapters.vault.authorities import CorporateIssuer, VaultAuthorities
from rotator.adapters.vault.issuer import VaultIssuer
from rotator.adapters.vault.policies import DomainRights, domain_policy
from rotator.adapters.vault.session import Transport, VaultSession
from rotator.adapters.vault.transport import Endpoint
from rotator.clock import SystemClock
from rotator.core.event import CertificateFacts, Corroboration, Event, EventType, Trigger
from rotator.core.model import Generation, IntentKind, KeyType, SubjectKind, SubjectName, TrustDomainName
from rotator.embedded.openbao import AppRoleFiles, OpenBaoServer, TrustDomainMount
from rotator.pki.certificates import material
from rotator.pki.signing_request import new_key, signing_request
from rotator.ports import (
    AuthorityOrder,
    Issuance,
    IssuanceKind,
    IssuanceState,
    LeafOrder,
    Rotation,
    RotationState,
    Stamp,
)
from rotator.store.sql import SQLStore
from tests.bench.figures import Figure
from tests.bench.raw import wrk_rate

NAME = "issuing"
DOMAIN = TrustDomainName("bench.test")
MOUNT = TrustDomainMount(trust_domain=DOMAIN, mount="pki_bench", longest_leaf=timedelta(hours=1))
AUTHORITY_LIFE = timedelta(days=7)
LEAF_LIFE = timedelta(minutes=30)
SKEW = timedelta(seconds=5)
RAW_CONNECTIONS = 8

Spent = dict[str, float]
"""Seconds spent in each part of the path, summed up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Everything that one measured path needs."""

    issuer: VaultIssuer
    generation: Generation
    bundle_pem: bytes
    store: SQLStore
    directory: Path


def path(place: Place, subject: SubjectName, target: DirectoryStore, spent: Spent) -> None:
    """Issue, check, publish and record one leaf; add the seconds of each part to *spent*."""
    clock = SystemClock()
    marks = [("", time.perf_counter())]

    def mark(part: str) -> None:
        marks.append((part, time.perf_counter()))

    now = clock.now().replace(microsecond=0)
    identity = f"spiffe://{DOMAIN}/{subject}"
    key = new_key(KeyType.ECDSA_P256)
    order = LeafOrder(
        csr_pem=signing_request(key, identity),
        spki_sha256=key.spki_sha256,
        identity=identity,
        dns_names=(),
        lifetime=LEAF_LIFE,
        signer=place.generation,
        key=KeyType.ECDSA_P256,
    )
    mark("key and request")
    rotation = Rotation(
        id=secrets.token_hex(16),
        subject=subject,
        kind=SubjectKind.CERTIFICATE,
        intent=IntentKind.ROTATE,
        trigger=Trigger.SCHEDULE,
        state=RotationState.OPEN,
        opened_at=now,
    )
    asked = Issuance(
        spki_sha256=order.spki_sha256,
        kind=IssuanceKind.LEAF,
        subject=subject,
        trust_domain=DOMAIN,
        rotation_id=rotation.id,
        state=IssuanceState.ASKED,
        asked_at=now,
        signer=place.generation.authority.id,
    )
    event = Event(
        type=EventType.INTENT,
        time=now,
        subject=subject,
        result="started",
        rotation_id=rotation.id,
        spiffe_id=identity,
        trigger=Trigger.SCHEDULE,
        reason="expiring",
    )
    with place.store.transaction() as transaction:
        transaction.save(rotation)
        transaction.save(asked)
        transaction.append(event)
    mark("intent")
    issued = place.issuer.sign(order)
    mark("sign and compare")
    present = target.read()
    whole = material(issued.chain_pem, key.pem(), place.bundle_pem)
    stamp = Stamp(subject=subject, rotation_id=rotation.id, leaf_published_at=now, bundle_published_at=now)
    put = target.put(whole, expected=present.number if present else 0, stamp=stamp)
    target.forget(keep=frozenset({present.number} if present else {put.number}))
    mark("publish")
    leaf = issued.leaf
    facts = CertificateFacts(
        serial=leaf.serial,
        sha256=leaf.sha256,
        issuer=leaf.issuer,
        not_before=leaf.not_before,
        not_after=leaf.not_after,
    )
    published = replace(asked, state=IssuanceState.PUBLISHED, serial=leaf.serial, not_after=leaf.not_after)
    seen = Corroboration(vault_request_id=issued.request_id)
    with place.store.transaction() as transaction:
        transaction.save(replace(rotation, state=RotationState.DONE, finished_at=now))
        transaction.save(published)
        for kind in (EventType.ISSUED, EventType.DISTRIBUTED, EventType.COMPLETED):
            transaction.append(replace(event, type=kind, result="ok", new=facts, corroboration=seen))
    mark("record")
    for (_, before), (part, after) in pairwise(marks):
        spent[part] = spent.get(part, 0.0) + after - before


def rate(threads: int, seconds: float, work: Callable[[int, Spent], None]) -> tuple[float, Spent]:
    """Return how often a second *threads* threads together do *work*, and the mean seconds of each part of it."""
    counts = [0] * threads
    spent: list[Spent] = [{} for _ in range(threads)]
    failures: list[Exception] = []
    ready = threading.Barrier(threads + 1)

    def run(number: int) -> None:
        try:
            work(number, {})  # connections are made and caches are filled before the clock starts
            ready.wait(timeout=60)
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                work(number, spent[number])
                counts[number] += 1
        except Exception as e:  # noqa: BLE001 -- given to the thread that waits, which raises it
            failures.append(e)
            ready.abort()

    workers = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    with contextlib.suppress(threading.BrokenBarrierError):  # the failure below says why
        ready.wait(timeout=60)
    began = time.perf_counter()
    for worker in workers:
        worker.join(timeout=seconds + 120)
    took = time.perf_counter() - began
    if failures:
        raise failures[0]
    done = sum(counts)
    return done / took, {part: sum(each[part] for each in spent if each) / done for part in spent[0]}


def bench(directory: Path, seconds: float) -> list[Figure]:
    """Measure with 1 and with 8 threads, over rotator's own transport and over hvac's."""
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
        return _measure(server, files, directory, seconds)


def _session(server: OpenBaoServer, files: AppRoleFiles, transport: Transport) -> VaultSession:
    endpoint = Endpoint(address=server.address, ca_file=server.ca_file)
    auth = AppRole(role_id_file=files.role_id_file, secret_id_file=files.secret_id_file)
    return VaultSession(endpoint, auth, clock=SystemClock(), transport=transport)


def _raw_token(server: OpenBaoServer, files: AppRoleFiles) -> str:
    """Log in as rotator does, with its policy alone: the raw rate pays for the same checks."""
    with server.admin() as client:
        answer = client.auth.approle.login(
            files.role_id_file.read_text(), files.secret_id_file.read_text(), use_token=False
        )
    return str(answer["auth"]["client_token"])


def _measure(server: OpenBaoServer, files: AppRoleFiles, directory: Path, seconds: float) -> list[Figure]:
    clock = SystemClock()
    with _session(server, files, Transport.POOLED) as session:
        authorities = VaultAuthorities(
            session,
            clock=clock,
            trust_domain=DOMAIN,
            mount=MOUNT.mount,
            corporate=CorporateIssuer(mount="pki_int", issuer="corp-issuing"),
            skew=SKEW,
        )
        generation = authorities.prepare(
            AuthorityOrder(
                trust_domain=DOMAIN,
                number=1,
                lifetime=AUTHORITY_LIFE,
                key=KeyType.ECDSA_P256,
                rotation_id=secrets.token_hex(16),
                announce=lambda _: None,
            )
        ).generation
        bundle_pem = authorities.observe().certificates_pem[generation.authority.id]

    def raw(connections: int) -> float:
        request = signing_request(new_key(KeyType.ECDSA_P256), f"spiffe://{DOMAIN}/raw").decode()
        return wrk_rate(
            f"{server.address}/v1/{MOUNT.mount}/issuer/{generation.reference}/sign/{MOUNT.role}",
            {"csr": request, "ttl": f"{int(LEAF_LIFE.total_seconds())}s"},
            token=_raw_token(server, files),
            connections=connections,
            seconds=seconds,
            directory=directory,
        )

    def measured(transport: Transport, threads: int) -> tuple[float, Spent]:
        place_directory = directory / f"{transport}-{threads}"
        place_directory.mkdir()
        store = SQLStore(f"sqlite:///{place_directory / 'state.db'}", environment="bench")
        try:
            with _session(server, files, transport) as session:
                issuer = VaultIssuer(
                    session, clock=clock, trust_domain=DOMAIN, mount=MOUNT.mount, role=MOUNT.role, skew=SKEW
                )
                place = Place(
                    issuer=issuer,
                    generation=generation,
                    bundle_pem=bundle_pem,
                    store=store,
                    directory=place_directory,
                )
                targets = [DirectoryStore(place_directory / f"tls-{number}") for number in range(threads)]
                return rate(
                    threads,
                    seconds,
                    lambda number, spent: path(place, SubjectName(f"leaf-{number}"), targets[number], spent),
                )
        finally:
            store.close()

    before = raw(RAW_CONNECTIONS)
    alone = raw(1)
    rates = {(transport, threads): measured(transport, threads) for transport in Transport for threads in (1, 8)}
    after = raw(RAW_CONNECTIONS)
    return _figures(before, alone, after, rates)


def _figures(
    before: float, alone: float, after: float, rates: dict[tuple[Transport, int], tuple[float, Spent]]
) -> list[Figure]:
    raw = (before + after) / 2
    own = {threads: rates[Transport.POOLED, threads][0] for threads in (1, 8)}
    hvacs = {threads: rates[Transport.REQUESTS, threads][0] for threads in (1, 8)}

    def figure(name: str, value: float, unit: str, aim: str | None = None) -> Figure:
        return Figure(bench=NAME, name=name, value=value, unit=unit, aim=aim)

    found = [
        figure("whole path, 8 threads / raw signing, 8 connections", own[8] / raw, "ratio", ">= 0.5"),
        figure("whole path, 1 thread / raw signing, 1 connection", own[1] / alone, "ratio"),
        figure("whole path, own transport / hvac's, 8 threads", own[8] / hvacs[8], "ratio", ">= 1"),
        figure("whole path, own transport / hvac's, 1 thread", own[1] / hvacs[1], "ratio", ">= 1"),
        figure("raw signing after / before (the server fills up)", after / before, "ratio"),
        figure("raw signing by wrk, 8 connections", raw, "a second"),
        figure("raw signing by wrk, 1 connection", alone, "a second"),
    ]
    for (transport, threads), (value, _) in rates.items():
        found.append(figure(f"whole path, {transport}, {threads} thread(s)", value, "a second"))
    parts = rates[Transport.POOLED, 1][1]
    found += [figure(f"of which {part}, 1 thread", mean * 1000, "ms") for part, mean in parts.items()]
    return found
