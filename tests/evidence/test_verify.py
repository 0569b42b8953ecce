"""
Every way to tamper with a log that we know, and what it takes to see it.

Rules that must stay true here:

- A mutation that a stand-alone check cannot find is in the table as well, with what finds it.
- Whatever the mutation, the answer is a verdict.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rotator.core.event import EventType
from rotator.errors import ConfigError
from rotator.evidence.merkle import leaf_hash, root_of
from rotator.evidence.note import COSIGNATURE_ED25519, Checkpoint, Note, NoteSignature, VerifierKey
from rotator.evidence.record import canonical
from rotator.evidence.tiles import bundle_of, entries_of
from rotator.evidence.verify import State, Verdict, Weight, outside, verify
from tests.evidence.conftest import ORIGIN, Log, MakeLog
from tests.evidence.examples import ListLedger, event, heartbeat, ledger_of, rotation

SIZE = 600


def said(verdict: Verdict) -> str:
    return "; ".join(finding.what for finding in verdict.findings)


def test_a_whole_log_is_whole_once_it_is_pinned(full_log: Log) -> None:
    """Alone it is UNWITNESSED, against a checkpoint that was pinned it is whole, and nothing is found."""
    alone = verify(full_log.directory, full_log.key)
    assert (State.UNWITNESSED, 3, SIZE) == (alone.state, alone.exit_code, alone.size)
    assert "UNWITNESSED" in said(alone)
    pinned = verify(full_log.directory, full_log.key, pinned=[full_log.checkpoint])
    assert (State.WHOLE, 0, (), 1) == (pinned.state, pinned.exit_code, pinned.findings, pinned.pinned)
    assert pinned.root == root_of(leaf_hash(entry) for entry in ledger_of(SIZE).all).hex()


# --- files altered by whoever has no key ------------------------------------------------------------------------------


def flip(path: str, at: int) -> Callable[[Path], None]:
    def mutate(log: Path) -> None:
        content = bytearray((log / path).read_bytes())
        content[at] ^= 1
        (log / path).write_bytes(content)

    return mutate


def remove(path: str) -> Callable[[Path], None]:
    return lambda log: (log / path).unlink()


def cut(path: str, by: int) -> Callable[[Path], None]:
    def mutate(log: Path) -> None:
        (log / path).write_bytes((log / path).read_bytes()[:-by])

    return mutate


def move(path: str, to: str) -> Callable[[Path], None]:
    def mutate(log: Path) -> None:
        (log / path).rename(log / to)

    return mutate


def edit(path: str, old: bytes, new: bytes) -> Callable[[Path], None]:
    def mutate(log: Path) -> None:
        content = (log / path).read_bytes()
        assert old in content
        (log / path).write_bytes(content.replace(old, new, 1))

    return mutate


def rebundle(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[Path], None]:
    def mutate(log: Path) -> None:
        path = log / "tile/entries/000"
        path.write_bytes(bundle_of(change(entries_of(path.read_bytes()))))

    return mutate


WITHOUT_KEY: dict[str, Callable[[Path], None]] = {
    "byte flipped in a full bundle": flip("tile/entries/000", 100),
    "byte flipped in the last byte of the partial bundle": flip("tile/entries/002.p/88", -1),
    "byte flipped in a full hash tile": flip("tile/0/001", 4_000),
    "byte flipped in a partial hash tile": flip("tile/0/002.p/88", 0),
    "byte flipped in an upper tile": flip("tile/1/000.p/2", 63),
    "byte flipped in the signature": flip("checkpoint", -10),
    "bundle deleted": remove("tile/entries/001"),
    "partial bundle deleted": remove("tile/entries/002.p/88"),
    "hash tile deleted": remove("tile/0/000"),
    "upper tile deleted": remove("tile/1/000.p/2"),
    "checkpoint deleted": remove("checkpoint"),
    "bundle cut off": cut("tile/entries/000", 1),
    "hash tile cut off by one hash": cut("tile/0/000", 32),
    "hash tile cut off inside a hash": cut("tile/0/000", 1),
    "size line edited": edit("checkpoint", b"\n600\n", b"\n599\n"),
    "root line edited": edit("checkpoint", b"\n600\n", b"\n600\nA"),
    "origin edited": edit("checkpoint", ORIGIN.encode(), b"rotator.example/best"),
    "word edited in a record": edit("tile/entries/000", b"expiring", b"expired!"),
    "record dropped": rebundle(lambda entries: entries[:7] + entries[8:]),
    "record inserted": rebundle(lambda entries: [*entries[:7], entries[3], *entries[7:-1]]),
    "records swapped": rebundle(lambda entries: [*entries[:7], entries[8], entries[7], *entries[9:]]),
    "record duplicated": rebundle(lambda entries: [*entries[:8], entries[7], *entries[9:]]),
    "every tile deleted": lambda log: shutil.rmtree(log / "tile"),
    "kept checkpoint altered": edit("checkpoints/600.note", b"\n600\n", b"\n601\n"),
    "kept checkpoint renamed": move("checkpoints/600.note", "checkpoints/7.note"),
}


@pytest.mark.parametrize("mutate", WITHOUT_KEY.values(), ids=WITHOUT_KEY)
def test_law_22_what_is_altered_without_the_key_is_found_alone(full_log: Log, mutate: Callable[[Path], None]) -> None:
    """No pin and no witness is needed to see files that were altered, cut or removed."""
    mutate(full_log.directory)
    verdict = verify(full_log.directory, full_log.key)
    assert (State.TAMPERED, 1) == (verdict.state, verdict.exit_code)
    assert any(finding.weight is Weight.TAMPERED for finding in verdict.findings)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(choice=st.data())
def test_law_22_any_flipped_byte_is_found(full_log: Log, choice: st.DataObject) -> None:
    """Whichever bit of whichever file is flipped, the log is tampered with."""
    files = full_log.files()
    path = choice.draw(st.sampled_from(sorted(files)))
    at = choice.draw(st.integers(0, len(files[path]) - 1))
    bit = choice.draw(st.integers(0, 7))
    content = bytearray(files[path])
    content[at] ^= 1 << bit
    try:
        (full_log.directory / path).write_bytes(content)
        assert State.TAMPERED == verify(full_log.directory, full_log.key).state, path
    finally:
        (full_log.directory / path).write_bytes(files[path])


def test_law_22_other_records_under_a_true_checkpoint_are_found_alone(full_log: Log, make_log: MakeLog) -> None:
    """A log made again throughout, every tile in order, under the checkpoint of the true one: the root tells."""
    forged = make_log("forged")
    forged.publish(renumbered(REWRITES["reordered"](ledger_of(SIZE).all)))
    shutil.rmtree(forged.directory / "checkpoints")
    (forged.directory / "checkpoint").write_bytes(full_log.checkpoint)
    verdict = verify(forged.directory, full_log.key)
    assert State.TAMPERED == verdict.state
    assert "do not lead to the root" in said(verdict)


def test_a_tile_that_an_older_checkpoint_needed_is_checked_too(log: Log) -> None:
    """Partial tiles of earlier sizes are part of the log: altered ones are found."""
    log.publish(ledger_of(9))
    log.publish(ledger_of(12))
    for path in ("tile/0/000.p/9", "tile/entries/000.p/9"):
        before = (log.directory / path).read_bytes()
        flip(path, 40)(log.directory)
        assert State.TAMPERED == verify(log.directory, log.key).state
        (log.directory / path).write_bytes(before)
    assert State.UNWITNESSED == verify(log.directory, log.key).state


# --- history rewritten by whoever has the key -------------------------------------------------------------------------


def renumbered(entries: Sequence[bytes]) -> ListLedger:
    """The same records with numbers that fit: what a careful forger writes."""
    return ListLedger([canonical(json.loads(entry) | {"seq": seq}) for seq, entry in enumerate(entries)])


REWRITES: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "dropped": lambda entries: entries[:7] + entries[8:],
    "inserted": lambda entries: [*entries[:7], entries[3], *entries[7:]],
    "reordered": lambda entries: [*entries[:7], entries[8], entries[7], *entries[9:]],
    "duplicated": lambda entries: [*entries[:8], entries[7], *entries[8:]],
    "edited": lambda entries: [*entries[:7], entries[7].replace(b"expiring", b"expired!"), *entries[8:]],
}


@pytest.mark.parametrize("change", REWRITES.values(), ids=REWRITES)
def test_law_22_a_rewrite_with_the_real_key_is_found_against_a_pin(
    full_log: Log, change: Callable[[list[bytes]], list[bytes]]
) -> None:
    """Alone such a log looks whole and is called UNWITNESSED; against a pinned checkpoint it is tampered with."""
    pin = full_log.checkpoint
    entries = ledger_of(SIZE).all
    # Longer than before, so that its size gives nothing away.
    full_log.rewrite(renumbered([*change(entries), *(canonical(json.loads(entry)) for entry in entries[:9])]))
    alone = verify(full_log.directory, full_log.key)
    assert (State.UNWITNESSED, 3) == (alone.state, alone.exit_code)
    against = verify(full_log.directory, full_log.key, pinned=[pin])
    assert (State.TAMPERED, 1) == (against.state, against.exit_code)
    assert "history was rewritten" in said(against)


@pytest.mark.parametrize("change", [REWRITES["dropped"], REWRITES["reordered"], REWRITES["duplicated"]])
def test_law_21_a_careless_rewrite_is_found_alone(full_log: Log, change: Callable[[list[bytes]], list[bytes]]) -> None:
    """Records carry their numbers: moved without new ones, they are in the wrong place."""
    full_log.rewrite(ListLedger(change(ledger_of(SIZE).all)))
    verdict = verify(full_log.directory, full_log.key)
    assert State.TAMPERED == verdict.state
    assert "says that it is number" in said(verdict)


def test_law_22_a_rollback_is_found_against_a_pin(log: Log, tmp_path: Path) -> None:
    """An older log with its own true signature is whole alone; a later pinned checkpoint shows what is missing."""
    log.publish(ledger_of(300))
    shutil.copytree(log.directory, tmp_path / "older")
    log.publish(ledger_of(SIZE))
    assert State.UNWITNESSED == verify(tmp_path / "older", log.key).state
    verdict = verify(tmp_path / "older", log.key, pinned=[log.checkpoint])
    assert State.TAMPERED == verdict.state
    assert "rolled back: size 600 was pinned, it has 300" in said(verdict)


def test_law_22_a_clumsy_rollback_is_found_alone(log: Log) -> None:
    """The old checkpoint put back beside the checkpoints that were kept since: those speak."""
    log.publish(ledger_of(300))
    older = log.checkpoint
    log.publish(ledger_of(SIZE))
    (log.directory / "checkpoint").write_bytes(older)
    verdict = verify(log.directory, log.key)
    assert State.TAMPERED == verdict.state
    assert "rolled back to size 300" in said(verdict)


def test_law_22_a_log_that_grew_from_its_pins_is_whole(log: Log) -> None:
    """Every checkpoint of the past is continued by the log of today."""
    pins = []
    for size in (3, 255, 258, 300, SIZE):
        log.publish(ledger_of(size) if size % 3 == 0 else ListLedger(ledger_of(SIZE).all[:size]))
        pins.append(log.checkpoint)
    verdict = verify(log.directory, log.key, pinned=pins)
    assert (State.WHOLE, 5) == (verdict.state, verdict.pinned)


def test_a_pin_of_an_empty_log_binds_nothing(log: Log) -> None:
    """A checkpoint of size 0 is continued by every log, so it leaves a log UNWITNESSED."""
    log.publish(ListLedger())
    pin = log.checkpoint
    log.publish(ledger_of(3))
    verdict = verify(log.directory, log.key, pinned=[pin])
    assert State.UNWITNESSED == verdict.state
    assert "binds nothing" in said(verdict)


def test_a_second_history_is_found_by_what_the_log_kept_itself(full_log: Log, tmp_path: Path) -> None:
    """A kept checkpoint of another history of the same log is a proof that two were signed."""
    shutil.copy(full_log.directory / "checkpoints/600.note", tmp_path)
    full_log.rewrite(renumbered(ledger_of(606).all[3:]))
    shutil.copy(tmp_path / "600.note", full_log.directory / "checkpoints/600.note")
    verdict = verify(full_log.directory, full_log.key)
    assert State.TAMPERED == verdict.state
    assert "history was rewritten" in said(verdict)


# --- what the records say ---------------------------------------------------------------------------------------------


def test_law_21_a_rotation_without_an_outcome_is_incomplete(log: Log) -> None:
    """Exit 4 names the rotation that has no end; time to finish may be allowed."""
    ledger = ledger_of(9)
    for happened in rotation(9, "r-open", outcome=None):
        ledger.append(happened)
    log.publish(ledger)
    verdict = verify(log.directory, log.key, pinned=[log.checkpoint])
    assert (State.INCOMPLETE, 4) == (verdict.state, verdict.exit_code)
    assert "r-open" in said(verdict)
    patient = verify(log.directory, log.key, pinned=[log.checkpoint], under_way=timedelta(minutes=1))
    assert State.WHOLE == patient.state


@pytest.mark.parametrize("outcome", ["completed", "failed", "rolled_back", "missed", "refused"])
def test_each_outcome_ends_a_rotation(log: Log, outcome: str) -> None:
    """A failure that is recorded is an end as well."""
    ledger = ListLedger()
    for happened in rotation(0, "r-0", outcome=EventType(outcome)):
        ledger.append(happened)
    log.publish(ledger)
    assert State.WHOLE == verify(log.directory, log.key, pinned=[log.checkpoint]).state


def test_law_21_silence_is_visible(log: Log) -> None:
    """A pause of more than two heartbeats, and a clock that went back, are said; they change no verdict."""
    ledger = ListLedger()
    for number in (0, 10, 20, 100, 110):
        beat = heartbeat(number)
        ledger.append(event(number, type=beat.type, rotation_id=None, detail={"every_seconds": 10}))
    ledger.append(heartbeat(0))
    log.publish(ledger)
    verdict = verify(log.directory, log.key, pinned=[log.checkpoint])
    assert State.WHOLE == verdict.state
    notes = [finding.what for finding in verdict.findings if finding.weight is Weight.NOTE]
    assert 2 == len(notes)
    assert notes[0].startswith("silent from 2030-01-01T12:00:20Z to 2030-01-01T12:01:40Z")
    assert "a clock went back" in notes[1]


def test_a_record_that_is_not_canonical_is_found(log: Log) -> None:
    """An entry that this project would never have written is tampering, though its hash is signed."""
    ledger = ledger_of(3)
    ledger.all[1] = b'{"seq": 1}'
    log.publish(ledger)
    verdict = verify(log.directory, log.key)
    assert State.TAMPERED == verdict.state
    assert "record 1" in said(verdict)


# --- witnesses --------------------------------------------------------------------------------------------------------


class Witness:
    """Cosigns whatever it is shown: the test is of the reader, not of the witness."""

    def __init__(self, name: str) -> None:
        self._key = Ed25519PrivateKey.generate()
        self.key = VerifierKey(name=name, type=COSIGNATURE_ED25519, public=self._key.public_key().public_bytes_raw())

    def cosign(self, log: Log, *, spoil: bool = False) -> None:
        """Add a cosignature/v1 line to the log's checkpoint."""
        note = Note.parse(log.checkpoint)
        moment = 1_900_000_000
        signature = self._key.sign(b"cosignature/v1\ntime %d\n" % moment + note.text + (b"x" if spoil else b""))
        line = NoteSignature(name=self.key.name, key_id=self.key.id, payload=moment.to_bytes(8, "big") + signature)
        signed = Note(text=note.text, signatures=(*note.signatures, line))
        (log.directory / "checkpoint").write_bytes(signed.encode())


def policy_of(log: Log, witnesses: Sequence[Witness], *rest: str) -> bytes:
    lines = [f"log {log.key}", *(f"witness w{n} {each.key}" for n, each in enumerate(witnesses)), *rest]
    return "\n".join(["# a policy", "", *lines, ""]).encode()


def test_law_22_a_quorum_of_witnesses_makes_it_whole(full_log: Log) -> None:
    """Two of three is asked for: with one it is UNWITNESSED, with two whole, and the report names them."""
    witnesses = [Witness(f"witness.example/{n}") for n in range(3)]
    policy = policy_of(full_log, witnesses, "group g 2 w0 w1 w2", "quorum g")
    for cosigned, state in ((0, State.UNWITNESSED), (1, State.UNWITNESSED), (2, State.WHOLE)):
        if cosigned:
            witnesses[cosigned].cosign(full_log)
        verdict = verify(full_log.directory, full_log.key, policy=policy)
        assert state == verdict.state
    assert (("w1", "w2"), True) == (verdict.cosigners, verdict.witnessed)
    assert "WITNESSED" == verdict.as_json()["witness"]


def test_a_cosignature_that_does_not_verify_spoils_the_checkpoint(full_log: Log) -> None:
    """A line that says it is a known witness's and is not is tampering, not merely no cosignature."""
    witness = Witness("witness.example/w")
    witness.cosign(full_log, spoil=True)
    assert State.UNWITNESSED == verify(full_log.directory, full_log.key).state
    policy = policy_of(full_log, [witness], "quorum w0")
    assert State.TAMPERED == verify(full_log.directory, full_log.key, policy=policy).state


def test_a_policy_that_asks_nobody_witnesses_nothing(full_log: Log) -> None:
    """`quorum none` leaves a log UNWITNESSED unless it is pinned."""
    policy = policy_of(full_log, [], "quorum none")
    assert State.UNWITNESSED == verify(full_log.directory, full_log.key, policy=policy).state
    pins = [full_log.checkpoint]
    assert State.WHOLE == verify(full_log.directory, full_log.key, policy=policy, pinned=pins).state


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (["nonsense"], "line 2"),
        (["witness w KEY"], "no quorum"),
        (["witness w KEY", "quorum v"], "not defined"),
        (["witness w KEY", "witness v KEY", "quorum w"], "count twice"),
        (["witness none KEY", "quorum none"], "taken"),
        (["witness w KEY", "group g 2 w", "quorum g"], "threshold"),
        (["witness w KEY", "group g 0 w", "quorum g"], "threshold"),
        (["witness w KEY", "group g any w w", "quorum g"], "count twice"),
        (["group g any w", "quorum g"], "not defined"),
        (["quorum none", "quorum none"], "quorum already"),
        (["witness w LOG", "quorum w"], "type"),
        (["log OTHER", "quorum none"], "does not name the log"),
    ],
)
def test_a_policy_that_cannot_be_used_is_refused(
    full_log: Log, make_log: MakeLog, lines: Sequence[str], problem: str
) -> None:
    """Whatever is wrong with the policy is said, with its line."""
    words = {"KEY": str(Witness("witness.example/w").key), "LOG": full_log.key, "OTHER": make_log("two").key}
    text = "\n".join(["# policy", *lines])
    for word, key in words.items():
        text = text.replace(word, key)
    with pytest.raises(ConfigError, match=problem):
        verify(full_log.directory, full_log.key, policy=text.encode())


# --- usage ------------------------------------------------------------------------------------------------------------


def test_a_key_or_pin_inside_the_log_is_refused(full_log: Log, tmp_path: Path) -> None:
    """Whoever can alter the log could alter them: also behind a link, also under another name of the directory."""
    inside = full_log.directory / "log.vkey"
    inside.write_text(full_log.key)
    link = tmp_path / "link"
    link.symlink_to(inside)
    for path in (inside, link, full_log.directory / ".." / "log" / "log.vkey"):
        with pytest.raises(ConfigError, match="inside the log"):
            outside(path, full_log.directory, "the verifier key")
    other = tmp_path / "other"
    other.symlink_to(full_log.directory)
    with pytest.raises(ConfigError, match="inside the log"):
        outside(inside, other, "the verifier key")
    (tmp_path / "log.vkey").write_text(full_log.key)
    assert full_log.key.encode() == outside(tmp_path / "log.vkey", full_log.directory, "the verifier key")


@pytest.mark.parametrize("key", ["", "a+b", "name+00000000+AAAA", "name+zz+%%%", "x" * 10_000])
def test_what_is_no_key_is_refused(full_log: Log, key: str) -> None:
    """A key that cannot be read is a usage error, never a verdict."""
    with pytest.raises(ConfigError):
        verify(full_log.directory, key)


def test_a_key_with_another_hash_is_refused(full_log: Log) -> None:
    """The hash in a verifier key is that of its key, or somebody has altered one of the two."""
    name, mark, public = full_log.key.split("+", 2)
    with pytest.raises(ConfigError, match="hash"):
        verify(full_log.directory, f"{name}+{int(mark, 16) ^ 1:08x}+{public}")


def test_a_pin_of_another_log_is_refused(full_log: Log, make_log: MakeLog) -> None:
    """A pinned checkpoint that this log's key did not sign is a mistake of whoever asks, not tampering."""
    other = make_log("other")
    other.publish(ledger_of(3))
    with pytest.raises(ConfigError, match="pinned"):
        verify(full_log.directory, full_log.key, pinned=[other.checkpoint])


def test_where_there_is_no_log_there_is_no_verdict(tmp_path: Path, full_log: Log) -> None:
    """An empty or absent directory is a usage error; with a pin an empty one is a log that was removed."""
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "absent", tmp_path / "empty", full_log.directory / "checkpoint"):
        with pytest.raises(ConfigError):
            verify(path, full_log.key)
    verdict = verify(tmp_path / "empty", full_log.key, pinned=[full_log.checkpoint])
    assert State.TAMPERED == verdict.state


# --- hostile directories ----------------------------------------------------------------------------------------------


def huge(log: Log) -> None:
    """A checkpoint, truly signed, of more records than there are."""
    checkpoint = Checkpoint(origin=ORIGIN, size=2**63 - 1, root=bytes(32))
    key = VerifierKey.parse(log.key)
    line = NoteSignature(name=key.name, key_id=key.id, payload=log.signer.sign(checkpoint.text))
    (log.directory / "checkpoint").write_bytes(Note(text=checkpoint.text, signatures=(line,)).encode())


def pipe(path: str) -> Callable[[Log], None]:
    def mutate(log: Log) -> None:
        (log.directory / path).unlink()
        os.mkfifo(log.directory / path)

    return mutate


def link(path: str, target: str) -> Callable[[Log], None]:
    def mutate(log: Log) -> None:
        found = log.directory / path
        shutil.rmtree(found) if found.is_dir() else found.unlink()
        found.symlink_to(target)

    return mutate


def directory(path: str) -> Callable[[Log], None]:
    def mutate(log: Log) -> None:
        (log.directory / path).unlink()
        (log.directory / path).mkdir()

    return mutate


def write(path: str, content: bytes) -> Callable[[Log], None]:
    def mutate(log: Log) -> None:
        (log.directory / path).write_bytes(content)

    return mutate


def sparse(path: str) -> Callable[[Log], None]:
    return lambda log: os.truncate(log.directory / path, 2**40)


HOSTILE: dict[str, Callable[[Log], None]] = {
    "huge size": huge,
    "pipe for a bundle": pipe("tile/entries/001"),
    "pipe for the checkpoint": pipe("checkpoint"),
    "link to an endless device": link("tile/entries/000", "/dev/zero"),
    "link to itself": link("tile/0/000", "000"),
    "directory that is a link": link("tile/entries", "/"),
    "checkpoints that are a link": link("checkpoints", "/proc"),
    "terabyte of nothing for a tile": sparse("tile/0/000"),
    "terabyte of nothing for a bundle": sparse("tile/entries/000"),
    "terabyte of nothing for the checkpoint": sparse("checkpoint"),
    "directory for a tile": directory("tile/0/001"),
    "garbage for the checkpoint": write("checkpoint", bytes(range(256)) * 20),
    "empty checkpoint": write("checkpoint", b""),
    "garbage among the checkpoints": write("checkpoints/x\x1b[2J", b"x"),
}


@pytest.mark.timeout(30)
@pytest.mark.parametrize("mutate", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_directory_gets_a_verdict(full_log: Log, mutate: Callable[[Log], None]) -> None:
    """No crash, no hang, no memory filled: what cannot be part of a log is tampering, said in printable words."""
    mutate(full_log)
    verdict = verify(full_log.directory, full_log.key)
    assert State.TAMPERED == verdict.state
    assert all(finding.what.isprintable() for finding in verdict.findings)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_garbage_in_a_note_is_never_more_than_tampering(full_log: Log, content: bytes) -> None:
    """Whatever bytes stand in the checkpoint, the verdict is that it is no checkpoint."""
    whole = full_log.checkpoint
    for raw in (content, whole + content, whole[:90] + content + whole[90:]):
        if raw in (whole, whole + b"\n"):
            continue
        (full_log.directory / "checkpoint").write_bytes(raw)
        state = verify(full_log.directory, full_log.key).state
        # A further line by an unknown key is ignored, as the format asks.
        added = raw.startswith(whole) and raw[len(whole) :].startswith("\u2014 ".encode())
        assert state is State.TAMPERED or added
    (full_log.directory / "checkpoint").write_bytes(whole)


def test_findings_of_a_ruined_log_are_counted_not_piled_up(full_log: Log) -> None:
    """A log in which everything is wrong gives a short list and a number."""
    full_log.rewrite(ListLedger([b"x"] * SIZE))
    verdict = verify(full_log.directory, full_log.key)
    assert 101 == len(verdict.findings) - sum(finding.weight is not Weight.TAMPERED for finding in verdict.findings)
    assert "500 more" in said(verdict)


def test_the_root_in_a_checkpoint_is_base64_of_32_bytes(full_log: Log) -> None:
    """A root of another length is no root, even under a true signature."""
    text = f"{ORIGIN}\n600\n{base64.b64encode(bytes(31)).decode()}\n".encode()
    key = VerifierKey.parse(full_log.key)
    line = NoteSignature(name=key.name, key_id=key.id, payload=full_log.signer.sign(text))
    (full_log.directory / "checkpoint").write_bytes(Note(text=text, signatures=(line,)).encode())
    assert State.TAMPERED == verify(full_log.directory, full_log.key).state
