"""
The worker process of demonstration and tests: a Celery worker whose tasks call an mTLS service with its own leaf.

Rules that must stay true here:

- The leaf is read once, before the pool is forked: only a restart brings the next one, as with most real software.
  The trust bundle is read anew for every call.
- A call succeeds only if the server's chain verifies under the bundle, the server's one URI SAN is exactly the
  expected SPIFFE ID, and it answers 200.
- A task writes one line to the results file when it is over, whatever came of it; the report file is replaced as one.
- Nothing happens at import: `main` builds the application from the environment (`Place`).
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from celery import Celery, Task
from celery.signals import worker_ready
from cryptography import x509

from rotator.clock import SystemClock
from rotator.errors import ConfigError, Rejected, RotatorError, Unavailable

PREFIX = "ROTATOR_WORKER_"
CALL_SERVICE = "rotator.call_service"
WAIT = "rotator.wait"

_CALL_TIMEOUT_SECONDS = 5
_CALL_EVERY = timedelta(seconds=1)
_LOOK_EVERY = timedelta(milliseconds=200)
# As Airflow sets it: a message comes back on its own only after a day.
_VISIBILITY_TIMEOUT_SECONDS = 86400


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a worker finds things; travels as environment variables."""

    broker_file: Path
    """A file that holds the broker URL."""
    results: Path
    """One line of JSON for each finished task; several workers may append to one file."""
    certificates: Path | None = None
    """A directory with ``CURRENT/tls.crt``, ``tls.key``, ``ca.crt``; None for workers that only wait."""
    report: Path | None = None
    """Where the worker says which leaf and bundle it uses."""
    server: str = ""
    """``host:port`` of the service."""
    server_identity: str = ""
    """Its SPIFFE ID."""
    remote_control: bool = True
    """False for a worker that nobody can ask or drain."""

    def environment(self) -> dict[str, str]:
        """Return the environment variables that `from_environment` reads."""
        values = {
            "BROKER_FILE": self.broker_file,
            "RESULTS": self.results,
            "CERTIFICATES": self.certificates,
            "REPORT": self.report,
            "SERVER": self.server,
            "SERVER_IDENTITY": self.server_identity,
            "SILENT": "" if self.remote_control else "yes",
        }
        return {PREFIX + name: str(value) for name, value in values.items() if value}

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Place:
        """Return the place that *environment* describes. Raises `ConfigError` naming what is missing."""

        def path(name: str) -> Path | None:
            return Path(environment[PREFIX + name]) if environment.get(PREFIX + name) else None

        broker_file, results = path("BROKER_FILE"), path("RESULTS")
        if broker_file is None or results is None:
            raise ConfigError(f"a worker needs {PREFIX}BROKER_FILE and {PREFIX}RESULTS in its environment")
        return cls(
            broker_file=broker_file,
            results=results,
            certificates=path("CERTIFICATES"),
            report=path("REPORT"),
            server=environment.get(PREFIX + "SERVER", ""),
            server_identity=environment.get(PREFIX + "SERVER_IDENTITY", ""),
            remote_control=not environment.get(PREFIX + "SILENT"),
        )


class Caller:
    """Calls the service with the leaf that was there when this object was made."""

    def __init__(self, place: Place, certificates: Path) -> None:
        """Read the leaf in *certificates*. Raises `Unavailable` if none was published yet."""
        self._place = place
        self._bundle = certificates / "CURRENT" / "ca.crt"
        # Resolved once: between two reads through the link the publication may change under us.
        current = (certificates / "CURRENT").resolve()
        try:
            chain = (current / "tls.crt").read_bytes()
            self._material = chain + (current / "tls.key").read_bytes()
        except OSError as e:
            raise Unavailable(f"no certificate can be read in {current}: {e.strerror}") from e
        self.serial = _hex(x509.load_pem_x509_certificate(chain).serial_number)

    def call(self) -> str:
        """Make one call with the bundle of this moment; return the serial that the server saw."""
        bundle = self._bundle.read_text(encoding="ascii")
        host, _, port = self._place.server.rpartition(":")
        connection = http.client.HTTPSConnection(
            host, int(port), context=self._context(bundle), timeout=_CALL_TIMEOUT_SECONDS
        )
        with closing(connection):
            connection.connect()
            self._expect_identity(connection)
            connection.request("GET", "/", headers={"host": "service"})
            answer = connection.getresponse()
            answer.read()
            if answer.status != http.HTTPStatus.OK:
                raise Rejected(f"the service answered {answer.status}")
            seen = answer.headers.get("x-peer-serial", "").lower().replace(":", "").lstrip("0")
        self._write_report(seen, bundle)
        return seen

    def _context(self, bundle: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # A SPIFFE certificate carries no host name: the exact URI is checked after the handshake instead.
        context.check_hostname = False
        # The bundle holds the mesh's own CA, an intermediate of the corporate root that is not in it.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_verify_locations(cadata=bundle)
        # The library reads certificates from files only; this one has no name and goes with its descriptor.
        file = os.memfd_create("leaf", os.MFD_CLOEXEC)
        try:
            os.write(file, self._material)
            context.load_cert_chain(f"/proc/self/fd/{file}")
        finally:
            os.close(file)
        return context

    def _expect_identity(self, connection: http.client.HTTPSConnection) -> None:
        certificate = connection.sock.getpeercert() if isinstance(connection.sock, ssl.SSLSocket) else None
        names = (certificate or {}).get("subjectAltName", ())
        identities = [str(name[1]) for name in names if name[0] == "URI"]
        if identities != [self._place.server_identity]:
            raise Rejected(f"the service shows {identities}, not {self._place.server_identity}")

    def _write_report(self, seen: str, bundle: str) -> None:
        """Say which leaf the server saw and which bundle verified the server; replaced as one."""
        if self._place.report is None:
            return
        authorities = x509.load_pem_x509_certificates(bundle.encode())
        report = {"serial": seen, "bundle": [_hex(authority.serial_number) for authority in authorities]}
        half = self._place.report.with_name(f".{self._place.report.name}.{os.getpid()}")
        half.write_text(json.dumps(report) + "\n", encoding="utf-8")
        half.replace(self._place.report)


def _hex(serial: int) -> str:
    return f"{serial:x}"


def application(place: Place) -> Celery:
    """Return the application with its two tasks; the leaf is read here, once for the worker and all its children."""
    app = Celery("rotator-demo", broker=place.broker_file.read_text(encoding="utf-8").strip(), set_as_current=False)
    app.conf.update(
        task_acks_late=True,
        worker_prefetch_multiplier=1,
        task_ignore_result=True,
        task_default_queue="default",
        broker_connection_retry_on_startup=True,
        broker_transport_options={"visibility_timeout": _VISIBILITY_TIMEOUT_SECONDS},
        worker_hijack_root_logger=False,
        worker_enable_remote_control=place.remote_control,
    )
    caller = Caller(place, place.certificates) if place.certificates is not None else None

    def call_service(task: Task[Any, Any], duration_seconds: float, note: str = "") -> None:
        """Call the service about once a second for *duration_seconds*. *note* is carried for nobody's use."""
        del note
        if caller is None:
            raise ConfigError(f"{CALL_SERVICE} needs {PREFIX}CERTIFICATES in the worker's environment")
        _work(task, place, duration_seconds, caller)

    def wait(task: Task[Any, Any], duration_seconds: float, note: str = "", until: str = "") -> None:
        """
        Do nothing for *duration_seconds*, and *until* a file is there: that one, or its name with ``.NODE`` behind it.

        *note* is carried for nobody's use.
        """
        del note
        _work(task, place, duration_seconds, None, Path(until) if until else None)

    app.task(bind=True, name=CALL_SERVICE)(call_service)
    app.task(bind=True, name=WAIT)(wait)

    def report(**_signal: object) -> None:
        if caller is not None and place.report is not None:
            try:
                caller.call()
            except (OSError, RotatorError, http.client.HTTPException) as e:
                # The first task reports then; until it does, nobody takes this worker's leaf for proven.
                sys.stderr.write(f"the first call failed: {type(e).__name__}: {e}\n")

    worker_ready.connect(report, weak=False)
    return app


def _work(
    task: Task[Any, Any], place: Place, duration_seconds: float, caller: Caller | None, until: Path | None = None
) -> None:
    clock, never = SystemClock(), threading.Event()
    started = clock.now()
    end = clock.monotonic() + duration_seconds
    serials: list[str] = []
    failures: list[str] = []
    while True:
        if caller is not None:
            try:
                serials.append(caller.call())
            except (OSError, RotatorError, http.client.HTTPException) as e:
                failures.append(f"{type(e).__name__}: {e}"[:200])
        left = end - clock.monotonic()
        if left > 0:
            clock.wait(never, min(timedelta(seconds=left), _CALL_EVERY))
        elif until is not None and not (until.exists() or Path(f"{until}.{task.request.hostname}").exists()):
            clock.wait(never, _LOOK_EVERY)
        else:
            break
    line = {
        "task": task.request.id,
        "worker": task.request.hostname,
        "started": _text(started),
        "finished": _text(clock.now()),
        "serial": serials[-1] if serials else None,
        "calls": len(serials) + len(failures),
        "failures": failures,
        "ok": not failures,
    }
    # One write to a file opened for appending: lines of several processes never mix.
    results = os.open(place.results, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.write(results, (json.dumps(line) + "\n").encode())
    finally:
        os.close(results)


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")


def main(arguments: Sequence[str]) -> None:
    """Run a worker with Celery's own *arguments*, described by the environment."""
    application(Place.from_environment(os.environ)).worker_main(list(arguments))


if __name__ == "__main__":
    main(sys.argv[1:])
