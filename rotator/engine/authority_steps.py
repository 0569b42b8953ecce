"""
Steps of one trust domain's authority: intent written, effect made, effect seen, record written.

Rules that must stay true here:

- The new key's public half is in the journal before the corporate PKI signs it, so that an orphan is found (law 13).
- The signer's pointer moves only by `activate`, and every move is a record (laws 5 and 6).
- Revocation comes last, and only for what lives on past the next CRL (law 18); compromise inverts that and says so.
"""

from __future__ import annotations

from dataclasses import replace

from rotator.core.event import Corroboration, EventType
from rotator.core.model import Authority, Generation
from rotator.core.steps import ActivateIssuer, PrepareIssuer
from rotator.core.trace import SERIAL
from rotator.engine.authority_rotations import back_id
from rotator.engine.limits import Limits
from rotator.engine.observe import Confirmations
from rotator.engine.recorder import Recorder, Scribe
from rotator.engine.targets import DomainTarget
from rotator.engine.tracing import note
from rotator.ports import AuthorityOrder, Issuance, IssuanceKind, IssuanceState, Rotation


class AuthoritySteps:
    """Applies authority steps; the caller holds the domain's lock."""

    def __init__(self, *, recorder: Recorder, limits: Limits, confirmations: Confirmations) -> None:
        self._recorder = recorder
        self._clock = recorder.clock
        self._limits = limits
        self._confirmations = confirmations

    def prepare(self, domain: DomainTarget, step: PrepareIssuer, rotation: Rotation) -> None:
        """Have a new generation made inside the signer and signed by the corporate PKI."""
        asked: list[Issuance] = []

        def announce(spki_sha256: str) -> None:
            asked.append(
                Issuance(
                    spki_sha256=spki_sha256,
                    kind=IssuanceKind.AUTHORITY,
                    subject=domain.subject,
                    trust_domain=domain.name,
                    rotation_id=rotation.id,
                    state=IssuanceState.ASKED,
                    asked_at=self._clock.now(),
                    signer=None,
                )
            )
            self._recorder.write([asked[-1]])

        self._recorder.fence()
        self._limits.issuer.take()
        prepared = domain.authorities.prepare(
            AuthorityOrder(
                trust_domain=domain.name,
                number=step.number,
                lifetime=domain.policy.lifetime,
                key=domain.key,
                rotation_id=rotation.id,
                announce=announce,
            )
        )
        generation = prepared.generation
        note(SERIAL, generation.authority.serial)
        note("rotator.generation", generation.number)
        issued = self._scribe(domain, rotation).event(
            EventType.ISSUED,
            new=generation.authority,
            reason=step.reason,
            corroboration=Corroboration(vault_request_id=prepared.request_id),
            detail={"spki_sha256": generation.authority.spki_sha256, "generation": generation.number},
        )
        with self._recorder.amending(rotation) as current:
            self._recorder.write(
                [
                    _row(domain, rotation, generation.authority, IssuanceState.PUBLISHED),
                    replace(current, to_generation=generation.number),
                ],
                [issued],
            )

    def activate(
        self,
        domain: DomainTarget,
        step: ActivateIssuer,
        rotation: Rotation,
        *,
        old: Generation | None,
        new: Generation,
        acknowledged_by: tuple[str, ...],
    ) -> None:
        """Move the signer's pointer; leaving parties behind is the operator's written choice and an exception."""
        scribe = self._scribe(domain, rotation)
        before = [
            scribe.event(
                EventType.EXCEPTION_OPENED,
                new=new.authority,
                reason="activated without acknowledgement of " + ", ".join(step.without),
            )
        ]
        self._recorder.write((), before if step.without else ())
        self._limits.issuer.take()
        request_id = domain.authorities.activate(new)
        note(SERIAL, new.authority.serial)
        note("rotator.generation", new.number)
        activated = scribe.event(
            EventType.ACTIVATED,
            old=old.authority if old is not None else None,
            new=new.authority,
            corroboration=Corroboration(
                vault_request_id=request_id if domain.mesh is None else None,
                kubernetes=request_id if domain.mesh is not None else None,
                dataplanes=acknowledged_by,
            ),
            detail={"generation": new.number, "back": step.back},
        )
        with self._recorder.amending(rotation) as current:
            self._recorder.write(
                [replace(current, activated_at=self._clock.now(), to_generation=current.to_generation or new.number)],
                [replace(activated, id=back_id(rotation)) if step.back else activated],
            )

    def retire(self, domain: DomainTarget, rotation: Rotation | None, generation: Generation, reason: str) -> None:
        """
        Take *generation* out of service: revoked at its parent if it would live past the next CRL, else lapsed.

        Generation 0, a CA that was found in a mesh, is somebody else's: it is neither revoked nor removed.
        """
        self._recorder.fence()
        note(SERIAL, generation.authority.serial)
        note("rotator.generation", generation.number)
        if generation.number == 0:
            self._limits.issuer.take()
            domain.authorities.retire(generation, revoke=False)
            found = {"generation": 0, "left": True}
            retired = self._scribe(domain, rotation).event(
                EventType.RETIRED, old=generation.authority, reason=reason, detail=found
            )
            self._recorder.write((), [retired])
            return
        outlives = generation.authority.not_after > self._clock.now() + domain.crl_interval
        revoke = outlives and not generation.revoked
        self._limits.issuer.take()
        request_id = domain.authorities.retire(generation, revoke=revoke)
        self._confirmations.forget(generation.authority.id)
        revoked = revoke or generation.revoked
        scribe = self._scribe(domain, rotation)
        corroboration = Corroboration(vault_request_id=request_id)
        events = [scribe.event(EventType.RETIRED, old=generation.authority, reason=reason)]
        if revoke:
            events.append(scribe.event(EventType.REVOKED, old=generation.authority, corroboration=corroboration))
        elif not revoked:
            events.append(scribe.event(EventType.LAPSED, old=generation.authority, corroboration=corroboration))
        state = IssuanceState.REVOKED if revoked else IssuanceState.LAPSED
        self._recorder.write([_row(domain, rotation, generation.authority, state)], events)

    def revoke(self, domain: DomainTarget, rotation: Rotation, generation: Generation) -> None:
        """Compromise only: revoke *generation* at the corporate PKI before anything else."""
        self._recorder.fence()
        self._limits.issuer.take()
        request_id = domain.parent.revoke_authority(generation.authority.serial)
        self._recorder.write(
            [_row(domain, rotation, generation.authority, IssuanceState.REVOKED)],
            [
                self._scribe(domain, rotation).event(
                    EventType.REVOKED,
                    old=generation.authority,
                    reason="compromise",
                    corroboration=Corroboration(vault_request_id=request_id),
                )
            ],
        )

    def _scribe(self, domain: DomainTarget, rotation: Rotation | None) -> Scribe:
        """Return the writer of this domain's events."""
        return Scribe(clock=self._clock, subject=domain.subject, rotation=rotation, spiffe_id=f"spiffe://{domain.name}")


def _row(domain: DomainTarget, rotation: Rotation | None, authority: Authority, state: IssuanceState) -> Issuance:
    """Return the journal row of one generation's certificate."""
    return Issuance(
        spki_sha256=authority.spki_sha256,
        kind=IssuanceKind.AUTHORITY,
        subject=domain.subject,
        trust_domain=domain.name,
        rotation_id=rotation.id if rotation is not None else "",
        state=state,
        asked_at=authority.not_before,
        signer=authority.parent,
        serial=authority.serial,
        not_after=authority.not_after,
    )
