"""
Signed notes and checkpoints: the few lines that stand for the whole log.

Rules that must stay true here:

- What is signed is the exact text, bytes as they are; nothing is normalised before or after.
- A signature by a key that we know and that does not verify spoils the note; unknown keys are ignored.
- A checkpoint has three lines (origin, size, root) and, written by us, never a fourth: monitors cannot audit it.
- Anything malformed raises `LedgerTampered`; a person's key that cannot be read raises `ConfigError`.

Source: C2SP signed-note v1.0.0, tlog-checkpoint v1.0.0, tlog-cosignature v1.0.1.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from rotator.errors import ConfigError, LedgerTampered
from rotator.evidence.merkle import HASH_BYTES

ED25519 = 0x01
"""Signature type of a log."""
COSIGNATURE_ED25519 = 0x04
"""Signature type of a witness."""

MAX_NOTE_BYTES = 64 * 1024
MAX_SIGNATURES = 64
"""The format asks for at least 16."""
MAX_SIZE = 2**63 - 1

_KEY_ID_BYTES = 4
_ED25519_BYTES = 32
_TIMESTAMP_BYTES = 8
_DASH = "\u2014 "
_CHECKPOINT_LINES = 3


def is_key_name(name: str) -> bool:
    """Return whether *name* may name a key, and so be a log's origin: no spaces, no plus, not empty."""
    return bool(name) and "+" not in name and name.isprintable() and not any(c.isspace() for c in name)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierKey:
    """A public key as auditors get it: ``name+hash+base64``."""

    name: str
    type: int
    public: bytes

    @property
    def id(self) -> bytes:
        """Return the four bytes that stand before each signature of this key."""
        text = self.name.encode() + b"\n" + bytes([self.type]) + self.public
        return hashlib.sha256(text).digest()[:_KEY_ID_BYTES]

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(bytes([self.type]) + self.public).decode()}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """
        Return the key that *text* holds.

        Raises:
            ConfigError: If it is not an Ed25519 verifier key, or its hash is not that of its key.
        """
        words = text.strip().split("+", maxsplit=2)
        problem = "is not a signed-note verifier key (name+hash+base64)"
        if len(words) != 3 or not is_key_name(words[0]):  # noqa: PLR2004 -- name, hash, key
            raise ConfigError(f"this {problem}")
        try:
            key = base64.b64decode(words[2], validate=True)
        except binascii.Error as e:
            raise ConfigError(f"the key of {words[0]} {problem}") from e
        if len(key) != 1 + _ED25519_BYTES or key[0] not in (ED25519, COSIGNATURE_ED25519):
            raise ConfigError(f"the key of {words[0]} is of a type that is not read here (Ed25519 only)")
        found = cls(name=words[0], type=key[0], public=key[1:])
        if found.id.hex() != words[1].lower():
            raise ConfigError(f"the hash in the verifier key of {words[0]} is not the hash of its key")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteSignature:
    """One signature line."""

    name: str
    key_id: bytes
    payload: bytes

    def __str__(self) -> str:
        return f"{_DASH}{self.name} {base64.b64encode(self.key_id + self.payload).decode()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A text and the signatures below it."""

    text: bytes
    """With its final newline: exactly what is signed."""
    signatures: tuple[NoteSignature, ...]

    def encode(self) -> bytes:
        """Return the note as it is written."""
        return self.text + b"\n" + "".join(f"{signature}\n" for signature in self.signatures).encode()

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Return the note that *raw* holds. Raises `LedgerTampered` if it is none."""
        if len(raw) > MAX_NOTE_BYTES:
            raise LedgerTampered("the signed note is longer than any note")
        text, gap, below = raw.rpartition(b"\n\n")
        if not gap or not below.endswith(b"\n"):
            raise LedgerTampered("the signed note has no signatures below a blank line")
        if any(byte < 0x20 and byte != 0x0A for byte in raw):  # noqa: PLR2004 -- a newline is the only control allowed
            raise LedgerTampered("the signed note holds control characters")
        try:
            text.decode()
            lines = below.decode().split("\n")[:-1]
        except UnicodeDecodeError as e:
            raise LedgerTampered("the signed note is not UTF-8") from e
        if len(lines) > MAX_SIGNATURES:
            raise LedgerTampered("the signed note has too many signatures")
        return cls(text=text + b"\n", signatures=tuple(_signature(line) for line in lines))

    def verified_by(self, key: VerifierKey) -> bool:
        """
        Return whether *key* signed this note; False if it left no signature.

        Raises:
            LedgerTampered: If a signature says that it is *key*'s and does not verify.
        """
        found = False
        for signature in self.signatures:
            if signature.name == key.name and signature.key_id == key.id:
                self._check(signature, key)
                found = True
        return found

    def _check(self, signature: NoteSignature, key: VerifierKey) -> None:
        payload, message = signature.payload, self.text
        if key.type == COSIGNATURE_ED25519:
            moment, payload = int.from_bytes(payload[:_TIMESTAMP_BYTES], "big"), payload[_TIMESTAMP_BYTES:]
            message = b"cosignature/v1\ntime %d\n" % moment + self.text
        try:
            Ed25519PublicKey.from_public_bytes(key.public).verify(payload, message)
        except (InvalidSignature, ValueError) as e:
            raise LedgerTampered(f"the signature of {key.name} does not verify") from e


def _signature(line: str) -> NoteSignature:
    if not line.startswith(_DASH):
        raise LedgerTampered("a signature line of the note does not begin with a dash")
    name, space, blob = line.removeprefix(_DASH).partition(" ")
    try:
        payload = base64.b64decode(blob, validate=True)
    except ValueError as e:
        raise LedgerTampered("a signature line of the note is not base64") from e
    if not space or not is_key_name(name) or len(payload) <= _KEY_ID_BYTES:
        raise LedgerTampered("a signature line of the note is incomplete")
    return NoteSignature(name=name, key_id=payload[:_KEY_ID_BYTES], payload=payload[_KEY_ID_BYTES:])


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The log at one size."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> bytes:
        """Return what is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n".encode()

    @classmethod
    def parse(cls, text: bytes) -> Self:
        """Return the checkpoint that a note's *text* holds. Raises `LedgerTampered` if it is none."""
        lines = text.decode().split("\n")[:-1]
        if len(lines) < _CHECKPOINT_LINES or not lines[0]:
            raise LedgerTampered("the checkpoint has fewer than three lines")
        digits = lines[1]
        if not digits.isascii() or not digits.isdigit() or len(digits) > len(str(MAX_SIZE)):
            raise LedgerTampered("the size in the checkpoint is not a number")
        if (digits != "0" and digits.startswith("0")) or int(digits) > MAX_SIZE:
            raise LedgerTampered("the size in the checkpoint is not a number that a log can have")
        try:
            root = base64.b64decode(lines[2], validate=True)
        except ValueError as e:
            raise LedgerTampered("the root in the checkpoint is not base64") from e
        if len(root) != HASH_BYTES:
            raise LedgerTampered("the root in the checkpoint is not a SHA-256 hash")
        return cls(origin=lines[0], size=int(digits), root=root)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedCheckpoint:
    """A checkpoint and the note it came in."""

    checkpoint: Checkpoint
    note: Note


def open_checkpoint(raw: bytes, key: VerifierKey) -> SignedCheckpoint:
    """
    Return the checkpoint in *raw*, signed by the log whose key is *key*.

    Raises:
        LedgerTampered: If it is malformed, names another origin, or *key* did not sign it.
    """
    note = Note.parse(raw)
    checkpoint = Checkpoint.parse(note.text)
    if checkpoint.origin != key.name:
        raise LedgerTampered(f"the checkpoint is of {checkpoint.origin!r}, not of {key.name!r}")
    if not note.verified_by(key):
        raise LedgerTampered(f"the checkpoint is not signed by the key of {key.name}")
    return SignedCheckpoint(checkpoint=checkpoint, note=note)
