"""The commands about other people's words, and which daemon is asked: exit codes, lines, and no surprise."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from rotator.cli import main
from rotator.control import ApproveRequest, RejectRequest, Right
from rotator.control.peer import in_pod, peer_of
from tests.cli.served import Run, served
from tests.fakes.operations import FakeOperations

EXAMPLE = Path(__file__).parents[2] / "config" / "examples" / "envoy.yaml"
WAITS = {
    "id": "0f3a9d7e",
    "state": "awaiting_approval",
    "approvals_needed": 1,
    "approvals_given": 0,
    "expires_at": "2030-01-01T08:00:00Z",
}
DONE = {"subject": "web", "state": "done", "phase": "in_use", "proven": 1, "total": 1, "outcome": "completed"}


@pytest.fixture
def operations() -> FakeOperations:
    return FakeOperations(steps=[DONE])


@pytest.fixture
def run(tmp_path: Path, operations: FakeOperations, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Run a command against a real socket whose every caller may do everything."""
    with served(tmp_path, operations, capsys, example=EXAMPLE) as run:
        yield run


def test_a_request_that_waits_says_for_whom_and_until_when(run: Run, operations: FakeOperations) -> None:
    """Exit code 3, and the line that the other person types."""
    operations.waiting_on, operations.waits = ["1 more approval"], WAITS
    code, out, _ = run("rotate-now", "web", "--reason", "because")
    said = "request 0f3a9d7e is waiting on 1 more approval until 2030-01-01T08:00:00Z: rotator approve 0f3a9d7e"
    assert (3, said) == (code, out.splitlines()[-1])


def test_a_pause_that_waits_is_not_said_to_be_one(run: Run, operations: FakeOperations) -> None:
    """Nothing is claimed that somebody has yet to agree to."""
    operations.waiting_on, operations.waits = ["1 more approval"], WAITS
    code, out, _ = run("pause", "web", "--until", "1h", "--reason", "because")
    assert (3, False) == (code, "is paused" in out)


@pytest.mark.parametrize(
    ("standing", "expected"),
    [
        ([WAITS, {**WAITS, "state": "accepted", "rotations": ["r-1"]}], 0),
        ([WAITS, {**WAITS, "state": "rejected", "outcome": "somebody has said no"}], 5),
        ([WAITS, {**WAITS, "state": "expired", "outcome": "nobody has approved it"}], 5),
        ([WAITS, {**WAITS, "state": "refused", "outcome": "it has gone"}], 4),
    ],
    ids=["approved", "rejected", "expired", "refused"],
)
def test_waiting_goes_on_through_the_approval(
    run: Run, operations: FakeOperations, standing: list[dict[str, object]], expected: int
) -> None:
    """--wait follows the request to its decision, and then its rotations to their end."""
    operations.waiting_on, operations.waits, operations.standing = ["1 more approval"], WAITS, list(standing)
    assert expected == run("rotate-now", "web", "--reason", "because", "--wait")[0]


def test_waiting_for_a_word_has_an_end(run: Run, operations: FakeOperations) -> None:
    """--wait-at-most stops watching; the request goes on waiting."""
    operations.waiting_on, operations.waits, operations.standing = ["1 more approval"], WAITS, [WAITS]
    assert 3 == run("rotate-now", "web", "--reason", "because", "--wait-at-most", "10ms")[0]


def test_approve_and_reject_are_asked_for(run: Run, operations: FakeOperations) -> None:
    """Id and words go to the daemon as they were typed."""
    code, out, _ = run("approve", "0f3a9d7e", "--reason", "seen")
    assert (0, "web: rotation r-web is accepted\n") == (code, out)
    code, out, _ = run("reject", "0f3a9d7e", "--reason", "no")
    assert (0, "request 0f3a9d7e is rejected\n") == (code, out)
    assert [ApproveRequest(id="0f3a9d7e", reason="seen"), RejectRequest(id="0f3a9d7e", reason="no")] == [
        asked for asked, _ in operations.asked
    ]


def test_an_approval_that_is_not_the_last_waits(run: Run, operations: FakeOperations) -> None:
    """Exit code 3 until as many have agreed as are needed."""
    operations.waiting_on = ["1 more approval"]
    assert 3 == run("approve", "0f3a9d7e")[0]


def test_approving_is_a_right_of_its_own(run: Run, operations: FakeOperations, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may operate may not approve for that alone; the try is recorded."""
    monkeypatch.setattr(
        "rotator.control.requests.Rights.permits", lambda _self, _person, right: right is not Right.APPROVE
    )
    code, _, err = run("approve", "0f3a9d7e")
    assert (5, True) == (code, "the right `approve` belongs to people.approve" in err)
    assert [("approve", Right.APPROVE)] == [(operation, right) for operation, _, right in operations.denials]


def test_status_lists_what_waits(run: Run, operations: FakeOperations) -> None:
    """Who asked for what, how many have agreed, and until when."""
    row = {**WAITS, "operation": "rotate", "subjects": ["web"], "requested_by": "alice (uid 1000)", "emergency": False}
    operations.shown = {"subjects": [], "requests": [row], "ledger": {"size": 0}}
    _, out, _ = run("status")
    line = next(each for each in out.splitlines() if each.startswith("0f3a9d7e"))
    assert [
        "0f3a9d7e",
        "rotate",
        "web",
        "alice",
        "(uid",
        "1000)",
        "awaiting",
        "approval",
        "0",
        "of",
        "1",
    ] == line.split()[:11]


def test_a_cluster_is_asked_only_where_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A kubeconfig that happens to be there is no choice: without a configuration and a context nothing is asked."""
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text("{}")
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    monkeypatch.delenv("ROTATOR_CONTEXT", raising=False)
    assert 2 == main(["--config", str(tmp_path / "none.yaml"), "status"])
    assert "--context NAME to ask in a cluster" in capsys.readouterr().err
    monkeypatch.setenv("ROTATOR_CONTEXT", "prod")
    assert 2 == main(["--config", str(tmp_path / "none.yaml"), "status"])
    assert f"cannot reach the cluster with kubeconfig {kubeconfig}" in capsys.readouterr().err


def test_inside_a_pod_nobody_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kubelet's environment says that it is a pod; then the peer's uid is nobody's name."""
    assert (True, False) == (in_pod({"KUBERNETES_SERVICE_HOST": "10.96.0.1"}), in_pod({}))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        assert peer_of(ours)[0].known
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
        person, _ = peer_of(ours)
    assert (False, True) == (person.known, person.described.startswith("unattributed"))


def test_json_has_the_request(run: Run, operations: FakeOperations) -> None:
    """Machines find the request's id and state in the answer."""
    operations.waiting_on, operations.waits = ["1 more approval"], WAITS
    code, out, _ = run("--json", "rotate-now", "web", "--reason", "because")
    assert (3, WAITS) == (code, json.loads(out)["request"])
