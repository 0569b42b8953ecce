"""Logging in at Vault as a pod does: a real OpenBao that has a real API server review the token."""

from __future__ import annotations

from pathlib import Path

import pytest

from rotator.embedded.openbao import read
from rotator.errors import Denied
from tests.fixtures_openbao import VaultDomain
from tests.stack.cluster import Cluster
from tests.stack.vault_login import Login, kubernetes_login

pytestmark = [pytest.mark.stack, pytest.mark.external]


@pytest.fixture
def login(cluster: Cluster, vault_domain: VaultDomain, tmp_path: Path) -> Login:
    """Give what the script needs."""
    return kubernetes_login(cluster, vault_domain, tmp_path)


def test_a_pods_token_for_vault_logs_in_and_no_other(login: Login) -> None:
    """The script may be run twice; the account's token for Vault is taken, and one of anything else is denied."""
    for _ in range(2):
        ran = login.set_up()
        assert 0 == ran.returncode, ran.stderr

    assert login.logged_in(login.token())
    for other in (
        login.token(audiences=("https://kubernetes.default.svc",)),
        login.token(account="somebody"),
        login.token(namespace="elsewhere"),
    ):
        with pytest.raises(Denied):
            login.logged_in(other)


def test_a_deleted_account_logs_in_no_more(login: Login) -> None:
    """The API server itself is asked each time: a token that outlives its account opens nothing."""
    assert 0 == login.set_up().returncode
    token = login.token()
    login.cluster.call("DELETE", "/api/v1/namespaces/rotator/serviceaccounts/rotator")

    with pytest.raises(Denied):
        login.logged_in(token)


def test_the_script_says_what_is_missing(login: Login) -> None:
    """Without a reviewer's token nothing is set up, and policies that are not rotator's own are refused."""
    nothing = login.place / "nothing"
    nothing.touch()
    for changed in ({"REVIEWER_TOKEN_FILE": str(nothing)}, {"POLICIES": "root"}):
        ran = login.set_up(MOUNT="never", **changed)
        assert 2 == ran.returncode
        assert "kubernetes-auth.sh" in ran.stderr
    with login.domain.server.admin() as admin:
        assert "never/" not in read(admin, "sys/auth")
