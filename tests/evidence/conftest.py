"""
Logs to look at and to tamper with.

Rules that must stay true here:

- The verifier key lies outside the log, as it does at an auditor's.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rotator.evidence.files import LogFiles
from rotator.evidence.note import Checkpoint
from rotator.evidence.signer import LocalSigner
from rotator.evidence.tlog import TileLog
from tests.evidence.examples import ListLedger, ledger_of

ORIGIN = "rotator.example/test"


class Log:
    """A log directory, its key and its writer."""

    def __init__(self, home: Path) -> None:
        self.directory = home / "log"
        self.signer = LocalSigner.generate(home / "log.key", ORIGIN)
        self.key = self.signer.verifier_key

    def writer(self, *, files: LogFiles | None = None) -> TileLog:
        """A writer as a new process would make it."""
        return TileLog(self.directory, ORIGIN, self.signer, files=files)

    def publish(self, ledger: ListLedger) -> Checkpoint:
        """Bring the log up to *ledger*."""
        return self.writer().publish(ledger)

    def rewrite(self, ledger: ListLedger) -> Checkpoint:
        """Make the log again from other records, signed with the real key: what its operator could do."""
        shutil.rmtree(self.directory)
        return self.publish(ledger)

    @property
    def checkpoint(self) -> bytes:
        """The signed note that stands there."""
        return (self.directory / "checkpoint").read_bytes()

    def files(self) -> dict[str, bytes]:
        """Every published file and its bytes."""
        return {
            str(path.relative_to(self.directory)): path.read_bytes()
            for path in sorted(self.directory.rglob("*"))
            if path.is_file() and ".incoming" not in path.parts
        }


MakeLog = Callable[[str], Log]


@pytest.fixture
def make_log(tmp_path: Path) -> MakeLog:
    """Makes a log that is not there yet, with a key of its own."""

    def make(name: str) -> Log:
        home = tmp_path / name
        home.mkdir()
        return Log(home)

    return make


@pytest.fixture
def log(make_log: MakeLog) -> Log:
    """A log that is not there yet."""
    return make_log("one")


@pytest.fixture
def full_log(log: Log) -> Log:
    """A log of 600 records: two full bundles and a partial one."""
    log.publish(ledger_of(600))
    return log
