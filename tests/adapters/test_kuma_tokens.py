"""Tokens, revocation lists and signing keys over a control plane: what is asked, compared, merged, kept."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
import urllib3

from rotator.adapters.kuma.api import ControlPlaneAPI, Endpoint
from rotator.adapters.kuma.signing_keys import ADMIN_TOKEN, KumaSigningKeys
from rotator.adapters.kuma.token_secrets import HTTPShelves
from rotator.adapters.kuma.tokens import KumaTokens
from rotator.core.model import Serial, TokenGrant, TokenKind
from rotator.errors import Denied, Rejected
from rotator.pki.token import parse_token
from rotator.redaction import redacted_text
from tests.fakes.kuma.standin import StandIn
from tests.fakes.kuma.store import GLOBAL_SECRET, SECRET

HOUR = timedelta(hours=1)
WEB = TokenGrant(
    kind=TokenKind.DATAPLANE, name="web", mesh="default", tags=(("kuma.io/service", ("api", "web")),), workload="w"
)
EAST = TokenGrant(kind=TokenKind.ZONE, zone="east", scope=("egress", "ingress"))
ADMIN = TokenGrant(kind=TokenKind.USER, name="rotator", groups=("mesh-system:admin",))


@pytest.fixture
def api(standin: StandIn, tmp_path: Path) -> Iterator[ControlPlaneAPI]:
    """Give an administrator's way to `standin`."""
    login = tmp_path / "login"
    login.write_text(standin.admin_token)
    made = ControlPlaneAPI(Endpoint(url=standin.url, token_file=login, timeout=timedelta(seconds=60)))
    yield made
    made.close()


@pytest.fixture
def tokens(api: ControlPlaneAPI, standin: StandIn) -> KumaTokens:
    """Give the issuer behind *api*."""
    return KumaTokens(api, clock=standin.clock, skew=timedelta(seconds=5))


def listed(standin: StandIn, kind: str, name: str) -> str | None:
    """Return a list as it stands, None if there is none."""
    kept = standin.store.get(kind, "default" if kind == SECRET else "", name)
    return None if kept is None else base64.b64decode(kept.spec["data"]).decode()


@pytest.mark.parametrize("grant", [WEB, EAST, ADMIN], ids=lambda grant: grant.kind)
def test_what_comes_back_is_what_was_asked_for(tokens: KumaTokens, grant: TokenGrant) -> None:
    """Every claim is compared; the token itself shows in no text and is taken out of every log."""
    issued = tokens.issue(grant, HOUR)
    assert (grant, 1) == (issued.token.grant, issued.token.key)
    assert issued.text not in repr(issued)
    assert issued.text not in redacted_text(f"a token {issued.text}")


@pytest.mark.parametrize(
    ("claims", "says"),
    [
        ({"mesh": "default", "name": "other", "validFor": "1h"}, "asked was"),
        ({"mesh": "default", "name": "web", "validFor": "1h"}, "asked was"),
        ({"mesh": "default", "name": "web", "tags": dict(WEB.tags), "workload": "w"}, "a life of 1h"),
    ],
    ids=["another's", "without limits", "for ten years"],
)
def test_law_11_another_token_is_refused(
    tokens: KumaTokens, standin: StandIn, monkeypatch: pytest.MonkeyPatch, claims: dict[str, object], says: str
) -> None:
    """A token for somebody else, for more than was asked, or for longer, is not taken."""
    text = standin.tokens.issue("dataplane", claims)
    # What a control plane with another mind would answer.
    monkeypatch.setattr(standin.tokens, "issue", lambda _kind, _body: text)
    with pytest.raises(Rejected, match=says) as refused:
        tokens.issue(WEB, HOUR)
    assert text not in str(refused.value)


def test_who_may_not_is_denied(standin: StandIn, tmp_path: Path) -> None:
    """Without the right nothing is issued, and the error says whose token it was to be."""
    login = tmp_path / "viewer"
    login.write_text(standin.viewer_token)
    api = ControlPlaneAPI(Endpoint(url=standin.url, token_file=login))
    with pytest.raises(Denied, match="a proxy of mesh default named web"):
        KumaTokens(api, clock=standin.clock, skew=timedelta()).issue(WEB, HOUR)


def test_both_lists_of_a_dataplane_token_are_merged(tokens: KumaTokens, standin: StandIn) -> None:
    """What people wrote stays, with blanks and line ends passed over; what is taken off is ours alone."""
    name = "dataplane-token-revocations-default"
    theirs = base64.b64encode(b"one, two\n").decode()
    standin.apply({"type": GLOBAL_SECRET, "name": name, "data": theirs})
    tokens.revoke(WEB, add=frozenset({Serial("three")}), drop=frozenset())
    assert ("one,two,three", "three") == (listed(standin, GLOBAL_SECRET, name), listed(standin, SECRET, name))
    assert {"one", "two", "three"} == tokens.revoked(WEB)
    version = standin.store.get(GLOBAL_SECRET, "", name)
    tokens.revoke(WEB, add=frozenset({Serial("three")}), drop=frozenset())
    assert version == standin.store.get(GLOBAL_SECRET, "", name)
    tokens.revoke(WEB, add=frozenset(), drop=frozenset({Serial("three")}))
    assert ("one,two", None) == (listed(standin, GLOBAL_SECRET, name), listed(standin, SECRET, name))


def test_many_are_revoked_at_once(api: ControlPlaneAPI, standin: StandIn) -> None:
    """Tokens that are replaced at the same moment, each by a thread of its own, are all on both lists afterwards."""
    changing, names = threading.Lock(), [f"token-{number}" for number in range(8)]
    together = threading.Barrier(len(names))

    def revoke(name: str) -> None:
        issuer = KumaTokens(api, clock=standin.clock, skew=timedelta(), changing=changing)
        together.wait()
        issuer.revoke(WEB, add=frozenset({Serial(name)}), drop=frozenset())

    with ThreadPoolExecutor(len(names)) as threads:
        assert [None] * len(names) == list(threads.map(revoke, names))
    for kind in (GLOBAL_SECRET, SECRET):
        found = listed(standin, kind, "dataplane-token-revocations-default")
        assert names == sorted((found or "").split(","))


def test_zone_and_user_tokens_have_one_list_each(tokens: KumaTokens, standin: StandIn) -> None:
    """Both are GlobalSecrets, and a user's name on its list shuts the user out."""
    issued = tokens.issue(ADMIN, HOUR)
    tokens.revoke(ADMIN, add=frozenset({issued.token.id}), drop=frozenset())
    tokens.revoke(EAST, add=frozenset({Serial("z")}), drop=frozenset())
    assert issued.token.id == listed(standin, GLOBAL_SECRET, "user-token-revocations")
    assert "z" == listed(standin, GLOBAL_SECRET, "zone-token-revocations")
    headers = {"Authorization": f"Bearer {issued.text}"}
    answer = urllib3.request("GET", f"{standin.url}/global-secrets", headers=headers, retries=False)
    assert 401 == answer.status


def test_keys_are_added_once_and_the_newest_stays(api: ControlPlaneAPI, tokens: KumaTokens) -> None:
    """A key that is there is left alone; the newest cannot be removed; what another signed verifies until it goes."""
    keys = KumaSigningKeys(HTTPShelves(api), kind=TokenKind.DATAPLANE, mesh="default", place="cp")
    tokens.issue(WEB, HOUR)
    assert [1] == [each.serial for each in keys.held()]
    keys.add(2)
    first = tokens.issue(WEB, HOUR)
    keys.add(2)
    assert 2 == first.token.key
    with pytest.raises(Rejected, match="the newest"):
        keys.remove(2)
    keys.remove(1)
    keys.remove(1)
    assert [2] == [each.serial for each in keys.held()]


def test_user_keys_know_who_else_needs_them(
    api: ControlPlaneAPI, tokens: KumaTokens, standin: StandIn, tmp_path: Path
) -> None:
    """Rotator's own login and the first administrator's token are named with the key that signed them."""
    own = tmp_path / "own"
    own.write_text(tokens.issue(ADMIN, HOUR).text)
    plain = tmp_path / "plain"
    plain.write_text("no token of Kuma's")
    text = standin.tokens.issue("user", {"name": "mesh-system:admin", "validFor": "10h"})
    standin.apply({"type": GLOBAL_SECRET, "name": ADMIN_TOKEN, "data": base64.b64encode(text.encode()).decode()})
    keys = KumaSigningKeys(HTTPShelves(api), kind=TokenKind.USER, mesh="", place="cp", logins=(own, plain))
    assert [(f"rotator's own login ({own})", 1), (f"GlobalSecret {ADMIN_TOKEN}", 1)] == [
        (each.name, each.key) for each in keys.known_tokens()
    ]


@pytest.mark.parametrize(
    "text", ["", "a.b", "eyJhbGciOiJub25lIn0.e30.x", "not a token at all", "e30.e30.e30"], ids=repr
)
def test_what_is_no_token_is_refused_without_a_word_of_it(text: str) -> None:
    """Nothing of what was read stands in the error."""
    with pytest.raises(Rejected) as refused:
        parse_token(text, source="a file")
    assert not text or text not in str(refused.value)
