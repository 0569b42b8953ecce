"""
How the file names a corporate PKI and logs in there.

Rules that must stay true here:

- Attributes are named as the file's keys; the sentence below each is the key's description in the JSON Schema.
- A secret is named by its file and never stands here.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from rotator.settings.keys import Keys, OneOf
from rotator.settings.values import HTTPURL, AbsolutePath, Mount, OpenText, PositiveDuration, SecretFile

_SECOND = timedelta(seconds=1)


class AppRoleLogin(Keys):
    """Vault's AppRole login."""

    mount: Mount = "approle"
    """Where the login is mounted."""
    role_id_file: AbsolutePath
    """File that holds the role id."""
    secret_id_file: SecretFile
    """File that holds the secret id; read again at each login."""


class TokenLogin(Keys):
    """A token that somebody else keeps in a file."""

    token_file: SecretFile
    """File that holds the token; read again when it changes."""


class JWTLogin(Keys):
    """Vault's JWT login."""

    mount: Mount = "jwt"
    """Where the login is mounted."""
    role: OpenText
    """The role at Vault."""
    token_file: SecretFile
    """File that holds the JSON web token; read again at each login."""


class KubernetesLogin(Keys):
    """Vault's Kubernetes login."""

    mount: Mount = "kubernetes"
    """Where the login is mounted."""
    role: OpenText
    """The role at Vault."""
    token_file: SecretFile = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
    """File that holds the service account's token; read again at each login."""


class CertificateLogin(Keys):
    """Vault's TLS certificate login."""

    mount: Mount = "cert"
    """Where the login is mounted."""
    role: OpenText | None = None
    """The role at Vault; any that matches if not given."""
    cert_file: AbsolutePath
    """Client certificate with its chain, PEM."""
    key_file: SecretFile
    """Its private key, PEM."""


class Login(OneOf):
    """How rotator logs in; exactly one."""

    approle: AppRoleLogin | None = None
    """With a role id and a secret id."""
    token: TokenLogin | None = None
    """With a token that something else renews in a file."""
    kubernetes: KubernetesLogin | None = None
    """With the pod's service account."""
    jwt: JWTLogin | None = None
    """With a JSON web token of the platform."""
    cert: CertificateLogin | None = None
    """With a TLS client certificate."""


class VaultIssuer(Keys):
    """The corporate PKI behind Vault or OpenBao."""

    address: HTTPURL
    """https address of the API."""
    ca_file: AbsolutePath | None = None
    """CA certificates that sign the server's own certificate; the system's if not given."""
    namespace: OpenText | None = None
    """Namespace, where the server has them."""
    timeout: PositiveDuration = 10 * _SECOND
    """Of one request."""
    auth: Login
    """How to log in."""
    mount: Mount
    """The PKI mount that signs the mesh CAs."""
    issuer: OpenText
    """Name or id of the issuer in that mount; never "default"."""


class IssuerSettings(OneOf):
    """Where certificates come from; exactly one."""

    vault: VaultIssuer | None = None
    """HashiCorp Vault or OpenBao."""
