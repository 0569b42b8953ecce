"""
The auditor's commands, as an auditor calls them.

Rules that must stay true here:

- Exit codes and JSON are the contract's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from rotator.cli.audit import app
from rotator.core.event import Event, EventType
from rotator.evidence.ledger import records
from rotator.evidence.record import Record
from rotator.ports import IssuedCertificate
from tests.evidence.conftest import Log
from tests.evidence.examples import NOON, ListLedger, event, facts, ledger_of
from tests.evidence.test_reconcile import GOOD, listed


@dataclass
class Installation:
    """What a configuration would have wired."""

    log_directory: Path
    ledger: ListLedger = field(default_factory=ListLedger)
    ca: list[IssuedCertificate] = field(default_factory=list)
    as_json: bool = False

    def audit_sources(self) -> Installation:
        return self

    def records(self) -> Iterable[Record]:
        return records(self.ledger)

    def issued(self) -> Iterable[IssuedCertificate]:
        return self.ca

    def now(self) -> datetime:
        return NOON + timedelta(minutes=30)

    def note(self, event: Event) -> None:
        self.ledger.append(event)


def call(*words: str | Path, installation: Installation | None = None) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], obj=installation)


@pytest.fixture
def key(full_log: Log, tmp_path: Path) -> Path:
    path = tmp_path / "log.vkey"
    path.write_text(full_log.key + "\n")
    return path


@pytest.fixture
def pin(full_log: Log, tmp_path: Path) -> Path:
    path = tmp_path / "pinned.note"
    path.write_bytes(full_log.checkpoint)
    return path


def test_verify_says_unwitnessed_and_exits_with_3(full_log: Log, key: Path) -> None:
    """A whole log that nobody else has seen is said to be that, loudly."""
    ran = call("verify", full_log.directory, "--key", key)
    assert 3 == ran.exit_code
    assert ran.stdout.startswith("UNWITNESSED: rotator.example/test, 600 records, root ")


def test_verify_exits_with_0_against_a_pin(full_log: Log, key: Path, pin: Path) -> None:
    """With a pinned checkpoint it is whole, also without a directory where a configuration names it."""
    assert 0 == call("verify", full_log.directory, "--key", key, "--pinned", pin).exit_code
    ran = call("verify", "--key", key, "--pinned", pin, installation=Installation(full_log.directory))
    assert 0 == ran.exit_code
    assert "it continues 1 pinned checkpoint\n" in ran.stdout


def test_verify_exits_with_1_when_tampered(full_log: Log, key: Path) -> None:
    """What was found is named on standard output."""
    (full_log.directory / "tile/entries/001").unlink()
    ran = call("verify", full_log.directory, "--key", key)
    assert 1 == ran.exit_code
    assert "tampered: tile/entries/001 is missing" in ran.stdout


def test_verify_exits_with_4_when_incomplete(log: Log, tmp_path: Path) -> None:
    """A rotation without an outcome is named; time to finish can be allowed in the words people use."""
    log.publish(ListLedger(ledger_of(10).all[:4]))
    (tmp_path / "log.vkey").write_text(log.key)
    (tmp_path / "pin").write_bytes(log.checkpoint)
    ledger = ListLedger(ledger_of(10).all[:3])
    ledger.append(event(3, type=EventType.INTENT, rotation_id="r-open"))
    log.rewrite(ledger)
    words = ("verify", log.directory, "--key", tmp_path / "log.vkey")
    ran = call(*words)
    assert 4 == ran.exit_code
    assert "incomplete: rotation r-open" in ran.stdout
    assert 3 == call(*words, "--under-way", "90s").exit_code


@pytest.mark.parametrize(
    "words",
    [
        ["verify"],
        ["verify", "--key", "KEY"],
        ["verify", "LOG"],
        ["verify", "LOG", "--key", "absent"],
        ["verify", "absent", "--key", "KEY"],
        ["verify", "LOG", "--key", "INSIDE"],
        ["verify", "LOG", "--key", "KEY", "--pinned", "KEPT"],
        ["verify", "LOG", "--key", "KEY", "--pinned", "KEY"],
        ["verify", "LOG", "--key", "KEY", "--policy", "KEY"],
        ["verify", "LOG", "--key", "KEY", "--under-way", "soon"],
        ["prove", "600", "--log", "LOG"],
        ["prove", "1"],
        ["prove", "1", "--log", "absent"],
        ["reconcile"],
        ["no such command"],
    ],
)
def test_what_cannot_be_asked_exits_with_2(full_log: Log, key: Path, words: list[str]) -> None:
    """Usage is never mistaken for a verdict, and the error is one line."""
    (full_log.directory / "inside.vkey").write_text(full_log.key)
    places = {
        "LOG": full_log.directory,
        "KEY": key,
        "INSIDE": full_log.directory / "inside.vkey",
        "KEPT": full_log.directory / "checkpoints/600.note",
    }
    ran = call(*(places.get(word, word) for word in words))
    assert 2 == ran.exit_code
    assert "" == ran.stdout
    assert "Traceback" not in ran.stderr


def test_verify_in_json(full_log: Log, key: Path, pin: Path) -> None:
    """`--json`, after or before the command, prints one object."""
    after = call("verify", full_log.directory, "--key", key, "--pinned", pin, "--json")
    before = call("verify", "--key", key, "--pinned", pin, installation=Installation(full_log.directory, as_json=True))
    assert json.loads(after.stdout) == json.loads(before.stdout)
    found = json.loads(after.stdout)
    assert {
        "state": "whole",
        "witness": "LOCAL",
        "origin": "rotator.example/test",
        "size": 600,
        "root": found["root"],
        "cosigners": [],
        "pinned": 1,
        "findings": [],
    } == found


def test_prove_prints_or_writes_the_proof(full_log: Log, tmp_path: Path) -> None:
    """A proof goes to standard output, or to a file with its record beside it, byte for byte."""
    printed = call("prove", "id-7", "--log", full_log.directory)
    assert 0 == printed.exit_code
    assert printed.stdout.startswith("c2sp.org/tlog-proof@v1\nindex 7\n")
    out = tmp_path / "seven.tlog-proof"
    assert 0 == call("prove", "7", "--log", full_log.directory, "--out", out).exit_code
    assert printed.stdout.encode() == out.read_bytes()
    assert ledger_of(600).all[7] == (tmp_path / "seven.record.json").read_bytes()
    as_json = json.loads(call("prove", "7", "--log", full_log.directory, "--json").stdout)
    assert (7, "id-7", printed.stdout) == (as_json["seq"], as_json["record"]["id"], as_json["proof"])


def test_prove_exits_with_1_when_the_log_does_not_hold(full_log: Log) -> None:
    """No proof from an altered log."""
    (full_log.directory / "tile/entries/000").unlink()
    assert 1 == call("prove", "7", "--log", full_log.directory).exit_code


def test_law_23_reconcile_compares_prints_and_records(tmp_path: Path) -> None:
    """Both sides are compared, each difference is a line, and the result itself becomes a record."""
    installation = Installation(tmp_path)
    for happened in GOOD:
        installation.ledger.append(happened)
    installation.ca = [listed(facts(1))]
    assert 0 == call("reconcile", installation=installation).exit_code
    installation.ca.append(listed(facts(2)))
    ran = call("reconcile", installation=installation)
    assert 1 == ran.exit_code
    assert "in the CA, not in the ledger: 2 CN=worker (never asked for here)" in ran.stdout
    assert 1 == len(
        json.loads(call("reconcile", "--no-record", "--json", installation=installation).stdout)["in_ca_not_in_ledger"]
    )
    assert ["ok", "differences"] == [
        record.event.result for record in installation.records() if record.event.type is EventType.RECONCILED
    ]
