"""
The local key that signs checkpoints.

Rules that must stay true here:

- A key is made only when a person asks for one (`LocalSigner.generate`), never because a file is missing: a log that
  changes its key in silence proves nothing.
- The key file is for its owner, at most its group; the key stands in no error and no ``repr``.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from rotator.errors import ConfigError
from rotator.evidence.note import ED25519, VerifierKey, is_key_name

_MAX_KEY_BYTES = 16 * 1024


class LocalSigner:
    """Signs with an Ed25519 key from a PKCS#8 PEM file."""

    def __init__(self, key_file: Path, origin: str) -> None:
        """
        Read *key_file*; signatures will carry the name *origin*.

        Raises:
            ConfigError: If the file is not there, open to everybody, or no Ed25519 key, or *origin* cannot be a name.
        """
        if not is_key_name(origin):
            raise ConfigError("the origin of the log must be one word without a plus sign, like rotator.example/prod")
        self._key = _read_key(key_file)
        self._verifier = VerifierKey(name=origin, type=ED25519, public=self._key.public_key().public_bytes_raw())

    @classmethod
    def generate(cls, key_file: Path, origin: str) -> Self:
        """Make a new key in *key_file* (0600) and return its signer. Raises `ConfigError` if the file exists."""
        if not is_key_name(origin):
            raise ConfigError("the origin of the log must be one word without a plus sign, like rotator.example/prod")
        pem = Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        try:
            handle = os.open(key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(pem)
                file.flush()
                os.fsync(file.fileno())
        except OSError as e:
            raise ConfigError(f"cannot make the log's signing key in {key_file}: {e.strerror}") from e
        return cls(key_file, origin)

    @property
    def verifier_key(self) -> str:
        """Return the signed-note verifier key to give to auditors, by another way than the log itself."""
        return str(self._verifier)

    def sign(self, note_text: bytes) -> bytes:
        """Return the raw Ed25519 signature over *note_text*."""
        return self._key.sign(note_text)


def _read_key(key_file: Path) -> Ed25519PrivateKey:
    try:
        with key_file.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if mode & (stat.S_IRWXO | stat.S_IWGRP):
                raise ConfigError(f"the log's signing key {key_file} is open to others: chmod 600 (or 640) it")
            pem = file.read(_MAX_KEY_BYTES)
    except OSError as e:
        raise ConfigError(f"cannot read the log's signing key {key_file}: {e.strerror}") from e
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as e:
        raise ConfigError(f"the log's signing key {key_file} is no unencrypted PEM key") from e
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"the log's signing key {key_file} is no Ed25519 key")
    return key
