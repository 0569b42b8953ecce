"""One token for all threads, renewed in time, replaced when it dies; and a Vault that does not behave."""

from __future__ import annotations

import threading
import traceback
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from rotator.adapters.vault.auth import AppRole
from rotator.adapters.vault.naming import slug
from rotator.adapters.vault.session import Transport, VaultSession
from rotator.adapters.vault.transport import Endpoint
from rotator.clock import SystemClock
from rotator.embedded.loopback_tls import listener_certificate
from rotator.embedded.openbao import OpenBaoServer, TrustDomainMount, write
from rotator.embedded.process import free_port, wait_until
from rotator.errors import ConfigError, Denied, Rejected, Unavailable
from tests.fakes.clock import ManualClock
from tests.fakes.proxy import Answer, Cut, VaultProxy
from tests.fixtures_openbao import VaultDomain, new_domain

pytestmark = pytest.mark.external

LOGIN, RENEW, LOOKUP = "POST auth/approle/login", "POST auth/token/renew-self", "GET auth/token/lookup-self"


@pytest.fixture
def proxy(openbao: OpenBaoServer) -> Iterator[VaultProxy]:
    """Stand between rotator and the server."""
    with VaultProxy(openbao.address, openbao.ca_file) as proxy:
        yield proxy


@pytest.fixture
def clock() -> ManualClock:
    """Give a clock that starts now and stands still."""
    return ManualClock(SystemClock().now())


@pytest.fixture
def session(vault_domain: VaultDomain, proxy: VaultProxy, clock: ManualClock) -> Iterator[VaultSession]:
    """Give a session through the proxy, on the manual clock; its tokens live for 60 s, at most 10 min."""
    with vault_domain.session(address=proxy.address, clock=clock) as session:
        yield session


def look(session: VaultSession, domain: VaultDomain) -> None:
    """Make one harmless call that takes a token (Vault lists issuers for anybody)."""
    session.read(f"{domain.mount}/config/issuers", doing="reading the pointer")


# --- the token ------------------------------------------------------------------------------------------------------


def test_nothing_is_sent_before_the_first_call(session: VaultSession, proxy: VaultProxy) -> None:
    """A session that is not used logs in nowhere."""
    assert session.token_not_after is None
    assert [] == proxy.faults.calls


def test_a_token_is_renewed_at_half_its_life(
    session: VaultSession, vault_domain: VaultDomain, proxy: VaultProxy, clock: ManualClock
) -> None:
    """Calls in the first half use the token as it is; the first one after that renews it."""
    look(session, vault_domain)
    clock.advance(timedelta(seconds=29))
    look(session, vault_domain)
    assert Counter({LOGIN: 1, f"GET {vault_domain.mount}/config/issuers": 2}) == Counter(proxy.faults.calls)

    clock.advance(timedelta(seconds=2))
    look(session, vault_domain)

    assert (1, 1) == (proxy.faults.calls.count(LOGIN), proxy.faults.calls.count(RENEW))
    assert clock.now() + timedelta(seconds=60) == session.token_not_after


def test_a_sweep_keeps_the_token_alive(session: VaultSession, proxy: VaultProxy, clock: ManualClock) -> None:
    """Without any other call, `keep_alive` logs in, renews, and does nothing in between."""
    for _ in range(7):
        session.keep_alive(clock.now())
        clock.advance(timedelta(seconds=10))

    assert [LOGIN, RENEW, RENEW] == proxy.faults.calls


def test_a_token_past_its_end_is_replaced(
    session: VaultSession, vault_domain: VaultDomain, proxy: VaultProxy, clock: ManualClock
) -> None:
    """After a suspension that outlasted the token rotator logs in anew, without trying to renew."""
    look(session, vault_domain)
    clock.advance(timedelta(hours=1))
    look(session, vault_domain)

    assert (2, 0) == (proxy.faults.calls.count(LOGIN), proxy.faults.calls.count(RENEW))


def test_a_token_that_cannot_be_renewed_further_is_replaced(
    openbao: OpenBaoServer, proxy: VaultProxy, tmp_path: Path
) -> None:
    """At its maximum life a token is renewed for ever less; rotator logs in anew before it ends, and no call fails."""
    domain = new_domain(openbao, tmp_path, token_life=timedelta(seconds=2), token_longest_life=timedelta(seconds=3))
    with domain.session(address=proxy.address) as session:

        def has_logged_in_twice() -> bool:
            look(session, domain)
            return proxy.faults.calls.count(LOGIN) >= 2

        wait_until(has_logged_in_twice, within=timedelta(seconds=60), what="a second login")

    assert proxy.faults.calls.count(RENEW) >= 1
    assert 0 == proxy.faults.calls.count(LOOKUP)


def test_a_token_that_died_is_replaced_within_the_call(
    session: VaultSession, vault_domain: VaultDomain, proxy: VaultProxy
) -> None:
    """A token revoked behind rotator's back costs one more login and no error."""
    look(session, vault_domain)
    assert session._token
    with vault_domain.server.admin() as admin:
        write(admin, "auth/token/revoke", token=session._token.value)

    look(session, vault_domain)

    assert 2 == proxy.faults.calls.count(LOGIN)


def test_a_missing_right_is_denied_without_a_second_login(session: VaultSession, proxy: VaultProxy) -> None:
    """A denied call whose token lives is `Denied`, however often; it never becomes a storm of logins."""
    for _ in range(3):
        with pytest.raises(Denied, match="reading somebody else's"):
            session.read("pki_root/config/urls", doing="reading somebody else's configuration")

    assert 1 == proxy.faults.calls.count(LOGIN)
    assert 3 == proxy.faults.calls.count("GET pki_root/config/urls")


def test_a_dead_token_and_a_dead_secret_are_denied(
    vault_domain: VaultDomain, proxy: VaultProxy, tmp_path: Path
) -> None:
    """When logging in anew is refused too, the call is `Denied`; a mended file is used at the next call."""
    secret = tmp_path / "secret_id"
    secret.write_text(vault_domain.files.secret_id_file.read_text())
    auth = AppRole(role_id_file=vault_domain.files.role_id_file, secret_id_file=secret)
    with VaultSession(Endpoint(address=proxy.address), auth, clock=SystemClock()) as session:
        look(session, vault_domain)
        assert session._token
        with vault_domain.server.admin() as admin:
            write(admin, "auth/token/revoke", token=session._token.value)
        secret.write_text("3f1b2c55-0000-0000-0000-000000000000")
        with pytest.raises(Denied, match="logging in"):
            look(session, vault_domain)

        secret.write_text(vault_domain.files.secret_id_file.read_text())
        look(session, vault_domain)


def test_a_failed_renewal_leaves_the_living_token_in_use(
    session: VaultSession, vault_domain: VaultDomain, proxy: VaultProxy, clock: ManualClock
) -> None:
    """While renewing fails, calls go on with the present token; the sweep says so; tries grow denser, not endless."""
    look(session, vault_domain)
    clock.advance(timedelta(seconds=31))

    def deaf(call: str) -> None:
        if call in {RENEW, LOGIN}:
            raise Cut

    proxy.faults.before = deaf
    for _ in range(5):
        look(session, vault_domain)
    assert 1 == proxy.faults.calls.count(RENEW)
    clock.advance(timedelta(seconds=8))
    with pytest.raises(Unavailable, match="renewing"):
        session.keep_alive(clock.now())

    proxy.faults.before = lambda _: None
    clock.advance(timedelta(seconds=8))
    session.keep_alive(clock.now())
    assert clock.now() + timedelta(seconds=60) == session.token_not_after


def test_many_threads_share_one_token(session: VaultSession, vault_domain: VaultDomain, proxy: VaultProxy) -> None:
    """Eight threads that start at once log in once."""
    with ThreadPoolExecutor(8) as threads:
        for done in [threads.submit(look, session, vault_domain) for _ in range(40)]:
            done.result()

    assert (1, 40) == (
        proxy.faults.calls.count(LOGIN),
        proxy.faults.calls.count(f"GET {vault_domain.mount}/config/issuers"),
    )


def test_closing_gives_the_token_back(vault_domain: VaultDomain) -> None:
    """After `close` the token is dead at the server; a further call logs in anew."""
    session = vault_domain.session()
    look(session, vault_domain)
    assert session._token
    token = session._token.value
    session.close()

    with vault_domain.server.admin() as admin, pytest.raises(Unavailable, match="bad token"):
        write(admin, "auth/token/lookup", token=token)
    look(session, vault_domain)
    session.close()


# --- a Vault that does not behave -----------------------------------------------------------------------------------


def test_sealed_and_unsealed_again(vault_domain: VaultDomain) -> None:
    """A sealed Vault is `Unavailable`, and serves the same session once it is unsealed."""
    with vault_domain.session() as session:
        look(session, vault_domain)
        vault_domain.server.seal()
        try:
            with pytest.raises(Unavailable, match="sealed"):
                look(session, vault_domain)
        finally:
            vault_domain.server.unseal()
        look(session, vault_domain)


def test_killed_and_back_again(tmp_path: Path) -> None:
    """A killed Vault is `Unavailable`; the same session goes on when it is back, with what it had stored."""
    with OpenBaoServer(tmp_path / "bao") as server:
        server.provision_corporate()
        domain = new_domain(server, tmp_path)
        with domain.session() as session:
            look(session, domain)
            server.kill()
            with pytest.raises(Unavailable):
                look(session, domain)
            server.restart()
            look(session, domain)


def test_nobody_listens(vault_domain: VaultDomain) -> None:
    """A refused connection is `Unavailable`."""
    with (
        vault_domain.session(address=f"https://127.0.0.1:{free_port()}") as session,
        pytest.raises(Unavailable, match="did not answer"),
    ):
        look(session, vault_domain)


@pytest.mark.parametrize("transport", list(Transport))
def test_a_slow_vault_runs_into_the_timeout(vault_domain: VaultDomain, proxy: VaultProxy, transport: Transport) -> None:
    """A Vault that does not answer in time is `Unavailable`; nobody waits for it longer."""
    answer = threading.Event()

    def slow(call: str) -> None:
        if "config" in call:
            answer.wait(20)

    proxy.faults.before = slow
    clock = SystemClock()
    with vault_domain.session(address=proxy.address, timeout=timedelta(seconds=1), transport=transport) as session:
        session.keep_alive(clock.now())
        begun = clock.monotonic()
        with pytest.raises(Unavailable, match="did not answer"):
            look(session, vault_domain)
        assert clock.monotonic() - begun < 10
        answer.set()


def test_a_lost_reply_is_unavailable_and_nothing_is_sent_twice(
    session: VaultSession, vault_domain: VaultDomain, proxy: VaultProxy
) -> None:
    """A connection cut after the effect is `Unavailable`; whether to ask again is the caller's to judge."""
    look(session, vault_domain)

    def cut(call: str) -> None:
        if call.startswith("POST"):
            raise Cut

    proxy.faults.after = cut
    with pytest.raises(Unavailable, match="resting the pointer"):
        session.write(
            f"{vault_domain.mount}/config/issuers",
            {"default_follows_latest_issuer": False},
            doing="resting the pointer",
        )

    assert 1 == proxy.faults.calls.count(f"POST {vault_domain.mount}/config/issuers")


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, Rejected),
        (403, Denied),
        (404, Rejected),
        (405, Rejected),
        (413, Rejected),
        (429, Unavailable),
        (500, Unavailable),
        (502, Unavailable),
        (503, Unavailable),
        (504, Unavailable),
        (307, Unavailable),
    ],
)
def test_every_status_says_what_to_do_next(
    session: VaultSession, vault_domain: VaultDomain, proxy: VaultProxy, status: int, error: type[Exception]
) -> None:
    """Each status is one class of rotator's tree, and no status reaches the caller as hvac's exception."""
    look(session, vault_domain)
    proxy.faults.status = lambda call, real: status if call.startswith("POST pki") else real

    with pytest.raises(error, match="moving the pointer"):
        session.write(
            f"{vault_domain.mount}/config/issuers", {"default_follows_latest_issuer": False}, doing="moving the pointer"
        )


def test_law_11_a_warning_is_a_refusal(session: VaultSession, vault_domain: VaultDomain, proxy: VaultProxy) -> None:
    """Vault ignores what it does not understand with nothing but a warning: rotator refuses such an answer."""
    path = f"{vault_domain.mount}/issuers/generate/intermediate/internal"
    order = {"common_name": f"{vault_domain.trust_domain} CA g7", "key_type": "ec", "key_bits": "256"}
    session.write(path, {**order, "key_name": f"rotator-{slug(vault_domain.trust_domain)}-g7"}, doing="making a key")

    proxy.faults.alter = lambda _, answer: {
        **answer,
        "warnings": ["Endpoint ignored these unrecognized parameters: [permitted_uri_domains]"],
    }
    with pytest.raises(Rejected, match="unrecognized parameters"):
        session.write(
            path, {**order, "key_name": f"rotator-{slug(vault_domain.trust_domain)}-g8"}, doing="making a key"
        )
    proxy.faults.alter = lambda _, answer: answer


@pytest.mark.parametrize("answer", [["no", "object"], {"data": "no object"}, {"data": {}, "auth": [1]}])
def test_nonsense_is_refused(
    session: VaultSession, vault_domain: VaultDomain, proxy: VaultProxy, answer: Answer
) -> None:
    """JSON that is not what Vault answers is `Rejected`."""
    look(session, vault_domain)
    proxy.faults.alter = lambda call, real: answer if "config" in call else real

    with pytest.raises(Rejected, match="cannot be read"):
        look(session, vault_domain)


def test_a_server_of_another_ca_is_not_spoken_to(vault_domain: VaultDomain, tmp_path: Path) -> None:
    """A server whose certificate another CA signed gets neither secret nor token."""
    listener_certificate(tmp_path / "other-ca.crt")
    auth = AppRole(role_id_file=vault_domain.files.role_id_file, secret_id_file=vault_domain.files.secret_id_file)
    endpoint = Endpoint(address=vault_domain.server.address, ca_file=tmp_path / "other-ca.crt")

    with VaultSession(endpoint, auth, clock=SystemClock()) as session, pytest.raises(Unavailable, match="logging in"):
        look(session, vault_domain)


@pytest.mark.parametrize("address", ["http://vault.example:8200", "vault.example:8200", "ftp://127.0.0.1", "https://"])
def test_an_address_that_would_show_tokens_is_refused(address: str) -> None:
    """Plain HTTP to anywhere but loopback, and what is no address, is a configuration error."""
    with pytest.raises(ConfigError):
        Endpoint(address=address)


def test_no_secret_stands_in_an_error(session: VaultSession, vault_domain: VaultDomain, proxy: VaultProxy) -> None:
    """Whatever the server echoes, no token, secret id or PEM stands in an error or its causes' messages."""
    look(session, vault_domain)
    token = session._token.value if session._token else ""
    secret_id = vault_domain.files.secret_id_file.read_text()
    pem = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIKb2\n-----END EC PRIVATE KEY-----"
    echo = f"bad request: token={token} secret_id={secret_id} {pem}"
    proxy.faults.alter = lambda call, real: {"errors": [echo]} if call.startswith("POST pki") else real
    proxy.faults.status = lambda call, real: 400 if call.startswith("POST pki") else real

    with pytest.raises(Rejected) as caught:
        session.write(f"{vault_domain.mount}/config/issuers", {}, doing="moving the pointer")

    said = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + repr(session._token)
    assert "bad request" in str(caught.value)
    for secret in (token, secret_id, "MHcCAQEEIKb2"):
        assert secret
        assert secret not in said


def test_namespaces(openbao: OpenBaoServer, tmp_path: Path) -> None:
    """A session with a namespace lives in it: login, mount and all."""
    with openbao.admin() as admin:
        write(admin, "sys/namespaces/team")
    openbao.provision_corporate(namespace="team")
    openbao.provision_trust_domain(
        TrustDomainMount(trust_domain="team.test", mount="pki_team", longest_leaf=timedelta(hours=1)), namespace="team"
    )
    policy = 'path "pki_team/config/issuers" { capabilities = ["read"] }'
    files = openbao.provision_approle({"team": policy}, directory=tmp_path, namespace="team")
    auth = AppRole(role_id_file=files.role_id_file, secret_id_file=files.secret_id_file)

    inside = Endpoint(address=openbao.address, ca_file=openbao.ca_file, namespace="team")
    with VaultSession(inside, auth, clock=SystemClock()) as session:
        reply = session.read("pki_team/config/issuers", doing="reading the pointer")
    assert reply is not None
    assert "" == reply.body["default"]

    outside = Endpoint(address=openbao.address, ca_file=openbao.ca_file)
    with VaultSession(outside, auth, clock=SystemClock()) as session, pytest.raises(Denied):
        session.read("pki_team/config/issuers", doing="reading the pointer")
