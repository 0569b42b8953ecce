"""
What the keys of an Airflow, and of the workloads that are its parts, must have in common.

Rules that must stay true here:

- What would never work is refused here in words: a user without a password, a part of an Airflow that is not named.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from rotator.settings.airflow import AirflowInstallation
from rotator.settings.document import Document, Place
from rotator.settings.model import Settings
from rotator.settings.workloads import Workload

_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})


def check_airflow(settings: Settings, document: Document) -> None:
    """Refuse what cannot work between Airflows and workloads."""
    for name, installation in settings.airflow.items():
        _installation(document, ("airflow", name), installation)
    for name, workload in settings.workloads.items():
        _workload(document, ("workloads", name), workload, settings.airflow)


def _installation(document: Document, place: Place, one: AirflowInstallation) -> None:
    if (one.password_file is None) == (one.token_file is None):
        given = "both password_file and token_file" if one.token_file else "neither password_file nor token_file"
        document.refuse(place, f"found {given}; allowed exactly one of them; do choose one")
    if (one.username is None) != (one.password_file is None):
        document.refuse(
            (*place, "username"),
            f"found {one.username or 'nothing'}; allowed a name beside password_file, nothing beside token_file; "
            "do name both or neither",
        )
    if (one.client_certificate_file is None) != (one.client_key_file is None):
        document.refuse(
            place, "found half a client certificate; allowed certificate and key; do add the other, or remove it"
        )
    url = urlsplit(one.url)
    if url.scheme == "http" and url.hostname not in _LOOPBACK:
        document.refuse(
            (*place, "url"),
            f"found {one.url}; allowed https, or http on this machine; do use https: the password would be readable",
        )


def _workload(
    document: Document, place: Place, workload: Workload, airflows: Mapping[str, AirflowInstallation]
) -> None:
    part, celery = workload.airflow, workload.drain.celery if workload.drain is not None else None
    if part is not None and part.installation not in airflows:
        names = ", ".join(sorted(airflows)) or "none yet"
        document.refuse(
            (*place, "airflow"),
            f"found {part.installation}; allowed what stands under airflow ({names}); do mend the name or add it there",
        )
    drain = workload.drain
    for key, component in (("local", "scheduler"), ("edge", "worker")):
        if drain is None or drain.chosen != key:
            continue
        if part is None or part.component != component:
            document.refuse(
                (*place, "drain", key),
                f"found it without airflow and component {component}; allowed with both; do name the Airflow: "
                "its API is what drains",
            )
    if celery is None:
        return
    if part is not None and part.component != "worker":
        document.refuse(
            (*place, "drain"),
            f"found a Celery drain of a {part.component}; allowed for workers; do remove it, or mend component",
        )
    if celery.without_remote_control == "stop" and part is None:
        document.refuse(
            (*place, "drain", "celery", "without_remote_control"),
            "found stop without airflow; allowed with it; do name the Airflow: nothing else would show what such a "
            "worker does",
        )
    if (celery.tls.certificate_file is None) != (celery.tls.key_file is None):
        document.refuse(
            (*place, "drain", "celery", "tls"),
            "found half a client certificate; allowed certificate and key; do add the other, or remove it",
        )
