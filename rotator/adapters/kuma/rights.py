"""
What rotator may do in a cluster for one mesh, as Kubernetes writes it.

Rules that must stay true here:

- Pure. No right to list Secrets, none to read or change one whose name is not rotator's own.
- RBAC cannot limit ``create`` by name, nor names that count on: an admission policy does, for rotator alone.
- The chart and the tests use these; whoever needs another right adds it here, with the test that fails without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from rotator.adapters.kuma.cluster_secrets import GLOBAL_SECRET_TYPE, serials
from rotator.adapters.kuma.documents import PLURALS, SEEN_EVERYWHERE
from rotator.adapters.kuma.naming import trust_name
from rotator.adapters.kuma.signing_keys import ADMIN_TOKEN
from rotator.adapters.kuma.slots import MESH_LABEL, SECRET_TYPE, slot_names
from rotator.adapters.kuma.tokens import revocations
from rotator.cluster.rbac import Account, bound_policy, own_requests, quoted
from rotator.cluster.rights import Confined, Rights, Rule, rule
from rotator.core.model import TokenKind
from rotator.pki.token import key_prefix
from rotator.platform.resources import PREFIX

_KUMA: Final = "kuma.io"
_VERSION: Final = "v1alpha1"


def rbac_rules(mesh: str, namespace: str, *, read_secrets: Sequence[str] = (), adopt: Sequence[str] = ()) -> Rights:
    """
    Return the rules that rotator needs for *mesh*, whose control plane lives in *namespace*.

    *read_secrets* names further secrets that it may read: those of a CA that was there before it, until its
    generation is gone. *adopt* names the MeshIdentity and the MeshTrusts of that CA, which it removes in the end.
    """
    read: tuple[Rule, ...] = (rule("secrets", "get", names=read_secrets),) if read_secrets else ()
    return Rights(
        # Meshes belong to no namespace.
        cluster=(rule("meshes", "get", "update", group=_KUMA, names=(mesh,)),),
        namespaces={
            namespace: (
                rule("secrets", "create"),
                rule("secrets", "get", "update", "delete", names=slot_names(mesh)),
                *read,
                # Their names count on with the generations: the admission policy holds them to rotator's own.
                rule("meshidentities", "get", "list", "create", "update", "delete", group=_KUMA),
                rule("meshtrusts", "get", "list", "create", group=_KUMA),
                rule("meshtrusts", "update", "delete", group=_KUMA, names=(trust_name(mesh), *adopt)),
            )
        },
        confined=(Confined(namespace=namespace, resource="secrets", names=slot_names(mesh), type=SECRET_TYPE),),
    )


def platform_rights(namespace: str) -> Rights:
    """
    Return the rules that rotator needs for the platform's documents on the control plane that lives in *namespace*.

    Their names follow the configuration, so an admission policy holds them to how rotator's own begin; permissions of
    others are read in every namespace, because one there may open a service too.
    """
    return Rights(
        cluster=tuple(rule(PLURALS[kind], "list", group=_KUMA) for kind in sorted(SEEN_EVERYWHERE)),
        namespaces={
            namespace: tuple(
                rule(plural, "get", "list", "create", "update", "delete", group=_KUMA)
                for plural in sorted(PLURALS.values())
            )
        },
        confined=tuple(
            Confined(
                namespace=namespace,
                resource=plural,
                group=_KUMA,
                version=_VERSION,
                patterns=(f"{PREFIX}[a-z0-9.-]*",),
                operations=("CREATE", "UPDATE", "DELETE"),
            )
            for plural in sorted(PLURALS.values())
        ),
    )


def token_secret_rights(
    namespace: str,
    mesh: str,
    *,
    revoked: Iterable[TokenKind] = (),
    keys: Mapping[TokenKind, int] | None = None,
) -> Rights:
    """
    Return the rules for secrets of the control plane in *namespace* that tokens depend on.

    *revoked*: kinds of tokens (dataplane: those of *mesh*) whose lists of revoked ones rotator keeps; *keys*: kinds
    whose signing keys it rotates, with the first serial of the row that it looks after.
    """
    lists = tuple(sorted(revocations(kind, mesh) for kind in set(revoked)))
    rings = {
        kind: tuple(f"{key_prefix(kind, mesh)}-{serial}" for serial in serials(first))
        for kind, first in sorted((keys or {}).items())
    }
    rules: list[Rule] = [rule("secrets", "create")] if lists or rings else []
    if lists:
        rules.append(rule("secrets", "get", "update", "delete", names=lists))
    # A key is never written twice: there is no right to change one.
    rules += [rule("secrets", "get", "delete", names=names) for names in rings.values()]
    if TokenKind.USER in rings:
        rules.append(rule("secrets", "get", names=(ADMIN_TOKEN,)))
    of_mesh, elsewhere = rings.get(TokenKind.DATAPLANE, ()), lists
    for kind, names in rings.items():
        elsewhere += names if kind is not TokenKind.DATAPLANE else ()
    held = ((of_mesh, SECRET_TYPE), (elsewhere, GLOBAL_SECRET_TYPE))
    return Rights(
        namespaces={namespace: tuple(rules)},
        confined=tuple(
            Confined(namespace=namespace, resource="secrets", names=names, type=of_type)
            for names, of_type in held
            if names
        ),
    )


def admission_policy(
    meshes: Sequence[str],
    namespace: str,
    *,
    service_account: str,
    adopt: Sequence[str] = (),
    leaves: Sequence[str] = (),
    name: str | None = None,
) -> tuple[dict[str, Any], ...]:
    """
    Return a ValidatingAdmissionPolicy and its binding: what *service_account* writes in *namespace* is rotator's own.

    *service_account* is written ``namespace:name``; *adopt* names the MeshIdentities and MeshTrusts that were there
    before and that it may change and remove too; *leaves* names Secrets there that are no mesh's and confined
    elsewhere. Anybody else's writes are none of its business.
    """
    home, _, account = service_account.partition(":")
    conditions = [own_requests(Account(namespace=home, name=account))]
    if leaves:
        others = ", ".join(quoted(each) for each in leaves)
        no_leaf = f"request.resource.resource != 'secrets' || !(request.name in [{others}])"
        conditions.append({"name": "no-leaf", "expression": no_leaf})
    slots = ", ".join(f"'{slot}'" for mesh in meshes for slot in slot_names(mesh))
    named = "(request.operation == 'DELETE' ? oldObject : object)"
    labelled = f"has({named}.metadata.labels) && '{MESH_LABEL}' in {named}.metadata.labels"
    mesh = f"{named}.metadata.labels['{MESH_LABEL}']"
    known = ", ".join(f"'{mesh_name}'" for mesh_name in meshes)
    adopted = f" || request.name in [{', '.join(repr(each) for each in adopt)}]" if adopt else ""
    return bound_policy(
        name or f"rotator-{namespace}",
        {
            "failurePolicy": "Fail",
            "matchConstraints": {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "resourceRules": [
                    _watched("", "v1", "secrets"),
                    _watched(_KUMA, _VERSION, "meshidentities", "meshtrusts"),
                ],
            },
            "matchConditions": conditions,
            "validations": [
                {
                    "expression": f"request.resource.resource != 'secrets' || request.name in [{slots}]",
                    "message": "rotator writes no secret but its own slots",
                },
                {
                    "expression": f"request.resource.resource != 'secrets' || {named}.type == '{SECRET_TYPE}'",
                    "message": "rotator writes no secret but Kuma's",
                },
                {
                    "expression": f"{labelled} && {mesh} in [{known}] && "
                    f"(request.name == 'rotator-' + {mesh} || request.name.startsWith('rotator-' + {mesh} + '-')"
                    f"{adopted})",
                    "message": "rotator writes nothing but its own objects of its own meshes",
                },
            ],
        },
    )


def _watched(group: str, version: str, *resources: str) -> dict[str, Any]:
    return {
        "apiGroups": [group],
        "apiVersions": [version],
        "operations": ["CREATE", "UPDATE", "DELETE"],
        "resources": list(resources),
    }
