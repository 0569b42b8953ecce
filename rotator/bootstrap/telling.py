"""
Who is told of alerts, as settings name them.

Rules that must stay true here:

- Nothing is called over the network while wiring; files that hold an address are read, so that a mistake is said at
  the start and not at the first alert.
- One teller, one thread and one receiver for each entry of ``alerts.notify``.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from rotator.adapters.notify.alertmanager import AlertmanagerReceiver
from rotator.adapters.notify.apprising import AppriseReceiver
from rotator.adapters.notify.events import About, EventReceiver
from rotator.adapters.notify.http import Access
from rotator.adapters.notify.webhook import WebhookReceiver
from rotator.adapters.notify.wording import Links
from rotator.cluster.objects import ObjectAPI
from rotator.core.model import Severity, SubjectName
from rotator.engine.telling import Teller, Terms
from rotator.errors import ConfigError
from rotator.ports import Clock, Receiver
from rotator.settings import Settings
from rotator.settings.notifying import Alertmanager, NotifyReceiver

_MOST = {"alertmanager": 500, "webhook": 100, "kubernetes_events": 20, "apprise": 1_000}
"""Notices in one message: a body of some hundred kilobytes; twenty calls; what a person reads is cut anyway."""


def build_tellers(
    settings: Settings, clock: Clock, cluster: Callable[[], ObjectAPI], *, may_tell: Callable[[], bool]
) -> tuple[Teller, ...]:
    """
    Return a teller, not started, for everyone that *settings* want told; *cluster* is asked for where Events are.

    Raises:
        ConfigError: If a receiver cannot be told as it is named.
    """
    links = Links(
        environment=settings.environment,
        runbooks=settings.alerts.links.runbooks or "",
        status=settings.alerts.links.status or "",
    )
    return tuple(
        Teller(
            each.name, _receiver(each, settings, clock, links, cluster), _terms(each), clock=clock, may_tell=may_tell
        )
        for each in settings.alerts.notify
    )


def _terms(wanted: NotifyReceiver) -> Terms:
    return Terms(
        minimum=Severity(wanted.minimum_severity),
        subjects=None if wanted.subjects == "all" else frozenset(wanted.subjects),
        repeat_every=wanted.repeats,
        tell_state_at_start=wanted.kind == "alertmanager",
        messages=wanted.rate.messages,
        within=wanted.rate.within,
        most=_MOST[wanted.kind],
    )


def _receiver(
    wanted: NotifyReceiver, settings: Settings, clock: Clock, links: Links, cluster: Callable[[], ObjectAPI]
) -> Receiver:
    name = wanted.name
    if wanted.alertmanager is not None:
        access = _access(wanted.alertmanager)
        return AlertmanagerReceiver(
            name, wanted.alertmanager.urls, access=access, links=links, repeat_every=wanted.repeats
        )
    if wanted.webhook is not None:
        url = wanted.webhook.url or wanted.webhook.url_file
        if url is None:
            raise ConfigError(f"alerts.notify {name}: webhook names no address")
        return WebhookReceiver(
            name,
            url,
            clock=clock,
            access=Access(
                timeout=wanted.webhook.timeout,
                ca_file=wanted.webhook.ca_file,
                bearer_token_file=wanted.webhook.bearer_token_file,
            ),
            links=links,
            secret_file=wanted.webhook.secret_file,
        )
    if wanted.kubernetes_events is not None:
        return EventReceiver(
            cluster(),
            instance=socket.gethostname(),
            repeat_every=wanted.repeats,
            about=about(settings, secrets=wanted.kubernetes_events.about_secrets),
        )
    if wanted.apprise is not None:
        return AppriseReceiver(name, wanted.apprise.urls_file, links=links)
    raise ConfigError(f"alerts.notify {name} names no kind of receiver")


def _access(wanted: Alertmanager) -> Access:
    return Access(
        timeout=wanted.timeout,
        ca_file=wanted.ca_file,
        client_certificate_file=wanted.client_certificate_file,
        client_key_file=wanted.client_key_file,
        bearer_token_file=wanted.bearer_token_file,
        username=wanted.username,
        password_file=wanted.password_file,
    )


def about(settings: Settings, *, secrets: bool) -> Callable[[SubjectName], About]:
    """Return what an Event of a subject is about: its first Secret if *secrets* says so, else rotator's own Lease."""
    namespace = settings.cluster.namespace if settings.cluster is not None else "rotator"
    lease = settings.cluster.lease if settings.cluster is not None else None
    name = lease.name if lease is not None else "rotator"
    own = About(version="coordination.k8s.io/v1", kind="Lease", namespace=namespace, name=name)
    places = {
        name: About(version="v1", kind="Secret", namespace=secret.namespace, name=secret.name)
        for name, certificate in settings.certificates.items()
        for secret in [each.kubernetes_secret for each in certificate.publish][:1]
        if secret is not None and secrets
    }
    return lambda subject: places.get(subject, own)


def event_namespaces(settings: Settings) -> frozenset[str]:
    """Return the namespaces in which rotator writes Events; see `rotator.adapters.notify.events.event_rights`."""
    wanted = [each.kubernetes_events for each in settings.alerts.notify if each.kubernetes_events is not None]
    if not wanted:
        return frozenset()
    subject_of = about(settings, secrets=any(each.about_secrets for each in wanted))
    subjects = ("rotator", *settings.certificates)
    return frozenset(subject_of(SubjectName(each)).namespace for each in subjects)
