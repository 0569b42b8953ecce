"""
Tokens and their signing keys: can lists and keys be read, do consumers read a new token, is every place writable.

Rules that must stay true here:

- Nothing is issued: whether rotator may issue shows at the first token.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from rotator.adapters.kuma.api import ControlPlaneAPI
from rotator.bootstrap.meshes import cluster_access, endpoint_of
from rotator.bootstrap.rights import token_secrets_of
from rotator.bootstrap.sessions import Sessions
from rotator.bootstrap.tokens import mesh_of, signing_key_targets, token_targets
from rotator.core.tokens import described
from rotator.doctor.cluster import granting, rights_findings
from rotator.doctor.findings import Finding, attempted, fine, warning
from rotator.doctor.machine import writable
from rotator.engine.targets import SigningKeyTarget, TokenTarget
from rotator.ports import Clock
from rotator.settings import Settings
from rotator.settings.meshes import Mesh


def token_findings(settings: Settings, sessions: Sessions, clock: Clock) -> Iterator[Finding]:
    """Yield what is found of every token and every set of signing keys."""
    if not settings.tokens and not settings.signing_keys:
        return
    for name, wanted in settings.tokens.items():
        about = f"token {name}"
        for place in wanted.publish:
            # Before the rest: an owner that is not there would keep the stores from being made.
            if place.directory is not None:
                yield from writable(about, place.directory.path)
    tokens = token_targets(settings, clock, partial(sessions.cluster, settings))
    for target in tokens.values():
        about = f"token {target.name}"
        yield from attempted(about, partial(_token, about, target), otherwise="see docs/tokens.md")
    for name in sorted({wanted.trust_domain for wanted in settings.tokens.values() if wanted.dataplane is not None}):
        about = f"trust_domain {name}"
        yield from attempted(about, partial(_reloaded, about, settings, name), otherwise="see docs/tokens.md")
    for name, domain in settings.trust_domains.items():
        if domain.mesh is not None and domain.mesh.control_plane.kubernetes is not None:
            about, mesh = f"trust_domain {name}", domain.mesh
            rights = partial(_rights, about, settings, name, mesh)
            yield from attempted(about, rights, otherwise="mend mesh.control_plane.kubernetes")
    for keys in signing_key_targets(settings, clock).values():
        about = f"signing_keys {keys.name}"
        yield from attempted(about, partial(_keys, about, keys), otherwise="see docs/tokens.md")


def _rights(about: str, settings: Settings, name: str, mesh: Mesh) -> Iterator[Finding]:
    """Yield what rotator's account lacks for lists of revoked tokens and signing keys in the cluster."""
    access, rights = cluster_access(mesh), token_secrets_of(settings, name, mesh)
    if access is not None and any(rights.namespaces.values()):
        yield from rights_findings(about, access, rights, mend=granting(settings, name, access))


def _token(about: str, target: TokenTarget) -> Iterator[Finding]:
    if target.token.revoke:
        listed = target.issuer.revoked(target.token.grant)
        yield fine(about, f"its revocation list can be read and names {len(listed)}")
    else:
        yield fine(about, f"a token for {described(target.token.grant)}; what it replaces is left to end by itself")
    for store in target.stores:
        held = store.read()
        if held is not None and held.problem is not None:
            yield warning(
                about,
                f"{store.target}: {held.problem}",
                "find out who writes there; rotator puts it right at its next look",
            )


def _reloaded(about: str, settings: Settings, trust_domain: str) -> Iterator[Finding]:
    """Yield whether proxies of *trust_domain* read their token file again."""
    api = ControlPlaneAPI(endpoint_of(mesh_of(settings, trust_domain)))
    said = api.get("/config", doing="reading the control plane's configuration") or {}
    authn = (said.get("dpServer") or {}).get("authn") or {}
    reloads = authn.get("enableReloadableTokens")
    if reloads is False:
        yield warning(
            about,
            "its proxies read their token once, at their start: a renewed one does not reach them",
            "set KUMA_DP_SERVER_AUTHN_ENABLE_RELOADABLE_TOKENS=true at the control plane",
        )
    elif reloads:
        yield fine(about, "its proxies read their token again at each new connection")


def _keys(about: str, target: SigningKeyTarget) -> Iterator[Finding]:
    keys = target.keys.held()
    if not keys:
        yield warning(
            about, f"{target.keys.place}-* is not there", "see that the control plane has started and its mesh is there"
        )
        return
    yield fine(about, f"{len(keys)} keys of {target.keys.place}, the newest is {keys[-1].serial}")
    for known in target.keys.known_tokens():
        if known.key < keys[-1].serial:
            yield warning(
                about,
                f"{known.name} is signed by key {known.key}, which stays as long as it needs it",
                "issue it anew: the newest key signs",
            )
