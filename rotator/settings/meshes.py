"""
How the file names a Kuma mesh and the ways to its control plane.

Rules that must stay true here:

- Attributes are named as the file's keys; the sentence below each is the key's description in the JSON Schema.
- A secret is named by its file and never stands here.
"""

from __future__ import annotations

from datetime import timedelta

from rotator.settings.keys import Keys
from rotator.settings.values import (
    HTTPURL,
    AbsolutePath,
    KubernetesName,
    OpenText,
    PositiveDuration,
    SecretFile,
)


class KubernetesControlPlane(Keys):
    """A control plane whose documents and secrets are reached through the Kubernetes API."""

    namespace: KubernetesName = "kuma-system"
    """Where it runs, and where its secrets are."""
    kubeconfig_file: SecretFile | None = None
    """How to reach the cluster from outside; rotator's own pod's account if not given."""
    context: OpenText | None = None
    """Which context of the kubeconfig; its current one if not given."""


class ControlPlane(Keys):
    """How to reach the mesh's control plane."""

    url: HTTPURL | None = None
    """Its HTTP API, which shows the proxies; with kubernetes the control plane's own service if not given."""
    ca_file: AbsolutePath | None = None
    """CA certificates that sign the API's certificate; the system's if not given."""
    token_file: SecretFile | None = None
    """File that holds a user token of the API; read again when it changes."""
    client_certificate_file: AbsolutePath | None = None
    """Client certificate with its chain, PEM, where the API asks for one."""
    client_key_file: SecretFile | None = None
    """Its private key, PEM."""
    timeout: PositiveDuration = timedelta(seconds=10)
    """Of one request."""
    kubernetes: KubernetesControlPlane | None = None
    """Documents and secrets through the Kubernetes API, where the control plane runs on Kubernetes."""

    @property
    def address(self) -> str:
        """Return where the HTTP API is: as given, or the service of a control plane on Kubernetes."""
        if self.url is not None or self.kubernetes is None:
            return self.url or ""
        host = f"kuma-control-plane.{self.kubernetes.namespace}.svc"
        # Its certificate is its own CA's: without that CA in a file only the plain port can be asked.
        return f"http://{host}:5681" if self.ca_file is None else f"https://{host}:5682"


class Mesh(Keys):
    """The Kuma mesh of a trust domain."""

    name: KubernetesName = "default"
    """The mesh's name."""
    control_plane: ControlPlane
    """Where it is controlled."""
    accept_shared_root: OpenText | None = None
    """Why the mesh may trust a root that is not its own, in words; recorded as an exception (law 6)."""
    identity_path: OpenText | None = None
    """Path of the SPIFFE IDs that the control plane gives (identity model); Kuma's own template if not given."""
