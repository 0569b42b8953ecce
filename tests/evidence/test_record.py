"""
The record: one encoding, all fields, no secret.

Rules that must stay true here:

- Secrets in these tests are made up here; none was ever used.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
import rfc8785
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from rotator.core.event import CertificateFacts, Commitment, Corroboration, Event, EventType, Trigger
from rotator.errors import InvariantBroken, LedgerTampered
from rotator.evidence.record import MAX_RECORD_BYTES, canonical, decode, encode, parse
from tests.evidence.examples import NOON, event

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
maybe = st.none() | words
moments = st.datetimes(datetime(1970, 1, 1), datetime(9000, 1, 1), timezones=st.just(UTC)).map(  # noqa: DTZ001 -- bounds are naive
    lambda moment: moment.replace(microsecond=0)
)
certificates = st.builds(
    CertificateFacts, serial=words, sha256=words, issuer=words, not_before=moments, not_after=moments
)
events = st.builds(
    Event,
    type=st.sampled_from(EventType),
    time=moments,
    subject=words,
    result=words,
    rotation_id=maybe,
    spiffe_id=maybe,
    trigger=st.none() | st.sampled_from(Trigger),
    reason=maybe,
    reason_commitment=st.none() | words.map(Commitment),
    requested_by=st.none() | words.map(Commitment),
    approved_by=st.lists(words.map(Commitment), max_size=3).map(tuple),
    old=st.none() | certificates,
    new=st.none() | certificates,
    corroboration=st.builds(
        Corroboration,
        vault_request_id=maybe,
        kubernetes=maybe,
        dataplanes=st.lists(words, max_size=3).map(tuple),
        probe=maybe,
    ),
    trace_id=maybe,
    late=st.booleans(),
    detail=st.dictionaries(
        st.from_regex(r"[a-z][a-z0-9_]{0,9}", fullmatch=True).filter(str.isascii),
        words | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1),
        max_size=4,
    ),
    id=st.just("an-id"),
)


def encoded(happened: Event, seq: int = 7) -> bytes:
    return encode(happened, seq=seq, record_id=happened.id or "an-id", environment="prod", policy_sha256="ab" * 32)


@given(happened=events)
def test_a_record_is_read_as_it_was_written(happened: Event) -> None:
    """Decoding gives the event back, and the bytes are the canonical form that another library makes."""
    raw = encoded(happened)
    record = decode(raw)
    assert happened == record.event
    assert (7, "an-id", "prod", "ab" * 32) == (record.seq, record.id, record.environment, record.policy_sha256)
    assert rfc8785.dumps(json.loads(raw)) == raw


def test_every_field_of_the_contract_is_there() -> None:
    """A record of almost nothing still has every field, null where nothing is known."""
    bare = Event(type=EventType.HEARTBEAT, time=NOON, subject="ledger", result="ok")
    fields = json.loads(encoded(bare))
    assert {
        "schema", "id", "seq", "time", "type", "environment", "rotation_id", "subject", "spiffe_id", "trigger",
        "reason", "reason_commitment", "requested_by", "approved_by", "policy_sha256", "old", "new", "result",
        "corroboration", "trace_id", "late", "detail",
    } == set(fields)  # fmt: skip
    assert "rotator.event/v1" == fields["schema"]
    assert fields["old"] is fields["new"] is fields["rotation_id"] is None
    assert {"vault_request_id": None, "kubernetes": None, "dataplanes": [], "probe": None} == fields["corroboration"]


def test_times_are_utc_in_whole_seconds() -> None:
    """Another zone is led back to UTC, parts of a second are cut off, a naive moment is refused."""
    cairo = timezone(timedelta(hours=2))
    moment = datetime(2030, 1, 1, 14, 0, 0, 999_999, tzinfo=cairo)
    assert "2030-01-01T12:00:00Z" == json.loads(encoded(event(time=moment)))["time"]
    with pytest.raises(InvariantBroken, match="time zone"):
        encoded(event(time=datetime(2030, 1, 1)))  # noqa: DTZ001 -- that is the point


def _pem(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def _bare(pem: str) -> str:
    return "".join(pem.splitlines()[1:-1])


SECRETS = {
    "PEM": _pem(ed25519.Ed25519PrivateKey.generate()),
    "Ed25519 without its PEM lines": _bare(_pem(ed25519.Ed25519PrivateKey.generate())),
    "P-256 without its PEM lines": _bare(_pem(ec.generate_private_key(ec.SECP256R1()))),
    "RSA without its PEM lines": _bare(_pem(rsa.generate_private_key(65537, 2048))),
    "JWT": "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJyb3RhdG9yIn0.c2lnbmF0dXJl",
    "Vault service token": "hvs.CAESIJ0000000000000000000000",
    "OpenBao token": "refused token s.Ab3dEfGhIjKlMnOpQrStUvWx today",
    "header": "Authorization: Bearer 0123456789abcdef0123",
}


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
@pytest.mark.parametrize("place", ["reason", "result", "detail", "corroboration", "trace_id"])
def test_law_10_what_looks_like_a_secret_never_becomes_a_record(secret: str, place: str) -> None:
    """Wherever it stands it is refused, and the error does not repeat it."""
    value: object = {"detail": {"note": secret}, "corroboration": Corroboration(probe=secret)}.get(place, secret)
    with pytest.raises(InvariantBroken, match="law 10") as caught:
        encoded(event(0, **{place: value}))
    assert secret not in str(caught.value)


@pytest.mark.parametrize(
    "harmless",
    [
        "spiffe://airflow.prod/airflow/worker",
        "s.airflow-worker-headless-service.svc.cluster.local",
        "sha256:" + "0123456789abcdef" * 4,
        "envoy_admin:http://127.0.0.1:9901",
        "5f4dcc3b-5aa7-65d6-1d83-27deb882cf99",
    ],
)
def test_ordinary_words_pass(harmless: str) -> None:
    """Identities, hashes, hosts and request ids are no secrets."""
    assert harmless == decode(encoded(event(reason=harmless, id="an-id"))).event.reason


@pytest.mark.parametrize(
    "detail",
    [
        {"Capital": 1},
        {"with space": 1},
        {"": 1},
        {"ratio": 0.5},
        {"list": [1]},
        {"long": "x" * 2_001},
        {"number": 2**60},
        {"half": "\ud800"},
    ],
)
def test_details_are_small_scalars(detail: dict[str, object]) -> None:
    """Names are lower-case words, values short texts, safe integers and truths."""
    with pytest.raises(InvariantBroken):
        encoded(event(detail=detail))


def test_a_record_that_is_too_large_is_refused() -> None:
    """A record of 60,000 bytes or more never reaches the ledger."""
    many = tuple(f"dataplane-{number}" for number in range(10_000))
    with pytest.raises(InvariantBroken, match=str(MAX_RECORD_BYTES)):
        encoded(event(corroboration=Corroboration(dataplanes=many)))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{}",
        b"null",
        b"[" * 50_000,
        b"\xff\xfe",
        b'{"a":1e999}',
        b'{"a":NaN}',
        b'{"a":' + b"9" * 5_000 + b"}",
        encoded(event()).replace(b"rotator.event/v1", b"rotator.event/v9"),
        encoded(event()).replace(b'"late":false', b'"late":"no"'),
        encoded(event()).replace(b'"seq":7', b'"seq":7.0'),
        encoded(event()).replace(b"2030-01-01T12:00:00Z", b"2030-13-01T12:00:00Z", 3),
        encoded(event()).replace(b"2030-01-01T12:00:00Z", b"0000-01-01T12:00:00Z", 3),
        b" " + encoded(event()),
        encoded(event()).replace(b'"late":false', b'"late":false,"late":false'),
        encoded(event()) + b"\n",
        b'{"a":"\\ud800"}',
        b"x" * MAX_RECORD_BYTES,
    ],
)
def test_what_is_no_record_is_refused(raw: bytes) -> None:
    """Nothing but a canonical record is read, and nothing else is raised than that."""
    with pytest.raises(LedgerTampered):
        parse(raw)


def test_additions_of_later_versions_are_let_through() -> None:
    """A field or a type that this version does not know is no tampering, though it cannot be typed."""
    fields = json.loads(encoded(event())) | {"type": "invented_later", "another": 1}
    raw = canonical(fields)
    assert 1 == parse(raw)["another"]
    with pytest.raises(LedgerTampered, match="cannot be read by this version"):
        decode(raw)


def test_the_id_of_an_event_becomes_that_of_its_record() -> None:
    """An id that was chosen outside stays."""
    assert "chosen" == decode(encoded(replace(event(), id="chosen"))).id
