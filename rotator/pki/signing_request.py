"""
Keys and signing requests.

Rules that must stay true here:

- A new key for every certificate; a key is born here and leaves only as the PEM that is published (law 10).
- A key never shows itself: not in ``repr``, not by pickling, not in an error.
- The request carries an empty subject and says everything in its subject alternative name, critical as RFC 5280
  section 4.2.1.6 wants it then: an SVID is named by its URI alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NoReturn, assert_never

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from rotator.core.model import KeyType

AnyPrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


class PrivateKey:
    """A private key that does not show itself."""

    __slots__ = ("_key", "_spki_sha256", "_type")

    def __init__(self, key: AnyPrivateKey, kind: KeyType) -> None:
        self._key = key
        self._type = kind
        encoded = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self._spki_sha256 = hashlib.sha256(encoded).hexdigest()

    def __repr__(self) -> str:
        return f"PrivateKey({self._type}, {self.spki_sha256[:12]}, redacted)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a private key is not pickled")

    @property
    def type(self) -> KeyType:
        """Return its type."""
        return self._type

    @property
    def spki_sha256(self) -> str:
        """Return the SHA-256 of the public half (SubjectPublicKeyInfo, DER), lower-case hex."""
        return self._spki_sha256

    def pem(self) -> bytes:
        """Return the secret itself: PKCS#8, unencrypted. Only what publishes it may ask."""
        return self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def signs_with(self) -> hashes.SHA256 | hashes.SHA384 | None:
        """Return the hash for signatures by this key; Ed25519 brings its own."""
        match self._type:
            case KeyType.ED25519:
                return None
            case KeyType.ECDSA_P384:
                return hashes.SHA384()
            case _:
                return hashes.SHA256()

    def request(self, builder: x509.CertificateSigningRequestBuilder) -> x509.CertificateSigningRequest:
        """Return *builder*'s request, signed."""
        return builder.sign(self._key, self.signs_with())


def new_key(kind: KeyType) -> PrivateKey:
    """Return a fresh key of *kind*."""
    match kind:
        case KeyType.ECDSA_P256:
            return PrivateKey(ec.generate_private_key(ec.SECP256R1()), kind)
        case KeyType.ECDSA_P384:
            return PrivateKey(ec.generate_private_key(ec.SECP384R1()), kind)
        case KeyType.RSA_2048:
            return PrivateKey(rsa.generate_private_key(65537, 2048), kind)
        case KeyType.RSA_3072:
            return PrivateKey(rsa.generate_private_key(65537, 3072), kind)
        case KeyType.ED25519:
            return PrivateKey(ed25519.Ed25519PrivateKey.generate(), kind)
        case other:
            assert_never(other)


def signing_request(key: PrivateKey, identity: str, dns_names: Sequence[str] = ()) -> bytes:
    """Return the request for an SVID of *identity*, also valid for *dns_names*: PEM, signed by *key*."""
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(identity)]
    names += [x509.DNSName(name) for name in dns_names]
    builder = x509.CertificateSigningRequestBuilder(x509.Name([])).add_extension(
        x509.SubjectAlternativeName(names), critical=True
    )
    return key.request(builder).public_bytes(serialization.Encoding.PEM)
