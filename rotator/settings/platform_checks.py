"""
What would never work together in the platform: names that lead nowhere, identities that cannot be told apart.

Rules that must stay true here:

- Two that have one SPIFFE ID are refused: a permission for one would be one for the other. An identity and a service
  may be one workload.
- A permission that lets nobody call anything is refused: somebody believes that it does.
- Nothing is chosen by a name that nobody has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rotator.platform.documents import PLATFORM
from rotator.platform.model import Component
from rotator.settings.document import Document, Place
from rotator.settings.model import Settings
from rotator.settings.platform import Named, PlatformSettings
from rotator.settings.platform_model import platform_of, same_identity
from rotator.settings.values import spiffe_trust_domain

_KINDS = ("identities", "services")


def check_platform(settings: Settings, document: Document) -> None:
    """Note in *document* what cannot work in the platform."""
    wanted = settings.platform
    if wanted is None:
        return
    for key in ("certificates", "trust_domains", "workloads"):
        if PLATFORM in getattr(settings, key):
            document.refuse(
                (key, PLATFORM),
                f"found the name {PLATFORM}; allowed any other where there is a platform; do choose another name: "
                "requests and records of the platform go by that one",
            )
    for name, environment in wanted.environments.items():
        place: Place = ("platform", "environments", name, "trust_domain")
        domain = settings.trust_domains.get(environment.trust_domain)
        if domain is None:
            _unknown(document, place, environment.trust_domain, settings.trust_domains, "trust_domains")
        elif domain.mesh is None:
            document.refuse(
                place,
                f"found {environment.trust_domain}, which has no mesh; allowed a trust domain with one; do name its "
                "mesh, or choose another: without a mesh nothing enforces who may call what",
            )
    for kind in _KINDS:
        for name, one in getattr(wanted, kind).items():
            _named(settings, wanted, document, ("platform", kind, name), one)
    for name, identity in wanted.identities.items():
        for key, component in (("queue", Component.WORKER), ("task_group", Component.TASK)):
            if getattr(identity, key) is not None and identity.component is not component:
                document.refuse(
                    ("platform", "identities", name, key),
                    f"found it with component {identity.component}; allowed with component {component}; do remove it, "
                    "or mend the component",
                )
        for environment_name, certificate in identity.certificates.items():
            if certificate not in settings.certificates:
                place = ("platform", "identities", name, "certificates", environment_name)
                _unknown(document, place, certificate, settings.certificates, "certificates")
    _hostnames(wanted, document)
    _permissions(wanted, document)
    _pairs(settings, document)


def _named(settings: Settings, wanted: PlatformSettings, document: Document, place: Place, one: Named) -> None:
    if one.domain is not None and one.domain not in wanted.domains:
        _unknown(document, (*place, "domain"), one.domain, wanted.domains, "platform.domains")
    _all_known(document, (*place, "environments"), one.environments, wanted.environments, "platform.environments")
    for key in ("places", "spiffe_ids", "kuma_services", "certificates"):
        for environment in getattr(one, key, ()):
            if environment not in wanted.environments:
                _unknown(
                    document, (*place, key, environment), environment, wanted.environments, "platform.environments"
                )
    for environment, spiffe_id in one.spiffe_ids.items():
        known = wanted.environments.get(environment)
        if known is not None and spiffe_trust_domain(spiffe_id) != known.trust_domain:
            document.refuse(
                (*place, "spiffe_ids", environment),
                f"found trust domain {spiffe_trust_domain(spiffe_id)}; allowed {known.trust_domain}, the "
                "environment's; do mend one of them",
            )
    for name, environment_settings in wanted.environments.items():
        domain = settings.trust_domains.get(environment_settings.trust_domain)
        custom = domain is not None and domain.mesh is not None and domain.mesh.identity_path is not None
        meant = one.environments == "all" or name in one.environments
        if custom and meant and name not in one.spiffe_ids:
            document.refuse(
                (*place, "spiffe_ids"),
                f"found nothing for {name}, whose mesh has a path of SPIFFE IDs of its own; allowed the SPIFFE ID in "
                "words; do add it, or remove identity_path of the mesh",
            )


def _hostnames(wanted: PlatformSettings, document: Document) -> None:
    owners: dict[str, str] = {}
    for name, one in wanted.services.items():
        place: Place = ("platform", "services", name, "hostname")
        if one.hostname is None:
            continue
        if one.hostname.startswith("*."):
            document.refuse(
                place, f"found {one.hostname}; allowed one name; do write the name by which callers reach it"
            )
        first = owners.setdefault(one.hostname, name)
        if first != name:
            document.refuse(
                place,
                f"found {one.hostname}, which is {first}'s; allowed a name that no other service has; do choose "
                "another, or make one service of them",
            )


def _permissions(wanted: PlatformSettings, document: Document) -> None:
    queues = {each.queue: each for each in wanted.identities.values() if each.queue is not None}
    for name, one in wanted.permissions.items():
        place: Place = ("platform", "permissions", name)
        _all_known(document, (*place, "environments"), one.environments, wanted.environments, "platform.environments")
        callers, called = (*place, "callers"), (*place, "may_call")
        _all_known(document, (*callers, "identities"), one.callers.identities, wanted.identities, "platform.identities")
        _all_known(document, (*callers, "queues"), one.callers.queues, queues, "platform.identities as a queue")
        _all_known(document, (*called, "services"), one.may_call.services, wanted.services, "platform.services")
        for each, chosen in ((callers, one.callers.domains), (called, one.may_call.domains)):
            _all_known(document, (*each, "domains"), chosen, wanted.domains, "platform.domains")


def _pairs(settings: Settings, document: Document) -> None:
    platform = platform_of(settings)
    if platform is None or document.problems:
        return
    for kind, spiffe_id, names in same_identity(platform):
        document.refuse(
            ("platform", kind, names[-1].partition("/")[2]),
            f"found SPIFFE ID {spiffe_id} for {', '.join(names)}; allowed one for each; do give them ServiceAccounts "
            "or workloads of their own: nothing in the mesh could tell them apart",
        )
    for permission in platform.permissions:
        if not any(permission.pairs()):
            document.refuse(
                ("platform", "permissions", permission.name),
                "found that it lets nobody call anything; allowed what chooses a caller and a service of one "
                "environment; do mend callers, may_call or environments, or remove it",
            )


def _all_known(
    document: Document, place: Place, names: Iterable[str] | str, known: Mapping[str, object], where: str
) -> None:
    if isinstance(names, str):
        return
    given = tuple(names)
    if not given:
        document.refuse(place, "found nothing; allowed at least one name, or all; do name it, or leave the key out")
    for index, name in enumerate(given):
        if name not in known:
            _unknown(document, (*place, index), name, known, where)


def _unknown(document: Document, place: Place, name: str, known: Mapping[str, object], where: str) -> None:
    names = ", ".join(sorted(known)) or "none yet"
    document.refuse(
        place, f"found {name}; allowed what stands under {where} ({names}); do mend the name or add it there"
    )
