"""
Steps of one leaf: intent written, effect made, effect seen, record written.

Rules that must stay true here:

- Every effect stands between two commits: the intent before it, the record after it (laws 12 and 21).
- Every step may be applied twice; after a crash nothing is replayed: observe, decide again (law 13).
- A new key for every order, and it never leaves this process but into the publication (law 10).
- Nothing is written that would leave a live leaf without a bundle that trusts it (law 3).
- The lease is looked at before every effect (law 14).
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from rotator.core.event import Corroboration, Event, EventType
from rotator.core.model import CertificateWant, Generation, KeyType, Publication
from rotator.core.steps import Reason, RepublishReason
from rotator.core.trace import SERIAL
from rotator.engine.domains import Domains
from rotator.engine.limits import Limits
from rotator.engine.observe import Confirmations, bundle_probes, is_usable
from rotator.engine.recorder import Recorder, Scribe
from rotator.engine.targets import CertificateTarget, DomainTarget, Fleet
from rotator.engine.tracing import note
from rotator.errors import InvariantBroken, Unavailable
from rotator.pki.certificates import Material, anchors, material, parse_certificates
from rotator.pki.chain import verify
from rotator.pki.signing_request import PrivateKey, new_key, signing_request
from rotator.ports import (
    BundleProbe,
    Issuance,
    IssuanceKind,
    IssuanceState,
    IssuedLeaf,
    LeafOrder,
    Probe,
    Rotation,
    Stamp,
)


class LeafSteps:
    """Applies leaf steps through the ports of their targets; the caller holds the certificate's lock."""

    def __init__(self, *, recorder: Recorder, domains: Domains, limits: Limits, confirmations: Confirmations) -> None:
        self._recorder = recorder
        self._clock = recorder.clock
        self._domains = domains
        self._limits = limits
        self._confirmations = confirmations

    def issue(
        self,
        fleet: Fleet,
        target: CertificateTarget,
        want: CertificateWant,
        rotation: Rotation,
        *,
        current: tuple[Publication | None, ...],
        reasons: tuple[Reason, ...],
        opens_rotation: bool,
        safety_line: datetime | None,
    ) -> None:
        """
        Make a key, have it signed, check what came back, and publish it with the wanted bundle as one.

        *current* is what the targets hold (their numbers are the precondition of the writes); *opens_rotation* says
        that *rotation* is not in the journal yet, so that its intent is written together with the order.
        """
        domain = fleet.domains[target.certificate.trust_domain]
        scribe = self._scribe(target, rotation)
        signer = self._signer(target)
        key = new_key(target.certificate.key)
        order = self._order(domain, target, rotation, key, signer)
        events: list[Event] = []
        if opens_rotation:
            why = ", ".join(reason.value for reason in reasons)
            events.append(scribe.event(EventType.INTENT, result="started", reason=why))
        self._recorder.write([rotation, order], events, safety_line=safety_line)
        issued = self._sign(domain, target.certificate.identity, target.certificate.dns_names, signer, key, target)
        order = replace(order, state=IssuanceState.ISSUED, serial=issued.leaf.serial, not_after=issued.leaf.not_after)
        before = [each.leaf for each in current if each is not None and each.leaf is not None]
        self._recorder.write(
            [order],
            [
                scribe.event(
                    EventType.ISSUED,
                    old=max(before, key=lambda leaf: leaf.not_after, default=None),
                    new=issued.leaf,
                    corroboration=Corroboration(vault_request_id=issued.request_id),
                    detail={"spki_sha256": key.spki_sha256},
                )
            ],
            safety_line=safety_line,
        )
        note(SERIAL, issued.leaf.serial)
        made = self._together(issued, key, want)
        self._check_new(target, made)
        now = self._clock.now()
        stamp = Stamp(
            subject=target.name,
            rotation_id=rotation.id,
            leaf_published_at=now,
            bundle_published_at=_bundle_since(current, want) or now,
        )
        publications = self._put(target, made, current, stamp)
        self._recorder.write(
            [replace(order, state=IssuanceState.PUBLISHED)],
            [_distributed(scribe, made, each) for each in publications],
            safety_line=safety_line,
        )

    def republish(
        self,
        target: CertificateTarget,
        want: CertificateWant,
        rotation: Rotation | None,
        *,
        current: tuple[Publication | None, ...],
        reason: RepublishReason,
        safety_line: datetime | None,
    ) -> None:
        """Write the newest good leaf and key again with the wanted bundle, to every target that differs."""
        usable = [
            (each, store)
            for each, store in zip(current, target.stores, strict=True)
            if each is not None and is_usable(each)
        ]
        if not usable:
            raise Unavailable(f"no target of {target.name} holds a leaf that could be published again")
        source, store = max(usable, key=lambda pair: pair[0].leaf.not_after if pair[0].leaf else self._clock.now())
        held = store.material()
        bundle_pem = self._domains.bundle_pem(want.bundle)
        made = material(chain_pem=held.chain_pem, key_pem=held.key_pem, bundle_pem=bundle_pem)
        now = self._clock.now()
        same_bundle = [each.id for each in source.bundle] == [each.id for each in want.bundle]
        stamp = Stamp(
            subject=target.name,
            rotation_id=source.rotation_id or (rotation.id if rotation is not None else ""),
            leaf_published_at=source.leaf_published_at or now,
            bundle_published_at=(source.bundle_published_at or now) if same_bundle else now,
        )
        publications = self._put(target, made, current, stamp)
        scribe = self._scribe(target, rotation)
        self._recorder.write(
            (),
            [_distributed(scribe, made, each, reason=reason.value) for each in publications],
            safety_line=safety_line,
        )

    def probe_bundle(
        self, domain: DomainTarget, target: CertificateTarget, successor: Generation, rotation: Rotation
    ) -> None:
        """
        Ask every bundle probe of *target* for an answer to an unpublished leaf of *successor*.

        The leaf carries a SPIFFE ID that the consumer admits, lives only in this call, and is recorded as a probe that
        lapses. No answer is no error: the party stays unacknowledged.
        """
        for probe, power in bundle_probes(target):
            if not self._confirmations.has(target.name, probe.name, successor.authority.id):
                self._ask(domain, target, successor, rotation, probe, power)

    def _ask(
        self,
        domain: DomainTarget,
        target: CertificateTarget,
        successor: Generation,
        rotation: Rotation,
        probe: Probe,
        power: BundleProbe,
    ) -> None:
        """Issue one unpublished leaf and present it once."""
        key = new_key(KeyType.ECDSA_P256)
        scribe = self._scribe(target, rotation)
        order = replace(self._order(domain, target, rotation, key, successor), kind=IssuanceKind.PROBE)
        self._recorder.write([order])
        issued = self._sign(domain, power.presents, (), successor, key, target)
        order = replace(order, state=IssuanceState.ISSUED, serial=issued.leaf.serial, not_after=issued.leaf.not_after)
        self._recorder.write(
            [order],
            [
                scribe.event(
                    EventType.ISSUED,
                    new=issued.leaf,
                    corroboration=Corroboration(vault_request_id=issued.request_id, probe=probe.name),
                    detail={"probe": True, "spki_sha256": key.spki_sha256},
                )
            ],
        )
        state = self._domains.get(domain.name)
        bundle = state.decision.bundle if state is not None else ()
        with self._recorder.tracing.call("probe", probe=probe.name):
            admitted = power.admits(
                material(chain_pem=issued.chain_pem, key_pem=key.pem(), bundle_pem=self._domains.bundle_pem(bundle))
            )
        if admitted:
            self._confirmations.confirm(target.name, probe.name, successor.authority.id)
        self._recorder.write(
            [replace(order, state=IssuanceState.LAPSED)],
            [
                scribe.event(
                    EventType.LAPSED,
                    new=issued.leaf,
                    reason="an unpublished leaf of the new authority, presented once",
                    corroboration=Corroboration(probe=probe.name),
                    detail={"probe": True, "admitted": admitted},
                )
            ],
        )

    def _signer(self, target: CertificateTarget) -> Generation:
        """Return the generation that signs for *target* now."""
        state = self._domains.get(target.certificate.trust_domain)
        signer = state.signer if state is not None else None
        if signer is None:
            raise Unavailable(f"no authority of {target.certificate.trust_domain} may sign now")
        return signer

    def _order(
        self,
        domain: DomainTarget,
        target: CertificateTarget,
        rotation: Rotation,
        key: PrivateKey,
        signer: Generation,
    ) -> Issuance:
        """Return the journal row of an order that is about to be made."""
        return Issuance(
            spki_sha256=key.spki_sha256,
            kind=IssuanceKind.LEAF,
            subject=target.name,
            trust_domain=domain.name,
            rotation_id=rotation.id,
            state=IssuanceState.ASKED,
            asked_at=self._clock.now(),
            signer=signer.authority.id,
        )

    def _sign(
        self,
        domain: DomainTarget,
        identity: str,
        dns_names: tuple[str, ...],
        signer: Generation,
        key: PrivateKey,
        target: CertificateTarget,
    ) -> IssuedLeaf:
        """Have one order signed, within the rate that the issuer can bear."""
        if domain.issuer is None:
            raise InvariantBroken(6, f"leaves of {domain.name} are signed by its control plane, not by rotator")
        self._recorder.fence()
        self._limits.issuer.take()
        order = LeafOrder(
            csr_pem=signing_request(key, identity, dns_names),
            spki_sha256=key.spki_sha256,
            identity=identity,
            dns_names=dns_names,
            lifetime=target.certificate.lifetime,
            signer=signer,
            key=key.type,
        )
        with self._recorder.tracing.call("sign", generation=signer.number):
            return domain.issuer.sign(order)

    def _together(self, issued: IssuedLeaf, key: PrivateKey, want: CertificateWant) -> Material:
        """Return what is published as one; the leaf was parsed and compared with the order when it came back."""
        if issued.leaf.spki_sha256 != key.spki_sha256:
            raise InvariantBroken(
                11, f"the new leaf of {want.certificate.name} certifies another key than the one sent"
            )
        bundle_pem = self._domains.bundle_pem(want.bundle)
        return Material(
            chain_pem=issued.chain_pem,
            key_pem=key.pem(),
            bundle_pem=bundle_pem,
            leaf=issued.leaf,
            bundle=anchors(bundle_pem).authorities,
        )

    def _check_new(self, target: CertificateTarget, made: Material) -> None:
        """Raise `InvariantBroken` if the new leaf would not verify under a live bundle, its own included (law 3)."""
        if made.leaf.issuer not in {each.id for each in made.bundle}:
            raise InvariantBroken(3, f"the new leaf of {target.name} would not verify under its own bundle")
        verify(
            parse_certificates(made.chain_pem, source=f"the new leaf of {target.name}"),
            anchors(made.bundle_pem).certificates,
            at=max(self._clock.now(), made.leaf.not_before),
        )
        state = self._domains.get(target.certificate.trust_domain)
        if state is None or state.is_compromise:
            return
        others = state.trusted_by_others(target)
        if others is not None and made.leaf.issuer not in others:
            raise InvariantBroken(3, f"a relying party would not trust the issuer of the new leaf of {target.name}")

    def _put(
        self, target: CertificateTarget, made: Material, current: tuple[Publication | None, ...], stamp: Stamp
    ) -> tuple[Publication, ...]:
        """Write *made* to every target that does not hold it yet; return what was written, or what is there already."""
        written: list[Publication] = []
        there: list[Publication] = []
        for store, held in zip(target.stores, current, strict=True):
            if held is not None and _holds_already(held, made):
                there.append(held)
                continue
            self._recorder.fence()
            with self._recorder.tracing.call("publish", target=store.target):
                written.append(store.put(made, expected=held.number if held is not None else 0, stamp=stamp))
        found = written or there[:1]
        if not found:
            raise Unavailable(f"{target.name} has nowhere to be published")
        return tuple(found)

    def _scribe(self, target: CertificateTarget, rotation: Rotation | None) -> Scribe:
        """Return the writer of this certificate's events."""
        return Scribe(clock=self._clock, subject=target.name, rotation=rotation, spiffe_id=target.certificate.identity)


def _holds_already(held: Publication, made: Material) -> bool:
    """Return whether *held* is *made* to the letter, so that writing it again would change nothing."""
    if held.problem is not None or held.drift is not None or held.outdated:
        return False
    is_same_leaf = held.key_matches and held.leaf is not None and held.leaf.sha256 == made.leaf.sha256
    return (is_same_leaf or not held.holds_leaf) and (
        [each.sha256 for each in held.bundle] == [each.sha256 for each in made.bundle]
    )


def _distributed(scribe: Scribe, made: Material, publication: Publication, *, reason: str | None = None) -> Event:
    """Return the record of one publication."""
    return scribe.event(
        EventType.DISTRIBUTED,
        new=made.leaf if publication.holds_leaf else None,
        reason=reason,
        corroboration=seen_by_cluster(publication),
        detail={
            "target": publication.target,
            "publication": publication.number,
            "bundle": ",".join(each.id for each in made.bundle),
        },
    )


def seen_by_cluster(publication: Publication) -> Corroboration:
    """Return what an API server says of *publication*: by its revision the cluster's own audit log is found."""
    if publication.revision is None:
        return Corroboration()
    return Corroboration(kubernetes=f"resourceVersion {publication.revision}")


def _bundle_since(current: tuple[Publication | None, ...], want: CertificateWant) -> datetime | None:
    """Return since when the wanted bundle stands at every target; None if it does not."""
    wanted = [each.id for each in want.bundle]
    moments = [
        each.bundle_published_at if each is not None and [one.id for one in each.bundle] == wanted else None
        for each in current
    ]
    known = [each for each in moments if each is not None]
    return max(known) if known and len(known) == len(moments) else None
