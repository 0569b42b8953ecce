"""
Our logs and proofs in the hands of Python tools that are not ours, and what those do and do not see.

Rules that must stay true here:

- Each tool is shown tampered logs as well; where it does not see the tampering, that is asserted too, so that nobody
  takes its word for more than it says (docs/evidence-verifiers.md).
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

import metamorphic_log
import pymerkle
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tlog_scales.backend import LocalBackend
from tlog_scales.reader import TilesReader
from tlog_scales.signing import Vkey, VkeySet
from tlog_scales.tiles import leaf_hash as their_leaf_hash
from tlog_scales.tlog import Checkpoint as TheirCheckpoint
from tlog_scales.tlog import InclusionProofInvalid

from rotator.errors import ConfigError, LedgerTampered
from rotator.evidence.prove import Proof, prove
from rotator.evidence.tiles import entries_of
from tests.evidence.conftest import Log
from tests.evidence.examples import ledger_of

SIZE = 600


def parts(proof: Proof) -> tuple[int, list[bytes], str]:
    """Index, path and checkpoint of a proof, taken apart without our code."""
    head, _, note = proof.text.decode().partition("\n\n")
    first, index, *path = head.split("\n")
    assert "c2sp.org/tlog-proof@v1" == first
    return int(index.removeprefix("index ")), [base64.b64decode(line) for line in path], note


def reader(log: Log) -> tuple[TilesReader, TheirCheckpoint]:
    opened = TilesReader(LocalBackend(log.directory))
    return opened, opened.get_checkpoint()


# --- metamorphic-log: signatures, inclusion ---------------------------------------------------------------------------


def test_metamorphic_log_accepts_the_checkpoint_and_refuses_altered_ones(full_log: Log) -> None:
    """The signature is checked by somebody else's Rust code; another size, root or signature is refused."""
    note = full_log.checkpoint.decode()
    head = metamorphic_log.checkpoint_verify(note, [full_log.key])
    assert (SIZE, "rotator.example/test", []) == (head.size, head.origin, head.extensions)
    for old, new in (("600", "599"), ("rotator.example", "rotator.exampel"), (note[-20:-12], "AAAAAAAA")):
        with pytest.raises(metamorphic_log.VerifyError):
            metamorphic_log.checkpoint_verify(note.replace(old, new), [full_log.key])


def test_metamorphic_log_sees_no_record_and_no_tile(full_log: Log) -> None:
    """It is given a note and nothing else: a log without a single tile passes, which is why others look too."""
    (full_log.directory / "tile/entries/000").unlink()
    assert SIZE == metamorphic_log.checkpoint_verify(full_log.checkpoint.decode(), [full_log.key]).size


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seq=st.integers(0, SIZE - 1))
def test_proofs_are_accepted_by_metamorphic_log(full_log: Log, seq: int) -> None:
    """The proof of any record is accepted against the signed checkpoint in it, and of no other record."""
    proof = prove(full_log.directory, str(seq))
    index, path, note = parts(proof)
    assert (seq, full_log.checkpoint.decode()) == (index, note)
    leaf = their_leaf_hash(proof.record)
    metamorphic_log.checkpoint_verify_inclusion(note, [full_log.key], index, leaf, path)
    with pytest.raises(metamorphic_log.VerifyError):
        metamorphic_log.checkpoint_verify_inclusion(
            note, [full_log.key], index, their_leaf_hash(proof.record + b" "), path
        )
    with pytest.raises(metamorphic_log.VerifyError):
        metamorphic_log.checkpoint_verify_inclusion(note, [full_log.key], (index + 1) % SIZE, leaf, path)


# --- tlog-scales: reads and proves from tiles -------------------------------------------------------------------------


def test_tlog_scales_reads_the_log_and_makes_the_same_proofs(full_log: Log) -> None:
    """From the same directory another tool finds the same records, the same root and the same paths."""
    opened, checkpoint = reader(full_log)
    assert checkpoint.root_hash == opened.calculate_root_hash()
    verified = VkeySet(Vkey.from_string(full_log.key)).verify(checkpoint.signatures, checkpoint)
    assert 1 == len(verified)
    ledger = ledger_of(SIZE)
    for seq in (0, 255, 256, 511, 512, 599):
        assert ledger.all[seq] == opened.get_entry(seq)
        theirs = opened.get_inclusion_proof(seq, SIZE)
        assert parts(prove(full_log.directory, str(seq)))[1] == theirs.node_hashes
        theirs.check(their_leaf_hash(ledger.all[seq]), checkpoint.root_hash)


def test_tlog_scales_proves_that_the_log_only_grew(log: Log) -> None:
    """A consistency proof of its own leads from an older checkpoint to a newer one."""
    log.publish(ledger_of(300))
    older = reader(log)[1]
    log.publish(ledger_of(SIZE))
    opened, newer = reader(log)
    opened.get_consistency_proof(300, SIZE).check(older.root_hash, newer.root_hash)


def test_tlog_scales_refuses_an_altered_record_that_it_is_asked_for(full_log: Log) -> None:
    """A record whose bytes were altered has no proof; a hash tile that was altered gives another root."""
    path = full_log.directory / "tile/entries/000"
    path.write_bytes(path.read_bytes().replace(b"expiring", b"expired!", 1))
    opened, checkpoint = reader(full_log)
    altered = next(seq for seq, entry in enumerate(entries_of(path.read_bytes())) if b"expired!" in entry)
    with pytest.raises(InclusionProofInvalid):
        opened.get_inclusion_proof(altered, SIZE).check(
            their_leaf_hash(opened.get_entry(altered)), checkpoint.root_hash
        )
    tile = full_log.directory / "tile/0/002.p/88"
    tile.write_bytes(b"\0" + tile.read_bytes()[1:])
    assert checkpoint.root_hash != reader(full_log)[0].calculate_root_hash()


def test_tlog_scales_computes_the_root_without_looking_at_records(full_log: Log) -> None:
    """Its root comes from the hash tiles alone, full ones not below the level it needs: that is no check of a log."""
    (full_log.directory / "tile/entries/000").write_bytes(b"")
    (full_log.directory / "tile/0/000").unlink()
    opened, checkpoint = reader(full_log)
    assert checkpoint.root_hash == opened.calculate_root_hash()


# --- pymerkle: the root over the records ------------------------------------------------------------------------------


def entries_on_disk(directory: Path) -> list[bytes]:
    bundles = sorted((directory / "tile/entries").glob("*"), key=lambda path: path.name.split(".")[0])
    files = [next(path.iterdir()) if path.is_dir() else path for path in bundles]
    return [entry for path in files for entry in entries_of(path.read_bytes())]


def test_pymerkle_finds_the_signed_root_over_the_records_on_disk(full_log: Log) -> None:
    """Over the entries alone it finds the root that was signed; over altered, moved or missing ones another."""
    signed = base64.b64decode(full_log.checkpoint.split(b"\n")[2])
    entries = entries_on_disk(full_log.directory)

    def root(records: list[bytes]) -> bytes:
        tree = pymerkle.InmemoryTree(algorithm="sha256")
        for record in records:
            tree.append_entry(record)
        found: bytes = tree.get_root()
        return found

    assert signed == root(entries)
    for tampered in (
        entries[:-1],
        [*entries[:7], entries[8], entries[7], *entries[9:]],
        [*entries[:7], entries[7].replace(b"expiring", b"expired!"), *entries[8:]],
        [*entries, entries[-1]],
    ):
        assert signed != root(tampered)


# --- our own half -----------------------------------------------------------------------------------------------------


def test_a_record_is_found_by_its_id(full_log: Log) -> None:
    """An id leads to the record that carries it, as its number does."""
    proof = prove(full_log.directory, "id-333")
    assert (333, "id-333") == (proof.seq, json.loads(proof.record)["id"])
    assert proof == prove(full_log.directory, "333")


@pytest.mark.parametrize("wanted", ["600", "-1", "id-600", "", "é", "9" * 40])
def test_a_record_that_is_not_there_is_not_proven(full_log: Log, wanted: str) -> None:
    """An unknown id or number is a usage error."""
    with pytest.raises(ConfigError, match="has none"):
        prove(full_log.directory, wanted)


def test_no_proof_is_handed_out_that_does_not_hold(full_log: Log) -> None:
    """Where tiles or records were altered there is an error, not a proof."""
    path = full_log.directory / "tile/entries/000"
    original = path.read_bytes()
    path.write_bytes(original.replace(b"expiring", b"expired!"))
    with pytest.raises(LedgerTampered, match="do not lead"):
        prove(full_log.directory, "1")
    path.unlink()
    with pytest.raises(LedgerTampered, match="missing"):
        prove(full_log.directory, "1")
    path.write_bytes(original)
    (full_log.directory / "tile/0/000").unlink()
    with pytest.raises(LedgerTampered, match="missing"):
        prove(full_log.directory, "1")
