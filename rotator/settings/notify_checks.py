"""
What one key cannot show about receivers of alerts and about what is watched.

Rules that must stay true here:

- Credentials never go over plain HTTP, but on this machine.
- A receiver that could never be told, and a watched name that means two things, are refused.
"""

from __future__ import annotations

from datetime import timedelta
from urllib.parse import urlsplit

from rotator.core.window import written
from rotator.platform.documents import PLATFORM
from rotator.settings.document import Document, Place
from rotator.settings.model import Settings
from rotator.settings.notifying import NotifyReceiver, credential_files
from rotator.settings.values import is_this_machine

_LONGEST_REPEAT = timedelta(hours=1)
"""Of what ends by itself at Alertmanager after four times this."""


def check_notify(settings: Settings, document: Document) -> None:
    """Note in *document* everything about the receivers of alerts that cannot work."""
    names: set[str] = set()
    known = {
        *settings.certificates,
        *settings.trust_domains,
        *settings.workloads,
        *settings.tokens,
        *settings.signing_keys,
        *settings.issuers,
        *settings.watch,
        "ledger",
        "rotator",
        *([PLATFORM] if settings.platform is not None else []),
    }
    known |= {receiver.name for receiver in settings.alerts.notify}
    for at, receiver in enumerate(settings.alerts.notify):
        place: Place = ("alerts", "notify", at)
        if receiver.name in names:
            document.refuse((*place, "name"), f"found {receiver.name} again; allowed each name once; do rename one")
        names.add(receiver.name)
        for index, subject in enumerate(receiver.subjects if receiver.subjects != "all" else ()):
            if subject not in known:
                document.refuse(
                    (*place, "subjects", index),
                    f"found {subject}; allowed what the configuration names, ledger and rotator; do mend the name",
                )
        _kind(settings, document, place, receiver)


def _kind(settings: Settings, document: Document, place: Place, receiver: NotifyReceiver) -> None:
    manager, hook = receiver.alertmanager, receiver.webhook
    if hook is not None and (hook.url is None) == (hook.url_file is None):
        document.refuse(
            (*place, "webhook"), "found both or neither; allowed exactly one of url and url_file; do name one"
        )
    if manager is not None:
        inner: Place = (*place, "alertmanager")
        if (manager.username is None) != (manager.password_file is None):
            document.refuse(inner, "found one of username and password_file; allowed both or neither; do name both")
        if (manager.client_certificate_file is None) != (manager.client_key_file is None):
            document.refuse(
                inner, "found one of client_certificate_file and client_key_file; allowed both or neither; do name both"
            )
        if manager.bearer_token_file is not None and manager.password_file is not None:
            document.refuse(
                inner, "found bearer_token_file and password_file; allowed one way to say who we are; do remove one"
            )
        if not timedelta(0) < receiver.repeats <= _LONGEST_REPEAT:
            document.refuse(
                (*place, "repeat_every"),
                f"found {written(receiver.repeats)}; allowed more than 0s and at most {written(_LONGEST_REPEAT)}, "
                "because an alert ends at Alertmanager when it is not sent again; do choose a shorter one, as 1m",
            )
    if receiver.kubernetes_events is not None and settings.cluster is None:
        document.refuse(
            (*place, "kubernetes_events"),
            "found Events and no cluster; allowed with a cluster alone; do add cluster, even if it is empty ({})",
        )
    if receiver.kubernetes_events is not None and not receiver.repeats:
        document.refuse(
            (*place, "repeat_every"),
            "found 0s; allowed a longer one, because the API server forgets Events; do choose one, as 30m",
        )
    urls = manager.urls if manager is not None else (hook.url,) if hook is not None else ()
    for key, _ in credential_files(receiver):
        for url in urls:
            parts = urlsplit(url or "https:")
            if parts.scheme == "http" and not is_this_machine(parts.hostname or ""):
                document.refuse(
                    (*place, receiver.kind, key),
                    f"found credentials and {url}; allowed https://, or http:// on this machine; do use https",
                )


def check_watch(settings: Settings, document: Document) -> None:
    """Note in *document* everything about what is watched that cannot work."""
    taken = {
        **dict.fromkeys(settings.certificates, "a certificate"),
        **dict.fromkeys(settings.trust_domains, "a trust domain"),
        **dict.fromkeys(settings.workloads, "a workload"),
        **dict.fromkeys(settings.tokens, "a token"),
        **dict.fromkeys(settings.signing_keys, "a signing key"),
        **dict.fromkeys(settings.issuers, "an issuer, which is watched always"),
    }
    alerts = settings.alerts
    for name, wanted in settings.watch.items():
        place: Place = ("watch", name)
        if name in taken:
            document.refuse(place, f"found {name}, also {taken[name]}; allowed names of their own; do rename it")
        if wanted.kind.startswith("kubernetes_") and settings.cluster is None:
            document.refuse(
                (*place, wanted.kind),
                f"found {wanted.kind} and no cluster; allowed with a cluster alone; do add cluster, even if it is "
                "empty ({})",
            )
        if wanted.vault_issuer is not None and wanted.vault_issuer.issuer not in settings.issuers:
            document.refuse(
                (*place, "vault_issuer", "issuer"),
                f"found {wanted.vault_issuer.issuer}; allowed what stands under issuers "
                f"({', '.join(sorted(settings.issuers))}); do mend the name",
            )
        warning = wanted.expiry_ratio_warning or alerts.expiry_ratio_warning
        critical = wanted.expiry_ratio_critical or alerts.expiry_ratio_critical
        if (wanted.expiry_ratio_warning or wanted.expiry_ratio_critical) and warning >= critical:
            document.refuse(
                place,
                f"found a warning at {warning:g} and critical at {critical:g}; allowed a warning before critical; "
                "do lower expiry_ratio_warning",
            )
