"""
What rotator has paused in an Airflow, kept in the ledger: the record of it and the memory of it are one.

Rules that must stay true here:

- Written before anything is paused, and struck off after everything goes on (law 12).
- Read from the ledger once, from its end backwards; whoever leads next reads what the last one wrote (law 13).
"""

from __future__ import annotations

import threading

from rotator.core.event import Event, EventType
from rotator.core.model import SubjectName
from rotator.core.tasks import Paused, PauseStage
from rotator.engine.run_batches import packed
from rotator.errors import InvariantBroken
from rotator.evidence.record import decode
from rotator.evidence.who_ran import unpacked
from rotator.ports import Clock, Journal, Lease, Ledger

_SLICE = 1024
_MOST_DAGS_A_RECORD = 150
_STAGES = frozenset(stage.value for stage in PauseStage)


class LedgerPauses:
    """`rotator.ports.PauseBook` on journal and ledger. Safe from several threads."""

    def __init__(self, *, journal: Journal, ledger: Ledger, clock: Clock, lease: Lease) -> None:
        """Write through *journal* while *lease* is held."""
        self._journal = journal
        self._ledger = ledger
        self._clock = clock
        self._lease = lease
        self._lock = threading.Lock()
        self._known: dict[SubjectName, Paused | None] = {}

    def paused(self, workload: SubjectName) -> Paused | None:
        """Return what is paused for *workload*, None if nothing is."""
        with self._lock:
            if workload not in self._known:
                self._known[workload] = self._read(workload)
            return self._known[workload]

    def write(self, workload: SubjectName, paused: Paused) -> None:
        """Note how far it has come."""
        if not self._lease.held():
            raise InvariantBroken(14, "the lease is lost, so this process must not change the world any more")
        dags = paused.dags
        parts = [dags[at : at + _MOST_DAGS_A_RECORD] for at in range(0, len(dags), _MOST_DAGS_A_RECORD)] or [()]
        with self._lock:
            # Read again should the commit not tell: what is in the ledger counts.
            self._known.pop(workload, None)
            with self._journal.transaction() as transaction:
                for number, part in enumerate(parts, start=1):
                    transaction.append(
                        Event(
                            type=EventType.DRAINED,
                            time=self._clock.now(),
                            subject=workload,
                            result=paused.stage.value,
                            detail={
                                "workload": workload,
                                "part": number,
                                "parts": len(parts),
                                **packed("dags", ([each] for each in part)),
                                **packed("identities", ([each] for each in paused.identities)),
                                **packed("present", ([each] for each in paused.present)),
                            },
                        )
                    )
            self._known[workload] = None if paused.stage is PauseStage.OVER else paused

    def _read(self, workload: SubjectName) -> Paused | None:
        dags: list[str] = []
        end = self._ledger.size()
        while end > 0:
            start = max(0, end - _SLICE)
            for raw in reversed(self._ledger.entries(start, end)):
                if b'"dags ' not in raw:
                    continue
                event = decode(raw).event
                if event.type is not EventType.DRAINED or event.subject != workload or event.result not in _STAGES:
                    continue
                if event.result == PauseStage.OVER:
                    return None
                dags = [str(row[0]) for row in unpacked(event, "dags")] + dags
                if event.detail.get("part") == 1:
                    identities, present = (
                        tuple(str(row[0]) for row in unpacked(event, name)) for name in ("identities", "present")
                    )
                    stage = PauseStage(event.result)
                    return Paused(stage=stage, dags=tuple(dags), identities=identities, present=present)
            end = start
        return None
