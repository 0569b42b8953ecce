"""
The objects in which people ask, in memory.

Rules that must stay true here:

- It passes tests/contract/test_request_board.py, as the objects of a real API server do.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from rotator.cluster.people import FINAL
from rotator.durations import parse_moment
from rotator.errors import Conflict
from rotator.ports import PostedObject
from tests.fakes.clock import ManualClock


@dataclass(slots=True)
class FakeRequestBoard:
    """Two shelves of objects, and whether names in them are bound to people."""

    clock: ManualClock
    guarded: datetime | None = None
    trouble: Exception | None = None
    """What every call raises."""
    shelves: dict[bool, dict[str, PostedObject]] = field(default_factory=lambda: {False: {}, True: {}})
    """Approvals under True, requests under False; each by its name."""
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def post(self, name: str, spec: Mapping[str, Any], *, approval: bool = False) -> PostedObject:
        """Put an object there, as somebody's kubectl does."""
        number = next(self._numbers)
        posted = PostedObject(
            name=name,
            uid=f"{number:08d}-0000-4000-8000-000000000000",
            revision=str(number),
            made_at=self.clock.now().replace(microsecond=0),
            spec=spec,
            status={},
        )
        self.shelves[approval][name] = posted
        return posted

    def take_away(self, name: str, *, approval: bool = False) -> None:
        """Remove an object, as an administrator does."""
        del self.shelves[approval][name]

    def status(self, name: str, *, approval: bool = False) -> Mapping[str, Any]:
        """Return the status of an object as people read it."""
        return self.shelves[approval][name].status

    def guarded_since(self) -> datetime | None:
        """Return what a test has put into `guarded`."""
        self._answer()
        return self.guarded

    def requests(self) -> tuple[PostedObject, ...]:
        """Return every request that has not ended, oldest first."""
        return self._open(approval=False)

    def approvals(self) -> tuple[PostedObject, ...]:
        """Return every approval that nobody has looked at, oldest first."""
        return self._open(approval=True)

    def show(self, posted: PostedObject, status: Mapping[str, Any], *, approval: bool = False) -> None:
        """Merge *status* into that of the object, if it is still as it was read."""
        self._answer()
        found = self.shelves[approval].get(posted.name)
        if found is None or (found.uid, found.revision) != (posted.uid, posted.revision):
            raise Conflict(f"{posted.name} has changed or is gone")
        merged = {**found.status, **status}
        self.shelves[approval][posted.name] = replace(found, status=merged, revision=str(next(self._numbers)))

    def tidy(self, ended_before: datetime) -> int:
        """Remove what had ended before that moment; return how many."""
        self._answer()
        removed = 0
        for shelf in self.shelves.values():
            for name, each in list(shelf.items()):
                finished = each.status.get("finishedAt")
                if finished is not None and parse_moment(finished) < ended_before:
                    del shelf[name]
                    removed += 1
        return removed

    def _open(self, *, approval: bool) -> tuple[PostedObject, ...]:
        self._answer()
        found = [
            each
            for each in self.shelves[approval].values()
            if (not each.status.get("phase") if approval else each.status.get("phase") not in FINAL)
        ]
        return tuple(sorted(found, key=lambda each: (each.made_at, each.name)))

    def _answer(self) -> None:
        if self.trouble is not None:
            raise self.trouble
