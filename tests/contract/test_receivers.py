"""
What every receiver of alerts keeps, held against real servers.

Rules that must stay true here:

- One suite for all of them: a raise and its end arrive, a message that was not taken raises the tree of errors within
  its time-out, the same message may be sent twice, and neither message nor error holds a secret.
- Alertmanager and the API server are the real ones (``stack``); webhook and apprise talk to a real HTTP server.
"""

from __future__ import annotations

import hashlib
import hmac
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from rotator.adapters.notify.alertmanager import AlertmanagerReceiver
from rotator.adapters.notify.apprising import NOTICES_SHOWN, AppriseReceiver
from rotator.adapters.notify.events import About, EventReceiver, event_rights
from rotator.adapters.notify.http import Access
from rotator.adapters.notify.webhook import WebhookReceiver
from rotator.adapters.notify.wording import Links
from rotator.cluster.objects import ClusterAccess, ObjectAPI
from rotator.core.alert_kinds import AlertKind
from rotator.core.model import Severity, SubjectName
from rotator.errors import AdapterError, ConfigError, Denied, Rejected, Unavailable
from rotator.ports import Message, Notice
from tests.contract.receiving import Sink
from tests.fakes.clock import ManualClock
from tests.stack.alertmanager import AlertmanagerServer
from tests.stack.cluster import Cluster, Refused

NOW = datetime.now(tz=UTC).replace(microsecond=0)
MINUTE = timedelta(minutes=1)
LINKS = Links(environment="test", runbooks="https://docs.example/runbooks", status="https://rotator.example")
PATIENT = Access(timeout=timedelta(seconds=60))
QUICK = Access(timeout=timedelta(milliseconds=500))
"""For who never answers: no other test may hang on how fast a busy machine is."""
RAISED = Notice(
    key="web/safety_line",
    kind=AlertKind.SAFETY_LINE,
    subject=SubjectName("web"),
    severity=Severity.WARNING,
    summary="web has to be renewed by 2030-01-01T00:00:00Z",
    raised=True,
    since=NOW - MINUTE,
    at=NOW,
)
OVER = replace(RAISED, raised=False, at=NOW + MINUTE)


def message(*notices: Notice, left_out: int = 0, at: datetime = NOW) -> Message:
    """Return a message of *notices*."""
    return Message(id="0123456789abcdef", notices=notices, left_out=left_out, at=at)


@pytest.fixture
def sink() -> Iterator[Sink]:
    """A server that takes everything until it is told otherwise."""
    with Sink() as made:
        yield made


# --- webhook ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """The webhook's secret."""
    file = tmp_path / "secret"
    file.write_text("s3cret-of-the-hook\n")
    return file


@pytest.fixture
def webhook(sink: Sink, secret: Path) -> Iterator[WebhookReceiver]:
    """A signed webhook at the sink."""
    made = WebhookReceiver(
        "hook", f"{sink.url}/alerts", clock=ManualClock(NOW), access=PATIENT, links=LINKS, secret_file=secret
    )
    yield made
    made.close()


def test_a_webhook_is_sent_the_contracts_document(sink: Sink, webhook: WebhookReceiver) -> None:
    """Every field that docs/contract.md names, and nothing else."""
    grave = replace(RAISED, severity=Severity.CRITICAL, again=True)
    webhook.send(message(grave, OVER, left_out=3))
    (request,) = sink.requests
    page = Path(__file__).parents[2].joinpath("docs/contract.md").read_text()
    promised = page[page.index("## Webhook") :]
    named = {part.split('"')[0] for part in promised.partition("```")[2].partition("```")[0].split('"')[1::2]}
    document = request.document
    assert {*document, *document["notices"][0]} == {each for each in named if each.islower() and " " not in each} - {
        "warning",
        "critical",
        "firing",
        "resolved",
    }
    assert [("firing", None, True), ("resolved", OVER.at.strftime("%Y-%m-%dT%H:%M:%SZ"), False)] == [
        (each["state"], each["ended"], each["repeated"]) for each in document["notices"]
    ]
    assert (3, "test", "hook") == (document["left_out"], document["environment"], document["receiver"])
    assert "https://docs.example/runbooks/renewal-overdue.md" == document["notices"][0]["runbook"]


def test_a_webhook_can_be_verified_by_its_receiver(sink: Sink, webhook: WebhookReceiver, secret: Path) -> None:
    """The HMAC over timestamp and body, as the contract tells people to check it; the secret is read each time."""
    for words in (b"s3cret-of-the-hook", b"another"):
        secret.write_bytes(words)
        webhook.send(message(RAISED))
        request = sink.requests[-1]
        stamp = request.headers["Rotator-Timestamp"]
        expected = hmac.new(words, stamp.encode() + b"." + request.body, hashlib.sha256).hexdigest()
        assert f"v1={expected}" == request.headers["Rotator-Signature"]
        assert str(int(NOW.timestamp())) == stamp
        assert request.document["id"] == request.headers["Rotator-Delivery"]


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (500, Unavailable),
        (429, Unavailable),
        (0, Unavailable),
        (401, Denied),
        (403, Denied),
        (400, Rejected),
        (302, Rejected),
    ],
)
def test_a_webhook_that_misbehaves_is_an_error_of_ours(
    sink: Sink, webhook: WebhookReceiver, status: int, error: type[AdapterError]
) -> None:
    """Slow, failing, closing, refusing: one try each, no redirect followed, and the next message arrives."""
    sink.status = status
    with pytest.raises(error) as caught:
        webhook.send(message(RAISED))
    assert 1 == len(sink.requests)
    assert "hook" in str(caught.value)
    sink.status = 200
    webhook.send(message(RAISED))
    assert sink.requests[0].document["id"] == sink.requests[1].document["id"]


def test_a_webhook_that_never_answers_is_not_waited_for(sink: Sink, secret: Path) -> None:
    """The time-out bounds it, and says so."""
    made = WebhookReceiver("hook", sink.url, clock=ManualClock(NOW), access=QUICK, links=LINKS, secret_file=secret)
    sink.status = -1
    with pytest.raises(Unavailable, match="hook did not answer: no answer in time"):
        made.send(message(RAISED))
    made.close()


def test_an_address_that_is_a_secret_stays_one(sink: Sink, tmp_path: Path) -> None:
    """It comes from a file and stands in no error."""
    file = tmp_path / "url"
    file.write_text(f"{sink.url}/T0KEN-in-the-path?key=abc\n")
    made = WebhookReceiver("chat", file, clock=ManualClock(NOW), access=PATIENT, links=LINKS)
    made.send(message(RAISED))
    assert "/T0KEN-in-the-path?key=abc" == sink.requests[0].path
    sink.status = 0
    with pytest.raises(Unavailable) as caught:
        made.send(message(RAISED))
    assert "T0KEN" not in f"{caught.value} {caught.value.__cause__} {caught.value.__context__ and caught.value.args}"
    made.close()
    with pytest.raises(ConfigError, match="cannot read"):
        WebhookReceiver("chat", tmp_path / "none", clock=ManualClock(NOW), access=PATIENT, links=LINKS)


def test_credentials_are_read_at_each_message(sink: Sink, tmp_path: Path) -> None:
    """A token that was replaced in its file is used at once; one that cannot be read is said."""
    token, password = tmp_path / "token", tmp_path / "password"
    token.write_text("one\n")
    password.write_text("word\n")
    bearer = WebhookReceiver(
        "b", sink.url, clock=ManualClock(NOW), access=replace(PATIENT, bearer_token_file=token), links=LINKS
    )
    bearer.send(message(RAISED))
    token.write_text("two\n")
    bearer.send(message(RAISED))
    basic = AlertmanagerReceiver(
        "a",
        [sink.url],
        access=replace(PATIENT, username="me", password_file=password),
        links=LINKS,
        repeat_every=MINUTE,
    )
    basic.send(message(RAISED))
    assert ["Bearer one", "Bearer two", "Basic bWU6d29yZA=="] == [
        each.headers["Authorization"] for each in sink.requests
    ]
    token.unlink()
    with pytest.raises(Denied, match="cannot read"):
        bearer.send(message(RAISED))
    bearer.close()
    basic.close()


# --- apprise ----------------------------------------------------------------------------------------------------------


def test_apprise_delivers_and_tries_only_what_failed_again(tmp_path: Path) -> None:
    """Two addresses, one of which fails at first: the other one does not hear twice."""
    pytest.importorskip("apprise")
    with Sink() as good, Sink() as bad:
        file = tmp_path / "urls"
        file.write_text(f"# two\n{good.url.replace('http', 'json')}\n\n{bad.url.replace('http', 'json')}\n")
        made = AppriseReceiver("mail", file, links=LINKS)
        bad.status = 500
        with pytest.raises(Unavailable, match="address 2"):
            made.send(message(RAISED, left_out=2))
        bad.status = 200
        made.send(message(RAISED, left_out=2))
        assert (1, 2) == (len(good.requests), len(bad.requests))
        said = good.requests[0].document
        assert "rotator test: 1 firing" == said["title"]
        assert "warning" == said["type"]
        assert RAISED.summary in said["message"]
        assert "2 earlier notices were overtaken" in said["message"]
        many = [replace(RAISED, key=f"{number}") for number in range(NOTICES_SHOWN + 5)]
        made.send(replace(message(*many), id="another"))
        assert "and 5 more" in good.requests[1].document["message"]


def test_apprise_that_is_not_installed_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said when the configuration is read, with what to install."""
    file = tmp_path / "urls"
    file.write_text("json://127.0.0.1\n")
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(ConfigError, match=r"pip install 'rotator\[apprise\]'"):
        AppriseReceiver("mail", file, links=LINKS)


def test_an_address_that_apprise_does_not_know_is_refused_without_quoting_it(tmp_path: Path) -> None:
    """File and line are enough."""
    pytest.importorskip("apprise")
    file = tmp_path / "urls"
    file.write_text("nothing://pass:word@host\n")
    with pytest.raises(ConfigError) as caught:
        AppriseReceiver("mail", file, links=LINKS)
    assert f"{file}:1" in str(caught.value)
    assert "word@" not in str(caught.value)


# --- Alertmanager, the real one ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alertmanager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AlertmanagerServer]:
    """Debian's Alertmanager, without anybody behind it."""
    with AlertmanagerServer(tmp_path_factory.mktemp("alertmanager")) as server:
        yield server


@pytest.mark.stack
def test_alertmanager_fires_grows_graver_and_resolves(alertmanager: AlertmanagerServer) -> None:
    """One alert at a time: the warning ends when the critical one begins, and that one when it is over."""
    made = AlertmanagerReceiver("pager", [alertmanager.url], access=Access(), links=LINKS, repeat_every=MINUTE)
    raised = replace(RAISED, key="grow/safety_line", subject=SubjectName("grow"))
    now = datetime.now(tz=UTC)
    made.send(message(raised, at=now))
    made.send(message(raised, at=now))
    (alert,) = alertmanager.active("grow")
    assert ("RotatorSafetyLine", "warning", "test") == tuple(
        alert["labels"][each] for each in ("alertname", "severity", "environment")
    )
    assert "https://docs.example/runbooks/renewal-overdue.md" == alert["annotations"]["runbook_url"]
    assert "https://rotator.example" == alert["generatorURL"]
    ends = datetime.fromisoformat(alert["endsAt"])
    assert timedelta(minutes=3) < ends - now < timedelta(minutes=5)
    made.send(message(replace(raised, severity=Severity.CRITICAL), at=now + timedelta(milliseconds=1)))
    alertmanager.wait_for("grow", ["critical"])
    made.send(message(replace(raised, severity=Severity.CRITICAL, raised=False, at=now), at=now))
    alertmanager.wait_for("grow", [])
    made.close()


@pytest.mark.stack
def test_one_alertmanager_that_answers_is_enough(alertmanager: AlertmanagerServer) -> None:
    """A replica that is away stops nothing; all of them away is an error."""
    raised = replace(RAISED, subject=SubjectName("replica"))
    urls = ["http://127.0.0.1:1", alertmanager.url]
    made = AlertmanagerReceiver("pager", urls, access=PATIENT, links=LINKS, repeat_every=MINUTE)
    made.send(message(raised, at=datetime.now(tz=UTC)))
    alertmanager.wait_for("replica", ["warning"])
    made.close()
    alone = AlertmanagerReceiver("pager", urls[:1], access=PATIENT, links=LINKS, repeat_every=MINUTE)
    with pytest.raises(Unavailable, match="no connection"):
        alone.send(message(raised))
    alone.close()


# --- Kubernetes Events, at the real API server ------------------------------------------------------------------------


@pytest.mark.stack
def test_events_are_written_once_counted_up_and_ended(cluster: Cluster, tmp_path: Path) -> None:
    """With exactly the rights of `event_rights`: one Event a raise, its series grows, another one at the end."""
    namespace = "rotator-events"
    cluster.namespace(namespace)
    token = cluster.service_account(namespace, "rotator")
    where = {"namespace": namespace, "name": "rotator-events"}
    cluster.apply(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": where,
            "rules": list(event_rights([namespace]).namespaces[namespace]),
        }
    )
    cluster.apply(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": where,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "rotator-events"},
            "subjects": [{"kind": "ServiceAccount", "namespace": namespace, "name": "rotator"}],
        }
    )
    kubeconfig = cluster.kubeconfig_for(token, namespace, tmp_path / "kubeconfig")
    api = ObjectAPI(ClusterAccess(namespace=namespace, kubeconfig_file=kubeconfig))
    about = About(version="v1", kind="Secret", namespace=namespace, name="web-tls")
    made = EventReceiver(api, instance="rotator-0", repeat_every=timedelta(minutes=30), about=lambda _: about)
    long = replace(RAISED, summary="x" * 3000)
    made.send(message(long))
    made.send(message(long))
    again = replace(long, again=True)
    made.send(message(again, at=NOW + timedelta(minutes=30)))
    made.send(message(again, at=NOW + timedelta(hours=1)))
    made.send(message(OVER, at=NOW + timedelta(hours=1)))
    path = f"/apis/events.k8s.io/v1/namespaces/{namespace}/events"
    found = {each["reason"]: each for each in cluster.call("GET", path)["items"]}
    assert {"SafetyLine", "SafetyLineResolved"} == set(found)
    assert ("Warning", "Normal") == (found["SafetyLine"]["type"], found["SafetyLineResolved"]["type"])
    assert ("Secret", "web-tls") == tuple(found["SafetyLine"]["regarding"][each] for each in ("kind", "name"))
    assert 3 == found["SafetyLine"]["series"]["count"]
    cluster.call("DELETE", f"{path}/{found['SafetyLine']['metadata']['name']}")
    made.send(message(again, at=NOW + timedelta(hours=2)))
    renewed = cluster.call("GET", f"{path}/{found['SafetyLine']['metadata']['name']}")
    assert 5 == renewed["series"]["count"]
    elsewhere = EventReceiver(
        api, instance="rotator-0", repeat_every=MINUTE, about=lambda _: replace(about, namespace="default")
    )
    with pytest.raises(Denied):
        elsewhere.send(message(RAISED))
    with pytest.raises(Refused):
        cluster.call("GET", f"{path}/none")
    api.close()
