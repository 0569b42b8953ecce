"""Logs and metrics: every name is in the catalogue and the docs, and no secret survives."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from rotator.redaction import holds_secret, names_secret, redacted, redacted_text
from rotator.telemetry import EVENTS, METRICS, LogEvent, Metric, catalogue, configure_logging

ROOT = Path(__file__).parents[1]
KEY = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg\nabc\n-----END PRIVATE KEY-----\n"
SECRETS = {
    "private key": KEY,
    "half a private key": KEY[:80],
    "two blocks": f"a {KEY} b {KEY} c",
    "certificate": KEY.replace("PRIVATE KEY", "CERTIFICATE"),
    "service token": "hvs.CAESIJabcdefghijklmnopqrstuvwxyz0123456789",
    "batch token": "hvb.AAAAAQKabcdefghijklmnopqrstuvwxyz0123456789",
    "old token": "s.abcdefghijklmnopqrstuvwx",
    "JSON web token": "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJyb3RhdG9yIn0.MEUCIQDabcdefghij",
    "password in a URL": "redis://default:s3cr:et@broker.example:6379/0",
    "password with an at sign": "amqp://me:p@ss@broker.example//",
    "bearer": "Authorization: Bearer abcdefghijklmnop",
    "basic": "authorization: basic cm90YXRvcjpzZWNyZXQ=",
    "query": "https://example/?password=hunter22&x=1",
    "JSON": '{"password": "hunter 22", "secret_id":"3fe0-11"}',
    "bare DER": "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgabcdefghijklmnopqrstuvwxyz",
}
LEAKS = (
    "abc\n-----END",
    "MIGHAgEAMBMG", "CAESIJ", "AAAAAQK", "s.abcdefghijkl", "eyJzdWIi", "s3cr", "et@broker", "p@ss", "ss@",
    "abcdefghijklmnop", "cm90YXRv", "hunter", "3fe0",
)  # fmt: skip


@pytest.mark.parametrize("text", SECRETS.values(), ids=SECRETS)
def test_law_10_no_secret_survives_in_text(text: str) -> None:
    """Whatever looks like a secret is gone from a text, whole, and what stands around it stays."""
    clean = redacted_text(f"before {text} after")
    assert ([], True) == ([leak for leak in LEAKS if leak in clean], clean.startswith("before "))
    assert holds_secret(text)


@pytest.mark.parametrize(
    "text",
    [
        "postgresql+psycopg://rotator@db.example/rotator",
        "https://vault.example:8200/v1/pki_int",
        "token_file: /etc/rotator/token",
        "the token of corporate ends at 2030-01-01T00:00:00Z",
        "spiffe://airflow.prod/airflow/worker",
        "0a1b2c3d4e5f60718293a4b5c6d7e8f901234567",
        "sha256:" + "ab" * 32,
        "passwords come as files",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    """What operators need to read is not removed."""
    assert text == redacted_text(text)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("password", True), ("DB_PASSWORD", True), ("client_token", True), ("secret_id", True), ("key_pem", True),
        ("args", True), ("kwargs", True), ("Authorization", True), ("broker_url", True), ("api-key", True),
        ("token_file", False), ("secret_id_file", False), ("token_not_after", False), ("serial", False),
        ("rotation_id", False), ("key", False), ("target", False),
    ],
)  # fmt: skip
def test_names_tell_secrets_from_their_files(name: str, *, expected: bool) -> None:
    """A field that is named like a secret is one; one that names a file, a time or an id is not."""
    assert expected == names_secret(name)


NESTED = st.recursive(
    st.text() | st.binary() | st.integers() | st.none(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(NESTED)
def test_redaction_ends_and_is_json(value: object) -> None:
    """Whatever is logged becomes plain JSON, and redacting it again changes nothing."""
    once = redacted(value)
    assert once == redacted(once)
    json.dumps(once)


@given(st.text(alphabet="-BEGINDKY :/@eyJ.hvs=\"'", max_size=3000))
def test_redaction_is_quick_on_hostile_text(text: str) -> None:
    """No text makes a pattern backtrack without end (the test would time out)."""
    redacted_text(text)


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def configured(stream: io.StringIO) -> Iterator[Callable[[str], None]]:
    undo: list[Callable[[], None]] = []
    yield lambda shape: undo.append(configure_logging("info", shape, stream))
    for each in reversed(undo):
        each()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    """Return every line of *stream* as its JSON object."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def fail_with(secret: str) -> None:
    raise RuntimeError(f"could not log in with {secret}")


@pytest.mark.parametrize("shape", ["json", "console"])
@pytest.mark.parametrize("text", SECRETS.values(), ids=SECRETS)
def test_law_10_no_secret_survives_in_a_log(
    configured: Callable[[str], None], stream: io.StringIO, shape: str, text: str
) -> None:
    """No secret reaches the log: as a value, nested, as bytes, bound, by name, in a traceback or from a library."""
    configured(shape)
    log = structlog.get_logger()
    with structlog.contextvars.bound_contextvars(rotation_id=f"x {text}"):
        named = {"password": "hunter22", "b": {"c": [text, {"d": text.encode()}]}}
        log.info(LogEvent.STEP_FINISHED, a=text, **named)
        try:
            fail_with(text)
        except RuntimeError:
            log.exception(LogEvent.THREAD_FAILED)
            logging.getLogger("library").exception("failed with %s", text)
    said = stream.getvalue()
    assert ([], True) == ([leak for leak in LEAKS if leak in said], "Traceback" in said)


def test_a_line_is_one_json_object(configured: Callable[[str], None], stream: io.StringIO) -> None:
    """Every line has time, level and event; libraries speak through the same, at warning and above."""
    configured("auto")
    structlog.get_logger().info(LogEvent.LEAF_ISSUED, subject="web")
    structlog.get_logger().debug(LogEvent.TARGET_OBSERVED)
    logging.getLogger("urllib3").warning("retrying %s", "GET")
    logging.getLogger("urllib3").info("a connection")
    first, second = lines(stream)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first.pop("time"))
    assert {"level": "info", "event": "leaf_issued", "subject": "web"} == first
    assert ("warning", "library_warned", "urllib3", "retrying GET") == (
        second["level"], second["event"], second["library"], second["said"]
    )  # fmt: skip


def test_setting_up_twice_speaks_once(configured: Callable[[str], None], stream: io.StringIO) -> None:
    """A configuration that is read again does not double the lines of libraries."""
    configured("json")
    configured("json")
    logging.getLogger("library").warning("once")
    assert ["once"] == [line["said"] for line in lines(stream)]


def test_every_name_has_a_sentence() -> None:
    """Each event is a noun and a past participle with a sentence; each metric has one too."""
    assert (set(LogEvent), set(Metric)) == (set(EVENTS), set(METRICS))
    assert [] == [event for event in LogEvent if not re.fullmatch(r"[a-z]+_[a-z]+", event)]
    sentences = [*EVENTS.values(), *(sentence for _, _, sentence in METRICS.values())]
    assert [] == [sentence for sentence in sentences if not sentence.endswith(".")]


def test_docs_are_the_catalogue() -> None:
    """docs/telemetry.md is what `python -m rotator.telemetry > docs/telemetry.md` writes."""
    assert catalogue() == (ROOT / "docs/telemetry.md").read_text()


def test_every_metric_of_the_contract_is_there() -> None:
    """The metrics that docs/contract.md promises are in the catalogue."""
    promised = set(re.findall(r"`(rotator_[a-z_]+)", (ROOT / "docs/contract.md").read_text()))
    assert set() == promised - {metric.value for metric in Metric}


def test_only_names_of_the_catalogue_are_logged() -> None:
    """No module logs an event that is not a LogEvent."""
    call = re.compile(r"\blog\.(?:debug|info|warning|error|exception|critical)\(\s*([^,)\s]+)")
    stray = [
        f"{path.relative_to(ROOT)}: {found}"
        for path in (ROOT / "rotator").rglob("*.py")
        for found in call.findall(path.read_text())
        if not found.startswith("LogEvent.") and found != "level"
    ]
    assert [] == stray
