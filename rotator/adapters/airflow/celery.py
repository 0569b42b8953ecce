"""
Draining Celery workers: take their queues away, watch what they still do, give the queues back.

Rules that must stay true here:

- Unknown is not idle: a worker that does not answer has ``busy=None`` and is not ready (law 17).
- Ready is proven, never assumed: this very process answers and consumes every queue that it should (law 16).
- Draining keeps the worker's remote control alive, so that its progress stays visible; only a signal ends it.
- Nothing is remembered that a restart would lose and that matters: a worker that starts anew consumes the queues of
  its own command line, so a drain never outlives the process that was drained.
- Where a second opinion is given (Airflow's own account of what runs), a worker is idle only if both say so; an
  opinion that cannot be had makes it unknown. It is asked only about workers that are drained or silent.
- A worker that cannot be drained is told to end only if it is sure that it never listened (no mailbox at the broker,
  long after its start) and the configuration lets it: its warm shutdown finishes what it has, and nothing is killed.

Which queues a worker should consume, in this order: what the configuration says; what its command line says
(`queues_of_command`); what this process has seen it consume. If none of them knows, it cannot be let to work again.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import PurePath

from rotator.adapters.airflow.hosts import at_work
from rotator.adapters.airflow.remote_control import Answer, RemoteControl
from rotator.core.model import Member
from rotator.core.tasks import TaskAttempt
from rotator.errors import AdapterError, Rejected, Unavailable
from rotator.ports import Clock, RunningTasks


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


@dataclass(frozen=True, slots=True, kw_only=True)
class PodNodes:
    """
    The nodes of workers in pods: whoever they are now, each by its host name, which is its pod's name.

    That is what a worker calls itself that is started without a name of its own, as the charts do.
    """

    queues: frozenset[str] = frozenset()
    """Queues that they should consume; empty: those that each was seen to consume."""

    def of(self, member: Member) -> CeleryNode:
        """Return the node of one pod."""
        return CeleryNode(node=f"celery@{member.host or member.name}", queues=self.queues)


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondOpinion:
    """Airflow's own account of what runs, beside what the workers say of themselves."""

    tasks: RunningTasks
    clock: Clock
    starts_within: timedelta = timedelta(minutes=1)
    """A worker that has run for longer has had the time to listen."""
    stop_deaf: bool = False
    """Let a worker whose remote control is off be told to end without a drain: it finishes what it has."""


class CeleryDrainer:
    """`rotator.ports.Drainer` for the members of one workload. Safe from several threads."""

    def __init__(
        self,
        control: RemoteControl,
        nodes: Mapping[str, CeleryNode] | PodNodes,
        opinion: SecondOpinion | None = None,
    ) -> None:
        """
        Drain through *control*; *nodes* has an entry for each member's name, or gives one to every pod.

        A member that is not in *nodes* is `Rejected`.
        """
        self._control = control
        self._nodes = nodes if isinstance(nodes, PodNodes) else dict(nodes)
        self._opinion = opinion
        self._lock = threading.Lock()
        self._consumed: dict[str, frozenset[str]] = {}
        self._last_seen: dict[str, tuple[str, bool]] = {}
        """By member: the run that answered last, and whether it was drained then."""

    def inspect(self, members: Sequence[Member]) -> tuple[Member, ...]:
        """Return *members* with what their workers do now. Members that do not run are not asked."""
        answers = self._control.look([self._node(member).node for member in members if member.running])
        seen = tuple(
            replace(self._seen(member, answers.get(self._node(member).node)), host=self._host(member))
            for member in members
        )
        return seen if self._opinion is None else self._confirmed(seen, answers, self._opinion)

    def _confirmed(
        self, members: Sequence[Member], answers: Mapping[str, Answer], opinion: SecondOpinion
    ) -> tuple[Member, ...]:
        """Return *members* with Airflow's own account of those that are drained or silent."""
        silent = {each.name for each in members if each.running and self._node(each).node not in answers}
        in_question = {each.name for each in members if each.running and each.draining} | silent
        if not in_question:
            return tuple(members)
        deaf: frozenset[str] = frozenset()
        if silent:
            listening = self._control.mailboxes([self._node(each).node for each in members if each.name in silent])
            deaf = frozenset(
                each.name
                for each in members
                if each.name in silent and self._node(each).node not in listening and self._has_started(each, opinion)
            )
        try:
            running = opinion.tasks.running()
        except AdapterError as e:
            because = f"what it works on cannot be confirmed: {e}"
            return tuple(
                replace(each, busy=each.busy or None, detail=because) if each.name in in_question else each
                for each in members
            )
        return tuple(
            self._with_opinion(each, at_work(running, self._host(each)), opinion, deaf=each.name in deaf)
            if each.name in in_question
            else each
            for each in members
        )

    def _with_opinion(
        self, member: Member, tasks: tuple[TaskAttempt, ...], opinion: SecondOpinion, *, deaf: bool
    ) -> Member:
        work = tuple(task.key for task in tasks)
        if not deaf:
            # One that does not answer may hold messages that Airflow knows as queued: its silence stays unknown.
            busy = None if member.busy is None else max(member.busy, len(tasks))
            return replace(member, busy=busy, work=work)
        detail = f"{_DEAF}; Airflow shows {len(tasks)} tasks on it"
        if not opinion.stop_deaf:
            return replace(member, work=work, detail=f"{detail}; it waits for a person")
        # Airflow's word that it takes tasks is the only proof that there is of such a worker.
        return replace(member, ready=bool(tasks), undrainable=True, work=work, detail=detail)

    def _has_started(self, member: Member, opinion: SecondOpinion) -> bool:
        return member.started_at is not None and opinion.clock.now() - member.started_at > opinion.starts_within

    def _host(self, member: Member) -> str:
        return member.host or self._node(member).node.partition("@")[2]

    def drain(self, member: Member) -> None:
        """Take every queue away that *member* consumes, or should; confirmed by the worker for each."""
        node = self._node(member)
        answer = self._control.look([node.node]).get(node.node)
        if answer is None:
            raise Unavailable(f"{node.node} does not answer: it cannot be drained now")
        self._remember(member, answer)
        # The configured ones too: a consumer that is just being added is not listed yet.
        self._control.cancel(node.node, answer.queues | node.queues)
        for _ in range(_LOOKS_AFTER_DRAIN):
            # It confirms first and stops a moment later.
            again = self._control.look([node.node]).get(node.node)
            if again is None or not again.queues:
                break
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
        if isinstance(self._nodes, PodNodes):
            return self._nodes.of(member)
        try:
            return self._nodes[member.name]
        except KeyError:
            raise Rejected(f"{member.workload} has no Celery node name for its member {member.name}") from None


_LOOKS_AFTER_DRAIN = 5

_GONE = "it does not run"
_SILENT_NOW = "it runs, answered before and does not any more: it is ending, or it hangs"
_DEAF = (
    "it runs, but the broker keeps no mailbox for it: its remote control is off (worker_enable_remote_control), or it "
    "speaks to another broker, database, virtual host or key prefix"
)
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
