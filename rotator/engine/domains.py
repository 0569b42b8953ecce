"""
What each trust domain stands for right now: the snapshot that leaves follow.

Rules that must stay true here:

- A snapshot is replaced as a whole under its domain's lock and read without one; a leaf step reads it under the
  certificate's own lock, so a domain that moves on always gets the last word on that certificate.
- No snapshot, no leaf step: a domain that was never observed gives no signer and no bundle.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from rotator.core.authority import AuthorityDecision
from rotator.core.model import (
    AskedFor,
    Authority,
    AuthorityIntent,
    AuthoritySeen,
    CertificateWant,
    Generation,
    IntentKind,
    IssuerId,
    SubjectName,
    TrustDomainName,
)
from rotator.engine.targets import CertificateTarget
from rotator.pki.bundle import encode
from rotator.pki.certificates import anchors
from rotator.ports import HeldAuthorities, MeshView


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainState:
    """One domain as last observed and decided."""

    decision: AuthorityDecision
    seen: AuthoritySeen
    held: HeldAuthorities
    intent: AuthorityIntent | None
    at: datetime
    mesh: MeshView | None = None
    """What its control plane showed; None for a domain whose leaves are signed here."""
    _given: Mapping[SubjectName, frozenset[IssuerId]] = field(init=False, repr=False, compare=False)
    """What each live relying party was given."""
    _bundles: Mapping[frozenset[IssuerId], int] = field(init=False, repr=False, compare=False)
    """How many of them were given the same."""

    def __post_init__(self) -> None:
        given = {
            party.name: party.published
            for party in self.seen.parties
            if party.published is not None
            and party.last_leaf_not_after is not None
            and party.last_leaf_not_after > self.at
        }
        object.__setattr__(self, "_given", given)
        object.__setattr__(self, "_bundles", Counter(given.values()))

    @property
    def signer(self) -> Generation | None:
        """Return the generation that signs now."""
        return self.decision.signer

    def trusted_by_others(self, certificate: CertificateTarget) -> frozenset[IssuerId] | None:
        """Return the authorities that every other live relying party was given; None if there is no other."""
        own = self._given.get(certificate.name)
        # A handful of different bundles, however many parties: a wave asks this once for each of its leaves.
        others = [each for each, parties in self._bundles.items() if parties > (each == own)]
        return frozenset.intersection(*others) if others else None

    @property
    def is_compromise(self) -> bool:
        """Return whether the ordinary order of trust is suspended by a person's typed word (law 8)."""
        return self.intent is not None and self.intent.kind is IntentKind.COMPROMISE


class Domains:
    """The latest snapshot of every trust domain."""

    def __init__(self) -> None:
        self._states: dict[TrustDomainName, DomainState] = {}

    def put(self, domain: TrustDomainName, state: DomainState) -> None:
        """Replace the snapshot of *domain*."""
        self._states[domain] = state

    def get(self, domain: TrustDomainName) -> DomainState | None:
        """Return the snapshot of *domain*, or None before its first observation."""
        return self._states.get(domain)

    def want(
        self,
        target: CertificateTarget,
        *,
        asked: AskedFor | None = None,
        accepted: frozenset[IssuerId] | None = None,
    ) -> CertificateWant | None:
        """
        Return what *target* should be now; None while one of its trust domains has nothing to trust yet.

        *accepted* overrides the authorities under which the present leaf may stay (a reissue wave names only the new).
        """
        states = [self._states.get(domain) for domain in target.certificate.trusts]
        own = states[0]
        if own is None or any(state is None or not state.decision.bundle for state in states):
            return None
        bundle: list[Authority] = []
        for state in states:
            if state is not None:
                bundle.extend(each for each in state.decision.bundle if each not in bundle)
        return CertificateWant(
            certificate=target.certificate,
            signer=own.signer.authority if own.signer is not None else None,
            accepted=own.decision.accepted if accepted is None else accepted,
            bundle=tuple(bundle),
            asked=asked,
        )

    def bundle_pem(self, bundle: tuple[Authority, ...]) -> bytes:
        """Return the canonical PEM of *bundle*, in its order."""
        pems: dict[IssuerId, bytes] = {}
        for state in self._states.values():
            pems.update(state.held.certificates_pem)
        chosen = b"".join(pems[each.id] for each in bundle)
        return encode(anchors(chosen, source="trust bundle").certificates)
