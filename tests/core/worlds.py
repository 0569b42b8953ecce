"""Small worlds for tests of the core: leaves, publications, wants, parties and members, all with sound defaults."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from rotator.core.model import (
    AskedFor,
    Authority,
    AuthoritySeen,
    CertificateWant,
    Generation,
    IssuerId,
    KeyType,
    Leaf,
    ManagedCertificate,
    Member,
    Observation,
    Publication,
    RelyingParty,
    Serial,
    SubjectName,
    TrustDomainName,
)
from rotator.core.window import Budget, Calendar, LeafPolicy

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
"""A Monday."""
HOUR, MINUTE, SECOND = timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1)
LIFETIME = 12 * HOUR
DOMAIN = TrustDomainName("mesh.example")
NAME = SubjectName("worker")
IDENTITY = f"spiffe://{DOMAIN}/worker"


def budget(total: timedelta = 10 * MINUTE) -> Budget:
    """Return a budget of *total*."""
    zero = timedelta()
    return Budget(issue=total, publish=zero, drain=zero, proof=zero, retry=zero)


def leaf_policy(
    *,
    renew_at: float = 0.5,
    jitter: float = 0.0,
    skew: timedelta = MINUTE,
    total: timedelta = 10 * MINUTE,
    calendar: Calendar | None = None,
) -> LeafPolicy:
    """Return a leaf policy without jitter and back-dating."""
    return LeafPolicy(
        renew_at=renew_at,
        jitter=jitter,
        skew=skew,
        budget=budget(total),
        backdate=timedelta(),
        calendar=calendar or Calendar(),
    )


def authority(number: int = 1, *, issued_at: datetime = NOW - 24 * HOUR, lifetime: timedelta = 168 * HOUR) -> Authority:
    """Return the CA certificate of generation *number*."""
    return Authority(
        id=IssuerId(f"ca-{number}"),
        serial=Serial(f"ca{number}"),
        sha256=f"sha-ca-{number}",
        subject=f"CN=mesh generation {number}",
        parent=IssuerId("ca-corporate"),
        not_before=issued_at,
        not_after=issued_at + lifetime,
        spki_sha256=f"spki-ca-{number}",
    )


FIRST = authority()


def generation(
    number: int = 1, *, issued_at: datetime = NOW - 24 * HOUR, lifetime: timedelta = 168 * HOUR, can_sign: bool = True
) -> Generation:
    """Return generation *number* as the signer holds it."""
    made = authority(number, issued_at=issued_at, lifetime=lifetime)
    return Generation(number=number, authority=made, reference=f"ref-{number}", can_sign=can_sign)


def leaf(
    *,
    issued_at: datetime = NOW,
    lifetime: timedelta = LIFETIME,
    issuer: str = "ca-1",
    serial: str = "1",
    spiffe_id: str | None = IDENTITY,
    dns_names: tuple[str, ...] = (),
    key_type: KeyType | None = KeyType.ECDSA_P256,
) -> Leaf:
    """Return a leaf certificate."""
    return Leaf(
        serial=Serial(serial),
        sha256=f"sha-{serial}",
        subject="",
        spiffe_id=spiffe_id,
        dns_names=dns_names,
        issuer=IssuerId(issuer),
        not_before=issued_at,
        not_after=issued_at + lifetime,
        chain_not_after=issued_at + lifetime,
        spki_sha256=f"spki-{serial}",
        key_type=key_type,
    )


def publication(
    of: Leaf | None = None,
    *,
    bundle: tuple[Authority, ...] = (FIRST,),
    number: int = 1,
    key_matches: bool = True,
    problem: str | None = None,
    rotation_id: str | None = None,
) -> Publication:
    """Return what one directory holds."""
    return Publication(
        target=f"directory:/tls/{number}",
        number=number,
        leaf=of,
        bundle=bundle,
        key_matches=key_matches,
        problem=problem,
        rotation_id=rotation_id,
    )


def seen(*publications: Publication | None, revoked: bool = False) -> Observation:
    """Return the observation of a certificate with these targets."""
    return Observation(publications=publications, revoked=revoked)


def want(
    *,
    signer: Authority | None = FIRST,
    accepted: tuple[str, ...] = ("ca-1",),
    bundle: tuple[Authority, ...] = (FIRST,),
    dns_names: tuple[str, ...] = (),
    key: KeyType = KeyType.ECDSA_P256,
    lifetime: timedelta = LIFETIME,
    asked: AskedFor | None = None,
) -> CertificateWant:
    """Return what a certificate should be."""
    return CertificateWant(
        certificate=ManagedCertificate(
            name=NAME, trust_domain=DOMAIN, identity=IDENTITY, dns_names=dns_names, lifetime=lifetime, key=key
        ),
        signer=signer,
        accepted=frozenset(IssuerId(each) for each in accepted),
        bundle=bundle,
        asked=asked,
    )


def party(
    name: str = "party-a",
    *,
    published: tuple[str, ...] | None = ("ca-1",),
    acknowledged: tuple[str, ...] | None = None,
    reachable: bool = True,
    leaf_issuer: str | None = "ca-1",
    served: str | None = "ca-1",
    leaf_until: datetime | None = NOW + 6 * HOUR,
    last_until: datetime | None = None,
) -> RelyingParty:
    """Return a consumer; it has acknowledged what it was given unless said otherwise."""
    given = published if acknowledged is None else acknowledged
    return RelyingParty(
        name=SubjectName(name),
        published=None if published is None else _ids(published),
        acknowledged=_ids(given or ()),
        reachable=reachable,
        leaf_issuer=IssuerId(leaf_issuer) if leaf_issuer else None,
        leaf_not_after=leaf_until,
        served_issuer=IssuerId(served) if served else None,
        last_leaf_not_after=last_until or leaf_until,
    )


def domain(
    *generations: Generation,
    active: str | None = "ca-1",
    parties: tuple[RelyingParty, ...] = (),
    highest: int = 0,
    strays: Mapping[str, datetime] | None = None,
) -> AuthoritySeen:
    """Return a trust domain."""
    return AuthoritySeen(
        generations=generations,
        active=IssuerId(active) if active else None,
        parties=parties,
        highest_number=highest,
        stray_until={IssuerId(key): until for key, until in (strays or {}).items()},
    )


def member(
    name: str,
    *,
    fresh: bool = False,
    running: bool = True,
    ready: bool = True,
    draining: bool = False,
    busy: int | None = 0,
    idle_seen: int = 0,
    queues: tuple[str, ...] = (),
) -> Member:
    """Return one process of the workload ``workers``; stale material is older than `NOW`."""
    return Member(
        workload=SubjectName("workers"),
        name=name,
        running=running,
        ready=ready and running,
        started_at=NOW + SECOND if fresh else NOW - HOUR,
        draining=draining,
        busy=busy,
        idle_seen=idle_seen,
        queues=frozenset(queues),
        identity=f"{name}-1",
    )


def _ids(names: tuple[str, ...]) -> frozenset[IssuerId]:
    return frozenset(IssuerId(each) for each in names)
