"""
What would never work together in a trust domain that is a mesh's, and in one that is none.

Rules that must stay true here:

- Each key stands where it means something and nowhere else: what is ignored is believed to be done.
- A token never travels readably: where the API is asked over plain HTTP, no token may be named.
- One mesh is led through one trust domain (law 5).
"""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from rotator.core.model import KeyType
from rotator.settings.document import Document, Place
from rotator.settings.meshes import Mesh
from rotator.settings.model import Settings
from rotator.settings.trust import TrustDomain

# Envoy's TLS library takes leaves of no Ed25519 CA by default, and Kuma calls P-384 not fully fine.
_KEYS: Final = (KeyType.ECDSA_P256, KeyType.RSA_2048, KeyType.RSA_3072)
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


def check_meshes(settings: Settings, document: Document) -> None:
    """Note in *document* what cannot work in the trust domains with a mesh, and what belongs to one in the others."""
    led: dict[tuple[str, str | None, str], str] = {}
    for name, domain in settings.trust_domains.items():
        place: Place = ("trust_domains", name)
        if domain.mesh is None:
            _standalone(document, place, domain)
            continue
        _mesh(document, place, domain, domain.mesh)
        plane = domain.mesh.control_plane
        reached_by = plane.kubernetes
        context = None if reached_by is None else f"{reached_by.kubeconfig_file} {reached_by.context}"
        key = (plane.address, context, domain.mesh.name)
        if key in led:
            document.refuse(
                (*place, "mesh"),
                f"found mesh {domain.mesh.name}, which trust domain {led[key]} leads; allowed one trust domain for "
                "each mesh; do remove one of them",
            )
        led.setdefault(key, name)


def _standalone(document: Document, place: Place, domain: TrustDomain) -> None:
    if domain.model in {"provided", "identity"}:
        document.refuse(
            (*place, "model"),
            f"found {domain.model} without a mesh; allowed auto, standalone; do name the mesh, or write standalone",
        )
        return
    for key, of in (("mount", "PKI mount of its own at the issuer"), ("role", "role of that mount")):
        if getattr(domain.ca, key) is None:
            document.refuse((*place, "ca", key), f"found nothing; allowed the {of}; do add it: leaves are signed there")


def _mesh(document: Document, place: Place, domain: TrustDomain, mesh: Mesh) -> None:
    if domain.model == "standalone":
        document.refuse(
            (*place, "model"),
            "found standalone with a mesh; allowed auto, provided, identity; do choose one, or remove the mesh",
        )
    for key in ("mount", "role"):
        if getattr(domain.ca, key) is not None:
            document.refuse(
                (*place, "ca", key),
                f"found {getattr(domain.ca, key)} with a mesh; allowed nothing; do remove it: the control plane signs "
                "the leaves, and the CA's key is made by rotator",
            )
    if domain.ca.key not in _KEYS:
        document.refuse(
            (*place, "ca", "key"),
            f"found {domain.ca.key}; allowed {', '.join(_KEYS)} for a mesh; do choose one that every proxy verifies",
        )
    if mesh.identity_path is not None and domain.model == "provided":
        document.refuse(
            (*place, "mesh", "identity_path"),
            "found a path with model provided; allowed nothing; do remove it: there Kuma names identities itself",
        )
    if mesh.accept_shared_root is not None and domain.model == "provided":
        document.refuse(
            (*place, "mesh", "accept_shared_root"),
            "found a reason with model provided; allowed nothing; do remove it: there no root stands in the bundle",
        )
    _control_plane(document, (*place, "mesh", "control_plane"), mesh)


def _control_plane(document: Document, place: Place, mesh: Mesh) -> None:
    plane = mesh.control_plane
    if plane.url is None and plane.kubernetes is None:
        document.refuse(place, "found neither url nor kubernetes; allowed one of them, or both; do say where it is")
        return
    if (plane.client_certificate_file is None) != (plane.client_key_file is None):
        missing = "client_key_file" if plane.client_key_file is None else "client_certificate_file"
        document.refuse((*place, missing), "found nothing; allowed the other half of the pair; do name both or neither")
    url = urlsplit(plane.address)
    if url.scheme == "https":
        return
    for key in ("client_certificate_file", "ca_file"):
        if getattr(plane, key) is not None:
            document.refuse(
                (*place, key),
                f"found a file for TLS with {plane.address}; allowed with https; do use https, or remove it",
            )
    if plane.token_file is not None and url.hostname not in _LOOPBACK:
        document.refuse(
            (*place, "token_file"),
            f"found a token with {plane.address}, where it would travel readably; allowed with https; "
            "do name the API's https address, or the ca_file of the control plane's service",
        )
