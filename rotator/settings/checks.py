"""
What one key cannot show: references, arithmetic, and what would never work together.

Rules that must stay true here:

- A configuration that cannot keep law 4 is refused with the arithmetic shown.
- A certificate that nothing could prove to be in use, or a bundle that nothing could acknowledge, is refused: every
  rotation of it would wait for ever (laws 1 and 16).
- What is not built yet is refused by name, never ignored.
- Every check runs; each writes its findings and none depends on another's.
"""

from __future__ import annotations

import math
import os.path
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import Final

from rotator.core.model import AtDeadline
from rotator.core.window import written
from rotator.platform.documents import PLATFORM
from rotator.redaction import names_secret
from rotator.settings.airflow_checks import check_airflow
from rotator.settings.document import Document, Place
from rotator.settings.mesh_checks import check_meshes
from rotator.settings.model import Settings
from rotator.settings.notify_checks import check_notify, check_watch
from rotator.settings.platform_checks import check_platform
from rotator.settings.policies import authority_policy, leaf_policy
from rotator.settings.renewal_checks import check_renewal
from rotator.settings.service_checks import check_service
from rotator.settings.telemetry import check_telemetry
from rotator.settings.token_checks import check_tokens
from rotator.settings.trust import CertificateSettings
from rotator.settings.values import spiffe_trust_domain
from rotator.settings.workloads import ProcessSettings, Workload

_JITTER: Final = 0.1
_RETRY_MARGIN: Final = 1.2
"""As client-go has it: a wait may be so much longer than it was meant to be."""
_CELERY_NODE: Final = "@"


def check(settings: Settings, document: Document) -> None:
    """Note in *document* everything about *settings* that cannot work."""
    for each in _CHECKS:
        each(settings, document)


def _lease(settings: Settings, document: Document) -> None:
    """Refuse a Lease whose holder could still believe in it while its successor begins."""
    lease = settings.cluster.lease if settings.cluster is not None else None
    if lease is None:
        return
    place: Place = ("cluster", "lease")
    if settings.store.startswith("sqlite:"):
        document.refuse(
            place,
            "found a Lease beside a SQLite file, which no other replica can reach; allowed with PostgreSQL; "
            "do remove it (the file's own lock is enough), or move the store to PostgreSQL",
        )
    if lease.duration <= lease.renew_deadline:
        document.refuse(
            (*place, "renew_deadline"),
            f"found {written(lease.renew_deadline)}; allowed less than duration {written(lease.duration)}; do shorten "
            "it: a leader must have stopped before its successor begins",
        )
    if lease.renew_deadline <= lease.retry * _RETRY_MARGIN:
        document.refuse(
            (*place, "retry"),
            f"found {written(lease.retry)}; allowed less than renew_deadline {written(lease.renew_deadline)} divided "
            f"by {_RETRY_MARGIN}; do shorten it: one lost renewal must not end a leader",
        )
    if lease.duration % timedelta(seconds=1):
        document.refuse(
            (*place, "duration"),
            f"found {written(lease.duration)}; allowed whole seconds, because a Lease knows no "
            "smaller ones; do round it",
        )
    if settings.stand_by is not None:
        document.refuse(
            ("stand_by",),
            "found it beside cluster.lease; allowed one of them; do remove it: cluster.lease.retry says how often",
        )


def _authorities(settings: Settings, document: Document) -> None:
    mounts: dict[tuple[str, str | None, str], str] = {}
    for name, domain in settings.trust_domains.items():
        place: Place = ("trust_domains", name)
        for complaint in authority_policy(settings, name).complaints():
            document.refuse(
                (*place, "ca"),
                f"found that {complaint}; allowed what keeps law 4 (a leaf never outlives its CA); "
                "do lengthen the CA's lifetime, or shorten longest_leaf, trust_deadline or timing",
            )
        _deadline(settings, document, name)
        issuer = settings.issuers.get(domain.issuer)
        if issuer is None:
            document.refuse((*place, "issuer"), _unknown(domain.issuer, settings.issuers, "issuers"))
            continue
        if issuer.vault is None or domain.ca.mount is None:
            continue
        if domain.ca.mount == issuer.vault.mount:
            document.refuse(
                (*place, "ca", "mount"),
                f"found {domain.ca.mount}, the mount of issuer {domain.issuer}; allowed a mount of its own; "
                "do make one for this trust domain, so that its policy can fix path length and lifetime",
            )
        key = (issuer.vault.address, issuer.vault.namespace, domain.ca.mount)
        if key in mounts:
            document.refuse(
                (*place, "ca", "mount"),
                f"found {domain.ca.mount}, which trust domain {mounts[key]} uses; allowed one mount for each trust "
                "domain; do make another mount",
            )
        mounts.setdefault(key, name)


def _deadline(settings: Settings, document: Document, name: str) -> None:
    deadline = settings.trust_domains[name].trust_deadline
    place = ("trust_domains", name, "trust_deadline", "at_most")
    if deadline.then is AtDeadline.PROCEED and deadline.at_most == 0:
        document.refuse(place, "found 0 with then: proceed; allowed a number from 1 on; do say how many may be left "
                               "behind, or write then: hold")  # fmt: skip
    if deadline.then is AtDeadline.HOLD and deadline.at_most:
        document.refuse(place, f"found {deadline.at_most} with then: hold; allowed 0; do write then: proceed, or "
                               "remove it")  # fmt: skip


def _certificates(settings: Settings, document: Document) -> None:
    for name, certificate in settings.certificates.items():
        place: Place = ("certificates", name)
        _references(settings, document, name, certificate)
        domain = settings.trust_domains.get(certificate.trust_domain)
        if name in settings.trust_domains:
            document.refuse(
                place, f"found {name}, also a trust domain's name; allowed names of their own; do rename one of them"
            )
        if spiffe_trust_domain(certificate.identity) != certificate.trust_domain:
            document.refuse(
                (*place, "identity"),
                f"found {certificate.identity}; allowed an identity in spiffe://{certificate.trust_domain}/; "
                "do mend it or the trust_domain",
            )
        if domain is None:
            continue
        if domain.mesh is not None:
            document.refuse(
                (*place, "trust_domain"),
                f"found {certificate.trust_domain}, whose leaves the control plane of mesh {domain.mesh.name} signs; "
                "allowed a standalone trust domain; do choose one, and name the mesh's under also_trust",
            )
        _task_pods(settings, document, name, certificate)
        if certificate.lifetime > domain.longest_leaf:
            document.refuse(
                (*place, "lifetime"),
                f"found {written(certificate.lifetime)}; allowed at most longest_leaf {written(domain.longest_leaf)} "
                f"of {certificate.trust_domain}; do shorten it, or lengthen longest_leaf and the CA (law 4)",
            )
        permitted = domain.ca.name_constraints.permitted_dns
        for at, dns_name in enumerate(certificate.dns_names):
            if permitted and not any(_is_below(dns_name, each) for each in permitted):
                document.refuse(
                    (*place, "dns_names", at),
                    f"found {dns_name}; allowed what is in or below {', '.join(permitted)}; "
                    "do mend it or the CA's name_constraints",
                )
        check_renewal(settings, document, (*place, "renew_at"), certificate.lifetime, leaf_policy(settings, name))


def _task_pods(settings: Settings, document: Document, name: str, certificate: CertificateSettings) -> None:
    """Refuse a trust deadline at which every rotation would be held by task pods that it has to wait for."""
    needed = certificate.lifetime + settings.timing.skew
    for each in (certificate.trust_domain, *certificate.also_trust):
        domain = settings.trust_domains.get(each)
        if certificate.task_pods and domain is not None and domain.trust_deadline.after < needed:
            document.refuse(
                ("certificates", name, "task_pods"),
                f"found it with a lifetime of {written(certificate.lifetime)}, while {each} has a trust_deadline of "
                f"{written(domain.trust_deadline.after)}; allowed a deadline of at least lifetime and skew, "
                f"{written(needed)}; do lengthen it: a new CA has to wait until the task pods' certificates have ended",
            )


def _references(settings: Settings, document: Document, name: str, certificate: CertificateSettings) -> None:
    place: Place = ("certificates", name)
    if certificate.trust_domain not in settings.trust_domains:
        says = _unknown(certificate.trust_domain, settings.trust_domains, "trust_domains")
        document.refuse((*place, "trust_domain"), says)
    for at, other in enumerate(certificate.also_trust):
        where = (*place, "also_trust", at)
        if other == certificate.trust_domain or other in certificate.also_trust[:at]:
            document.refuse(where, f"found {other} again; allowed further trust domains, each once; do remove it")
        elif other not in settings.trust_domains:
            document.refuse(where, _unknown(other, settings.trust_domains, "trust_domains"))
    for at, workload in enumerate(certificate.rolls):
        where = (*place, "rolls", at)
        if workload in certificate.rolls[:at]:
            document.refuse(where, f"found {workload} again; allowed each workload once; do remove it")
        elif workload not in settings.workloads:
            document.refuse(where, _unknown(workload, settings.workloads, "workloads"))


def _breaker(settings: Settings, document: Document) -> None:
    """Refuse a breaker that ordinary renewals would trip; named after the certificate that is renewed most often."""
    limit = settings.limits.issuances_per_subject
    renewed = {name: (each.lifetime, each.renew_at) for name, each in settings.certificates.items()}
    renewed |= {name: (each.lifetime, each.renew_at) for name, each in settings.tokens.items()}
    every = {
        name: max(lifetime * (renew_at - _JITTER), timedelta(seconds=1))
        for name, (lifetime, renew_at) in renewed.items()
    }
    if not every:
        return
    name = min(every, key=lambda each: every[each])
    # Twice: the certificate's own renewals, and those that a CA rotation asks for between them.
    ordinary = math.ceil(2 * (limit.within / every[name]))
    if limit.count < ordinary:
        document.refuse(
            ("limits", "issuances_per_subject", "count"),
            f"found {limit.count} within {written(limit.within)}; allowed at least {ordinary}, because "
            f"{name} is renewed every {written(every[name])} or later and reissued when what signs it changes; "
            "do raise it, or the breaker would stop ordinary renewals",
        )


def _proofs(settings: Settings, document: Document) -> None:
    for name, certificate in settings.certificates.items():
        place: Place = ("certificates", name)
        if not certificate.probes and not certificate.rolls:
            document.refuse(
                place,
                "found neither probes nor rolls; allowed at least one; do name a probe, because nothing could prove "
                "that a new certificate is in use (law 16)",
            )
            continue
        shows_bundle = any(
            probe.tls is None or probe.tls.presents is not None for probe in certificate.probes
        )  # fmt: skip
        if not shows_bundle and not certificate.rolls:
            document.refuse(
                (*place, "probes"),
                "found nothing that sees which CAs the consumer trusts; allowed envoy_admin, report, read_back, or tls "
                "with presents; do add one, because every CA rotation would wait for its acknowledgement (law 1)",
            )
        trusted = {certificate.trust_domain, *certificate.also_trust}
        for at, probe in enumerate(certificate.probes):
            presents = probe.tls.presents if probe.tls is not None else None
            if presents is not None and spiffe_trust_domain(presents) not in trusted:
                document.refuse(
                    (*place, "probes", at, "tls", "presents"),
                    f"found {presents}; allowed an identity in a trust domain that the consumer trusts "
                    f"({', '.join(sorted(trusted))}); do name one that it admits",
                )


def _places(settings: Settings, document: Document) -> None:
    """Refuse whatever would be written by two."""
    taken: dict[str, str] = {os.path.normpath(settings.ledger.path): "the ledger"}
    for name, certificate in settings.certificates.items():
        for at, target in enumerate(certificate.publish):
            if target.directory is None:
                continue
            path = os.path.normpath(target.directory.path)
            if path in taken:
                document.refuse(
                    ("certificates", name, "publish", at, "directory"),
                    f"found {path}, which {taken[path]} uses; allowed a directory for each certificate; "
                    "do choose another directory",
                )
            taken.setdefault(path, f"certificate {name}")
    ledger = settings.ledger
    if ledger.signing_key_file.is_relative_to(ledger.path):
        document.refuse(
            ("ledger", "signing_key_file"),
            "found a file inside the log's directory; allowed one outside; do move it, because the log is given away",
        )


def _cluster_places(settings: Settings, document: Document) -> None:
    """Refuse objects of a cluster that nobody named, that two would write, and a bundle without its certificate."""
    taken: dict[tuple[str, str, str], str] = {}
    for name, certificate in settings.certificates.items():
        for at, target in enumerate(certificate.publish):
            chosen = target.kubernetes_secret or target.kubernetes_configmap
            if chosen is None:
                continue
            place: Place = ("certificates", name, "publish", at, target.chosen)
            if settings.cluster is None:
                document.refuse(
                    place,
                    "found an object of a cluster, and no cluster; allowed with cluster; "
                    "do add cluster, which may be empty ({}) in a pod",
                )
            is_secret = target.kubernetes_secret is not None
            # Beside each Secret rotator keeps the publication before.
            names = (chosen.name, f"{chosen.name}-previous") if is_secret else (chosen.name,)
            for each in names:
                key = (target.chosen, chosen.namespace, each)
                if key in taken:
                    document.refuse(
                        (*place, "name"),
                        f"found {chosen.namespace}/{chosen.name}, while {taken[key]} has {each}; allowed an object for "
                        "each certificate; do choose another name",
                    )
                    break
                taken[key] = f"certificate {name}"
        if all(target.kubernetes_configmap is not None for target in certificate.publish):
            document.refuse(
                ("certificates", name, "publish"),
                "found nothing but bundles; allowed at least one directory or kubernetes_secret, where the leaf goes; "
                "do add it",
            )


def _workloads(settings: Settings, document: Document) -> None:
    rolled = {workload for certificate in settings.certificates.values() for workload in certificate.rolls}
    owners: dict[str, dict[str, str]] = defaultdict(dict)
    for name, workload in settings.workloads.items():
        place: Place = ("workloads", name)
        if name not in rolled:
            document.refuse(
                place,
                "found a workload that no certificate rolls; allowed those in use; do name it in rolls, or remove it",
            )
        given = [key for key in ("processes", "statefulset", "deployment") if getattr(workload, key) is not None]
        if len(given) != 1:
            document.refuse(
                place,
                f"found {' and '.join(given) or 'no members'}; allowed exactly one of processes, statefulset, "
                "deployment; do choose one",
            )
        for key in given:
            if key != "processes":
                _in_cluster(settings, document, name, key, owners[key])
        _number(document, place, workload)
        for at, process in enumerate(workload.processes or ()):
            _process(document, (*place, "processes", at), workload, process)
            for key in ("unit", "pid_file", "node"):
                value = getattr(process, key)
                if value is None:
                    continue
                if str(value) in owners[key]:
                    document.refuse(
                        (*place, "processes", at, key),
                        f"found {value}, which {owners[key][str(value)]} has; allowed each once; do mend one of them",
                    )
                owners[key].setdefault(str(value), f"{name}/{process.name}")
        names = [process.name for process in workload.processes or ()]
        for at, process_name in enumerate(names):
            if process_name in names[:at]:
                document.refuse(
                    (*place, "processes", at, "name"),
                    f"found {process_name} again; allowed each name once; do rename one of them",
                )


def _number(document: Document, place: Place, workload: Workload) -> None:
    """Refuse a surge where nobody can give or end it, and a roll that could never begin."""
    if workload.max_unavailable == 0 and workload.surge == 0:
        document.refuse(
            (*place, "max_unavailable"),
            "found 0 without surge; allowed 1 or more, or 0 with a surge of 1 or more; do raise one of them: "
            "no member could ever be replaced",
        )
    if workload.processes is not None:
        _spares(document, place, workload, workload.processes)
    if workload.surge and workload.drain is not None and workload.drain.local is not None:
        document.refuse(
            (*place, "surge"),
            "found it beside drain.local; allowed without; do remove it: all DAGs are paused while a scheduler is "
            "replaced, so another one would have nothing to do",
        )
    elif workload.surge and workload.deployment is not None and workload.drain is not None:
        document.refuse(
            (*place, "surge"),
            "found it on a Deployment that is drained; allowed on a StatefulSet, or without drain; do let the workers "
            "be a StatefulSet (the official chart's are with workers.persistence.enabled), run two or more of them, or "
            "write single_consumer: allow: which pod of a Deployment ends when the number goes back is its "
            "controller's choice, and it may be one with work",
        )


def _spares(document: Document, place: Place, workload: Workload, processes: Iterable[ProcessSettings]) -> None:
    """Refuse more surge than there are processes for it, and a workload of nothing else."""
    spares = sum(process.spare for process in processes)
    if workload.surge > spares:
        document.refuse(
            (*place, "surge"),
            f"found {workload.surge} and {spares} processes with spare: true; allowed at most as many as those; do "
            "mark a process that runs only for the time of a roll, or lower it",
        )
    if all(process.spare for process in processes):
        document.refuse(
            (*place, "processes"),
            "found none without spare: true; allowed at least one; do take it off those that run all the time",
        )


def _in_cluster(settings: Settings, document: Document, name: str, key: str, owners: dict[str, str]) -> None:
    """Refuse a workload of a cluster that nobody named, that two would roll, or that cannot be drained."""
    workload = settings.workloads[name]
    place: Place = ("workloads", name)
    if settings.cluster is None:
        document.refuse(
            (*place, key),
            f"found a {key}, and no cluster; allowed with cluster; do add cluster, which may be empty ({{}}) in a pod",
        )
    found = workload.in_cluster
    if found is None:
        return
    loaded = [subject for subject, each in settings.certificates.items() if name in each.rolls]
    if found.serves is not None and len(loaded) > 1:
        document.refuse(
            (*place, key, "serves"),
            f"found it on a workload that {' and '.join(loaded)} roll; allowed where one certificate does, because a "
            "port serves one; do prove the others by probes of their own",
        )
    whole = f"{found.namespace}/{found.name}"
    if whole in owners:
        document.refuse(
            (*place, key),
            f"found {whole}, which workload {owners[whole]} is; allowed each once; do let certificates share one",
        )
    owners.setdefault(whole, name)


def _process(document: Document, place: Place, workload: Workload, process: ProcessSettings) -> None:
    if (process.unit is None) == (process.command is None):
        given = "both unit and command" if process.unit is not None else "neither unit nor command"
        document.refuse(place, f"found {given}; allowed exactly one of them; do choose one")
    if process.unit is not None and process.command is None:
        for key in ("pid_file", "log_file", "directory", "environment"):
            if getattr(process, key):
                document.refuse(
                    (*place, key), "found it beside unit; allowed beside command; do write it into the unit itself"
                )
    if process.command is not None:
        if not process.command:
            document.refuse((*place, "command"), "found an empty list; allowed program and arguments; do write them")
        elif not process.command[0].startswith("/"):
            document.refuse(
                (*place, "command", 0), f"found {process.command[0]}; allowed an absolute path; do write where it is"
            )
        for key in ("pid_file", "log_file"):
            if getattr(process, key) is None:
                document.refuse(
                    (*place, key), "found nothing; allowed an absolute path; do add it: a command needs one"
                )
    for name in process.environment:
        if names_secret(name) and not name.lower().endswith("_file"):
            document.refuse(
                (*place, "environment", name),
                "found a variable that is named like a secret; allowed open text; "
                "do let the program read the secret from a file",
            )
    celery = workload.drain.celery if workload.drain is not None else None
    if celery is not None and (process.node is None or _CELERY_NODE not in process.node):
        document.refuse(
            (*place, "node"),
            f"found {process.node or 'nothing'}; allowed a Celery node name, as celery@worker-1; "
            "do write the name that the worker is started with",
        )


def _calendar(settings: Settings, document: Document) -> None:
    known = {*settings.certificates, *settings.trust_domains, *settings.tokens, *settings.signing_keys}
    dated = (*(("windows", at, each.subjects) for at, each in enumerate(settings.windows)),
             *(("freezes", at, each.subjects) for at, each in enumerate(settings.freezes)))  # fmt: skip
    for key, at, subjects in dated:
        for index, subject in enumerate(subjects if subjects != "all" else ()):
            if subject not in known:
                says = _unknown(subject, known, "certificates, trust_domains, tokens or signing_keys")
                document.refuse((key, at, "subjects", index), says)
    for at, window in enumerate(settings.windows):
        if window.for_ > timedelta(days=7):
            document.refuse(("windows", at, "for"), f"found {written(window.for_)}; allowed at most 7d; do shorten it")
        if not window.days:
            document.refuse(("windows", at, "days"), "found no day; allowed at least one; do name one")
    for at, freeze in enumerate(settings.freezes):
        if freeze.until <= freeze.from_:
            document.refuse(
                ("freezes", at, "until"), "found a moment that is not after from; allowed a later one; do mend it"
            )


def _approval(settings: Settings, document: Document) -> None:
    known = {*settings.certificates, *settings.trust_domains, *settings.tokens, *settings.signing_keys}
    known |= {PLATFORM} if settings.platform is not None else set()
    names: set[str] = set()
    for at, rule in enumerate(settings.approval.rules):
        place: Place = ("approval", "rules", at)
        if rule.name in names:
            document.refuse((*place, "name"), f"found {rule.name} again; allowed each name once; do rename one of them")
        names.add(rule.name)
        for index, pattern in enumerate(rule.subjects if rule.subjects != "all" else ()):
            if not any(fnmatchcase(name, pattern) for name in known):
                says = _unknown(pattern, known, "certificates, trust_domains, tokens or signing_keys")
                document.refuse((*place, "subjects", index), says)
        for key in ("subjects", "kinds", "operations"):
            if not getattr(rule, key):
                document.refuse((*place, key), "found nothing; allowed at least one; do name it, or leave the key out")


def _thresholds(settings: Settings, document: Document) -> None:
    alerts = settings.alerts
    if alerts.expiry_ratio_warning >= alerts.expiry_ratio_critical:
        document.refuse(
            ("alerts", "expiry_ratio_warning"),
            f"found {alerts.expiry_ratio_warning:g}; allowed less than expiry_ratio_critical "
            f"{alerts.expiry_ratio_critical:g}; do lower it",
        )


def _unknown(name: str, known: Mapping[str, object] | Iterable[str], where: str) -> str:
    names = ", ".join(sorted(known)) or "none yet"
    return f"found {name}; allowed what stands under {where} ({names}); do mend the name or add it there"


def _is_below(name: str, permitted: str) -> bool:
    # RFC 5280 section 4.2.1.10: a name is in a DNS constraint if labels added on its left make it.
    bare = name.removeprefix("*.")
    return bare == permitted or bare.endswith(f".{permitted}")


def _telemetry(settings: Settings, document: Document) -> None:
    check_telemetry(settings.telemetry, document)


_CHECKS: Final[tuple[Callable[[Settings, Document], None], ...]] = (
    _lease,
    _authorities,
    check_meshes,
    _certificates,
    _breaker,
    _proofs,
    _places,
    _cluster_places,
    _workloads,
    check_airflow,
    _calendar,
    _approval,
    _thresholds,
    check_notify,
    check_watch,
    check_service,
    check_platform,
    _telemetry,
    check_tokens,
)
