"""
A kubelet's part for real processes: each pod that nodes only play is paired with a process of its name.

Rules that must stay true here:

- A process lives as its pod does: told to end when the pod is, killed when the pod is gone or its grace period is over,
  started with its successor. What an eviction without a drain would cut off is cut off here too.
- A pod that was told to end is gone when its process is. Its pods play one that never ends by itself (`ENDS`).
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Protocol, Self

from rotator.adapters.processes import CommandMember, Processes
from tests.stack.cluster import Refused
from tests.stack.nodes import Nodes


class Workers(Protocol):
    """Processes by name, which can be started, told to end, and killed."""

    @property
    def members(self) -> Sequence[CommandMember]:
        """Return all that there may be."""
        ...

    @property
    def workloads(self) -> Processes:
        """Return who starts them, and sees whether they run."""
        ...

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to the main process of one that runs."""
        ...

    def kill(self, name: str) -> None:
        """Kill one that runs, with all it started."""
        ...


class Kubelet:
    """Lets a worker's process follow its pod, and a pod end with its process."""

    def __init__(self, nodes: Nodes, namespace: str, workers: Workers, *, grace_seconds: float = 2.0) -> None:
        """Pair each pod of *namespace* with the worker of its name; other pods end as soon as they are told to."""
        self._nodes = nodes
        self._namespace = namespace
        self.grace_seconds = grace_seconds
        self._workers = workers
        self._names = [each.name for each in workers.members]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow)
        self._lives: dict[str, str] = {}
        self._told: dict[str, float] = {}
        """When a pod was told to end, by its UID."""
        self.trouble: list[str] = []

    def _follow(self) -> None:
        while not self._stop.wait(0.1):
            try:
                self._look()
            except Exception as e:  # noqa: BLE001 -- told by the test, which would wait for ever otherwise
                self.trouble.append(repr(e))
                return

    def _look(self) -> None:
        pods = {pod["metadata"]["name"]: pod["metadata"] for pod in self._nodes.pods(self._namespace)}
        running = {each.name for each in self._workers.workloads.members() if each.running}
        for name in self._names:
            pod, lives = pods.get(name), self._lives.get(name)
            if lives is not None and (pod is None or pod["uid"] != lives):
                self._end(name)
            elif lives is not None and pod is not None and "deletionTimestamp" in pod:
                if lives not in self._told:
                    self._told[lives] = time.monotonic()
                    if name in running:
                        self._workers.signal(name, signal.SIGTERM)
                elif name not in running or time.monotonic() - self._told[lives] > self.grace_seconds:
                    self._end(name)
            elif pod is not None and lives is None and "deletionTimestamp" not in pod:
                self._workers.workloads.replace(name, forced=False)
                self._lives[name] = pod["uid"]
        for name, pod in pods.items():
            if name not in self._lives and "deletionTimestamp" in pod:
                self._remove(pod)

    def _end(self, name: str) -> None:
        del self._lives[name]
        if name in {each.name for each in self._workers.workloads.members() if each.running}:
            self._workers.kill(name)

    def _remove(self, pod: dict[str, Any]) -> None:
        """Let a pod be gone whose processes have ended, as a kubelet does."""
        path = f"/api/v1/namespaces/{self._namespace}/pods/{pod['name']}"
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": pod["uid"]}}
        with contextlib.suppress(Refused):
            self._nodes.cluster.call("DELETE", path, body)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
