"""
What the keys of the HTTP service cannot show one by one.

Rules that must stay true here:

- Plain HTTP stays on this machine: a bearer token that is read on the way is somebody else's.
- Every check runs; each writes its findings and none depends on another's.
"""

from __future__ import annotations

from rotator.settings.document import Document
from rotator.settings.model import Settings
from rotator.settings.service import HTTPService


def check_service(settings: Settings, document: Document) -> None:
    """Note in *document* what cannot work in ``http``."""
    http = settings.http
    if http is None:
        return
    _certificate(settings, http, document)
    _readers(settings, http, document)
    if http.client_ca_file is not None and http.certificate is None:
        document.refuse(
            ("http", "client_ca_file"),
            "found it without certificate; allowed with TLS; do name a certificate, or remove it",
        )
    if http.stuck_after is not None and http.stuck_after < 3 * settings.timing.sweep_every:
        document.refuse(
            ("http", "stuck_after"),
            "found less than three sweeps; allowed at least 3 x timing.sweep_every; do lengthen it, or a single slow "
            "sweep would end the daemon",
        )


def _certificate(settings: Settings, http: HTTPService, document: Document) -> None:
    place = ("http", "certificate")
    if http.certificate is None:
        if not http.on_loopback:
            document.refuse(
                ("http", "listen"),
                f"found {http.listen} without certificate; allowed plain HTTP on a loopback address alone; "
                "do name a certificate, or listen on 127.0.0.1",
            )
        return
    found = settings.certificates.get(http.certificate)
    if found is None:
        names = ", ".join(sorted(settings.certificates)) or "none yet"
        document.refuse(
            place,
            f"found {http.certificate}; allowed what stands under certificates ({names}); "
            "do mend the name or add it there",
        )
    elif not found.dns_names:
        document.refuse(
            place,
            f"found {http.certificate}, which has no dns_names; allowed one that names this service; "
            "do add the name by which Prometheus and browsers call it",
        )


def _readers(settings: Settings, http: HTTPService, document: Document) -> None:
    place = ("http", "readers")
    match http.readers:
        case "cluster" if settings.cluster is None:
            says = "found cluster; allowed where a cluster is named; do add cluster, even if it is empty ({})"
        case "certificate" if http.client_ca_file is None:
            says = "found certificate; allowed with client_ca_file; do say who signs the callers' certificates"
        case "loopback" if not http.on_loopback:
            says = f"found loopback with listen {http.listen}; allowed on a loopback address; do listen on 127.0.0.1"
        case _:
            return
    document.refuse(place, says)
