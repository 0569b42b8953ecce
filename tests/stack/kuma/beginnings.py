"""
Meshes as people have them before rotator comes, and what they do to a CA without it.

Rules that must stay true here:

- Only what Kuma's HTTP API offers anybody, with certificates as a careful person would make them.
- Nothing of rotator's deciding is used: what goes wrong here is Kuma's and the method's own.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.stack.kuma.plane import Beginning, ControlPlaneUnderTest, Json, Model

_CERTIFICATE = "hand-made-cert"
_KEY = "hand-made-key"
_LIFE = timedelta(days=1)
_BACKDATE = timedelta(minutes=1)


def begin(plane: ControlPlaneUnderTest, model: Model, beginning: Beginning, *, leaf: str, now: datetime) -> None:
    """Make the mesh of *plane* as *beginning* says, with leaves that live *leaf* (``60s``)."""
    match beginning, model:
        case Beginning.PLAIN, _:
            put_mesh(plane, model)
        case Beginning.BUILTIN, Model.PROVIDED:
            put_mesh(plane, model, backend("builtin", leaf))
        case Beginning.BY_HAND, Model.PROVIDED:
            # Secrets live in a mesh, which must be there first.
            put_mesh(plane, model)
            put_authority(plane, now)
            put_mesh(
                plane, model, backend("provided", leaf, {"cert": {"secret": _CERTIFICATE}, "key": {"secret": _KEY}})
            )
        case Beginning.BY_HAND, Model.IDENTITY:
            put_mesh(plane, model)
            put_authority(plane, now)
            put_identity(plane, leaf)
        case _:
            raise AssertionError(f"no mesh of model {model.value} begins {beginning.value}")


def put_mesh(plane: ControlPlaneUnderTest, model: Model, mtls: Json | None = None) -> None:
    """Make the mesh, with *mtls* if given; with Exclusive mesh services where identities on 2.x need them."""
    body: Json = {"type": "Mesh", "name": plane.mesh}
    if model is Model.IDENTITY:
        body["meshServices"] = {"mode": "Exclusive"}
    plane.api("PUT", f"/meshes/{plane.mesh}", body if mtls is None else {**body, "mtls": mtls})
    permit_everybody(plane, model)


def permit_everybody(plane: ControlPlaneUnderTest, model: Model) -> None:
    """Let everybody call everybody: without a permission Kuma refuses every call once there are certificates."""
    everybody: Json = {"default": {"allow": [{"spiffeID": {"type": "Prefix", "value": f"spiffe://{plane.mesh}/"}}]}}
    anybody: Json = {"targetRef": {"kind": "Mesh"}, "default": {"action": "Allow"}}
    rules: Json = {"from": [anybody]} if model is Model.PROVIDED else {"rules": [everybody]}
    body: Json = {"type": "MeshTrafficPermission", "mesh": plane.mesh, "name": "everybody"}
    spec: Json = {"targetRef": {"kind": "Mesh"}, **rules}
    plane.api("PUT", f"/meshes/{plane.mesh}/meshtrafficpermissions/everybody", {**body, "spec": spec})


def backend(kind: str, leaf: str, conf: Json | None = None) -> Json:
    """Return ``mtls`` with one backend that signs leaves for *leaf*."""
    one: Json = {"name": "ca-1", "type": kind, "dpCert": {"rotation": {"expiration": leaf}}}
    return {"enabledBackend": "ca-1", "backends": [one if conf is None else {**one, "conf": conf}]}


def put_identity(plane: ControlPlaneUnderTest, leaf: str) -> None:
    """Make a MeshIdentity for every proxy, with the hand-made CA and Kuma's own MeshTrust for it."""
    certificate = {"type": "Secret", "secretRef": {"kind": "Secret", "name": _CERTIFICATE}}
    key = {"type": "Secret", "secretRef": {"kind": "Secret", "name": _KEY}}
    bundled: Json = {
        "meshTrustCreation": "Enabled",
        "insecureAllowSelfSigned": True,
        "ca": {"certificate": certificate, "privateKey": key},
        "certificateParameters": {"expiry": leaf},
    }
    spec: Json = {
        "selector": {"dataplane": {"matchLabels": {}}},
        "spiffeID": {"trustDomain": plane.mesh},
        "provider": {"type": "Bundled", "bundled": bundled},
    }
    path = f"/meshes/{plane.mesh}/meshidentities/theirs"
    plane.api("PUT", path, {"type": "MeshIdentity", "name": "theirs", "mesh": plane.mesh, "spec": spec})


def put_authority(plane: ControlPlaneUnderTest, now: datetime, between: Callable[[], None] = lambda: None) -> None:
    """
    Write a new self-signed CA into the two secrets, whatever they hold: key first, then *between*, then certificate.

    Done again under a mesh that uses them, this is the naive rotation: the whole of what Kuma's documentation says is
    that people look after a provided CA themselves.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"hand-made {now.isoformat()}")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(now + _LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_CA_USAGE, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{plane.mesh}")]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    put_secret(
        plane,
        _KEY,
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )
    between()
    put_secret(plane, _CERTIFICATE, certificate.public_bytes(serialization.Encoding.PEM))


def put_secret(plane: ControlPlaneUnderTest, name: str, value: bytes) -> None:
    """Write a secret of the mesh, whatever it held."""
    body: Json = {"type": "Secret", "mesh": plane.mesh, "name": name, "data": base64.b64encode(value).decode()}
    plane.api("PUT", f"/meshes/{plane.mesh}/secrets/{name}", body)


_CA_USAGE = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)
