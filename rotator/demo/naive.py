"""
The naive way, for comparison: the CA replaced in one step, with no overlap and no acknowledgement.

Rules that must stay true here:

- Not a part of rotator, and nothing of rotator's deciding is used: this is what a script does that someone wrote once.
- As quick as such a script can be: nothing is slowed down to make it look worse.
- Its CAs live in memory for some minutes and are known to nobody but the two Envoys of the demonstration.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from rotator.adapters.directory import DirectoryStore
from rotator.core.model import SubjectName
from rotator.pki.certificates import Material, material
from rotator.ports import Stamp

_LIFE = timedelta(minutes=10)
_BACKDATE = timedelta(seconds=30)


class NaiveAuthority:
    """A self-signed CA."""

    def __init__(self, name: str, now: datetime) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._now = now
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        identifier = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        self._certificate = (
            self._builder(subject, self._key.public_key(), subject)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(authority=True), critical=True)
            .add_extension(identifier, critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def leaf(self, identity: str) -> Material:
        """Return a new key with a leaf for *identity*, and a bundle that trusts this CA alone."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            self._builder(x509.Name([]), key.public_key(), self._certificate.subject)
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity)]), critical=True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(authority=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return material(
            chain_pem=certificate.public_bytes(serialization.Encoding.PEM),
            key_pem=key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
            bundle_pem=self._certificate.public_bytes(serialization.Encoding.PEM),
        )

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, issuer: x509.Name
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._now - _BACKDATE)
            .not_valid_after(self._now + _LIFE)
        )


def replace_in_one_step(
    authority: NaiveAuthority, directories: Mapping[str, DirectoryStore], identities: Mapping[str, str], now: datetime
) -> dict[str, str]:
    """
    Write a leaf and bundle of *authority* into each directory, one after the other; return name -> new serial.

    Whoever comes first presents and trusts only the new CA, while whoever comes last still knows only the old one.
    """
    serials: dict[str, str] = {}
    for name, store in directories.items():
        made = authority.leaf(identities[name])
        seen = store.read()
        stamp = Stamp(subject=SubjectName(name), rotation_id="naive", leaf_published_at=now, bundle_published_at=now)
        store.put(made, expected=seen.number if seen is not None else 0, stamp=stamp)
        serials[name] = made.leaf.serial
    return serials


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )
