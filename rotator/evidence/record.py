"""
The record ``rotator.event/v1``: one event as canonical JSON, the leaf of the log.

Rules that must stay true here:

- One event has one encoding (RFC 8785), so that a hash of a record means something.
- Every field of the contract is always there, null when unknown; times are RFC 3339 UTC in whole seconds.
- No secret passes: what looks like a private key or a token is refused here, in one place, whatever its field (law 10).
- A record stays under 60,000 bytes: an entry of the log has a 16-bit length.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

import rfc8785

from rotator.core.event import CertificateFacts, Commitment, Corroboration, Event, EventType, Trigger
from rotator.errors import InvariantBroken, LedgerTampered

SCHEMA = "rotator.event/v1"

MAX_RECORD_BYTES = 60_000
"""Well under the 65,535 bytes that an entry of a C2SP tile can have."""

MAX_DETAIL_CHARACTERS = 2_000
"""A detail is a small fact, not a document."""

MAX_SAFE_INTEGER = 2**53 - 1
"""Above it JSON readers disagree about the number (RFC 8785 section 3.2.2.3)."""

Fields = dict[str, Any]
"""A record's JSON object; `parse` has checked the fields that every record has."""

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_DETAIL_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")

# Begins with its letter and looks back from there: a word boundary in front would be tried at every character.
_OPENBAO_TOKEN = re.compile(r"[sbr](?<!\w.)\.(?=[\w-]*[A-Z])(?=[\w-]*[0-9])[A-Za-z0-9_-]{24,}", re.DOTALL)

_SECRETS = (
    ("PEM", re.compile(r"-----BEGIN ")),
    ("a JSON web token", re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.")),
    # hvs, hvb, hvr since Vault 1.10; s., b., r. before and in OpenBao, told from DNS names by a capital and a digit.
    ("a Vault token", re.compile(r"\bhv[sbr]\.[A-Za-z0-9_-]{20,}")),
    ("an OpenBao token", _OPENBAO_TOKEN),
    # PKCS#8 and SEC 1 keys in DER begin with these letters in base64: RSA, EC P-256 and P-384, Ed25519.
    ("a private key", re.compile(r"MII[EJ][A-Za-z0-9+/]{2}IBA[AD]|MIGHAgEA|MIG2AgEA|MHcCAQEE|MC4CAQAwBQYDK2Vw")),
    ("an authorization header", re.compile(r"\b[Bb]earer [A-Za-z0-9._~+/-]{16,}")),
)

_BEGINNINGS = ("-----BEGIN ", "eyJ", "hvs.", "hvb.", "hvr.", "MII", "MIG", "MHcC", "MC4C", "earer ")
"""What every other pattern needs: almost every record has none of them, and need not be searched for patterns."""

_REQUIRED = (
    "id",
    "seq",
    "time",
    "type",
    "environment",
    "rotation_id",
    "subject",
    "spiffe_id",
    "trigger",
    "reason",
    "requested_by",
    "approved_by",
    "policy_sha256",
    "old",
    "new",
    "result",
    "corroboration",
    "trace_id",
    "late",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One committed event and its place in the ledger."""

    seq: int
    id: str
    environment: str
    policy_sha256: str | None
    event: Event


def canonical(value: Mapping[str, Any]) -> bytes:
    """Return the RFC 8785 encoding of any JSON object. Raises `rfc8785.CanonicalizationError` if it has none."""
    return rfc8785.dumps(cast("dict[str, Any]", value))


def _plain(value: Mapping[str, Any]) -> bytes:
    """
    Return the RFC 8785 encoding of an object with ASCII names, safe integers and no other numbers.

    For such objects the standard library's encoder gives the same bytes, seven times faster; a property test says so.
    """
    return _ENCODER.encode(value).encode()


def rfc3339(moment: datetime) -> str:
    """Return *moment* in UTC and whole seconds, cut off: ``2026-11-22T16:13:00Z``. It must be aware."""
    if moment.tzinfo is None:
        raise InvariantBroken(20, "a moment without a time zone reached the ledger")
    return f"{moment.astimezone(UTC).replace(microsecond=0, tzinfo=None).isoformat()}Z"


def moment_of(text: str) -> datetime:
    """Return the moment that `rfc3339` wrote. Raises `ValueError` for any other form."""
    if not _TIME.fullmatch(text):
        raise ValueError("not an RFC 3339 time in UTC and whole seconds")
    return datetime.fromisoformat(text)


def fields_of(event: Event) -> Fields:
    """Return the part of *event*'s record that does not depend on its place in the ledger."""
    return {
        "schema": SCHEMA,
        "time": rfc3339(event.time),
        "type": event.type.value,
        "rotation_id": event.rotation_id,
        "subject": str(event.subject),
        "spiffe_id": event.spiffe_id,
        "trigger": event.trigger.value if event.trigger else None,
        "reason": event.reason,
        "reason_commitment": event.reason_commitment,
        "requested_by": event.requested_by,
        "approved_by": list(event.approved_by),
        "old": _facts(event.old),
        "new": _facts(event.new),
        "result": event.result,
        "corroboration": {
            "vault_request_id": event.corroboration.vault_request_id,
            "kubernetes": event.corroboration.kubernetes,
            "dataplanes": list(event.corroboration.dataplanes),
            "probe": event.corroboration.probe,
        },
        "trace_id": event.trace_id,
        "late": event.late,
        "detail": dict(event.detail),
    }


def encode(event: Event, *, seq: int, record_id: str, environment: str, policy_sha256: str | None) -> bytes:
    """
    Return the canonical bytes of *event* as record *seq*.

    *record_id* never changes once it is chosen (a random UUID of the transaction, or the spool's).

    Raises:
        InvariantBroken: If the record is too large, a detail is no small scalar, or a value looks like a secret.
            No message holds the value.
    """
    for name, value in event.detail.items():
        if isinstance(value, int) and abs(value) > MAX_SAFE_INTEGER:
            raise InvariantBroken(21, f"the detail {name} of a record is too large a number")
        if not _DETAIL_NAME.fullmatch(name):
            raise InvariantBroken(21, "a detail of a record has a name that is not lower-case words")
        if not isinstance(value, (str, int, bool)) or len(str(value)) > MAX_DETAIL_CHARACTERS:
            raise InvariantBroken(21, f"the detail {name} of a record is not a small text, number or truth")
    fields = fields_of(event)
    fields |= {"seq": seq, "id": record_id, "environment": environment, "policy_sha256": policy_sha256}
    text = _ENCODER.encode(fields)
    # A backslash may stand for a line break, which ends a word: then the texts themselves are looked at.
    looked_at = "\n".join(_texts(fields)) if "\\" in text else text
    if any(each in looked_at for each in _BEGINNINGS) or _OPENBAO_TOKEN.search(looked_at):
        for what, pattern in _SECRETS:
            if pattern.search(looked_at):
                raise InvariantBroken(10, f"a value in a record of type {event.type.value} looks like {what}")
    try:
        raw = text.encode()
    except UnicodeEncodeError as e:
        raise InvariantBroken(21, f"a record of type {event.type.value} has no canonical form") from e
    if len(raw) >= MAX_RECORD_BYTES:
        raise InvariantBroken(
            21, f"a record of type {event.type.value} has {len(raw)} bytes, {MAX_RECORD_BYTES} is the end"
        )
    return raw


def parse(raw: bytes) -> Fields:
    """
    Return the object in *raw* after checking that it is canonical and has the fields of every record.

    Fields and types of later versions are let through: additions are free.

    Raises:
        LedgerTampered: If it is not a canonical record.
    """
    if len(raw) >= MAX_RECORD_BYTES:
        raise LedgerTampered("the record is longer than any record")
    try:
        fields = _DECODER.decode(raw.decode())
        # Names beyond ASCII are sorted otherwise; ours have none.
        encoder = _plain if raw.isascii() else canonical
        again = encoder(fields) if isinstance(fields, dict) else b""
    except (ValueError, RecursionError, rfc8785.CanonicalizationError) as e:
        raise LedgerTampered("the record is not JSON that we write") from e
    if again != raw:
        raise LedgerTampered("the record is not canonical")
    found: Fields = fields
    if found.get("schema") != SCHEMA:
        raise LedgerTampered("the record is of another schema")
    if missing := [name for name in _REQUIRED if name not in found]:
        raise LedgerTampered(f"the record lacks {', '.join(missing)}")
    if type(found["seq"]) is not int or not isinstance(found["late"], bool):
        raise LedgerTampered("the record's seq or late is of another type")
    if not all(isinstance(found[name], str) for name in ("id", "time", "type", "subject", "result")):
        raise LedgerTampered("the record's id, time, type, subject or result is no text")
    if not (found["rotation_id"] is None or isinstance(found["rotation_id"], str)):
        raise LedgerTampered("the record's rotation_id is no text")
    try:
        moment_of(found["time"])
    except ValueError as e:
        raise LedgerTampered("the record's time is not RFC 3339 in UTC and whole seconds") from e
    return found


def decode(raw: bytes) -> Record:
    """
    Return the typed record in *raw*.

    Raises:
        LedgerTampered: If it is not a canonical record, or speaks words that this version does not know.
    """
    fields = parse(raw)
    try:
        return Record(
            seq=fields["seq"],
            id=fields["id"],
            environment=fields["environment"],
            policy_sha256=fields["policy_sha256"],
            event=event_of(fields),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise LedgerTampered(f"record {fields['seq']} cannot be read by this version") from e


def event_of(fields: Mapping[str, Any]) -> Event:
    """Return the event that `fields_of` was given. Raises `KeyError`, `TypeError` or `ValueError` for other fields."""
    seen = fields["corroboration"]
    return Event(
        type=EventType(fields["type"]),
        time=moment_of(fields["time"]),
        subject=fields["subject"],
        result=fields["result"],
        rotation_id=fields["rotation_id"],
        spiffe_id=fields["spiffe_id"],
        trigger=Trigger(fields["trigger"]) if fields["trigger"] else None,
        reason=fields["reason"],
        reason_commitment=fields.get("reason_commitment"),
        requested_by=fields["requested_by"],
        approved_by=tuple(Commitment(text) for text in fields["approved_by"]),
        old=_facts_of(fields["old"]),
        new=_facts_of(fields["new"]),
        corroboration=Corroboration(
            vault_request_id=seen["vault_request_id"],
            kubernetes=seen["kubernetes"],
            dataplanes=tuple(seen["dataplanes"]),
            probe=seen["probe"],
        ),
        trace_id=fields["trace_id"],
        late=fields["late"],
        detail=dict(fields.get("detail") or {}),
        id=fields.get("id"),
    )


def _facts(facts: CertificateFacts | None) -> Fields | None:
    if facts is None:
        return None
    return {
        "serial": facts.serial,
        "sha256": facts.sha256,
        "issuer": facts.issuer,
        "not_before": rfc3339(facts.not_before),
        "not_after": rfc3339(facts.not_after),
    }


def _facts_of(fields: Mapping[str, Any] | None) -> CertificateFacts | None:
    if fields is None:
        return None
    return CertificateFacts(
        serial=fields["serial"],
        sha256=fields["sha256"],
        issuer=fields["issuer"],
        not_before=moment_of(fields["not_before"]),
        not_after=moment_of(fields["not_after"]),
    )


def _texts(value: object) -> Iterator[str]:
    """Yield every text in *value*, names included."""
    match value:
        case str():
            yield value
        case dict():
            for name, inner in value.items():
                yield name
                yield from _texts(inner)
        case list():
            for inner in value:
                yield from _texts(inner)
        case _:
            return


def _refuse(text: str) -> object:
    raise ValueError(f"numbers like {text[:8]} do not occur in records")


def _safe_integer(digits: str) -> int:
    number = int(digits)
    if abs(number) > MAX_SAFE_INTEGER:
        raise ValueError(f"numbers like {digits[:8]} do not occur in records")
    return number


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)
_DECODER = json.JSONDecoder(parse_float=_refuse, parse_constant=_refuse, parse_int=_safe_integer)
