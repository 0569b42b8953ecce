"""
What would never work for tokens and the keys that sign them.

Rules that must stay true here:

- A token that anybody of the mesh could use is refused: it would prove nothing.
- What a control plane cannot be asked for is refused by name, never ignored.
- A rotation of a signing key ends before the next one opens.
"""

from __future__ import annotations

import os.path
from typing import Final

from rotator.core.window import written
from rotator.settings.document import Document, Place
from rotator.settings.meshes import Mesh
from rotator.settings.model import Settings
from rotator.settings.policies import signing_key_policy, token_policy
from rotator.settings.renewal_checks import check_renewal
from rotator.settings.tokens import TokenSettings

KINDS: Final = ("dataplane", "zone", "user")


def check_tokens(settings: Settings, document: Document) -> None:
    """Note in *document* everything about tokens and their signing keys that cannot work."""
    for name, token in settings.tokens.items():
        place: Place = ("tokens", name)
        _own_name(settings, document, place, name, {"certificates", "trust_domains"})
        _mesh(settings, document, place, token.trust_domain)
        _grant(document, place, token)
        check_renewal(settings, document, (*place, "renew_at"), token.lifetime, token_policy(settings, name))
    _places(settings, document)
    _signing_keys(settings, document)


def _own_name(settings: Settings, document: Document, place: Place, name: str, others: set[str]) -> None:
    for key in sorted(others):
        if name in getattr(settings, key):
            document.refuse(place, f"found {name}, also under {key}; allowed names of their own; do rename one of them")


def _mesh(settings: Settings, document: Document, place: Place, name: str) -> Mesh | None:
    """Return the mesh of the trust domain *name*, refusing it if there is none."""
    domain = settings.trust_domains.get(name)
    if domain is None or domain.mesh is None:
        meshes = sorted(each for each, found in settings.trust_domains.items() if found.mesh is not None)
        document.refuse(
            (*place, "trust_domain"),
            f"found {name}; allowed a trust domain with a mesh ({', '.join(meshes) or 'none yet'}), whose control "
            "plane issues tokens; do mend the name, or add the mesh",
        )
        return None
    return domain.mesh


def _grant(document: Document, place: Place, token: TokenSettings) -> None:
    given = [kind for kind in KINDS if getattr(token, kind) is not None]
    if len(given) != 1:
        found = " and ".join(given) or "none of dataplane, zone and user"
        document.refuse(place, f"found {found}; allowed exactly one of {', '.join(KINDS)}; do choose one")
    proxy = token.dataplane
    if proxy is not None and not (proxy.name or proxy.tags or proxy.workload):
        document.refuse(
            (*place, "dataplane"),
            "found a token that every proxy of the mesh could use; allowed with at least one of name, tags, workload; "
            "do say whose it is",
        )
    for tag, values in proxy.tags.items() if proxy is not None else ():
        if not values:
            document.refuse(
                (*place, "dataplane", "tags", tag), "found no value; allowed at least one; do name it, or leave it out"
            )


def _places(settings: Settings, document: Document) -> None:
    """Refuse places that two would write, and objects of a cluster that nobody named."""
    taken: dict[tuple[str, ...], str] = {("", os.path.normpath(settings.ledger.path)): "the ledger"}
    for name, certificate in settings.certificates.items():
        for target in certificate.publish:
            if target.directory is not None:
                taken["", os.path.normpath(target.directory.path)] = f"certificate {name}"
            if target.kubernetes_secret is not None:
                secret = target.kubernetes_secret
                for each in (secret.name, f"{secret.name}-previous"):
                    taken[secret.namespace, each] = f"certificate {name}"
    for name, token in settings.tokens.items():
        for at, chosen in enumerate(token.publish):
            place: Place = ("tokens", name, "publish", at, chosen.chosen)
            if chosen.directory is not None:
                key: tuple[str, ...] = ("", os.path.normpath(chosen.directory.path))
                what = key[1]
            elif chosen.kubernetes_secret is not None:
                key = (chosen.kubernetes_secret.namespace, chosen.kubernetes_secret.name)
                what = "/".join(key)
                if settings.cluster is None:
                    document.refuse(
                        place,
                        "found an object of a cluster, and no cluster; allowed with cluster; "
                        "do add cluster, which may be empty ({}) in a pod",
                    )
            else:
                continue
            if key in taken:
                document.refuse(
                    place,
                    f"found {what}, which {taken[key]} uses; allowed a place for each token; do choose another",
                )
            taken.setdefault(key, f"token {name}")


def _signing_keys(settings: Settings, document: Document) -> None:
    rings: dict[tuple[str, str, str], str] = {}
    for name, keys in settings.signing_keys.items():
        place: Place = ("signing_keys", name)
        _own_name(settings, document, place, name, {"certificates", "trust_domains", "tokens"})
        mesh = _mesh(settings, document, place, keys.trust_domain)
        if mesh is None:
            continue
        if mesh.control_plane.kubernetes is None and keys.first_serial != 1:
            document.refuse(
                (*place, "first_serial"),
                f"found {keys.first_serial}; allowed where the control plane is on Kubernetes, because over HTTP every "
                "serial is seen; do leave it out",
            )
        ring = (mesh.control_plane.address, keys.signs, mesh.name if keys.signs == "dataplane" else "")
        if ring in rings:
            document.refuse(
                place, f"found the keys that {rings[ring]} rotates; allowed each once; do remove one of the entries"
            )
        rings.setdefault(ring, name)
        policy = signing_key_policy(settings, name)
        lives = [
            token.lifetime
            for token in settings.tokens.values()
            if token.trust_domain == keys.trust_domain and getattr(token, keys.signs) is not None
        ]
        longest = max([policy.others_live, *lives])
        needed = policy.known_after + longest + policy.skew
        # The tenth that the name's hash may take off.
        if policy.rotate_every * 0.9 <= needed:
            document.refuse(
                (*place, "rotate_every"),
                f"found {written(policy.rotate_every)}; allowed more than {written(needed / 0.9)}, because a rotation "
                f"may take known_after {written(policy.known_after)} + the longest token {written(longest)} + skew "
                f"{written(policy.skew)} and the next one opens up to a tenth early; do lengthen it",
            )
