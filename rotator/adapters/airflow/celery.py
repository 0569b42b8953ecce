"""
Draining Celery workers: take their queues away, watch what they still do, give the queues back.

Rules that must stay true here:

- Unknown is not idle: a worker that does not answer has ``busy=None`` and is not ready (law 17).
- Ready is proven, never assumed: this very process answers and consumes every queue that it should (law 16).
- Draining keeps the worker's remote control alive, so that its progress stays visible; only a signal ends it.
- Nothing is remembered that a restart would lose and that matters: a worker that starts anew consumes the queues of
  its own command line, so a drain never outlives the process that was drained.

Which queues a worker should consume, in this order: what the configuration says; what its command line says
(`queues_of_command`); what this process has seen it consume. If none of them knows, it cannot be let to work again.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

from rotator.adapters.airflow.remote_control import Answer, RemoteControl
from rotator.core.model import Member
from rotator.errors import Rejected, Unavailable


def queues_of_command(command: Sequence[str]) -> frozenset[str]:
    """
    Return the queues that a worker started with *command* consumes; empty if the command line does not say.

    Empty also for a command without the option: the default queue's name stands in the application's configuration.
    """
    # Airflow's own command spells it -q, which to Celery's means quiet.
    short = "-q" if any(PurePath(word).name == "airflow" for word in command) else "-Q"
    for position, word in enumerate(command):
        for option in (short, "--queues"):
            if word == option and position + 1 < len(command):
                return _names(command[position + 1])
            if word.startswith(f"{option}="):
                return _names(word.partition("=")[2])
            if not option.startswith("--") and word.startswith(option) and len(word) > len(option):
                return _names(word.removeprefix(option))
    return frozenset()


def _names(text: str) -> frozenset[str]:
    return frozenset(name.strip() for name in text.split(",") if name.strip())


@dataclass(frozen=True, slots=True, kw_only=True)
class CeleryNode:
    """One member as Celery knows it."""

    node: str
    """The full node name: ``celery@worker-1``."""
    queues: frozenset[str] = frozenset()
    """Queues that it should consume; empty if neither the configuration nor the command line says."""


class CeleryDrainer:
    """`rotator.ports.Drainer` for the members of one workload. Safe from several threads."""

    def __init__(self, control: RemoteControl, nodes: Mapping[str, CeleryNode]) -> None:
        """
        Drain through *control*; *nodes* has an entry for each member's name.

        A member that is not in *nodes* is `Rejected`.
        """
        self._control = control
        self._nodes = dict(nodes)
        self._lock = threading.Lock()
        self._consumed: dict[str, frozenset[str]] = {}
        self._last_seen: dict[str, tuple[str, bool]] = {}
        """By member: the run that answered last, and whether it was drained then."""

    def inspect(self, members: Sequence[Member]) -> tuple[Member, ...]:
        """Return *members* with what their workers do now. Members that do not run are not asked."""
        answers = self._control.look([self._node(member).node for member in members if member.running])
        return tuple(self._seen(member, answers.get(self._node(member).node)) for member in members)

    def drain(self, member: Member) -> None:
        """Take every queue away that *member* consumes, or should; confirmed by the worker for each."""
        node = self._node(member)
        answer = self._control.look([node.node]).get(node.node)
        if answer is None:
            raise Unavailable(f"{node.node} does not answer: it cannot be drained now")
        self._remember(member, answer)
        # The configured ones too: a consumer that is just being added is not listed yet.
        self._control.cancel(node.node, answer.queues | node.queues)
        with self._lock:
            self._last_seen[member.name] = (member.identity, True)

    def undrain(self, member: Member) -> None:
        """Give *member* back the queues that it should consume; confirmed by the worker for each."""
        node = self._node(member)
        queues = self._should_consume(member)
        if not queues:
            raise Rejected(
                f"nobody knows which queues {node.node} had: "
                "name them in the workload's drain settings, or restart the worker"
            )
        self._control.add(node.node, queues)

    def _seen(self, member: Member, answer: Answer | None) -> Member:
        node = self._node(member)
        if not member.running:
            return replace(
                member, ready=False, draining=False, busy=None, queues=self._should_consume(member), detail=_GONE
            )
        if answer is None:
            with self._lock:
                run, drained = self._last_seen.get(member.name, ("", False))
            answered = run == member.identity
            return replace(
                member,
                ready=False,
                # A worker that was drained before it fell silent has not taken up work since.
                draining=answered and drained,
                busy=None,
                queues=self._should_consume(member),
                detail=_SILENT_NOW if answered else _SILENT_EVER,
            )
        expected = _pid_of(member.identity)
        if expected is not None and answer.pid is not None and answer.pid != expected:
            detail = (
                f"{node.node} answers as process {answer.pid}, but this member is process {expected}: another worker "
                "has the same node name, or the member's command wraps the worker (use exec)"
            )
            return replace(
                member, ready=False, draining=False, busy=None, queues=self._should_consume(member), detail=detail
            )
        self._remember(member, answer)
        should = self._should_consume(member)
        lacking = should - answer.queues
        return replace(
            member,
            draining=not answer.queues,
            busy=answer.busy,
            queues=should | answer.queues,
            ready=bool(answer.queues) and not lacking,
            detail=_lacking(answer.queues, lacking),
        )

    def _remember(self, member: Member, answer: Answer) -> None:
        with self._lock:
            self._last_seen[member.name] = (member.identity, not answer.queues)
            if answer.queues:
                # Only ever grows within one process: a queue that was taken away is still one that it had.
                self._consumed[member.name] = self._consumed.get(member.name, frozenset()) | answer.queues

    def _should_consume(self, member: Member) -> frozenset[str]:
        if configured := self._node(member).queues:
            return configured
        with self._lock:
            return self._consumed.get(member.name, frozenset())

    def _node(self, member: Member) -> CeleryNode:
        try:
            return self._nodes[member.name]
        except KeyError:
            raise Rejected(f"{member.workload} has no Celery node name for its member {member.name}") from None


_GONE = "it does not run"
_SILENT_NOW = "it runs, answered before and does not any more: it is ending, or it hangs"
_SILENT_EVER = (
    "it runs but has not answered yet: it is starting, or its remote control is off "
    "(worker_enable_remote_control; without it a worker cannot be drained)"
)


def _lacking(consumed: Collection[str], lacking: Collection[str]) -> str:
    if not consumed:
        return "it takes no new work"
    return f"it does not consume {', '.join(sorted(lacking))}" if lacking else ""


def _pid_of(identity: str) -> int | None:
    """Return the pid in a local process's identity ``pid@start``; None for any other kind of member."""
    pid, at, _ = identity.partition("@")
    return int(pid) if at and pid.isascii() and pid.isdigit() else None
