"""A token's Secret at a real API server: the rights that suffice, what admission keeps out, and who wrote first."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from rotator.adapters.kubernetes.publishing_rights import token_rights
from rotator.adapters.kubernetes.tokens import TokenSecret
from rotator.clock import SystemClock
from rotator.cluster.objects import ClusterAccess, ObjectAPI
from rotator.cluster.rbac import Account
from rotator.core.model import SubjectName
from rotator.errors import Conflict, Denied, Rejected
from rotator.ports import Stamp
from tests.fakes.kuma.standin import StandIn
from tests.stack.cluster import Cluster
from tests.stack.published import grant

pytestmark = pytest.mark.stack

WEB = SubjectName("web")
AT = datetime(2030, 1, 1, tzinfo=UTC)
STAMP = Stamp(subject=WEB, rotation_id="r-1", leaf_published_at=AT, bundle_published_at=AT)


@pytest.fixture
def token(standin: StandIn) -> Callable[[], str]:
    """Return what issues another token at each call."""
    return lambda: standin.tokens.issue("dataplane", {"mesh": "default", "name": "web", "validFor": "1h"})


def test_a_token_is_published_with_the_rights_of_its_name(
    cluster: Cluster, tmp_path: Path, token: Callable[[], str]
) -> None:
    """Created, replaced behind the resourceVersion, found edited; no other Secret can be made, read or listed."""
    namespace = "token-secret"
    cluster.namespace(namespace)
    account = grant(cluster, Account(namespace=namespace, name="rotator"), token_rights(namespace, "web-token"))
    kubeconfig = cluster.kubeconfig_for(account, namespace, tmp_path / "kubeconfig")
    api = ObjectAPI(ClusterAccess(namespace=namespace, kubeconfig_file=kubeconfig))

    def place(name: str = "web-token", *, subject: SubjectName = WEB) -> TokenSecret:
        return TokenSecret(api, namespace=namespace, name=name, subject=subject, clock=SystemClock())

    first, second = token(), token()
    path = f"/api/v1/namespaces/{namespace}/secrets/web-token"
    place().put_token(first, expected=0, stamp=STAMP)
    held = cluster.call("GET", path)
    assert ("Opaque", first) == (held["type"], base64.b64decode(held["data"]["token"]).decode())
    with pytest.raises(Conflict):
        place().put_token(second, expected=0, stamp=STAMP)
    seen = place().put_token(second, expected=1, stamp=STAMP)
    assert (2, second) == (seen.number, place().text())
    change = {"data": {"token": base64.b64encode(first.encode()).decode(), "theirs": "eA=="}}
    cluster.call("PATCH", path, change, content_type="application/merge-patch+json", query={"fieldManager": "kubectl"})
    edited = place().read()
    assert edited is not None
    assert "token was changed by somebody else" in (edited.problem or "")
    place().put_token(second, expected=2, stamp=STAMP)
    assert {"token", "theirs"} == set(cluster.call("GET", path)["data"])
    with pytest.raises(Rejected, match="holds certificate web"):
        place(subject=SubjectName("other")).read()
    with pytest.raises(Denied):
        place("another").put_token(first, expected=0, stamp=STAMP)
    api.close()
