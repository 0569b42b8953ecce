"""
What the engine needs of the world, as Protocols; adapters and store give it.

Rules that must stay true here:

- At most five methods a port; optional powers are separate Protocols.
- Every call that leaves the process has a timeout, and raises only the tree of `rotator.errors`:
  `Unavailable` (no answer; the effect may be there), `Conflict`, `Denied`, `Rejected`.
- Every call may be made twice (law 13).
- No port returns a private key, but for `LeafStore.material`, which gives back what rotator itself wrote there; and
  only `TokenIssuer.issue` and `TokenStore.text` return a token.
"""

from rotator.core.model import Severity
from rotator.ports.airflow import LongTasks, PauseBook, RunHistory, RunningTasks
from rotator.ports.asking import PostedObject, Request, RequestBoard, Requests, RequestState
from rotator.ports.intents import (
    Hold,
    Issuance,
    IssuanceKind,
    IssuanceState,
    Rotation,
    RotationState,
    Sighting,
    StandingAlert,
)
from rotator.ports.issuing import (
    Authorities,
    AuthorityOrder,
    AuthorityRequest,
    AuthoritySigner,
    HeldAuthorities,
    IssuedCertificate,
    IssuedLeaf,
    Issuer,
    LeafOrder,
    ParentRevocation,
    PreparedAuthority,
    SignedAuthority,
)
from rotator.ports.journal import Journal, Sightings, StandingAlerts, Transaction
from rotator.ports.lease import Claiming, Lease, LeaseClaim
from rotator.ports.ledger import CheckpointSigner, Ledger, SignedCheckpoints
from rotator.ports.mesh import Adoption, Mesh, MeshView
from rotator.ports.notifying import Message, Notice, Notifier, Receiver
from rotator.ports.platform import AppliedDocument, MeshDocuments, PlatformChange, PlatformMemory, SeenDocument
from rotator.ports.publishing import BundleProbe, LeafStore, Probe, Readable, Stamp
from rotator.ports.time import Clock
from rotator.ports.tokens import IssuedToken, KnownToken, SigningKeys, TokenIssuer, TokenStore
from rotator.ports.tracing import Attribute, Line, Reading, Span
from rotator.ports.watching import Watch
from rotator.ports.workloads import Drainer, Surging, Workloads

__all__ = [
    "Adoption",
    "AppliedDocument",
    "Attribute",
    "Authorities",
    "AuthorityOrder",
    "AuthorityRequest",
    "AuthoritySigner",
    "BundleProbe",
    "CheckpointSigner",
    "Claiming",
    "Clock",
    "Drainer",
    "HeldAuthorities",
    "Hold",
    "Issuance",
    "IssuanceKind",
    "IssuanceState",
    "IssuedCertificate",
    "IssuedLeaf",
    "IssuedToken",
    "Issuer",
    "Journal",
    "KnownToken",
    "LeafOrder",
    "LeafStore",
    "Lease",
    "LeaseClaim",
    "Ledger",
    "Line",
    "LongTasks",
    "Mesh",
    "MeshDocuments",
    "MeshView",
    "Message",
    "Notice",
    "Notifier",
    "ParentRevocation",
    "PauseBook",
    "PlatformChange",
    "PlatformMemory",
    "PostedObject",
    "PreparedAuthority",
    "Probe",
    "Readable",
    "Reading",
    "Receiver",
    "Request",
    "RequestBoard",
    "RequestState",
    "Requests",
    "Rotation",
    "RotationState",
    "RunHistory",
    "RunningTasks",
    "SeenDocument",
    "Severity",
    "Sighting",
    "Sightings",
    "SignedAuthority",
    "SignedCheckpoints",
    "SigningKeys",
    "Span",
    "Stamp",
    "StandingAlert",
    "StandingAlerts",
    "Surging",
    "TokenIssuer",
    "TokenStore",
    "Transaction",
    "Watch",
    "Workloads",
]
