"""The HTTP service's settings: what may be plain, who may read, and what would never work."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from rotator.settings import load
from rotator.settings.service import Readers
from tests.settings.test_load import BASE, complaints

NAMED = BASE.replace("identity: spiffe://prod/web", "identity: spiffe://prod/web\n    dns_names: [web.example]")


def written(tmp_path: Path, http: str, *, base: str = NAMED, more: str = "") -> Path:
    """Write a good file with *http*, a flow mapping, and *more* lines."""
    path = tmp_path / "rotator.yaml"
    path.write_text(f"{base}{more}http: {http}\n")
    return path


REFUSED = {
    "plain beyond this machine": ("{listen: '0.0.0.0:8443'}", "http.listen: found 0.0.0.0:8443 without certificate"),
    "an unknown certificate": ("{listen: '0.0.0.0:8443', certificate: wob}", "http.certificate: found wob"),
    "a certificate without a name": (
        "{listen: '0.0.0.0:8443', certificate: worker}",
        "http.certificate: found worker, which has no dns_names",
    ),
    "readers of a cluster that is none": (
        "{listen: '127.0.0.1:8080', readers: cluster}",
        "http.readers: found cluster; allowed where a cluster is named",
    ),
    "readers by certificates that nobody verifies": (
        "{listen: '127.0.0.1:8080', readers: certificate}",
        "http.readers: found certificate; allowed with client_ca_file",
    ),
    "everybody in the world": (
        "{listen: '0.0.0.0:8443', certificate: web, readers: loopback}",
        "http.readers: found loopback with listen 0.0.0.0:8443",
    ),
    "callers' certificates without TLS": (
        "{listen: '127.0.0.1:8080', client_ca_file: /etc/ca.pem}",
        "http.client_ca_file: found it without certificate",
    ),
    "a patience of one sweep": (
        "{listen: '127.0.0.1:8080', stuck_after: 10s}",
        "http.stuck_after: found less than three sweeps",
    ),
    "no port": ("{listen: localhost}", "http.listen"),
}


@pytest.mark.parametrize(("http", "expected"), REFUSED.values(), ids=REFUSED)
def test_what_would_not_work_or_not_be_safe_is_refused(tmp_path: Path, http: str, expected: str) -> None:
    """One line for each, with the key and what was found."""
    (line,) = complaints(written(tmp_path, http))
    assert expected in line


@pytest.mark.parametrize(
    ("http", "more", "expected"),
    [
        ("{listen: '127.0.0.1:8080'}", "", "nobody"),
        ("{listen: '127.0.0.1:8080', readers: loopback}", "", "loopback"),
        ("{listen: '[::1]:8080', readers: loopback}", "", "loopback"),
        ("{listen: '0.0.0.0:8443', certificate: web}", "cluster: {}\n", "cluster"),
        ("{listen: '0.0.0.0:8443', certificate: web, readers: nobody}", "cluster: {}\n", "nobody"),
    ],
)
def test_who_may_read_by_default(tmp_path: Path, http: str, more: str, expected: Readers) -> None:
    """In a cluster whoever has the right, elsewhere nobody, unless the file says otherwise."""
    settings = load(written(tmp_path, http, more=more))
    assert settings.http is not None
    assert expected == settings.http.read_by(in_cluster=settings.cluster is not None)


@pytest.mark.parametrize(
    ("stuck", "sweep", "expected"),
    [("", 10, 300), ("", 60, 1800), (", stuck_after: 40s", 10, 40)],
)
def test_when_a_sweep_is_stuck(tmp_path: Path, stuck: str, sweep: int, expected: int) -> None:
    """Thirty sweeps and five minutes at least, or what the file says."""
    settings = load(written(tmp_path, f"{{listen: '127.0.0.1:8080'{stuck}}}"))
    assert settings.http is not None
    assert timedelta(seconds=expected) == settings.http.not_live_after(timedelta(seconds=sweep))


def test_where_it_listens(tmp_path: Path) -> None:
    """Host and port are read as they stand, IPv6 without its brackets."""
    settings = load(written(tmp_path, "{listen: '[::1]:8080'}"))
    assert settings.http is not None
    assert ("::1", 8080) == settings.http.address
