"""
Ten thousand certificates in ten thousand directories: what a sweep costs when nothing is due, and what a restart does.

Rules that must stay true here:

- The directories, the journal and the engine are real; the signer is the fake that passes the real one's contract, for
  nothing may be signed here but the beginning.
- A sweep is compared with a plain loop that reads and parses the same directories in the same run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from rotator.adapters.directory.store import DirectoryStore
from rotator.core.model import Generation, KeyType
from rotator.engine.targets import CertificateTarget, DomainTarget
from rotator.pki.certificates import material
from rotator.pki.signing_request import new_key, signing_request
from rotator.ports import Issuance, IssuanceKind, IssuanceState, LeafOrder, Stamp
from tests.bench.figures import Figure
from tests.bench.installation import AUTHORITY_POLICY, DOMAIN, LEAF_LIFE, Installation, Meter, certificate
from tests.fakes.clock import ManualClock
from tests.fakes.vault import FakeVault

COUNT = 10_000
IDLE_SWEEPS = 20
ROWS_A_COMMIT = 500
ROTATION = "0" * 32


def trust_domain(vault: FakeVault) -> DomainTarget:
    """Return the bench's trust domain, signed for by *vault*."""
    authorities = vault.authorities(DOMAIN)
    return DomainTarget(
        name=DOMAIN,
        policy=AUTHORITY_POLICY,
        issuer=vault.issuer(DOMAIN),
        authorities=authorities,
        parent=authorities,
        crl_interval=LEAF_LIFE * 2,
    )


def begin(directory: Path, domain: DomainTarget, clock: ManualClock) -> Generation:
    """Let an engine without certificates make the trust domain's first authority; return it."""
    with Installation(directory, domain, (), clock) as installation:
        installation.engine.sweep()
        installation.engine.sweep()
    held = domain.authorities.observe()
    return next(each for each in held.generations if each.authority.id == held.active)


def published(target: CertificateTarget, domain: DomainTarget, signer: Generation, clock: ManualClock) -> Issuance:
    """Publish a first leaf as the engine does, and return its journal row."""
    wanted, now = target.certificate, clock.now()
    key = new_key(KeyType.ECDSA_P256)
    order = LeafOrder(
        csr_pem=signing_request(key, wanted.identity),
        spki_sha256=key.spki_sha256,
        identity=wanted.identity,
        dns_names=(),
        lifetime=wanted.lifetime,
        signer=signer,
        key=key.type,
    )
    assert domain.issuer is not None, "a standalone domain signs its leaves at Vault"
    issued = domain.issuer.sign(order)
    bundle_pem = domain.authorities.observe().certificates_pem[signer.authority.id]
    stamp = Stamp(subject=target.name, rotation_id=ROTATION, leaf_published_at=now, bundle_published_at=now)
    for store in target.stores:
        store.put(material(issued.chain_pem, key.pem(), bundle_pem), expected=0, stamp=stamp)
    return Issuance(
        spki_sha256=key.spki_sha256,
        kind=IssuanceKind.LEAF,
        subject=target.name,
        trust_domain=DOMAIN,
        rotation_id=ROTATION,
        state=IssuanceState.PUBLISHED,
        asked_at=now,
        signer=signer.authority.id,
        serial=issued.leaf.serial,
        not_after=issued.leaf.not_after,
    )


def save(installation: Installation, rows: Iterable[Issuance]) -> None:
    """Save *rows*, many in one commit."""
    remaining = iter(rows)
    while batch := list(islice(remaining, ROWS_A_COMMIT)):
        with installation.store.transaction() as transaction:
            for row in batch:
                transaction.save(row)


def read_plainly(places: Iterable[Path]) -> Iterator[str]:
    """Read and parse what is published in each of *places*, with nothing around it; yield the serials."""
    for place in places:
        current = place / "CURRENT"
        chain, key, bundle, _ = (
            (current / name).read_bytes() for name in ("tls.crt", "tls.key", "ca.crt", "publication.json")
        )
        yield material(chain, key, bundle).leaf.serial


def bench(directory: Path, _seconds: float) -> list[Figure]:
    """Measure idle sweeps, a look at everything, and a restart."""
    clock = ManualClock()
    vault = FakeVault(clock)
    domain = trust_domain(vault)
    signer = begin(directory, domain, clock)
    places = [directory / f"tls-{number}" for number in range(COUNT)]
    targets = [certificate(number, DirectoryStore(place)) for number, place in enumerate(places)]
    with Installation(directory, domain, (), clock) as installation:
        save(installation, (published(target, domain, signer, clock) for target in targets))
    issued = len(vault.mount(DOMAIN).issued)
    assert COUNT == issued, f"{issued} leaves were issued for a start"
    meter = Meter()
    serials = set(read_plainly(places))
    plain = meter.spent().cpu
    assert len(serials) == COUNT, f"{len(serials)} serials are published"

    # Stores without memory, as after a restart.
    targets = [certificate(number, DirectoryStore(place)) for number, place in enumerate(places)]
    meter = Meter()
    with Installation(directory, domain, targets, clock) as installation:
        engine = installation.engine
        engine.sweep()
        restart = meter.spent().cpu
        views = [engine.leaves.view(target.name) for target in targets]
        caused = len(vault.mount(DOMAIN).issued) - issued
        seen = [view.observation.publications[0] for view in views if view is not None]
        unchanged = sum(each is not None and each.number == 1 and each.problem is None for each in seen)
        meter = Meter()
        for _ in range(IDLE_SWEEPS):
            engine.sweep()
        idle = meter.spent().cpu / IDLE_SWEEPS
        for target in targets:
            engine.pool.kick(target.id)
        meter = Meter()
        visits = engine.sweep()
        full = meter.spent().cpu
        assert visits >= COUNT, f"only {visits} targets were looked at"

    def figure(bench: str, name: str, value: float, unit: str, aim: str | None = None) -> Figure:
        return Figure(bench=bench, name=name, value=value, unit=unit, aim=aim)

    many = f"{COUNT:,} directories"
    return [
        figure("sweep", f"idle sweep over {many} / reading and parsing them in a plain loop", idle / plain, "ratio"),
        figure("sweep", "full look at all / the plain loop", full / plain, "ratio"),
        figure("sweep", "idle sweep: nothing is due to be looked at", idle, "CPU seconds"),
        figure("sweep", "full look: each is read, judged and found in order", full, "CPU seconds"),
        figure("sweep", "the plain loop", plain, "CPU seconds"),
        figure("restart", f"issuances caused by a restart with {many}", caused, "issuances", "<= 0"),
        figure("restart", "publications that it changed", COUNT - unchanged, "publications", "<= 0"),
        figure("restart", "start and first look at all / the plain loop", restart / plain, "ratio"),
        figure("restart", "start and first look at all", restart, "CPU seconds"),
    ]
