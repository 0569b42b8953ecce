"""
The log on disk: committed entries as C2SP tiles below a signed checkpoint.

Rules that must stay true here:

- A projection: the database decides, the same entries always give the same bytes, and the whole can be made again.
- Nothing is signed before it lies synced on disk: bundles, then tiles, then the signature, then ``checkpoint``.
- Two checkpoints of one log never disagree. Before signing, the last signed checkpoint is read again, the right edge is
  rebuilt from the tiles under it, and both must be a prefix of the database; else `LedgerTampered`, and no signature.
- A database shorter than its signed log (an old volume, restored) is refused in the same way.
- Where several replicas keep the log, each on its own disk, the last signed checkpoint lies in the database they share.
  It is kept there before it is shown, so no disk is ahead of it; a disk that is behind is brought up to it before
  anything else is signed. So a new leader goes on where the last one ended: no rollback, no fork.

Work per publication grows with what is new, not with the log; only the first one of a process reads all entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rotator.errors import LedgerTampered
from rotator.evidence import tiles
from rotator.evidence.files import LogFiles
from rotator.evidence.ledger import entries
from rotator.evidence.merkle import EMPTY_ROOT, RightEdge, fold, leaf_hash, root_of
from rotator.evidence.note import (
    Checkpoint,
    Note,
    NoteSignature,
    SignedCheckpoint,
    VerifierKey,
    open_checkpoint,
)
from rotator.evidence.tiles import WIDTH, LogReader, Tile, last_tile, levels, tile_path
from rotator.ports import CheckpointSigner, Ledger, SignedCheckpoints


class TileLog:
    """Writes one log directory."""

    def __init__(
        self, directory: Path, origin: str, signer: CheckpointSigner, *, files: LogFiles | None = None
    ) -> None:
        """
        Write to *directory*, which is made at the first publication.

        *files* may be replaced to see what a crash between two of its steps leaves behind.
        """
        self._directory = directory
        self._origin = origin
        self._signer = signer
        self._files = files or LogFiles(directory)
        self._compared = False

    def publish(self, ledger: Ledger, shared: SignedCheckpoints | None = None) -> Checkpoint:
        """
        Bring the log up to what *ledger* has committed and return its signed checkpoint.

        With nothing new the checkpoint that stands is returned, not signed again. *shared* is where every replica
        finds the last one; None where this disk is the only one.

        Raises:
            LedgerTampered: If what is signed on disk is no prefix of the ledger. Nothing was signed.
            JournalError: If the disk or the ledger fails. What was signed before stands unharmed.
            Conflict: If another writer is at it.
            InvariantBroken: If another process leads since. Nothing new is shown.
        """
        with self._files.locked():
            self._files.clear_incoming()
            told = shared.last_signed() if shared is not None else None
            if told is not None:
                self._follow(ledger, told)
            with LogReader(self._directory) as reader:
                signed = self._last(reader)
                old = signed.checkpoint if signed else Checkpoint(origin=self._origin, size=0, root=EMPTY_ROOT)
                edge = _edge(reader, old)
            size = ledger.size()
            self._compare(ledger, old, edge, size)
            if signed and shared is not None and signed.note.encode() != told:
                # The log is older than the table that its replicas share, or than a copy of it that was put back.
                shared.keep_signed(old.size, signed.note.encode())
            if signed and size == old.size:
                # A crash may have come between the checkpoint and its copy.
                self._files.create(f"{tiles.CHECKPOINTS}/{size}.note", signed.note.encode())
                return old
            if signed:
                self._files.create(f"{tiles.CHECKPOINTS}/{old.size}.note", signed.note.encode())
            root = self._extend(ledger, old.size, size, edge)
            return self._sign(Checkpoint(origin=self._origin, size=size, root=root), old, shared)

    def follow(self, ledger: Ledger, shared: SignedCheckpoints) -> Checkpoint | None:
        """
        Bring the log on this disk up to the last checkpoint that was signed anywhere; sign nothing.

        Returns:
            That checkpoint; None before the first.

        Raises:
            LedgerTampered: If the ledger does not lead to it, or this disk holds another one.
            JournalError: If the disk or the ledger fails.
            Conflict: If another writer is at it.
        """
        told = shared.last_signed()
        if told is None:
            return None
        with self._files.locked():
            self._files.clear_incoming()
            return self._follow(ledger, told)

    def _follow(self, ledger: Ledger, told: bytes) -> Checkpoint:
        """Bring a disk that is behind the note *told* up to it; one that has it, or is ahead, stays as it is."""
        new = open_checkpoint(told, VerifierKey.parse(self._signer.verifier_key)).checkpoint
        with LogReader(self._directory) as reader:
            signed = self._last(reader)
            old = signed.checkpoint if signed else Checkpoint(origin=self._origin, size=0, root=EMPTY_ROOT)
            if old.size >= new.size:
                if old.size == new.size and old.root != new.root:
                    raise LedgerTampered(f"two different logs of {new.size} records are signed: here and by a replica")
                return old
            edge = _edge(reader, old)
        self._compare(ledger, old, edge, ledger.size())
        if ledger.size() < new.size or self._root_at(ledger, old.size, new.size, edge) != new.root:
            raise LedgerTampered(f"the first {new.size} records of the ledger are not those that were signed")
        if signed:
            self._files.create(f"{tiles.CHECKPOINTS}/{old.size}.note", signed.note.encode())
        self._extend(ledger, old.size, new.size, edge)
        return self._show(new, told, old)

    def _last(self, reader: LogReader) -> SignedCheckpoint | None:
        """Return the last checkpoint that was signed; None for a log that is not there yet."""
        raw = reader.note()
        if raw is None:
            if reader.names(tiles.CHECKPOINTS):
                raise LedgerTampered("checkpoints were signed for this log, but the last one is gone")
            return None
        signed = open_checkpoint(raw, VerifierKey.parse(self._signer.verifier_key))
        if not self._compared:
            # Once a process: the list grows by one name a checkpoint.
            kept = (name.removesuffix(".note") for name in reader.names(tiles.CHECKPOINTS))
            newest = max((int(size) for size in kept if size.isascii() and size.isdigit()), default=0)
            if newest > signed.checkpoint.size:
                raise LedgerTampered(
                    f"the log was rolled back: size {newest} was signed, the checkpoint says {signed.checkpoint.size}"
                )
        return signed

    def _compare(self, ledger: Ledger, old: Checkpoint, edge: list[list[bytes]], size: int) -> None:
        """Refuse unless the signed log is a prefix of *ledger*: all of it once a process, its last tile each time."""
        if size < old.size:
            raise LedgerTampered(
                f"the ledger has {size} records, but {old.size} are signed: an older volume was restored"
            )
        if not self._compared:
            whole = RightEdge()
            for entry in entries(ledger, 0, old.size):
                whole.append(leaf_hash(entry))
            if whole.root() != old.root:
                raise LedgerTampered(f"the first {old.size} records of the ledger are not those that were signed")
            self._compared = True
        elif old.size % WIDTH:
            first = old.size - old.size % WIDTH
            if [leaf_hash(entry) for entry in entries(ledger, first, old.size)] != edge[0]:
                raise LedgerTampered(f"records {first} to {old.size} of the ledger are not those that were signed")

    def _extend(self, ledger: Ledger, old: int, size: int, edge: list[list[bytes]]) -> bytes:
        """Write every bundle and tile that *size* needs beyond *old*; return the root at *size*."""
        first = old - old % WIDTH
        bundle: list[bytes] = []
        for seq, entry in enumerate(entries(ledger, first, size), start=first):
            bundle.append(entry)
            if seq >= old:
                self._add(edge, 0, leaf_hash(entry), seq)
            if len(bundle) == WIDTH:
                self._files.create(tile_path(tiles.ENTRIES, seq // WIDTH), tiles.bundle_of(bundle))
                bundle = []
        if bundle:
            self._files.create(tile_path(tiles.ENTRIES, size // WIDTH, len(bundle)), tiles.bundle_of(bundle))
        for level, hashes in enumerate(edge):
            if hashes:
                index = size // WIDTH ** (level + 1)
                self._files.create(tile_path(level, index, len(hashes)), b"".join(hashes))
        return _root(edge)

    def _root_at(self, ledger: Ledger, old: int, size: int, edge: list[list[bytes]]) -> bytes:
        """Return the root at *size*, where *edge* stands at *old*; nothing is written and *edge* stays as it is."""
        whole = [list(hashes) for hashes in edge]
        for seq, entry in enumerate(entries(ledger, old, size), start=old):
            self._add(whole, 0, leaf_hash(entry), seq, write=False)
        return _root(whole)

    def _add(self, edge: list[list[bytes]], level: int, node: bytes, at: int, *, write: bool = True) -> None:
        """Put *node*, number *at* of its level, onto the edge; a tile that is full is written and rises as one node."""
        while True:
            if level == len(edge):
                edge.append([])
            edge[level].append(node)
            if len(edge[level]) < WIDTH:
                return
            if write:
                self._files.create(tile_path(level, at // WIDTH), b"".join(edge[level]))
            node = root_of(edge[level])
            edge[level] = []
            level, at = level + 1, at // WIDTH

    def _sign(self, checkpoint: Checkpoint, old: Checkpoint, shared: SignedCheckpoints | None) -> Checkpoint:
        """Sign *checkpoint*, keep it where the replicas find it, and show it."""
        key = VerifierKey.parse(self._signer.verifier_key)
        signature = NoteSignature(name=key.name, key_id=key.id, payload=self._signer.sign(checkpoint.text))
        raw = Note(text=checkpoint.text, signatures=(signature,)).encode()
        # A signer that answers with another key's signature is noticed here, not by an auditor.
        open_checkpoint(raw, key)
        if shared is not None:
            # Before anybody sees it: whoever leads next must not sign another one of this size.
            shared.keep_signed(checkpoint.size, raw)
        return self._show(checkpoint, raw, old)

    def _show(self, checkpoint: Checkpoint, raw: bytes, old: Checkpoint) -> Checkpoint:
        """Put the signed *raw* in its place, keep a copy, and remove the partial tiles that full ones have replaced."""
        self._files.replace(tiles.CHECKPOINT, raw)
        self._files.create(f"{tiles.CHECKPOINTS}/{checkpoint.size}.note", raw)
        for level in range(levels(checkpoint.size)):
            reach = WIDTH ** (level + 1)
            # From one before what is new: a crash may have come before its partial tiles were removed.
            for index in range(max(0, old.size // reach - 1), checkpoint.size // reach):
                self._files.remove_partials(tile_path(level, index))
                if level == 0:
                    self._files.remove_partials(tile_path(tiles.ENTRIES, index))
        return checkpoint


def _edge(reader: LogReader, signed: Checkpoint) -> list[list[bytes]]:
    """
    Return the hashes of the partial tile of each level, read from disk.

    Raises:
        LedgerTampered: If a tile is missing, or they do not lead to the root that was signed.
    """
    edge: list[list[bytes]] = []
    for level in range(levels(signed.size)):
        tile: Tile | None = last_tile(signed.size, level)
        hashes = reader.tile(tile) if tile else []
        if hashes is None or (tile and len(hashes) != tile.width):
            raise LedgerTampered(f"{tile.path if tile else level} is missing under a signed checkpoint")
        edge.append(hashes)
    if _root(edge) != signed.root:
        raise LedgerTampered(f"the tiles on disk do not lead to the root that was signed at size {signed.size}")
    return edge


def _root(edge: Sequence[Sequence[bytes]]) -> bytes:
    """Return the root of the tree whose right edge is *edge*, lowest level first."""
    subtrees: list[bytes] = []
    for hashes in reversed(edge):
        complete = RightEdge()
        for node in hashes:
            complete.append(node)
        subtrees += complete.subtrees
    return fold(subtrees)
