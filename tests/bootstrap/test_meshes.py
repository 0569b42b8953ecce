"""A mesh's trust domain as it is wired: lazily, anew after a while, and by the way that the settings name."""

from __future__ import annotations

import contextlib
from datetime import timedelta
from pathlib import Path

import pytest

from rotator.adapters.kuma import universal
from rotator.adapters.kuma.api import Endpoint
from rotator.adapters.kuma.control_plane import ControlPlane
from rotator.bootstrap import Sessions, build_fleet
from rotator.bootstrap.meshes import ASK_AGAIN, Connection, cluster_access, endpoint_of
from rotator.clock import SystemClock
from rotator.cluster.objects import ClusterAccess
from rotator.core.model import KeyType, TrustDomainName
from rotator.errors import Unavailable
from rotator.settings import load
from rotator.settings.meshes import Mesh
from tests.fakes.clock import ManualClock
from tests.fakes.kuma.standin import StandIn

EXAMPLES = Path(__file__).parents[2] / "config" / "examples"


class Connector:
    """Connects to nothing, counts, and fails when told to."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self.calls = 0
        self.fails = False

    def __call__(self) -> ControlPlane:
        """Return the control plane."""
        self.calls += 1
        if self.fails:
            raise Unavailable("nobody answers")
        return self._plane


@pytest.fixture
def connector(standin: StandIn, tmp_path: Path) -> Connector:
    token = tmp_path / "token"
    token.write_text(standin.admin_token)
    return Connector(universal.connect(Endpoint(url=standin.url, token_file=token), "default"))


def test_a_control_plane_is_connected_when_it_is_first_needed(connector: Connector) -> None:
    """Wiring calls nobody; the first use connects, the next one uses what is there."""
    clock = ManualClock()
    connection = Connection(connector, clock=clock)
    assert 0 == connector.calls

    assert connection() is connection()
    assert 1 == connector.calls


def test_a_control_plane_is_asked_anew_what_it_is(connector: Connector) -> None:
    """After a while it is connected again: an upgrade under our feet shows."""
    clock = ManualClock()
    connection = Connection(connector, clock=clock)
    connection()

    clock.advance(ASK_AGAIN - timedelta(seconds=1))
    connection()
    assert 1 == connector.calls

    clock.advance(timedelta(seconds=1))
    connection()
    assert 2 == connector.calls


def test_a_failure_is_not_remembered(connector: Connector) -> None:
    """A control plane that does not answer is tried again at the next use; what was known is not believed on."""
    clock = ManualClock()
    connection = Connection(connector, clock=clock)
    connector.fails = True
    for _ in range(2):
        with pytest.raises(Unavailable):
            connection()
    connector.fails = False

    connection()

    assert 3 == connector.calls


@pytest.mark.parametrize(
    ("example", "domain"), [("kuma-universal-provided", "default"), ("kuma-kubernetes-identity", "mesh.prod")]
)
def test_the_examples_are_wired_without_a_call(example: str, domain: str) -> None:
    """A mesh's trust domain has a mesh, no issuer of leaves, and one object that keeps its CAs and revokes them."""
    settings = load(EXAMPLES / f"{example}.yaml")
    with contextlib.closing(Sessions(SystemClock(), 1, {})) as sessions:
        target = build_fleet(settings, sessions, SystemClock()).domains[TrustDomainName(domain)]

    assert (None, KeyType.ECDSA_P256) == (target.issuer, target.key)
    assert 1 == len({id(each) for each in (target.mesh, target.authorities, target.parent)})
    assert settings.trust_domains[domain].longest_leaf == target.policy.longest_leaf


def test_a_cluster_is_reached_as_the_settings_say() -> None:
    """Namespace, kubeconfig and context go to the API server's side, address and files to the HTTP API's."""
    mesh = Mesh.model_validate(
        {
            "name": "batch",
            "control_plane": {
                "ca_file": "/ca",
                "timeout": "3s",
                "kubernetes": {"namespace": "kuma", "kubeconfig_file": "/kubeconfig", "context": "prod"},
            },
        }
    )

    assert ClusterAccess(
        namespace="kuma", kubeconfig_file=Path("/kubeconfig"), context="prod", timeout=timedelta(seconds=3)
    ) == cluster_access(mesh)
    endpoint = endpoint_of(mesh)
    assert ("https://kuma-control-plane.kuma.svc:5682", Path("/ca"), timedelta(seconds=3)) == (
        endpoint.url,
        endpoint.ca_file,
        endpoint.timeout,
    )


def test_a_control_plane_on_universal_is_no_cluster() -> None:
    """Without kubernetes everything goes through the HTTP API."""
    assert None is cluster_access(Mesh.model_validate({"control_plane": {"url": "https://kuma.example:5682"}}))
