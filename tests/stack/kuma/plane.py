"""
A control plane with its proxies as scenarios see it, whichever one it is.

Rules that must stay true here:

- One vocabulary for the stand-in, for its virtual data plane and for a released Kuma: a scenario never asks which.
- What somebody else does to the mesh goes through the control plane's own HTTP API, with an administrator's token.
- Who signed a proxy's leaf is read off a handshake with that proxy, never off what a control plane says of it.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from cryptography import x509

from rotator.core.model import IssuerId
from rotator.embedded.process import LOOPBACK

Json = dict[str, Any]

HANDSHAKE_SECONDS = 5.0


class Model(StrEnum):
    """How the mesh gets its identities."""

    PROVIDED = "provided"
    IDENTITY = "identity"


class Beginning(StrEnum):
    """What a mesh runs on before rotator comes."""

    PLAIN = "plain"
    """No mutual TLS."""
    BUILTIN = "builtin"
    """Kuma's own CA."""
    BY_HAND = "by_hand"
    """A CA that somebody made, in secrets (provided) or in a MeshIdentity of theirs."""


class ControlPlaneUnderTest(Protocol):
    """One control plane with one mesh. A context manager: it starts everything and leaves nothing behind."""

    @property
    def product(self) -> str:
        """Return what it is, with its version, as reports name it: ``stand-in for Kuma 2.14.3``."""
        ...

    @property
    def url(self) -> str:
        """Return its HTTP API."""
        ...

    @property
    def token_file(self) -> Path | None:
        """Return the file with an administrator's token; None if loopback is enough."""
        ...

    @property
    def mesh(self) -> str:
        """Return the mesh's name."""
        ...

    def api(self, method: str, path: str, body: Json | None = None) -> Json:
        """Call the HTTP API as somebody else with every right; a refusal is an `AssertionError` with the answer."""
        ...

    def restart(self) -> None:
        """Kill the control plane and start it anew; proxies go on. Returns once its API answers."""
        ...


class ProxiesUnderTest(Protocol):
    """The proxies of the mesh, each in front of a small HTTP service of the same name."""

    def start_proxy(self, name: str) -> None:
        """Start *name*, new or stopped before; return once it takes requests."""
        ...

    def stop_proxy(self, name: str) -> None:
        """Stop *name*; it goes offline at the control plane."""
        ...

    @property
    def freezes(self) -> bool:
        """Return whether a proxy can be made to acknowledge nothing."""
        ...

    def freeze_proxy(self, name: str) -> None:
        """Let *name* acknowledge nothing from now on; it goes on serving with what it has."""
        ...

    def thaw_proxy(self, name: str) -> None:
        """Let *name* take what it is given again."""
        ...

    def outbounds(self) -> Mapping[str, int]:
        """Return ``client>server`` to the client's port for it, for every pair of running proxies."""
        ...

    def inbounds(self) -> Mapping[str, int]:
        """Return name to the port that takes mutual TLS, for every running proxy."""
        ...


def served_authority(port: int) -> IssuerId | None:
    """Return the authority key id of the leaf that is served at *port*; None if no TLS is spoken there."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    # Looking, not trusting: whoever is there is to be named, not believed.
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((LOOPBACK, port), timeout=HANDSHAKE_SECONDS) as plain,
            context.wrap_socket(plain) as secured,
        ):
            leaf = secured.getpeercert(binary_form=True)
    except ssl.SSLError:
        return None
    if leaf is None:
        return None
    extension = x509.load_der_x509_certificate(leaf).extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    identifier = extension.value.key_identifier
    return None if identifier is None else IssuerId(identifier.hex())


class MeshUnderTest(ControlPlaneUnderTest, ProxiesUnderTest, Protocol):
    """Both, as every implementation is both."""
