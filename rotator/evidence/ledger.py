"""
What stands between the store and the log: the committed entries, read in order and told as a story.

Rules that must stay true here:

- Entries are reached through the `Ledger` port; nothing here knows a database.
- Read in slices: a ledger is longer than memory.
- A story says what the records say and no more; people stay commitments (law 24).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rotator.core.event import CertificateFacts, Event, EventType
from rotator.evidence.record import Record, decode, rfc3339
from rotator.ports import Ledger

SLICE = 4_096
"""Entries read at a time: a few megabytes of records, and a whole number of bundles of 256."""


def entries(ledger: Ledger, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
    """Yield the canonical bytes of the entries ``start <= seq < stop``, all that are committed now by default."""
    end = ledger.size() if stop is None else stop
    for first in range(start, end, SLICE):
        yield from ledger.entries(first, min(first + SLICE, end))


def records(ledger: Ledger, start: int = 0, stop: int | None = None) -> Iterator[Record]:
    """Yield the typed records ``start <= seq < stop``. Raises `LedgerTampered` at one that cannot be read."""
    for raw in entries(ledger, start, stop):
        yield decode(raw)


def story(told: Iterable[Record], subject: str) -> list[str]:
    """Return the life of *subject* in sentences, one a record, oldest first; empty if nothing was ever recorded."""
    return [_sentence(record) for record in told if record.event.subject == subject]


def _sentence(record: Record) -> str:
    event = record.event
    late = " (entered late)" if event.late else ""
    return f"{rfc3339(event.time)} {_words(event)}{_asked(event)}{_seen(event)}{late} [record {record.seq}]"


def _words(event: Event) -> str:
    new, old = _certificate(event.new), _certificate(event.old)
    why = f" because {event.reason}" if event.reason else ""
    told = _of_token(event, why) if "token_kind" in event.detail else _of_signing_key(event, why)
    if told is not None:
        return told
    match event.type:
        case EventType.INTENT if event.result == "nothing to do":
            return f"what was asked is so already{why}"
        case EventType.APPLIED | EventType.UNDONE | EventType.PUT_BACK:
            return f"{event.type.value.replace('_', ' ')}: {event.detail.get('what', 'a document')}{why}"
        case EventType.INTENT:
            return f"{event.detail.get('step', 'a rotation')} was intended{why}"
        case EventType.ISSUED:
            replaced = f" to replace {old}" if event.old else ""
            return f"certificate {new} was issued{replaced}{why}{_validity(event.new)}"
        case EventType.DISTRIBUTED:
            return f"certificate {new} was published" if event.new else f"the trust bundle was published{why}"
        case EventType.DRIFTED:
            where = event.detail.get("target", "what was published")
            return f"{where} was found changed by somebody else{why}"
        case EventType.ACTIVATED:
            return f"authority {new} began to sign{why}"
        case EventType.VERIFIED:
            return f"certificate {new} was seen in use" if event.new else f"what was published was seen in use{why}"
        case EventType.RETIRED:
            return f"{old} was retired{why}"
        case EventType.REVOKED:
            return f"certificate {_certificate(event.old or event.new)} was revoked{why}"
        case EventType.LAPSED:
            return f"certificate {_certificate(event.old or event.new)} ran out unrevoked{why}"
        case EventType.COMPLETED:
            what = "change" if "documents" in event.detail else "rotation"
            return f"the {what} was completed{_replacement(event)}{why}"
        case EventType.FAILED:
            return f"it failed: {event.result}{why}"
        case EventType.ROLLED_BACK:
            return f"the rotation was rolled back{_replacement(event)}{why}"
        case EventType.MISSED:
            return f"a rotation was missed: {event.result}{why}"
        case EventType.REFUSED:
            return f"it was refused: {event.result}{why}"
        case EventType.APPROVAL:
            return f"an approval was given: {event.result}{why}"
        case EventType.PAUSED:
            return f"it was paused until {event.detail.get('until', 'it is resumed')}{why}"
        case EventType.RESUMED:
            return f"it was resumed{why}"
        case _:
            what = event.type.value.replace("_", " ")
            result = "" if event.result == "ok" else f": {event.result}"
            return f"{what}{_member(event)}{result}{why}"


def _of_token(event: Event, why: str) -> str | None:
    """Return what *event* says of a token, None if the words for certificates do."""
    new, old = _certificate(event.new), _certificate(event.old)
    named = _short(str(event.detail.get("serial") or "")) or "whose name nobody knows"
    ends = f", at {event.detail['ends']} at the latest" if "ends" in event.detail else ""
    kind = event.detail.get("token_kind")
    match event.type:
        case EventType.ISSUED:
            replaced = f" to replace {old}" if event.old else ""
            signed = f" by {event.new.issuer}" if event.new else ""
            return f"{kind} token {new} was issued{signed}{replaced}{why}{_validity(event.new)}"
        case EventType.DISTRIBUTED:
            return f"token {new} was published at {event.detail.get('target', 'its place')}{why}"
        case EventType.VERIFIED:
            return f"token {new} was read back at every place: {', '.join(event.corroboration.dataplanes)}"
        case EventType.COMPLETED:
            return f"the rotation was completed with token {new}"
        case EventType.REVOKED:
            return (
                f"token {named} was put on the revocation list{why}: nobody connects with it any more, and who is "
                "connected with it stays so until the connection ends"
            )
        case EventType.LAPSED:
            return f"token {named} ended by itself{ends}{why}"
        case EventType.MISSED if event.result == "expired":
            return f"token {old} expired at {_ends(event.old)} and had not been replaced: who connects anew is refused"
        case EventType.MISSED:
            return f"token {old} should have been replaced by now and was not; it ends at {_ends(event.old)}"
        case EventType.DRIFTED if "target" not in event.detail:
            return f"token {named} was found off the revocation list{why}, and was put back"
        case _:
            return None


def _of_signing_key(event: Event, why: str) -> str | None:
    """Return what *event* says of a key that signs tokens, None if it is about none."""
    if "signing_key" not in event.detail:
        return None
    key = f"signing key {event.detail.get('kid')} of {event.detail['signing_key']}"
    match event.type:
        case EventType.ISSUED:
            return f"{key} was added{why}: it signs from then on"
        case EventType.ACTIVATED:
            return f"{key} is known wherever tokens are checked, so every token is issued anew{why}"
        case EventType.RETIRED:
            return f"{key} was removed{why}: what it signed is refused from then on"
        case EventType.COMPLETED:
            return f"the rotation was completed: {key} alone is left of the two"
        case _:
            return None


def _ends(facts: CertificateFacts | None) -> str:
    return rfc3339(facts.not_after) if facts else "an unknown moment"


def _asked(event: Event) -> str:
    if event.requested_by:
        return f", asked for by {_short(event.requested_by)}"
    return f", set off by {event.trigger.value}" if event.trigger and event.type is EventType.INTENT else ""


def _seen(event: Event) -> str:
    seen = event.corroboration
    if seen.vault_request_id:
        return f" (Vault request {seen.vault_request_id})"
    return f" (seen by {seen.probe})" if seen.probe else ""


def _member(event: Event) -> str:
    member = event.detail.get("member")
    return f" {member}" if member else ""


def _replacement(event: Event) -> str:
    if event.new and event.old:
        return f", {_certificate(event.new)} in place of {_certificate(event.old)}"
    return ""


def _certificate(facts: CertificateFacts | None) -> str:
    return _short(facts.serial) if facts else "of which nothing is known"


def _validity(facts: CertificateFacts | None) -> str:
    return f", valid until {rfc3339(facts.not_after)}" if facts else ""


def _short(text: str) -> str:
    """Return the first words of a serial or commitment: enough to find it again."""
    kind, colon, value = text.rpartition(":")
    return f"{kind}{colon}{value[:12]}"
