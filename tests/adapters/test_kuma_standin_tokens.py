"""
The stand-in's tokens let in whom Kuma's would, and nobody else.

Rules that must stay true here:

- Tokens are asked for over HTTP; whom they let in is asked of the stand-in itself.
"""

from __future__ import annotations

import base64

import pytest
import urllib3

from tests.fakes.kuma.standin import StandIn
from tests.fakes.kuma.store import GLOBAL_SECRET, SECRET, Json
from tests.fakes.kuma.tokens import SigningKeyRing, TokenKind, TokenRefused
from tests.fixtures_kuma import NewStandIn

RING = SigningKeyRing(TokenKind.DATAPLANE, "default")


def ask(standin: StandIn, kind: str, body: Json, *, token: str | None = None) -> tuple[int, str]:
    """Ask for a token, as an administrator unless told otherwise."""
    headers = {"Authorization": f"Bearer {token or standin.admin_token}"}
    answer = urllib3.request("POST", f"{standin.url}/tokens/{kind}", json=body, headers=headers, retries=False)
    return answer.status, answer.data.decode()


def issued(standin: StandIn, kind: str, body: Json) -> str:
    """Return a new token."""
    status, token = ask(standin, kind, body)
    assert status == 200, token
    return token


def test_a_token_lets_in_the_proxy_that_it_names(standin: StandIn) -> None:
    """Name, mesh, tags and workload are compared with the proxy that comes with it."""
    body = {"mesh": "default", "name": "web", "tags": {"kuma.io/service": ["web"]}, "workload": "w", "validFor": "1h"}
    token = issued(standin, "dataplane", body)
    claims = standin.tokens.admit_dataplane(
        token, mesh="default", name="web", tags={"kuma.io/service": ["web"]}, workload="w"
    )
    assert claims["Name"] == "web"
    for name, services, workload in (
        ("other", ["web"], "w"),
        ("web", ["web", "other"], "w"),
        ("web", [], "w"),
        ("web", ["web"], "x"),
    ):
        tags = {"kuma.io/service": services}
        with pytest.raises(TokenRefused):
            standin.tokens.admit_dataplane(token, mesh="default", name=name, tags=tags, workload=workload)


def test_a_token_ends(standin: StandIn) -> None:
    """Five seconds after what was asked for, as Kuma has it, nobody gets in with it."""
    token = issued(standin, "dataplane", {"mesh": "default", "validFor": "60s"})
    standin.run(64)
    standin.tokens.verified(token, RING)
    standin.run(1)
    with pytest.raises(TokenRefused, match="expired"):
        standin.tokens.verified(token, RING)


@pytest.mark.parametrize(("kind", "is_revoked"), [(SECRET, False), (GLOBAL_SECRET, True)])
def test_only_the_global_list_revokes(standin: StandIn, kind: str, *, is_revoked: bool) -> None:
    """The list of the mesh that the documentation names is not read."""
    token = issued(standin, "dataplane", {"mesh": "default", "validFor": "1h"})
    jti = standin.tokens.verified(token, RING)["jti"]
    body = {"type": kind, "name": "dataplane-token-revocations-default"}
    body |= {"data": base64.b64encode(f"other,{jti}\n".encode()).decode()}
    standin.apply(body | ({"mesh": "default"} if kind == SECRET else {}))
    if not is_revoked:
        standin.tokens.verified(token, RING)
        return
    with pytest.raises(TokenRefused, match="revoked"):
        standin.tokens.verified(token, RING)


def test_the_newest_key_signs_and_a_deleted_one_verifies_nothing(standin: StandIn) -> None:
    """Both verify while both are there."""
    old = issued(standin, "dataplane", {"mesh": "default", "validFor": "1h"})
    key = standin.secret("dataplane-token-signing-key-default-1")
    assert key is not None
    other = StandIn()
    other.tokens.ensure_key(SigningKeyRing(TokenKind.ZONE))
    fresh = other.store.get(GLOBAL_SECRET, "", "zone-token-signing-key-1")
    assert fresh is not None
    standin.apply(
        {"type": SECRET, "mesh": "default", "name": "dataplane-token-signing-key-default-2", "data": fresh.spec["data"]}
    )
    new = issued(standin, "dataplane", {"mesh": "default", "validFor": "1h"})
    assert standin.tokens.serials(RING) == (1, 2)
    for token in (old, new):
        standin.tokens.verified(token, RING)
    standin.delete(SECRET, "dataplane-token-signing-key-default-1")
    standin.tokens.verified(new, RING)
    with pytest.raises(TokenRefused, match="no signing key with KID 1"):
        standin.tokens.verified(old, RING)


def test_a_user_token_has_the_rights_of_its_groups(standin: StandIn) -> None:
    """Who is in the administrators' group may issue tokens; who is not may not."""
    admin = issued(standin, "user", {"name": "rotator", "groups": ["mesh-system:admin"], "validFor": "1h"})
    other = issued(standin, "user", {"name": "reader", "groups": ["readers"], "validFor": "1h"})
    assert ask(standin, "zone", {"zone": "z", "scope": ["egress"]}, token=admin)[0] == 200
    assert ask(standin, "zone", {"zone": "z", "scope": ["egress"]}, token=other)[0] == 403


def test_a_zone_token_is_for_its_zone_and_scope(standin: StandIn) -> None:
    """Another zone, and another part of the zone, are refused."""
    token = issued(standin, "zone", {"zone": "east", "scope": ["egress"], "validFor": "1h"})
    standin.tokens.admit_zone(token, zone="east", scope="egress")
    for zone, scope in (("west", "egress"), ("east", "ingress")):
        with pytest.raises(TokenRefused):
            standin.tokens.admit_zone(token, zone=zone, scope=scope)


def test_what_makes_no_sense_is_refused(new_standin: NewStandIn) -> None:
    """Each with the field that is wrong; a scope is asked for only before 3.0."""
    standin = new_standin()
    for kind, body in (
        ("dataplane", {"validFor": "1h"}),
        ("dataplane", {"mesh": "default", "validFor": "1 day"}),
        ("zone", {"zone": "z", "validFor": "1h"}),
        ("user", {"name": "u"}),
    ):
        assert ask(standin, kind, body)[0] == 400
    three = new_standin(version="3.0.1")
    assert ask(three, "zone", {"zone": "z", "validFor": "1h"})[0] == 200
