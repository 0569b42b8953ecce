"""
A log of 70,000 records, checked whole by tools that we did not write.

Rules that must stay true here:

- The tools share no code with us: Go's checksum database libraries, and Tessera's fsck.
- Each is shown tampered logs as well: a verifier that never refuses proves nothing.
- What a tool does not see is written down as what it is (docs/evidence-verifiers.md).
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rotator.evidence.signer import LocalSigner
from rotator.evidence.tiles import bundle_of, entries_of
from rotator.evidence.tlog import TileLog
from rotator.evidence.verify import State, verify
from tests.evidence.examples import ListLedger, heartbeat

pytestmark = pytest.mark.stack

ORIGIN = "rotator.example/stack"
SIZE = 70_000
PINNED = 69_000
BIN = Path(__file__).parent / "bin"

Tool = Callable[[Path, Path], tuple[bool, str]]
"""Says whether it accepts the log in a directory under a key file, and in which words."""


def ledger_of_heartbeats(size: int, *, without: int | None = None) -> ListLedger:
    ledger = ListLedger()
    for number in range(size + (without is not None)):
        if number != without:
            ledger.append(heartbeat(number))
    return ledger


class Written:
    """The log, its key, and what was pinned of it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.directory = home / "log"
        self.signer = LocalSigner.generate(home / "log.key", ORIGIN)
        self.key = home / "log.vkey"
        self.key.write_text(self.signer.verifier_key + "\n")
        self.pinned = home / "pinned.note"
        ledger = ledger_of_heartbeats(SIZE)
        writer = TileLog(self.directory, ORIGIN, self.signer)
        writer.publish(ListLedger(ledger.all[:PINNED]))
        self.pinned.write_bytes((self.directory / "checkpoint").read_bytes())
        writer.publish(ledger)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """The log as rotator writes it."""
    return Written(tmp_path_factory.mktemp("written"))


def _run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=300, check=False)


def sumdb(directory: Path, key: Path) -> tuple[bool, str]:
    """Go's note and tlog libraries over every record."""
    ran = _run(BIN / "verifier", directory, key)
    return ran.returncode == 0, ran.stderr


def fsck(directory: Path, key: Path) -> tuple[bool, str]:
    """
    Tessera's fsck, which builds every tile again from the entries.

    Version 1.0.4 exits with 0 whatever it finds, so that its word of success is what counts; and with one worker it
    waits for ever after the first wrong tile, so it gets several.
    """
    storage = f"--storage_url=file://{directory}/"
    ran = _run(BIN / "fsck", storage, f"--public_key={key}", "--ui=false", "--N=16")
    return "Successfully fsck'd log" in ran.stderr, ran.stderr


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def move_record(log: Path) -> None:
    path = log / "tile/entries/100"
    entries = entries_of(path.read_bytes())
    path.write_bytes(bundle_of([*entries[:7], *entries[8:], entries[7]]))


def edit_size(log: Path) -> None:
    path = log / "checkpoint"
    path.write_bytes(path.read_bytes().replace(b"70000", b"69999"))


TAMPERED: dict[str, Callable[[Path], None]] = {
    "byte in a bundle": lambda log: flip(log / "tile/entries/100", 500),
    "byte in a hash tile": lambda log: flip(log / "tile/0/200", 77),
    "byte in an upper tile": lambda log: flip(log / "tile/1/000", 77),
    "bundle deleted": lambda log: (log / "tile/entries/005").unlink(),
    "records reordered": move_record,
    "size edited": edit_size,
    "signature altered": lambda log: flip(log / "checkpoint", -20),
}


@pytest.mark.parametrize("tool", [sumdb, fsck])
def test_others_accept_what_we_wrote(written: Written, tool: Tool) -> None:
    """The whole log is accepted by a tool that shares no code with us, in well under a minute."""
    begun = time.monotonic()
    accepted, words = tool(written.directory, written.key)
    assert accepted, words
    assert time.monotonic() - begun < 60


@pytest.mark.parametrize("tool", [sumdb, fsck])
@pytest.mark.parametrize("tamper", TAMPERED.values(), ids=TAMPERED)
def test_law_22_others_find_what_was_altered(
    written: Written, tmp_path: Path, tool: Tool, tamper: Callable[[Path], None]
) -> None:
    """Whatever is altered without the key is refused by tools of others, as it is by ours."""
    shutil.copytree(written.directory, tmp_path / "log")
    tamper(tmp_path / "log")
    accepted, words = tool(tmp_path / "log", written.key)
    assert not accepted
    assert words
    assert State.TAMPERED == verify(tmp_path / "log", written.signer.verifier_key).state


def test_law_22_a_rewrite_with_the_real_key_is_found_by_others_against_a_pin(written: Written, tmp_path: Path) -> None:
    """Rewritten and signed anew the log is accepted alone by both tools, and refused against the pinned checkpoint."""
    rewritten = tmp_path / "log"
    TileLog(rewritten, ORIGIN, written.signer).publish(ledger_of_heartbeats(SIZE, without=7))
    assert (True, True) == (sumdb(rewritten, written.key)[0], fsck(rewritten, written.key)[0])
    assert 0 == _run(BIN / "verifier", written.directory, written.key, written.pinned).returncode
    refused = _run(BIN / "verifier", rewritten, written.key, written.pinned)
    assert 1 == refused.returncode
    ours = verify(rewritten, written.signer.verifier_key, pinned=[written.pinned.read_bytes()])
    assert State.TAMPERED == ours.state


def test_law_22_a_rollback_is_found_by_others_against_a_pin(written: Written, tmp_path: Path) -> None:
    """An older log with a true signature is refused against a later checkpoint."""
    older = tmp_path / "log"
    TileLog(older, ORIGIN, written.signer).publish(ledger_of_heartbeats(300))
    assert sumdb(older, written.key)[0]
    refused = _run(BIN / "verifier", older, written.key, written.pinned)
    assert (1, "rolled back: the pinned checkpoint is larger\n") == (refused.returncode, refused.stderr)


def test_our_own_verdict_on_a_large_log(written: Written) -> None:
    """Ours agrees: whole against the pin, UNWITNESSED without."""
    key = written.signer.verifier_key
    verdict = verify(written.directory, key, pinned=[written.pinned.read_bytes()])
    assert (State.WHOLE, SIZE) == (verdict.state, verdict.size)
    assert State.UNWITNESSED == verify(written.directory, key).state
