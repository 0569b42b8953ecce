"""Who is told and what is watched: every mistake with its line, key, what was found, what is allowed, what to do."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from rotator.settings import load
from tests.settings.test_load import complaints, written

AT = "limits: {threads: 4}"
HOOK = "webhook: {url: https://hook.example/x}"
MANAGER = "alertmanager: {urls: [http://am.example:9093]}"


def notify(*receivers: str, more: str = "") -> tuple[str, str]:
    """Return the change that names *receivers*."""
    return AT, f"alerts: {{notify: [{', '.join(f'{{{each}}}' for each in receivers)}]}}{more}"


def watch(entries: str, more: str = "") -> tuple[str, str]:
    """Return the change that watches *entries*."""
    return AT, f"watch: {{{entries}}}{more}"


WRONG = {
    "no kind": (
        notify("name: a"),
        (
            "7: alerts.notify[0]: found a mapping of name; allowed exactly one of alertmanager | webhook | "
            "kubernetes_events | "
            "apprise; do name one"
        ),
    ),
    "two kinds": (
        notify(f"name: a, {HOOK}, {MANAGER}"),
        (
            "7: alerts.notify[0]: found a mapping of name, webhook, alertmanager; allowed exactly one of "
            "alertmanager | webhook | "
            "kubernetes_events | apprise; do choose one"
        ),
    ),
    "one name twice": (
        notify(f"name: a, {HOOK}", f"name: a, {MANAGER}"),
        "7: alerts.notify[1].name: found a again; allowed each name once; do rename one",
    ),
    "somebody unknown": (
        notify(f"name: a, {HOOK}, subjects: [web, mail]"),
        (
            "7: alerts.notify[0].subjects[1]: found mail; allowed what the configuration names, ledger and rotator; "
            "do mend the name"
        ),
    ),
    "credentials in the clear": (
        notify("name: a, alertmanager: {urls: [http://am.example:9093], bearer_token_file: /t}"),
        (
            "7: alerts.notify[0].alertmanager.bearer_token_file: found credentials and http://am.example:9093; allowed "
            "https://, or http:// on this machine; do use https"
        ),
    ),
    "half a password": (
        notify("name: a, alertmanager: {urls: [https://am.example:9093], username: me}"),
        (
            "7: alerts.notify[0].alertmanager: found one of username and password_file; allowed both or neither; "
            "do name both"
        ),
    ),
    "half a client certificate": (
        notify("name: a, alertmanager: {urls: [https://am.example:9093], client_key_file: /k}"),
        (
            "7: alerts.notify[0].alertmanager: found one of client_certificate_file and client_key_file; "
            "allowed both or "
            "neither; do name both"
        ),
    ),
    "two proofs of who we are": (
        notify(
            "name: a, alertmanager: {urls: [https://am.example:9093], bearer_token_file: /t, username: me, "
            "password_file: /p}"
        ),
        (
            "7: alerts.notify[0].alertmanager: found bearer_token_file and password_file; allowed one way to "
            "say who we "
            "are; do remove one"
        ),
    ),
    "never sent again": (
        notify(f"name: a, {MANAGER}, repeat_every: 0s"),
        (
            "7: alerts.notify[0].repeat_every: found 0s; allowed more than 0s and at most 1h, because an alert ends at "
            "Alertmanager when it is not sent again; do choose a shorter one, as 1m"
        ),
    ),
    "no address": (
        notify("name: a, webhook: {secret_file: /s}"),
        "7: alerts.notify[0].webhook: found both or neither; allowed exactly one of url and url_file; do name one",
    ),
    "Events nowhere": (
        notify("name: a, kubernetes_events: {}"),
        (
            "7: alerts.notify[0].kubernetes_events: found Events and no cluster; allowed with a cluster alone; do add "
            "cluster, even if it is empty ({})"
        ),
    ),
    "Events that are forgotten": (
        notify("name: a, kubernetes_events: {}, repeat_every: 0s", more="\ncluster: {}"),
        (
            "7: alerts.notify[0].repeat_every: found 0s; allowed a longer one, because the API server forgets Events; "
            "do choose one, as 30m"
        ),
    ),
    "a watched name that is taken": (
        watch("web: {file: /etc/x.pem}"),
        "7: watch.web: found web, also a certificate; allowed names of their own; do rename it",
    ),
    "a watched issuer": (
        watch("corporate: {file: /etc/x.pem}"),
        (
            "7: watch.corporate: found corporate, also an issuer, which is watched always; allowed names of their own; "
            "do rename it"
        ),
    ),
    "nothing to watch": (
        watch("a: {every: 1h}"),
        (
            "7: watch.a: found a mapping of every; allowed exactly one of kubernetes_secret | "
            "kubernetes_secrets | vault_issuer | "
            "tls | file; do name one"
        ),
    ),
    "a Secret nowhere": (
        watch("a: {kubernetes_secret: {namespace: n, name: s}}"),
        (
            "7: watch.a.kubernetes_secret: found kubernetes_secret and no cluster; allowed with a cluster "
            "alone; do add "
            "cluster, even if it is empty ({})"
        ),
    ),
    "an unknown Vault": (
        watch("a: {vault_issuer: {issuer: other, mount: m, name: n}}"),
        "7: watch.a.vault_issuer.issuer: found other; allowed what stands under issuers (corporate); do mend the name",
    ),
    "a warning that is no warning": (
        watch("a: {file: /etc/x.pem, expiry_ratio_warning: 96%}"),
        (
            "7: watch.a: found a warning at 0.96 and critical at 0.95; allowed a warning before critical; do lower "
            "expiry_ratio_warning"
        ),
    ),
}


@pytest.mark.parametrize(("change", "expected"), WRONG.values(), ids=WRONG)
def test_what_cannot_work_is_refused_in_one_line(tmp_path: Path, change: tuple[str, str], expected: str) -> None:
    """With what to do about it."""
    assert [expected] == complaints(written(tmp_path, change))


def test_a_list_of_secrets_has_to_be_granted_in_words(tmp_path: Path) -> None:
    """Without ``allow_list: true`` no Secret is looked for by label."""
    change = watch("a: {kubernetes_secrets: {namespaces: [n], selector: a=b}}", more="\ncluster: {}")
    assert ["allow_list"] == [line.split(":")[1].rpartition(".")[2] for line in complaints(written(tmp_path, change))]
    refused = watch(
        "a: {kubernetes_secrets: {namespaces: [n], selector: a=b, allow_list: false}}", more="\ncluster: {}"
    )
    assert "allow_list" in complaints(written(tmp_path, refused))[0]


def test_each_kind_of_receiver_repeats_in_its_own_time(tmp_path: Path) -> None:
    """Unless the file says another one."""
    change = notify(f"name: a, {MANAGER}", f"name: b, {HOOK}", f"name: c, {HOOK}, repeat_every: 1h")
    found = load(written(tmp_path, change)).alerts.notify
    assert [timedelta(minutes=1), timedelta(hours=4), timedelta(hours=1)] == [each.repeats for each in found]
