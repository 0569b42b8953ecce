"""
The HTTP service: whether it answers, what it says of the daemon, and whether it shows its certificate.

Rules that must stay true here:

- Health alone is asked for, which is open to everybody; no token is shown to whatever listens there.
- What is shown is compared by its name alone: whether it verifies is for those to see who have the bundle.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from datetime import timedelta
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, Final

from rotator.doctor.findings import Finding, broken, fine, warning
from rotator.settings import Settings
from rotator.settings.service import HTTPService

_ANSWERS_WITHIN: Final = timedelta(seconds=5)
_EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 -- looked for, not listened at


def service_findings(settings: Settings) -> Iterator[Finding]:
    """Yield what the HTTP service of a running daemon says, if the settings name one."""
    service = settings.http
    if service is None:
        return
    about = "http"
    if service.client_ca_file is not None and not service.client_ca_file.is_file():
        yield broken("http.client_ca_file", f"there is no file {service.client_ca_file}", "put the bundle there")
    try:
        code, said = _health(service)
    except (OSError, HTTPException, ValueError):
        yield warning(about, f"nobody answers at {service.listen}", "start the daemon, or mend http.listen")
        return
    problems = ", ".join(str(each) for each in said.get("problems", ())) or "no reason"
    if code != HTTPStatus.OK:
        yield broken(
            about, f"the daemon at {service.listen} is not live: {problems}", "see its log; a restart may help"
        )
    elif said.get("problems"):
        yield warning(about, f"the daemon at {service.listen} is live, but {problems}", "see its log")
    else:
        yield fine(about, f"the daemon answers at {service.listen} ({said.get('role')})")


def _health(service: HTTPService) -> tuple[int, dict[str, Any]]:
    """Return code and document of ``/healthz``."""
    host, port = service.address
    host, timeout = _EVERYWHERE.get(host, host), _ANSWERS_WITHIN.total_seconds()
    connection: HTTPConnection
    if service.certificate is None:
        connection = HTTPConnection(host, port, timeout=timeout)
    else:
        context = ssl.create_default_context()
        context.check_hostname = False
        # Before the first issuance it shows a stand-in; nothing that is said here is believed or secret.
        context.verify_mode = ssl.CERT_NONE
        connection = HTTPSConnection(host, port, timeout=timeout, context=context)
    try:
        connection.request("GET", "/healthz")
        with connection.getresponse() as answer:
            found = json.loads(answer.read(65536))
            return answer.status, found if isinstance(found, dict) else {}
    finally:
        connection.close()
