"""
What the engine does to one token: intent written, effect made, effect seen, record written.

Rules that must stay true here:

- Every effect stands between two commits: the intent before it, the record after it (laws 12 and 21).
- Every step may be applied twice; after a crash nothing is replayed: observe, decide again (law 13).
- A token's name is the control plane's choice: an order whose answer is lost can be neither found nor revoked, so it is
  recorded as lapsing, with the latest moment at which it can end.
- A token leaves this process only into its publications, and is in no record (law 10).
- The lease is looked at before every effect (law 14).
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from rotator.core.event import Event, EventType
from rotator.core.model import IssuerId, Publication, Token
from rotator.core.steps import Reason, RepublishReason
from rotator.core.tokens import holds_token
from rotator.engine.leaf_steps import seen_by_cluster
from rotator.engine.limits import Limits
from rotator.engine.recorder import Recorder, Scribe
from rotator.engine.targets import TokenTarget
from rotator.errors import Denied, InvariantBroken, Unavailable
from rotator.pki.token import key_prefix, parse_token
from rotator.ports import Issuance, IssuanceKind, IssuanceState, Rotation, Stamp

LATEST_ANSWER = timedelta(minutes=2)
"""A request that is still on its way after this has ended with its connection."""


class TokenSteps:
    """Applies token steps through the ports of their targets; the caller holds the token's lock."""

    def __init__(self, *, recorder: Recorder, limits: Limits) -> None:
        self._recorder = recorder
        self._clock = recorder.clock
        self._limits = limits

    def issue(
        self,
        target: TokenTarget,
        rotation: Rotation,
        *,
        current: tuple[Publication | None, ...],
        key_at_least: int,
        reasons: tuple[Reason, ...],
        opens_rotation: bool,
        safety_line: datetime | None,
    ) -> None:
        """
        Have a token issued, check what came back, and publish it.

        *current* is what the targets hold (their numbers are the precondition of the writes); *opens_rotation* says
        that *rotation* is not in the journal yet, so that its intent is written together with the order.
        """
        want, scribe = target.token, self.scribe(target, rotation)
        order = Issuance(
            spki_sha256=f"token:{uuid.uuid4().hex}",
            kind=IssuanceKind.TOKEN,
            subject=target.name,
            trust_domain=want.trust_domain,
            rotation_id=rotation.id,
            state=IssuanceState.ASKED,
            asked_at=self._clock.now(),
            signer=IssuerId(key_prefix(want.grant.kind, want.grant.mesh)),
        )
        why = ", ".join(reason.value for reason in reasons)
        events = [scribe.event(EventType.INTENT, result="started", reason=why)] if opens_rotation else []
        self._recorder.write([rotation, order], events, safety_line=safety_line)
        self._recorder.fence()
        self._limits.issuer.take()
        try:
            with self._recorder.tracing.call("issue_token"):
                issued = target.issuer.issue(want.grant, want.lifetime)
        except Denied:
            # Nothing was issued: the order is over, and what is wrong is the failure's own record.
            self._recorder.write([replace(order, state=IssuanceState.NEVER)], safety_line=safety_line)
            raise
        token = issued.token
        order = replace(
            order, state=IssuanceState.ISSUED, serial=token.id, not_after=token.not_after, signer=token.issuer
        )
        before = [each.token for each in current if each is not None and each.token is not None]
        made = scribe.event(
            EventType.ISSUED,
            old=max(before, key=lambda each: each.not_after, default=None),
            new=token,
            detail={**_about(target), "order": order.spki_sha256},
        )
        self._recorder.write([order], [made], safety_line=safety_line)
        if token.key < key_at_least:
            # The control plane that answered does not know the new key yet; the token that it gave is an orphan.
            raise Unavailable(f"the control plane still signs with key {token.key}, wanted is {key_at_least}")
        publications = self._put(target, issued.text, token, current, rotation.id)
        self._recorder.write(
            [replace(order, state=IssuanceState.PUBLISHED)],
            [self._distributed(target, scribe, each, token) for each in publications],
            safety_line=safety_line,
        )

    def republish(
        self,
        target: TokenTarget,
        rotation: Rotation | None,
        *,
        good: Publication,
        current: tuple[Publication | None, ...],
        reason: RepublishReason,
        safety_line: datetime | None,
    ) -> None:
        """Write the token of the *good* publication again, to every target that differs."""
        at = next(index for index, each in enumerate(current) if each is good)
        text = target.stores[at].text()
        token = parse_token(text, source=target.stores[at].target)
        if good.token is None or token.sha256 != good.token.sha256:
            raise Unavailable(f"{target.stores[at].target} was changed since it was looked at")
        publications = self._put(target, text, token, current, good.rotation_id or "", good.leaf_published_at)
        scribe = self.scribe(target, rotation)
        self._recorder.write(
            (),
            [self._distributed(target, scribe, each, token, reason=reason.value) for each in publications],
            safety_line=safety_line,
        )

    def end(
        self,
        target: TokenTarget,
        rotation: Rotation | None,
        *,
        revoke: Sequence[Issuance] = (),
        lapse: Sequence[Issuance] = (),
        over: Sequence[Issuance] = (),
        missing: Sequence[Issuance] = (),
        safety_line: datetime | None,
    ) -> None:
        """
        End orders: those to *revoke* go on the lists, those to *lapse* end by themselves.

        *over* were revoked before and have ended since: they leave the lists, which stay short. *missing* were revoked
        before and somebody else took them off: they are put back.
        """
        drop = frozenset(each.serial for each in over if each.serial is not None)
        add = frozenset(each.serial for each in (*revoke, *missing) if each.serial is not None)
        if add or drop:
            self._recorder.fence()
            target.issuer.revoke(target.token.grant, add=add, drop=drop)
        rows = [replace(each, state=IssuanceState.REVOKED) for each in revoke]
        rows += [replace(each, state=IssuanceState.LAPSED) for each in (*lapse, *over)]
        events = [self._ended(target, each, rotation, EventType.REVOKED) for each in revoke]
        events += [self._ended(target, each, rotation, EventType.LAPSED) for each in lapse]
        events += [
            self._ended(target, each, rotation, EventType.LAPSED, reason="it left the revocation list with its end")
            for each in over
        ]
        events += [
            self._ended(target, each, rotation, EventType.DRIFTED, reason="somebody took it off the revocation list")
            for each in missing
        ]
        if rows or events:
            self._recorder.write(rows, events, safety_line=safety_line)

    def lose(
        self, target: TokenTarget, order: Issuance, rotation: Rotation | None, *, safety_line: datetime | None
    ) -> None:
        """Record that *order* got no answer: if it was carried out all the same, its token lapses by a known moment."""
        latest = order.asked_at + LATEST_ANSWER + target.token.lifetime + target.policy.skew
        row = replace(order, state=IssuanceState.LAPSED, not_after=latest)
        event = self._ended(
            target,
            row,
            rotation,
            EventType.LAPSED,
            reason="no usable answer came, so if a token was issued nobody has it and nobody can name it",
        )
        self._recorder.write([row], [replace(event, result="unknown")], safety_line=safety_line)

    def scribe(self, target: TokenTarget, rotation: Rotation | None, *, rotation_id: str | None = None) -> Scribe:
        """Return the writer of this token's events."""
        return Scribe(clock=self._clock, subject=target.name, rotation=rotation, rotation_id=rotation_id)

    def _put(
        self,
        target: TokenTarget,
        text: str,
        token: Token,
        current: tuple[Publication | None, ...],
        rotation_id: str,
        published_at: datetime | None = None,
    ) -> tuple[Publication, ...]:
        """Write the token to every target that does not hold it; return what was written, or what is there already."""
        now = self._clock.now()
        stamp = Stamp(
            subject=target.name,
            rotation_id=rotation_id,
            leaf_published_at=published_at or now,
            bundle_published_at=published_at or now,
        )
        wanted = Publication(target="", number=0, leaf=None, token=token)
        written: list[Publication] = []
        there: list[Publication] = []
        for store, held in zip(target.stores, current, strict=True):
            if held is not None and holds_token(held, wanted) and held.drift is None and not held.outdated:
                there.append(held)
                continue
            self._recorder.fence()
            with self._recorder.tracing.call("publish", target=store.target):
                written.append(store.put_token(text, expected=held.number if held is not None else 0, stamp=stamp))
        found = written or there[:1]
        if not found:
            raise InvariantBroken(16, f"{target.name} has nowhere to be published")
        return tuple(found)

    def _distributed(
        self, target: TokenTarget, scribe: Scribe, publication: Publication, token: Token, *, reason: str | None = None
    ) -> Event:
        return scribe.event(
            EventType.DISTRIBUTED,
            new=token,
            reason=reason,
            corroboration=seen_by_cluster(publication),
            detail={**_about(target), "target": publication.target, "publication": publication.number},
        )

    def _ended(
        self,
        target: TokenTarget,
        order: Issuance,
        rotation: Rotation | None,
        type_: EventType,
        *,
        reason: str | None = None,
    ) -> Event:
        own = rotation if rotation is not None and rotation.id == order.rotation_id else None
        detail = {**_about(target), "order": order.spki_sha256, "serial": order.serial or ""}
        if order.not_after is not None:
            detail["ends"] = order.not_after.strftime("%Y-%m-%dT%H:%M:%SZ")
        return self.scribe(target, own, rotation_id=order.rotation_id or None).event(
            type_, reason=reason, detail=detail
        )


def _about(target: TokenTarget) -> dict[str, str | int | bool]:
    """Return what every record of a token says beside the fixed fields: that it is one, and of which kind."""
    return {"token_kind": target.token.grant.kind.value}
