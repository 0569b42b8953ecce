"""
The log on disk: a projection that survives crashes and refuses to sign a second history.

Rules that must stay true here:

- Crashes are real: a child process is killed at each point at which something would be left behind.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rotator.errors import ConfigError, Conflict, JournalError, LedgerTampered
from rotator.evidence.files import LogFiles
from rotator.evidence.merkle import leaf_hash, root_of
from rotator.evidence.signer import LocalSigner
from rotator.evidence.tlog import TileLog
from rotator.evidence.verify import State, verify
from tests.evidence.conftest import ORIGIN, Log, MakeLog
from tests.evidence.examples import ListLedger, event, ledger_of
from tests.small_files import files_of_at_most

SIZES = [1, 2, 255, 256, 257, 300, 511, 512, 513, 600]


def test_the_root_on_disk_is_that_of_the_records_at_every_size(log: Log) -> None:
    """Publishing in steps gives the root of RFC 6962 over the records at each of them."""
    ledger, writer = ledger_of(600), log.writer()
    for size in (0, *SIZES):
        published = writer.publish(ListLedger(ledger.all[:size]))
        assert root_of(leaf_hash(entry) for entry in ledger.all[:size]) == published.root
        assert size == published.size


def test_a_rebuild_from_the_database_gives_identical_bytes(make_log: MakeLog, tmp_path: Path) -> None:
    """Lost and made again in one go, the log has the same checkpoint and the same tiles, byte for byte."""
    one = make_log("grown")
    ledger, writer = ledger_of(600), one.writer()
    for size in SIZES:
        writer.publish(ListLedger(ledger.all[:size]))
    again = TileLog(tmp_path / "again", ORIGIN, one.signer)
    again.publish(ledger)
    grown = one.files()
    for path in sorted(path for path in (tmp_path / "again").rglob("*") if path.is_file()):
        assert path.read_bytes() == grown[str(path.relative_to(tmp_path / "again"))]


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.integers(0, 300), min_size=1, max_size=5))
def test_whatever_the_steps_the_log_verifies(steps: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Any way of growing gives a log that verifies whole against each checkpoint of its past."""
    log, ledger, pins = Log(tmp_path_factory.mktemp("log")), ListLedger(), []
    for step in steps:
        for number in range(step):
            ledger.append(event(number, rotation_id=None))
        log.publish(ledger)
        pins.append(log.checkpoint)
    expected = State.WHOLE if ledger.size() and sum(steps[:1]) else State.UNWITNESSED
    assert expected == verify(log.directory, log.key, pinned=pins).state


def test_nothing_new_is_not_signed_again(full_log: Log) -> None:
    """Publishing the same records twice changes no byte."""
    before = full_log.files()
    full_log.publish(ledger_of(600))
    assert before == full_log.files()


def test_no_path_is_ever_written_twice_with_other_bytes(log: Log) -> None:
    """Through all of its growth each file but the checkpoint keeps its first bytes, or goes as a partial tile may."""
    ledger, writer = ledger_of(600), log.writer()
    seen: dict[str, bytes] = {}
    for size in range(0, 600, 7):
        writer.publish(ListLedger(ledger.all[:size]))
        for path, content in log.files().items():
            if path != "checkpoint":
                assert seen.setdefault(path, content) == content
    gone = set(seen) - set(log.files())
    assert all(".p/" in path for path in gone)


def test_partial_tiles_go_once_the_full_one_is_there(log: Log) -> None:
    """After 256 records no partial tile of the first bundle is left."""
    ledger, writer = ledger_of(256), log.writer()
    for size in (100, 200, 256):
        writer.publish(ListLedger(ledger.all[:size]))
    assert ["tile/1/000.p/1", "tile/entries/000"] == sorted(
        path for path in log.files() if path.startswith(("tile/entries", "tile/1"))
    )


# --- what is refused --------------------------------------------------------------------------------------------------


def test_law_22_an_older_volume_is_refused(full_log: Log) -> None:
    """A database that is shorter than its signed log is not signed over, by a new process or a running one."""
    running = full_log.writer()
    running.publish(ledger_of(600))
    for writer in (running, full_log.writer()):
        with pytest.raises(LedgerTampered, match="older volume"):
            writer.publish(ListLedger(ledger_of(600).all[:599]))


@pytest.mark.parametrize("seq", [0, 300, 599])
def test_law_22_other_records_are_refused(full_log: Log, seq: int) -> None:
    """A database in which a signed record is another one is not signed over."""
    other = ledger_of(600)
    changed = ListLedger()
    changed.append(event(seq, result="better"))
    other.all[seq] = changed.all[0]
    other.append(event(600))
    before = full_log.files()
    with pytest.raises(LedgerTampered, match="not those that were signed"):
        full_log.publish(other)
    assert before == full_log.files()


def test_law_22_a_running_writer_sees_a_change_under_its_last_bundle(full_log: Log) -> None:
    """Each publication compares the last, partial bundle again."""
    writer, ledger = full_log.writer(), ledger_of(600)
    writer.publish(ledger)
    ledger.all[590] = ledger.all[589]
    ledger.append(event(600))
    with pytest.raises(LedgerTampered, match="not those that were signed"):
        writer.publish(ledger)


def test_law_22_a_log_that_was_altered_on_disk_is_not_signed_on(full_log: Log) -> None:
    """A flipped byte in the right edge, a missing tile, a missing or older checkpoint: no signature on top."""
    ledger = ledger_of(601)
    edge = full_log.directory / "tile/0/002.p/88"
    original = edge.read_bytes()
    edge.write_bytes(b"\0" + original[1:])
    with pytest.raises(LedgerTampered, match="root that was signed"):
        full_log.publish(ledger)
    edge.unlink()
    with pytest.raises(LedgerTampered, match="missing"):
        full_log.publish(ledger)
    edge.write_bytes(original)
    note = full_log.checkpoint
    (full_log.directory / "checkpoint").unlink()
    with pytest.raises(LedgerTampered, match="gone"):
        full_log.publish(ledger)
    (full_log.directory / "checkpoint").write_bytes(note.replace(b"600", b"599"))
    with pytest.raises(LedgerTampered, match="does not verify"):
        full_log.publish(ledger)


def test_law_22_a_rolled_back_checkpoint_is_not_signed_on(log: Log) -> None:
    """The checkpoints that the log keeps show that a later one was signed."""
    ledger = ledger_of(20)
    log.publish(ListLedger(ledger.all[:10]))
    older = log.checkpoint
    log.publish(ledger)
    (log.directory / "checkpoint").write_bytes(older)
    with pytest.raises(LedgerTampered, match="rolled back"):
        log.publish(ledger)


def test_law_22_what_lies_beyond_the_checkpoint_is_not_written_over(log: Log) -> None:
    """A tile that a crash left, of records that the database no longer has, is refused, not replaced."""
    log.publish(ledger_of(3))
    left = log.directory / "tile/entries/000.p/6"
    left.write_bytes(b"of a history that nobody signed")
    with pytest.raises(LedgerTampered, match="holds other bytes"):
        log.publish(ledger_of(6))
    assert b"of a history that nobody signed" == left.read_bytes()


def test_a_key_of_somebody_else_signs_nothing_here(full_log: Log, make_log: MakeLog) -> None:
    """A log signed by another key is not continued: a silent change of key would prove nothing."""
    other = make_log("other")
    with pytest.raises(LedgerTampered, match="not signed by the key"):
        TileLog(full_log.directory, ORIGIN, other.signer).publish(ledger_of(601))


def test_there_is_one_writer_at_a_time(full_log: Log) -> None:
    """While one publishes, another is refused, and nothing of either is lost."""
    refused: list[Conflict] = []

    def intrude(point: str) -> None:
        if point.startswith("move checkpoint") and not refused:
            with pytest.raises(Conflict) as caught:
                full_log.publish(ledger_of(700))
            refused.append(caught.value)

    full_log.writer(files=LogFiles(full_log.directory, at=intrude)).publish(ledger_of(610))
    assert 1 == len(refused)
    full_log.publish(ledger_of(610))
    assert State.UNWITNESSED == verify(full_log.directory, full_log.key).state


# --- crashes ----------------------------------------------------------------------------------------------------------

KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from rotator.evidence.files import LogFiles
from rotator.evidence.signer import LocalSigner
from rotator.evidence.tlog import TileLog
from tests.evidence.examples import ListLedger, ledger_of

base, origin = Path(sys.argv[1]), sys.argv[2]
ledger = ledger_of(520)

def run(home, wanted):
    seen = []
    def at(point):
        if len(seen) == wanted:
            os.kill(os.getpid(), signal.SIGKILL)
        seen.append(point)
    home.mkdir()
    writer = TileLog(home, origin, LocalSigner(base / "log.key", origin), files=LogFiles(home, at=at))
    writer.publish(ListLedger(ledger.all[:252]))
    writer.publish(ledger)
    return len(seen)

for wanted in range(run(base / "untouched", -1)):
    child = os.fork()
    if child == 0:
        run(base / str(wanted), wanted)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
"""


def test_law_21_a_kill_at_any_moment_leaves_a_log_that_goes_on(tmp_path: Path) -> None:
    """Killed before a write, in its middle, before a sync or move: what was signed verifies, the rest follows."""
    signer = LocalSigner.generate(tmp_path / "log.key", ORIGIN)
    ran = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), ORIGIN], capture_output=True, text=True, timeout=120, check=False
    )
    assert (0, "") == (ran.returncode, ran.stderr)
    expected = (tmp_path / "untouched" / "checkpoint").read_bytes()
    killed = [path for path in tmp_path.iterdir() if path.name.isdigit()]
    assert len(killed) > 50
    for home in killed:
        if (home / "checkpoint").exists():
            assert State.UNWITNESSED == verify(home, signer.verifier_key).state, home.name
        TileLog(home, ORIGIN, signer).publish(ledger_of(520))
        verdict = verify(home, signer.verifier_key, pinned=[expected])
        assert (State.WHOLE, ()) == (verdict.state, verdict.findings), home.name
        assert expected == (home / "checkpoint").read_bytes()


class Full(LogFiles):
    """A disk that is full from the *n*-th write on."""

    def __init__(self, root: Path, writes: int) -> None:
        self._left = writes
        super().__init__(root, at=self._use)

    def _use(self, point: str) -> None:
        if point.startswith("half "):
            self._left -= 1
            if self._left < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_leaves_what_was_signed(log: Log) -> None:
    """Whichever write the disk refuses, the error says so, the last checkpoint verifies, and room lets it go on."""
    ledger = ledger_of(520)
    log.publish(ListLedger(ledger.all[:252]))
    # What an attempt has written stays and is not written again: each gets one file further.
    for _ in range(7):
        with pytest.raises(JournalError, match="No space left"):
            log.writer(files=Full(log.directory, 1)).publish(ledger)
        assert State.UNWITNESSED == verify(log.directory, log.key).state
    log.publish(ledger)
    assert 520 == verify(log.directory, log.key).size


def test_a_refusal_by_the_kernel_is_a_journal_error(log: Log) -> None:
    """A real refused write, not one of ours, ends in the same error, and leaves no checkpoint."""
    ledger = ledger_of(100)
    with files_of_at_most(4096), pytest.raises(JournalError, match="cannot write"):
        log.publish(ledger)
    assert not (log.directory / "checkpoint").exists()


# --- keys -------------------------------------------------------------------------------------------------------------


def test_a_key_is_made_once_and_for_its_owner(tmp_path: Path) -> None:
    """`generate` makes a file of mode 0600, never over another one; nothing else makes a key."""
    path = tmp_path / "log.key"
    with pytest.raises(ConfigError, match="cannot read"):
        LocalSigner(path, ORIGIN)
    made = LocalSigner.generate(path, ORIGIN)
    assert 0o600 == path.stat().st_mode & 0o777
    assert made.verifier_key == LocalSigner(path, ORIGIN).verifier_key
    with pytest.raises(ConfigError, match="cannot make"):
        LocalSigner.generate(path, ORIGIN)


@pytest.mark.parametrize(("mode", "usable"), [(0o600, True), (0o640, True), (0o644, False), (0o660, False)])
def test_a_key_that_is_open_to_others_is_refused(tmp_path: Path, mode: int, *, usable: bool) -> None:
    """Everybody may read it, or the group write it: refused, and the mend is said."""
    path = tmp_path / "log.key"
    LocalSigner.generate(path, ORIGIN)
    path.chmod(mode)
    if usable:
        LocalSigner(path, ORIGIN)
        return
    with pytest.raises(ConfigError, match="chmod 600"):
        LocalSigner(path, ORIGIN)


@pytest.mark.parametrize("origin", ["", "two words", "a+b", "line\nbreak"])
def test_an_origin_that_cannot_name_a_key_is_refused(tmp_path: Path, origin: str) -> None:
    """Signed notes have no way to say such a name."""
    with pytest.raises(ConfigError, match="origin"):
        LocalSigner.generate(tmp_path / "log.key", origin)
