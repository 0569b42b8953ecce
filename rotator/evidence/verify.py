"""
Is this log what was signed, all of it, and has anybody else seen it?

Rules that must stay true here:

- Everything is computed again from the entries: leaves, tiles of every level, root. Nothing is believed but the key and
  what was pinned, and neither is taken from inside the log's own directory.
- Alone, a log cannot show that it was not rewritten with its own key: without a pinned checkpoint or a witness the
  verdict says UNWITNESSED (law 22).
- Whatever lies in the directory, the answer is a verdict, never a crash or an endless wait.
- Read only, no clock: the same directory always gives the same verdict.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

from rotator.errors import ConfigError, LedgerTampered
from rotator.evidence import tiles
from rotator.evidence.merkle import EMPTY_ROOT, RightEdge, leaf_hash, root_of
from rotator.evidence.note import ED25519, MAX_NOTE_BYTES, Checkpoint, SignedCheckpoint, VerifierKey, open_checkpoint
from rotator.evidence.reading import Reading
from rotator.evidence.tiles import WIDTH, LogReader, Tile, levels, tile_path
from rotator.evidence.witness import MAX_POLICY_BYTES, Policy

MAX_FINDINGS = 100
"""Of one kind: after that only their number grows."""


class State(StrEnum):
    """What a log is found to be."""

    WHOLE = "whole"
    """And witnessed, or pinned, as asked."""
    TAMPERED = "tampered"
    UNWITNESSED = "unwitnessed"
    """Whole, but nobody else has seen it."""
    INCOMPLETE = "incomplete"
    """Not altered, but something that began has no end."""

    @property
    def exit_code(self) -> int:
        """Return the contract's exit code of ``evidence verify``."""
        return {State.WHOLE: 0, State.TAMPERED: 1, State.UNWITNESSED: 3, State.INCOMPLETE: 4}[self]


class Weight(StrEnum):
    """What a finding means for the verdict."""

    TAMPERED = "tampered"
    INCOMPLETE = "incomplete"
    UNWITNESSED = "unwitnessed"
    NOTE = "note"
    """For a person to judge; changes nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was found."""

    weight: Weight
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The answer about one log."""

    state: State
    findings: tuple[Finding, ...]
    origin: str
    size: int | None
    """Records; None if no checkpoint could be read."""
    root: str | None
    """SHA-256 root in lower-case hex."""
    cosigners: tuple[str, ...] = ()
    """Witnesses of the policy that cosigned the checkpoint."""
    witnessed: bool = False
    pinned: int = 0
    """How many pinned checkpoints the log was found to continue."""

    @property
    def exit_code(self) -> int:
        """Return the contract's exit code."""
        return self.state.exit_code

    def as_json(self) -> dict[str, Any]:
        """Return the verdict for ``--json``."""
        return {
            "state": self.state.value,
            "witness": "WITNESSED" if self.witnessed else "LOCAL",
            "origin": self.origin,
            "size": self.size,
            "root": self.root,
            "cosigners": list(self.cosigners),
            "pinned": self.pinned,
            "findings": [{"weight": finding.weight.value, "what": finding.what} for finding in self.findings],
        }


def verify(
    directory: Path,
    verifier_key: str,
    *,
    pinned: Sequence[bytes] = (),
    policy: bytes | None = None,
    under_way: timedelta = timedelta(0),
) -> Verdict:
    """
    Return the verdict on the log in *directory*.

    Args:
        directory: A C2SP tlog-tiles directory; may be hostile.
        verifier_key: The log's key, from elsewhere.
        pinned: Signed checkpoints that were kept elsewhere; the log must continue each of them.
        policy: A C2SP tlog-policy; its quorum must have cosigned the checkpoint.
        under_way: A rotation that began within this time before the log's last record needs no outcome yet.

    Raises:
        ConfigError: If key, pin or policy cannot be used, or there is no log at all.
        JournalError: If the disk does not give back what lies there.
    """
    key = VerifierKey.parse(verifier_key)
    if key.type != ED25519:
        raise ConfigError(f"the key of {key.name} is a witness's, not a log's")
    pins = [_pin(raw, key) for raw in pinned]
    wanted = Policy.parse(policy) if policy is not None else None
    if wanted and wanted.logs and key not in wanted.logs:
        raise ConfigError(f"the witness policy does not name the log {key.name} with this key")
    with LogReader(directory) as reader:
        if not pins and not reader.names("tile") and reader.note() is None:
            raise ConfigError(f"there is no log in {directory}")
        return _Examination(reader, key, pins, wanted, under_way).verdict()


def outside(path: Path, directory: Path, what: str) -> bytes:
    """
    Return the content of *path*, which must not lie in *directory*: whoever can alter the log could alter it too.

    Raises:
        ConfigError: If it does, or cannot be read.
    """
    try:
        if path.resolve().is_relative_to(directory.resolve()):
            raise ConfigError(f"{what} {path} lies inside the log: give one that was kept elsewhere")
        with path.open("rb") as file:
            return file.read(max(MAX_NOTE_BYTES, MAX_POLICY_BYTES) + 1)
    except (OSError, RuntimeError) as e:
        raise ConfigError(f"cannot read {what} {path}: {getattr(e, 'strerror', None) or 'it leads in a circle'}") from e


def _pin(raw: bytes, key: VerifierKey) -> Checkpoint:
    try:
        return open_checkpoint(raw, key).checkpoint
    except LedgerTampered as e:
        raise ConfigError(f"the pinned checkpoint cannot be used: {e}") from e


class _Examination:
    """One walk through one log."""

    def __init__(
        self,
        reader: LogReader,
        key: VerifierKey,
        pins: Sequence[Checkpoint],
        policy: Policy | None,
        under_way: timedelta,
    ) -> None:
        self._reader = reader
        self._key = key
        self._pins = pins
        self._policy = policy
        self._reading = Reading(under_way=under_way)
        self._findings: list[Finding] = []
        self._counts: dict[Weight, int] = {}

    def verdict(self) -> Verdict:
        """Walk through everything and say what it is."""
        signed = self._signed()
        if signed is None:
            return Verdict(state=State.TAMPERED, findings=self._all(), origin=self._key.name, size=None, root=None)
        checkpoint = signed.checkpoint
        kept = self._kept(checkpoint)
        roots = self._roots(checkpoint.size, {pin.size for pin in self._pins} | {other.size for other in kept})
        if roots.get(checkpoint.size) != checkpoint.root:
            self._tampered(f"the records do not lead to the root that was signed at size {checkpoint.size}")
        for other in kept:
            if other.size <= checkpoint.size and roots.get(other.size) != other.root:
                self._tampered(f"checkpoints/{other.size}.note was signed over other records: history was rewritten")
        for what in self._reading.wrong:
            self._tampered(what)
        for what in self._reading.unfinished():
            self._find(Weight.INCOMPLETE, what)
        for what in self._reading.remarks:
            self._find(Weight.NOTE, what)
        continued = self._continued(checkpoint, roots)
        cosigners, witnessed = self._witnessed(signed)
        return Verdict(
            state=self._state(),
            findings=self._all(),
            origin=checkpoint.origin,
            size=checkpoint.size,
            root=checkpoint.root.hex(),
            cosigners=cosigners,
            witnessed=witnessed,
            pinned=continued,
        )

    def _state(self) -> State:
        for weight, state in (
            (Weight.TAMPERED, State.TAMPERED),
            (Weight.INCOMPLETE, State.INCOMPLETE),
            (Weight.UNWITNESSED, State.UNWITNESSED),
        ):
            if self._counts.get(weight):
                return state
        return State.WHOLE

    # --- what is signed -------------------------------------------------------------------------------------------

    def _signed(self) -> SignedCheckpoint | None:
        try:
            # An absent checkpoint is an empty one: no note, and so tampered with.
            return open_checkpoint(self._reader.note() or b"", self._key)
        except LedgerTampered as e:
            self._tampered(f"checkpoint: {e}")
            return None

    def _kept(self, current: Checkpoint) -> list[Checkpoint]:
        """Return the checkpoints that the log kept of itself; a later one than *current* shows a rollback."""
        kept: list[Checkpoint] = []
        for name in self._names(tiles.CHECKPOINTS):
            path = f"{tiles.CHECKPOINTS}/{name}"
            try:
                raw = self._reader.note(path)
                found = open_checkpoint(raw or b"", self._key).checkpoint
            except LedgerTampered as e:
                self._tampered(f"{path}: {e}")
                continue
            if name != f"{found.size}.note":
                self._tampered(f"{path} holds the checkpoint of size {found.size}")
            if found.size > current.size and found.size > self._published():
                self._tampered(f"the log was rolled back to size {current.size}: {path} was signed after it")
            kept.append(found)
        return kept

    def _published(self) -> int:
        """Return the size of the checkpoint that stands there now: the log may grow while it is read."""
        try:
            return open_checkpoint(self._reader.note() or b"", self._key).checkpoint.size
        except LedgerTampered:
            return 0

    def _continued(self, checkpoint: Checkpoint, roots: dict[int, bytes]) -> int:
        """Return how many pins the log continues."""
        continued = 0
        for pin in self._pins:
            if pin.size > checkpoint.size:
                self._tampered(f"the log was rolled back: size {pin.size} was pinned, it has {checkpoint.size}")
            elif roots.get(pin.size) != pin.root:
                self._tampered(f"history was rewritten: the first {pin.size} records are not those that were pinned")
            elif pin.size == 0:
                self._find(
                    Weight.UNWITNESSED, "UNWITNESSED: the pinned checkpoint is of an empty log and binds nothing"
                )
            else:
                continued += 1
        return continued

    def _witnessed(self, signed: SignedCheckpoint) -> tuple[tuple[str, ...], bool]:
        """Return who cosigned and whether that is the quorum; say so if nobody vouches for the log."""
        policy = self._policy
        if policy is None or policy.asks_nobody:
            if not self._pins:
                self._find(
                    Weight.UNWITNESSED,
                    "UNWITNESSED: without a pinned checkpoint or a witness a rewrite with its own key goes unseen",
                )
            return (), False
        try:
            cosigners = policy.cosigners(signed.note)
        except LedgerTampered as e:
            self._tampered(str(e))
            return (), False
        met = policy.met_by(cosigners)
        if not met:
            who = ", ".join(cosigners) or "nobody"
            self._find(Weight.UNWITNESSED, f"UNWITNESSED: the policy asks for {policy.quorum}, cosigned by {who}")
        return cosigners, met

    # --- what it is signed over -----------------------------------------------------------------------------------

    def _roots(self, size: int, wanted: set[int]) -> dict[int, bytes]:
        """Compute every tile again; return the root at *size* and at each of the *wanted* smaller sizes."""
        roots = {0: EMPTY_ROOT}
        edge = RightEdge()
        nodes: list[list[bytes]] = [[] for _ in range(levels(size))]
        for tile in _bottom(size):
            leaves = self._leaves(tile)
            if leaves is None:
                self._tampered(f"records from {tile.index * WIDTH} on are missing")
                return roots
            for leaf in leaves:
                edge.append(leaf)
                if edge.size in wanted or edge.size == size:
                    roots[edge.size] = edge.root()
            if len(leaves) == WIDTH:
                self._raise(nodes, leaves, tile.index)
        for level, left in enumerate(nodes):
            if level and left:
                self._compare(Tile(level=level, index=size // WIDTH ** (level + 1), width=len(left)), left)
        return roots

    def _leaves(self, tile: Tile) -> list[bytes] | None:
        """Return the leaf hashes of *tile* after comparing entries and hashes; None if they cannot be known."""
        try:
            entries = self._reader.entries(tile)
        except LedgerTampered as e:
            self._tampered(f"{tile.entries_path}: {e}")
            entries = None
        else:
            if entries is None:
                self._tampered(f"{tile.entries_path} is missing")
        if entries is not None and len(entries) != tile.width:
            self._tampered(f"{tile.entries_path} holds {len(entries)} records, not {tile.width}")
            entries = None
        if entries is None:
            stored = self._stored(tile)
            return stored if stored is not None and len(stored) == tile.width else None
        leaves = [leaf_hash(entry) for entry in entries]
        self._compare(tile, leaves)
        for seq, entry in enumerate(entries, start=tile.index * WIDTH):
            self._reading.read(seq, entry)
        self._older_bundles(tile, entries)
        return leaves

    def _raise(self, nodes: list[list[bytes]], hashes: list[bytes], index: int) -> None:
        """Let a full tile of the bottom rise as one node, and each tile that this fills in turn."""
        level, node = 1, root_of(hashes)
        while level < len(nodes):
            nodes[level].append(node)
            if len(nodes[level]) < WIDTH:
                return
            index //= WIDTH
            self._compare(Tile(level=level, index=index, width=WIDTH), nodes[level])
            node = root_of(nodes[level])
            nodes[level] = []
            level += 1

    def _stored(self, tile: Tile) -> list[bytes] | None:
        try:
            stored = self._reader.tile(tile)
        except LedgerTampered as e:
            self._tampered(f"{tile.path}: {e}")
            return None
        if stored is None:
            self._tampered(f"{tile.path} is missing")
        return stored

    def _compare(self, tile: Tile, computed: list[bytes]) -> None:
        """Compare *tile*, and the narrower ones that older checkpoints needed, with what was computed."""
        stored = self._stored(tile)
        if stored is not None and stored != computed:
            first = next(
                (at for at, pair in enumerate(zip(stored, computed, strict=False)) if pair[0] != pair[1]), None
            )
            where = f" from hash {first} on" if first is not None else ""
            self._tampered(f"{tile.path} is not what the records give{where}")
        for width in self._older(tile_path(tile.level, tile.index), tile.width):
            narrow = Tile(level=tile.level, index=tile.index, width=width)
            if (older := self._stored(narrow)) is not None and older != computed[:width]:
                self._tampered(f"{narrow.path} is not what the records give")

    def _older_bundles(self, tile: Tile, entries: list[bytes]) -> None:
        for width in self._older(tile_path(tiles.ENTRIES, tile.index), tile.width):
            narrow = Tile(level=0, index=tile.index, width=width)
            try:
                if self._reader.entries(narrow) != entries[:width]:
                    self._tampered(f"{narrow.entries_path} is not what the log holds")
            except LedgerTampered as e:
                self._tampered(f"{narrow.entries_path}: {e}")

    def _older(self, path: str, width: int) -> Iterator[int]:
        """Yield the widths of the partial tiles beside the tile at *path* that are narrower than *width*."""
        for name in self._names(f"{path}.p"):
            known = name.isascii() and name.isdigit() and not name.startswith("0") and len(name) <= len(str(WIDTH))
            if not known:
                self._find(Weight.NOTE, f"{path}.p/{name!r} is no part of a log")
            elif int(name) < width:
                yield int(name)

    def _names(self, path: str) -> list[str]:
        try:
            return self._reader.names(path)
        except LedgerTampered as e:
            self._tampered(str(e))
            return []

    # --- what was found -------------------------------------------------------------------------------------------

    def _tampered(self, what: str) -> None:
        self._find(Weight.TAMPERED, what)

    def _find(self, weight: Weight, what: str) -> None:
        self._counts[weight] = self._counts.get(weight, 0) + 1
        if self._counts[weight] <= MAX_FINDINGS:
            # Names and words out of a hostile log must not steer a terminal.
            self._findings.append(Finding(weight=weight, what=what if what.isprintable() else ascii(what)))

    def _all(self) -> tuple[Finding, ...]:
        more = (
            Finding(weight=weight, what=f"and {count - MAX_FINDINGS} more of this weight")
            for weight, count in self._counts.items()
            if count > MAX_FINDINGS
        )
        return (*self._findings, *more)


def _bottom(size: int) -> Iterator[Tile]:
    """Yield the tiles of level 0 of a log of *size* records."""
    for index in range(size // WIDTH):
        yield Tile(level=0, index=index, width=WIDTH)
    if size % WIDTH:
        yield Tile(level=0, index=size // WIDTH, width=size % WIDTH)
