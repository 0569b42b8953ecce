"""
Secrets in a real cluster led by a real daemon: others edit them meanwhile, and the API server misbehaves.

Rules that must stay true here:

- Real OpenBao, real API server with RBAC and admission, the daemon as its own process with its own rights alone.
- A phase ends by what was counted at the proxy or seen in the cluster, never by a time; only an absence has a length.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from threading import Event as Flag
from typing import Any

import pytest

from rotator.clock import SystemClock
from rotator.core.event import EventType
from rotator.core.model import SubjectName
from rotator.embedded.openbao import OpenBaoServer
from tests.fixtures_openbao import new_domain
from tests.stack.cluster import Cluster
from tests.stack.fault_proxy import Asked, Fault, FaultProxy
from tests.stack.secret_installation import SecretInstallation

pytestmark = [pytest.mark.stack, pytest.mark.external]

SECRETS, NAMESPACES = 200, 20


@contextlib.contextmanager
def running(installation: SecretInstallation) -> Iterator[SecretInstallation]:
    """Run the daemon, with its proxy if it has one; both are gone afterwards."""
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(installation.session.close)
        if installation.proxy is not None:
            cleanup.enter_context(installation.proxy)
        cleanup.callback(installation.daemon.stop)
        installation.start()
        yield installation


def test_two_hundred_secrets_are_rotated_while_somebody_edits_them(
    cluster: Cluster, openbao: OpenBaoServer, tmp_path: Path
) -> None:
    """Every leaf is replaced, every edit is put right and recorded, and every account closes."""
    vault = new_domain(openbao, tmp_path / "credentials", longest_leaf=timedelta(hours=1))
    with running(
        SecretInstallation(tmp_path, vault, cluster, secrets=SECRETS, namespaces=NAMESPACES, leaf="10m")
    ) as it:
        it.wait(lambda: len(it.held()) == SECRETS, "every Secret to be made")
        it.wait_right()
        before = it.serials()
        names = list(it.places)
        it.ask_all(names)
        # While they are rotated: every tenth is spoiled in another way. What is overwritten within its own rotation
        # before anybody looked is put right all the same.
        spoiling: list[dict[str, Any]] = [
            {"data": {"ca.crt": ""}},
            {"data": {"tls.key": base64.b64encode(b"no key").decode()}},
            {"metadata": {"labels": {"app.kubernetes.io/managed-by": "somebody"}}},
            {"metadata": {"annotations": {"rotator.io/generation": None}}},
        ]
        for number, name in enumerate(names[::10]):
            it.edit(name, spoiling[number % len(spoiling)])
        for name in names[5::40]:
            it.delete(name)
        it.wait(
            lambda: all(it_has != before[name] for name, it_has in it.serials().items()) and len(it.held()) == SECRETS,
            "every leaf to be new",
        )
        it.wait_right()
        # In peace: what is found now is recorded, each once.
        edited = names[1:9]
        for number, name in enumerate(edited):
            it.edit(name, spoiling[number % len(spoiling)])
        deleted = names[11]
        it.delete(deleted)
        wanted = {*edited, deleted}
        known = len(it.events(EventType.DRIFTED))
        # A look comes within half a minute, a twentieth of the lifetime; the count is of what was found since.
        it.wait(
            lambda: (
                wanted <= {SubjectName(each.subject) for each in it.events(EventType.DRIFTED)[known - len(wanted) :]}
            ),
            "every edit to be found",
        )
        it.wait_right()
        it.wait_accounted()
    found = it.events(EventType.DRIFTED)
    by_editor = [each for each in found if "kubectl-edit" in (each.corroboration.kubernetes or "")]
    # Whoever only takes a field away owns none, so the server names nobody.
    owning = {str(name) for number, name in enumerate(edited) if number % len(spoiling) != 3}
    assert owning <= {each.subject for each in by_editor}
    assert [] == it.wrong()
    assert [] == it.events(EventType.MISSED)
    assert 0 == it.reconciles()


class Weather:
    """One kind of trouble, which passes after it has hit so many requests."""

    def __init__(self, fault: Fault, *, hits: int, every: int = 1, writes_only: bool = False) -> None:
        self.fault = fault
        self.left = hits
        self.every = every
        self.writes_only = writes_only
        self.passed = Flag()

    def __call__(self, asked: Asked) -> Fault | None:
        """Return the trouble for every so-many-th request until it has passed."""
        if self.left <= 0 or asked.number % self.every or (self.writes_only and asked.method == "GET"):
            return None
        self.left -= 1
        if self.left == 0:
            self.passed.set()
        return self.fault


WEATHERS = {
    "slow": Weather(Fault(delay=timedelta(seconds=1)), hits=30),
    "slower than its time-out": Weather(Fault(delay=timedelta(seconds=4)), hits=6, every=3),
    "500": Weather(Fault(status=500), hits=30, every=2),
    "conflict": Weather(Fault(status=409), hits=20, every=2, writes_only=True),
    "replies lost": Weather(Fault(cut_after=True), hits=20, every=3, writes_only=True),
    "requests lost": Weather(Fault(cut_before=True), hits=20, every=3),
    "429": Weather(Fault(status=429, retry_after=2), hits=3, every=7),
}


def hammered(proxy: FaultProxy, patience: float) -> list[Asked]:
    """Return requests that came to the core API while it had asked for *patience* seconds, and did not under way."""
    refused = [each for each in proxy.asked if each.status == 429]
    # Four workers: what they had sent already when the answer came is no hammering.
    under_way = 0.25
    return [
        each
        for each in proxy.asked
        for refusal in refused
        if each.path.startswith("/api/") and refusal.at + under_way < each.at < refusal.at + patience - under_way
    ]


@pytest.fixture
def own_cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Give an API server that this test may stop and start: the one of the session is everybody's."""
    with Cluster(tmp_path / "cluster") as cluster:
        yield cluster


def test_an_api_server_that_misbehaves_loses_nothing(
    own_cluster: Cluster, openbao: OpenBaoServer, tmp_path: Path
) -> None:
    """Slow, refusing, cutting, restarted and away in the middle of rotations: all recover by themselves."""
    cluster = own_cluster
    vault = new_domain(openbao, tmp_path / "credentials", longest_leaf=timedelta(hours=1))
    installation = SecretInstallation(
        tmp_path, vault, cluster, secrets=12, namespaces=3, leaf="20m", proxied=True, timing={"publish": "5s"}
    )
    proxy = installation.proxy
    assert proxy is not None
    with running(installation) as it:
        it.wait(lambda: len(it.held()) == len(it.places), "every Secret to be made")
        it.wait_right()
        for kind, weather in WEATHERS.items():
            before = it.serials()
            with proxy.spoiling(weather):
                it.ask_all(list(it.places))
                it.wait(
                    lambda: weather.passed.is_set() or (it.settled() and it.serials() != before),  # noqa: B023 -- ends here
                    f"{kind} to pass",
                )
            it.wait_right()
            assert not set(before.values()) & set(it.serials().values()), kind
        assert [] == hammered(proxy, patience=2.0)
        before = it.serials()
        it.ask_all(list(it.places))
        cluster.api_server.stop()
        cluster.start()
        it.wait_right()
        assert not set(before.values()) & set(it.serials().values())
        before = it.serials()
        it.ask_all(list(it.places))
        proxy.stop()
        SystemClock().wait(Flag(), timedelta(minutes=2))
        proxy.start()
        it.wait_right()
        assert not set(before.values()) & set(it.serials().values())
        it.wait_accounted()
    assert [] == it.wrong()
    assert [] == it.events(EventType.MISSED)
    assert 0 == it.reconciles()
