"""
Why a mesh may not be touched now: one function for each reason.

Rules that must stay true here:

- Pure. A guard returns one sentence that names what it found and how to mend it, or None; it never raises.
- What would end in plaintext, in a lost identity or in a leaf that outlives its CA refuses; so does what somebody
  else is about to change back. What is merely unwise is no guard.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Final

from cryptography import x509

from rotator.adapters.kuma.about import FIRST_WITHOUT_MTLS
from rotator.adapters.kuma.control_plane import About, Document, Mode
from rotator.adapters.kuma.generations import Kept
from rotator.adapters.kuma.mesh import (
    BUILTIN,
    PROVIDED,
    Bundled,
    Mtls,
    Readiness,
    go_duration,
    mtls_duration,
    selected_by,
)
from rotator.core.model import Authority, TrustDomainName
from rotator.core.window import written
from rotator.errors import InvariantBroken
from rotator.pki.certificates import extension, sha256_of, subject_key_id, uri_names

LEGACY_DEFAULT: Final = timedelta(hours=24)
"""Of ``Mesh.mtls`` and of MeshIdentity on 2.x, where nothing is said."""
IDENTITY_DEFAULT_3: Final = timedelta(days=5)
"""Of MeshIdentity on 3.x, where nothing is said."""

_IDENTITY_SINCE = (2, 13, 0)


# --- the control plane ----------------------------------------------------------------------------------------------


def mtls_is_inert(about: About) -> str | None:
    """Refuse `Mesh.mtls` where it issues nothing and the mesh would run plaintext."""
    if about.version < FIRST_WITHOUT_MTLS:
        return None
    return (
        f"control plane {about.version_text} ignores Mesh.mtls and its proxies would speak plaintext: "
        "configure model identity"
    )


def identity_is_too_young(about: About) -> str | None:
    """Refuse MeshIdentity where two of them may be given each other's CA."""
    if about.version >= _IDENTITY_SINCE:
        return None
    return (
        f"control plane {about.version_text} keeps one CA in its cache for all MeshIdentities and may sign with the "
        "wrong one: update it to 2.13 or later, or configure model provided"
    )


def services_are_not_exclusive(about: About, *, exclusive: bool) -> str | None:
    """Refuse MeshIdentity on 2.x where it never becomes ready."""
    if exclusive or about.version >= FIRST_WITHOUT_MTLS:
        return None
    return (
        f"control plane {about.version_text} makes no MeshIdentity ready unless the Mesh says so: set "
        "meshServices.mode to Exclusive"
    )


def global_shows_no_readiness(about: About) -> str | None:
    """Refuse MeshIdentity at a Global control plane: it has no status there, so nobody would know when to select it."""
    if about.mode is not Mode.GLOBAL:
        return None
    return (
        "a Global control plane does not know whether a MeshIdentity is ready in its zones, and one that is selected "
        "too early takes their identity from the proxies: point rotator at each zone's control plane"
    )


def zone_cannot_write(about: About) -> str | None:
    """Refuse to change a Mesh where the Global control plane would change it back."""
    if not about.federated:
        return None
    return "this zone gets its Mesh from a Global control plane: point rotator at the Global control plane"


def somebody_else_manages(document: Document | None) -> str | None:
    """Refuse what another field manager would change back."""
    if document is None or not document.managers:
        return None
    managers = ", ".join(sorted(document.managers))
    return (
        f"{document.kind} {document.name} is managed by {managers}, which would change back what rotator writes: "
        "let it ignore that part (Argo CD: ignoreDifferences; Flux: an SSA ignore rule; Helm: take it out of the "
        "chart), then remove its field ownership"
    )


# --- Mesh.mtls ------------------------------------------------------------------------------------------------------


def validation_is_off(mtls: Mtls) -> str | None:
    """Refuse a mesh whose control plane would take a torn pair without a word."""
    if not mtls.skip_validation:
        return None
    return "Mesh.mtls says skipValidation, so that the control plane would not notice a wrong pair: remove it"


def more_than_one_backend(mtls: Mtls) -> str | None:
    """Refuse a mesh in which another backend may be switched to."""
    if mtls.count <= 1:
        return None
    return f"Mesh.mtls has {mtls.count} backends: leave only {mtls.enabled.name}, the enabled one"


def backend_of_another_type(mtls: Mtls) -> str | None:
    """Refuse a backend whose CA is not in Kuma's secrets."""
    if mtls.enabled.type in {PROVIDED, BUILTIN}:
        return None
    return (
        f"backend {mtls.enabled.name} is of type {mtls.enabled.type}, whose CA rotator cannot take over: "
        "change it to provided or builtin first"
    )


def mtls_leaf_lives_too_long(mtls: Mtls, longest_leaf: timedelta) -> str | None:
    """Refuse proxies' certificates that may outlive what law 4 reckons with."""
    text = mtls.enabled.expiration
    lives = mtls_duration(text) if text else LEGACY_DEFAULT
    where = f"dpCert.rotation.expiration of backend {mtls.enabled.name}"
    return _too_long(where, text, lives, longest_leaf)


# --- MeshIdentity ---------------------------------------------------------------------------------------------------


def identity_leaf_lives_too_long(
    identity: Document, bundled: Bundled, about: About, longest_leaf: timedelta
) -> str | None:
    """Refuse proxies' certificates that may outlive what law 4 reckons with."""
    default = IDENTITY_DEFAULT_3 if about.version >= FIRST_WITHOUT_MTLS else LEGACY_DEFAULT
    lives = go_duration(bundled.expiry) if bundled.expiry else default
    where = f"certificateParameters.expiry of MeshIdentity {identity.name}"
    return _too_long(where, bundled.expiry, lives, longest_leaf)


def identity_is_not_ready(identity: Document, readiness: Readiness) -> str | None:
    """Refuse to go on while an identity that selects proxies is not known to sign."""
    if readiness.ready:
        return None
    why = readiness.why_not or "the control plane has not looked at it yet"
    return (
        f"MeshIdentity {identity.name} is not ready ({why}), and proxies that it selects lose their identity: "
        "mend that first"
    )


def another_identity_wins(others: Iterable[Document]) -> str | None:
    """Refuse a mesh in which somebody's MeshIdentity takes some of the proxies whatever rotator does."""
    narrow = sorted(each.name for each in others if selected_by(each.spec))
    if not narrow:
        return None
    return (
        f"MeshIdentity {', '.join(narrow)} selects some proxies by label and wins there over one that selects all: "
        "remove it, or let it select nobody"
    )


def unknown_identity_signs(identity: Document) -> str | None:
    """Refuse a mesh in which an identity that rotator did not make has taken over in the middle."""
    return (
        f"MeshIdentity {identity.name}, which is not rotator's, now signs (is there a second rotator?): "
        "let it select nobody"
    )


# --- certificates ---------------------------------------------------------------------------------------------------


def ca_without_key_id(certificate: x509.Certificate, where: str) -> str | None:
    """Refuse a CA whose leaves do not say who signed them."""
    if subject_key_id(certificate):
        return None
    return (
        f"the CA in {where} carries no subject key identifier, so nobody can tell its leaves from another's and two "
        "such CAs cannot be trusted side by side: replace it in a maintenance window"
    )


def cas_share_a_name(authorities: Iterable[Authority]) -> str | None:
    """Refuse two live CAs of one subject name."""
    counted = Counter(each.subject for each in authorities)
    twice = sorted(subject for subject, count in counted.items() if count > 1)
    if not twice:
        return None
    return f"two CAs are both called {', '.join(twice)}: remove the one that nothing uses"


def strangers_in_bundle(certificates: Sequence[x509.Certificate], known: Iterable[str], where: str) -> str | None:
    """Refuse a bundle that holds what rotator did not put there; *known* are SHA-256."""
    accepted = frozenset(known)
    names = sorted(each.subject.rfc4514_string() for each in certificates if sha256_of(each) not in accepted)
    if not names:
        return None
    return (
        f"{where} holds CAs that are not rotator's ({'; '.join(names)}): somebody else is editing it; take them out, "
        "or wait until their rotation is over"
    )


def unknown_ca_signs(certificate: x509.Certificate, where: str) -> str | None:
    """Refuse a mesh in which a CA that rotator did not make has taken over in the middle."""
    return (
        f"{where} lets {certificate.subject.rfc4514_string()} sign, which is not rotator's (is there a second "
        "rotator?): put back the secrets that were there, or remove rotator's and adopt the mesh anew"
    )


def secret_of_somebody_else(name: str, where: str) -> str | None:
    """Refuse a reference to a secret that rotator did not make for what it says."""
    return f"{where} refers to secret {name}, which rotator did not make: put back the secret that was there"


def check_root(root: x509.Certificate, trust_domain: TrustDomainName, accepted: str | None) -> None:
    """
    Return if *root* may stand in the bundle of *trust_domain*: it is the mesh's own, or people accepted it in words.

    Raises:
        InvariantBroken: If it is somebody else's too: any sub-CA of it could speak for the mesh (law 6).
    """
    if accepted or _is_own(root, trust_domain):
        return
    raise InvariantBroken(
        6,
        f"the root {root.subject.rfc4514_string()} is not the mesh's own (it carries neither the name nor a constraint "
        f"spiffe://{trust_domain}): any CA below it could speak for the mesh; let the CAs be signed below a root of "
        "the mesh, or accept it in words with accept_shared_root",
    )


def _is_own(root: x509.Certificate, trust_domain: TrustDomainName) -> bool:
    if uri_names(root) == (f"spiffe://{trust_domain}",):
        return True
    constraints = extension(root, x509.NameConstraints)
    permitted = [] if constraints is None else list(constraints.value.permitted_subtrees or ())
    uris = [each.value for each in permitted if isinstance(each, x509.UniformResourceIdentifier)]
    return uris == [str(trust_domain)]


def shared_roots(anchors: Iterable[x509.Certificate], trust_domain: TrustDomainName) -> tuple[str, ...]:
    """Return the names of the self-signed certificates among *anchors* that are not the mesh's own."""
    roots = (each for each in anchors if each.subject == each.issuer)
    return tuple(each.subject.rfc4514_string() for each in roots if not _is_own(each, trust_domain))


def live(kept: Iterable[Kept]) -> tuple[Authority, ...]:
    """Return the authorities of *kept*."""
    return tuple(each.authority for each in kept)


def _too_long(where: str, text: str, lives: timedelta | None, longest_leaf: timedelta) -> str | None:
    if lives is None:
        return f"{where} is {text!r}, which cannot be read: write it as {int(longest_leaf.total_seconds())}s"
    if lives <= longest_leaf:
        return None
    said = written(lives) if text else f"not set, which means {written(lives)}"
    return (
        f"{where} is {said}, longer than longest_leaf {written(longest_leaf)}, so a leaf could outlive its CA: set it "
        f"to {int(longest_leaf.total_seconds())}s or less, or configure a longer longest_leaf"
    )
