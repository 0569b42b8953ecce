"""
How the file names the cluster that rotator works in.

Rules that must stay true here:

- Attributes are named as the file's keys; the sentence below each is the key's description in the JSON Schema.
- Meshes name their own cluster (`rotator.settings.meshes`): a control plane may run in another one.
"""

from __future__ import annotations

from datetime import timedelta

from rotator.settings.keys import Keys
from rotator.settings.values import KubernetesName, OpenText, PositiveDuration, SecretFile


class RequestObjects(Keys):
    """The objects in which people ask for something (RotationRequest, RotationApproval)."""

    look_every: PositiveDuration = timedelta(seconds=2)
    """How often rotator looks for new ones and says how far it is."""
    taken_within: PositiveDuration = timedelta(hours=24)
    """One that is older when rotator first sees it is not carried out."""
    kept: PositiveDuration = timedelta(days=30)
    """How long one that has ended is kept; names and reasons go with it."""


class LeaseSettings(Keys):
    """The Lease by which one of several replicas leads while the others stand by; needs a store in PostgreSQL."""

    name: KubernetesName = "rotator"
    """Of the Lease, in rotator's own namespace."""
    duration: PositiveDuration = timedelta(seconds=15)
    """How long a standby waits for a leader that does not renew, before it takes over."""
    renew_deadline: PositiveDuration = timedelta(seconds=10)
    """How long a leader that cannot renew goes on; shorter than the duration."""
    retry: PositiveDuration = timedelta(seconds=2)
    """Between two renewals, and between two looks of a standby."""


class Cluster(Keys):
    """The Kubernetes cluster whose Secrets, ConfigMaps and workloads rotator looks after."""

    namespace: KubernetesName = "rotator"
    """Rotator's own namespace: its Lease, and the requests that people make."""
    kubeconfig_file: SecretFile | None = None
    """How to reach the cluster from outside; rotator's own pod's account if not given."""
    context: OpenText | None = None
    """Which context of the kubeconfig; its current one if not given."""
    timeout: PositiveDuration = timedelta(seconds=10)
    """Of one request to the API server."""
    requests: RequestObjects = RequestObjects()
    """What becomes of people's requests."""
    lease: LeaseSettings | None = None
    """How several replicas agree on one that leads; not given where there is one."""
