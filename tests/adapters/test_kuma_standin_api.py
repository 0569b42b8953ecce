"""
The stand-in's API answers as Kuma's does, and misbehaves on request.

Rules that must stay true here:

- What a client would see is asked over HTTP; what becomes of proxies is read off the proxies.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import urllib3

from tests.fakes.kuma.connections import ProxySilent
from tests.fakes.kuma.signing import new_root
from tests.fakes.kuma.standin import StandIn
from tests.fakes.kuma.store import DATAPLANE, INSIGHT, MESH, SECRET, Json, MemoryStore
from tests.fakes.kuma.virtual import Meeting
from tests.fixtures_kuma import NewStandIn, with_proxies


class Caller:
    """Asks one stand-in over HTTP."""

    def __init__(self, standin: StandIn, token: str | None) -> None:
        self._url = standin.url
        self._headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
        self._http = urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(connect=2.0, read=5.0))

    def __call__(self, method: str, path: str, body: Json | None = None) -> tuple[int, Json]:
        answer = self._http.request(method, self._url + path, json=body, headers=self._headers)
        return answer.status, json.loads(answer.data or b"{}")

    def close(self) -> None:
        """Close its connections."""
        self._http.clear()


@pytest.fixture
def ask(standin: StandIn) -> Iterator[Caller]:
    """Return an administrator's caller of `standin`."""
    caller = Caller(standin, standin.admin_token)
    yield caller
    caller.close()


SECRET_BODY: Json = {"type": SECRET, "mesh": "default", "name": "s", "data": base64.b64encode(b"x").decode()}


@pytest.mark.parametrize(("who", "status"), [("nobody", 403), ("viewer", 403), ("stranger", 401)])
def test_secrets_are_for_administrators(standin: StandIn, who: str, status: int) -> None:
    """Without the right nothing is read, listed or written."""
    tokens = {"nobody": None, "viewer": standin.viewer_token, "stranger": "wrong"}
    caller = Caller(standin, tokens[who])
    try:
        found = {
            caller("GET", "/meshes/default/secrets")[0],
            caller("GET", "/meshes/default/secrets/s")[0],
            caller("PUT", "/meshes/default/secrets/s", SECRET_BODY)[0],
            caller("GET", "/global-secrets")[0],
        }
    finally:
        caller.close()
    assert {status} == found


def test_a_secret_is_created_read_and_deleted(ask: Caller) -> None:
    """201, then 200, then 404."""
    path = "/meshes/default/secrets/s"
    assert 201 == ask("PUT", path, SECRET_BODY)[0]
    assert 200 == ask("PUT", path, SECRET_BODY)[0]
    assert SECRET_BODY["data"] == ask("GET", path)[1]["data"]
    assert 200 == ask("DELETE", path)[0]
    assert (404, 404) == (ask("GET", path)[0], ask("DELETE", path)[0])


def test_a_refusal_names_the_field(ask: Caller) -> None:
    """As Kuma's errors do, twice over."""
    status, answer = ask("PUT", "/meshes/default/secrets/s", {**SECRET_BODY, "name": "other"})
    assert 400 == status
    assert ["name"] == [each["field"] for each in answer["invalid_parameters"]]
    assert ["name"] == [each["field"] for each in answer["causes"]]


def test_lists_come_in_pages(ask: Caller) -> None:
    """``next`` leads on until there is none; nobody gets more than a thousand at once."""
    names, offset = [], "0"
    while offset:
        _, page = ask("GET", f"/meshes/default/dataplanes/_overview?size=2&offset={offset}")
        names += [item["name"] for item in page["items"]]
        offset = (page["next"] or "").partition("offset=")[2].partition("&")[0]
    assert sorted(names) == ["scheduler", "triggerer", "web", "worker-1", "worker-2"]
    assert 400 == ask("GET", "/meshes/default/dataplanes?size=2000")[0]


def test_on_kubernetes_nothing_is_written(new_standin: NewStandIn) -> None:
    """Its documents are the API server's."""
    standin = with_proxies(new_standin(environment="kubernetes"))
    caller = Caller(standin, standin.admin_token)
    try:
        assert 405 == caller("PUT", "/meshes/default", {"type": MESH, "name": "default"})[0]
        assert "kubernetes" == caller("GET", "/config")[1]["environment"]
    finally:
        caller.close()


def test_a_lost_reply_took_effect(standin: StandIn, ask: Caller) -> None:
    """Whoever was not answered has to look."""
    standin.faults.lost_replies = 1
    with pytest.raises(urllib3.exceptions.ProtocolError):
        ask("PUT", "/meshes/default/secrets/s", SECRET_BODY)
    assert b"x" == standin.secret("s")


def test_a_failing_api_does_nothing(standin: StandIn, ask: Caller) -> None:
    """And works again afterwards."""
    standin.faults.statuses[:] = [503, 429]
    found = [ask("PUT", "/meshes/default/secrets/s", SECRET_BODY)[0] for _ in range(3)]
    assert [503, 429, 201] == found


def test_a_mute_proxy_cannot_be_asked(standin: StandIn, ask: Caller) -> None:
    """The others can."""
    standin.proxies["web"].is_mute = True
    with pytest.raises(ProxySilent):
        standin.plane.ask("default", "web", "config_dump")
    found = {name: ask("GET", f"/meshes/default/dataplanes/{name}/xds")[0] for name in standin.proxies}
    assert {**dict.fromkeys(standin.proxies, 200), "web": 500} == found


def builtin(mode: str) -> Json:
    """Return ``Mesh.mtls`` with Kuma's own CA."""
    backend = {"name": "ca-1", "type": "builtin", "mode": mode}
    return {"enabledBackend": "ca-1", "backends": [backend]}


def refusals(standin: StandIn, seconds: int) -> set[tuple[str, str]]:
    """Return the pairs that were refused at any half second of so many seconds."""
    found: set[tuple[str, str]] = set()
    for _ in range(2 * seconds):
        standin.run(0.5)
        found |= {pair for pair, each in standin.encounters().items() if each.meeting is Meeting.REFUSED}
    return found


def test_permissive_first_interrupts_nobody_who_follows(standin: StandIn) -> None:
    """Plaintext is taken until every proxy of a service has a certificate, then nobody sends it any more."""
    standin.edit_mesh(mtls=builtin("PERMISSIVE"))
    assert set() == refusals(standin, 20)
    assert {} == standin.failures()
    standin.edit_mesh(mtls=builtin("STRICT"))
    assert set() == refusals(standin, 5)


def test_strict_at_once_interrupts_whoever_lags(standin: StandIn) -> None:
    """It still sends plaintext, and takes no TLS."""
    standin.proxies["web"].is_frozen = True
    standin.edit_mesh(mtls=builtin("STRICT"))
    standin.run(5)
    found = refusals(standin, 5)
    assert 8 == len(found)
    assert {"web"} == set.intersection(*[set(pair) for pair in found])


def test_permissive_counts_what_was_issued_not_what_arrived(standin: StandIn) -> None:
    """A proxy that takes no configuration is spoken to by TLS all the same: its insight says that it has a leaf."""
    standin.proxies["web"].is_frozen = True
    standin.edit_mesh(mtls=builtin("PERMISSIVE"))
    assert {"web"} == {server for _, server in refusals(standin, 20)}


def test_a_builtin_ca_can_go_on_as_a_provided_one(standin: StandIn) -> None:
    """Under the same backend's name, by the secrets that the control plane made itself."""
    standin.edit_mesh(mtls=builtin("STRICT"))
    standin.run(5)
    before = {proxy.leaf_issuer for proxy in standin.proxies.values()}
    conf = {part: {"secret": f"default.ca-builtin-{part}-ca-1"} for part in ("cert", "key")}
    standin.edit_mesh(mtls={"enabledBackend": "ca-1", "backends": [{"name": "ca-1", "type": "provided", "conf": conf}]})
    for _ in range(6):
        standin.run(0.5)
        assert {} == standin.failures()
    assert before == {proxy.leaf_issuer for proxy in standin.proxies.values()}


def test_ten_failing_proxies_stop_everybody_for_a_while(standin: StandIn) -> None:
    """The breaker holds for five minutes, also for whoever never failed."""
    for number in range(10):
        standin.add_proxy(f"more-{number}")
    pair = new_root("g1", "default", standin.clock.now(), by_rsa=False)
    standin.keep_secret("cert", pair.certificate_pem)
    standin.keep_secret("key", new_root("g2", "default", standin.clock.now(), by_rsa=False).key_pem)
    backend = {"name": "a", "type": "provided", "conf": {part: {"secret": part} for part in ("cert", "key")}}
    standin.edit_mesh(mtls={"enabledBackend": "a", "skipValidation": True, "backends": [backend]})
    standin.run(5)
    standin.keep_secret("key", pair.key_pem)
    standin.run(timedelta(minutes=4))
    assert {None} == {proxy.leaf for proxy in standin.proxies.values()}
    standin.run(timedelta(minutes=2))
    assert {} == standin.failures()


def test_a_closing_stream_may_lose_the_certificates_end(new_standin: NewStandIn) -> None:
    """Asked for: what an offline proxy still holds cannot be read off its insight then."""
    standin = with_proxies(new_standin(forgets_certificates=True))
    standin.edit_mesh(mtls=builtin("STRICT"))
    standin.run(15)
    standin.stop_proxy("web")
    found = standin.store.get(INSIGHT, "default", "web")
    assert found is not None
    assert "mTLS" not in found.spec


def test_a_file_store_outlives_its_control_plane(tmp_path: Path) -> None:
    """Everything that was written is there again, and nothing is half there."""
    with StandIn(store_file=tmp_path / "store.json") as first:
        with_proxies(first)
        first.keep_secret("s", b"x")
    kept = MemoryStore(tmp_path / "store.json")
    assert 5 == len(kept.list(DATAPLANE, "default"))
    assert [] == list(tmp_path.glob("*.new"))
    with StandIn(store_file=tmp_path / "store.json") as second:
        assert b"x" == second.secret("s")
