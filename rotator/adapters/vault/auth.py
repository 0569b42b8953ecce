"""
How rotator proves to Vault who it is.

Rules that must stay true here:

- A secret is read from its file at every login, so that it can be replaced under a running daemon.
- A secret stands in no argument list, no environment and no error; errors name the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

from rotator.errors import Denied

KUBERNETES_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
"""Where a pod finds its own token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFile:
    """A token that somebody else keeps fresh (an agent, say)."""

    token_file: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class AppRole:
    """A role id and a secret id, each in a file."""

    role_id_file: Path
    secret_id_file: Path
    mount: str = "approle"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kubernetes:
    """The pod's own service account token, which Vault has the cluster review."""

    role: str
    token_file: Path = KUBERNETES_TOKEN
    mount: str = "kubernetes"


@dataclass(frozen=True, slots=True, kw_only=True)
class JWT:
    """A signed token of an identity provider that Vault knows."""

    role: str
    token_file: Path
    mount: str = "jwt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """
    A TLS client certificate; the connection itself is the proof, for renewals too.

    It needs a common name: the server calls the identity by it, and fails on a bare SVID.
    """

    role: str
    cert_file: Path
    key_file: Path
    mount: str = "cert"


Auth = TokenFile | AppRole | Kubernetes | JWT | Certificate


def client_certificate(auth: Auth) -> tuple[Path, Path] | None:
    """Return the files of the client certificate that *auth* wants on the connection, None if it wants none."""
    return (auth.cert_file, auth.key_file) if isinstance(auth, Certificate) else None


def login_request(auth: Auth) -> tuple[str, dict[str, str]] | None:
    """
    Return path and body of *auth*'s login, secrets read now; None for a token, which needs no login.

    Raises:
        Denied: If a secret's file cannot be read or is empty.
    """
    match auth:
        case TokenFile():
            return None
        case AppRole():
            role_id, secret_id = secret(auth.role_id_file), secret(auth.secret_id_file)
            return f"auth/{auth.mount}/login", {"role_id": role_id, "secret_id": secret_id}
        case Kubernetes() | JWT():
            return f"auth/{auth.mount}/login", {"role": auth.role, "jwt": secret(auth.token_file)}
        case Certificate():
            return f"auth/{auth.mount}/login", {"name": auth.role}
        case other:
            assert_never(other)


def secret(path: Path) -> str:
    """Return the one word in *path*. Raises `Denied` if it cannot be read or is empty."""
    try:
        word = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as e:
        raise Denied(f"cannot read {path}, which should hold a secret for Vault") from e
    if not word:
        raise Denied(f"{path} is empty, it should hold a secret for Vault")
    return word
