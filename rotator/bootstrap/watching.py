"""
What settings ask rotator to keep an eye on without managing it.

Rules that must stay true here:

- Nothing is called over the network while wiring.
- The chains of the configured issuers are watched always: with their end every rotation ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta

from rotator.adapters.kubernetes.watched import WatchedSecret, WatchedSecrets, labelled_rights, named_rights
from rotator.adapters.probes.watched import WatchedEndpoint, WatchedFile
from rotator.adapters.vault.watched import WatchedIssuer
from rotator.bootstrap.sessions import Sessions
from rotator.cluster.objects import ObjectAPI
from rotator.cluster.rights import Rights
from rotator.engine.watcher import Watched
from rotator.errors import ConfigError
from rotator.ports import Watch
from rotator.settings import Settings
from rotator.settings.watching import WatchSettings


def build_watched(settings: Settings, sessions: Sessions, cluster: Callable[[], ObjectAPI]) -> tuple[Watched, ...]:
    """Return every entry, the configured issuers first; *cluster* is asked for where one of them is in it."""
    return (*_issuers(settings, sessions), *_entries(settings, sessions, cluster))


def _issuers(settings: Settings, sessions: Sessions) -> Iterator[Watched]:
    for name, issuer in settings.issuers.items():
        if issuer.vault is None:
            continue
        lifetimes = (each.ca.lifetime for each in settings.trust_domains.values() if each.issuer == name)
        session = sessions.of(name, issuer.vault)
        yield Watched(
            name=name,
            watch=WatchedIssuer(session, issuer.vault.mount, issuer.vault.issuer, is_corporate=True),
            signs_for=max(lifetimes, default=timedelta()),
        )


def _entries(settings: Settings, sessions: Sessions, cluster: Callable[[], ObjectAPI]) -> Iterator[Watched]:
    for name, wanted in settings.watch.items():
        yield Watched(
            name=name,
            watch=_watch(name, wanted, settings, sessions, cluster),
            every=wanted.every,
            unreachable_after=wanted.unreachable_after,
            used_ratio_warning=wanted.expiry_ratio_warning,
            used_ratio_critical=wanted.expiry_ratio_critical,
        )


def _watch(
    name: str, wanted: WatchSettings, settings: Settings, sessions: Sessions, cluster: Callable[[], ObjectAPI]
) -> Watch:
    if wanted.kubernetes_secret is not None:
        return WatchedSecret(cluster(), wanted.kubernetes_secret.namespace, wanted.kubernetes_secret.name)
    if wanted.kubernetes_secrets is not None:
        return WatchedSecrets(cluster(), wanted.kubernetes_secrets.namespaces, wanted.kubernetes_secrets.selector)
    if wanted.tls is not None:
        return WatchedEndpoint(wanted.tls.address, server_name=wanted.tls.server_name, timeout=wanted.tls.timeout)
    if wanted.file is not None:
        return WatchedFile(wanted.file.path)
    if wanted.vault_issuer is not None:
        vault = settings.issuers[wanted.vault_issuer.issuer].vault
        if vault is not None:
            session = sessions.of(wanted.vault_issuer.issuer, vault)
            return WatchedIssuer(session, wanted.vault_issuer.mount, wanted.vault_issuer.name)
    raise ConfigError(f"watch.{name} names no kind of place")


def watch_rights(settings: Settings) -> Iterator[Rights]:
    """Yield what looking at others' Secrets takes in the cluster."""
    for wanted in settings.watch.values():
        if wanted.kubernetes_secret is not None:
            yield named_rights(wanted.kubernetes_secret.namespace, wanted.kubernetes_secret.name)
        if wanted.kubernetes_secrets is not None:
            yield labelled_rights(wanted.kubernetes_secrets.namespaces)
