"""
One object that rotator publishes at a name: whose it is, what it says, and how it is written without losing a race.

Rules that must stay true here:

- A name is switched by one write of one object (law 9), and each write carries the resourceVersion that was looked at;
  the first is a creation, which fails where something is there already (law 14).
- What somebody else put there is never overwritten without the operator's word (`adopt`).
- A write whose reply was lost is looked for before it is made again (law 13); a server that asks for patience is left
  alone (`rotator.cluster.objects`).
- Looking takes one request for the metadata alone: content crosses the network only when it has changed. Remembered
  between looks is what the content last seen meant, never a key.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final

from rotator.adapters.kubernetes.notes import (
    GENERATION,
    Dress,
    Note,
    annotations_of,
    created_as_update,
    is_marked,
    note_of,
    undressed,
    writers_of,
)
from rotator.cluster.objects import JSON, ObjectAPI
from rotator.cluster.paths import path_of
from rotator.core.model import Publication, SubjectName
from rotator.errors import Conflict, Rejected, Unavailable
from rotator.ports import Clock, Stamp

FIRST_WAIT: Final = timedelta(milliseconds=200)
"""Before a write that got no answer is looked for; doubles from then on."""

_RACES: Final = 5
"""Writes in a row that may lose against somebody who touches what is not ours; more often is a writer gone mad."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of object that is published."""

    kind: str
    plural: str
    type: str | None
    """Of a Secret, which can never be changed."""
    noted: tuple[str, ...]
    """Keys whose hash is noted."""
    has_serial: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What is to be published."""

    fields: Mapping[str, Any]
    """``data`` and what else the kind has beside metadata."""
    noted: Mapping[str, bytes]
    serial: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What the object meant when it was last looked at."""

    uid: str
    revision: str
    publication: Publication


Reading = Callable[[JSON, Note], Publication]
"""Says what a whole object with its note means; number and what all kinds share are filled in after it."""


class Place:
    """One name at one API server."""

    def __init__(
        self,
        api: ObjectAPI,
        *,
        kind: Kind,
        namespace: str,
        name: str,
        subject: SubjectName,
        dress: Dress,
        adopt: bool,
        clock: Clock,
        patience: timedelta,
        reading: Reading,
    ) -> None:
        """*patience*: how long a write is tried that gets no answer; *adopt*: what is there may be overwritten."""
        self._api = api
        self._kind = kind
        self._namespace, self._name = namespace, name
        self._subject = subject
        self._dress = dress
        self._adopt = adopt
        self._clock = clock
        self._patience = patience
        self._reading = reading
        self._known: _Known | None = None
        self._highest = 0
        """The highest number ever seen: annotations may be taken away, numbers only grow."""
        self._unread: Publication | None = None
        self._never = threading.Event()

    @property
    def title(self) -> str:
        """Return the object as errors name it: ``Secret airflow/web-tls``."""
        return f"{self._kind.kind} {self._namespace}/{self._name}"

    @property
    def path(self) -> str:
        """Return where it is at the API server."""
        return path_of("v1", self._kind.plural, namespace=self._namespace, name=self._name)

    # --- reading ----------------------------------------------------------------------------------------------------

    def read(self) -> Publication | None:
        """
        Return what is published, None if nothing is.

        Raises:
            Rejected: If somebody else's object is there: a person must look.

        """
        known = self._known
        if known is not None:
            bare = self._api.get(self.path, secret=True, metadata_only=True)
            if bare is None:
                self._known = None
                return None
            if _mark(bare["metadata"]) == (known.uid, known.revision):
                self._unread = known.publication
                return known.publication
        whole = self.whole()
        return None if whole is None else self.understood(whole)

    def once(self) -> Publication | None:
        """Return what the last `read` found, once; asked again, read anew."""
        found, self._unread = self._unread, None
        return found if found is not None else self.read()

    def whole(self) -> JSON | None:
        """Return the object with its content, None if there is none."""
        whole = self._api.get(self.path, secret=True)
        if whole is None:
            self._known = None
        return whole

    def understood(self, whole: JSON) -> Publication:
        """Return what *whole* means, and remember it. Raises `Rejected` if it is somebody else's and stays so."""
        metadata = whole["metadata"]
        if self._kind.type is not None and whole.get("type") != self._kind.type:
            raise Rejected(
                f"{self.title} is of type {whole.get('type')}, which can never be changed: "
                f"delete it, or let rotator publish at another name"
            )
        note = note_of(metadata, self._kind.noted, serial=self._kind.has_serial)
        foreign = self._foreign(metadata, note)
        uid, revision = _mark(metadata)
        if foreign is not None and not self._adopt:
            raise Rejected(
                f"{self.title} {foreign}: delete it, or set adopt: true at its entry to let rotator take it over"
            )
        seen = self._reading(whole, note)
        if foreign is not None:
            seen = replace(seen, number=0, problem=f"it {foreign}, and is taken over", drift=None)
        else:
            # Without its number it still is the publication that it was; the next one must be higher.
            seen = replace(seen, number=note.number or self._highest, drift=self._drift(whole, note, seen))
        seen = replace(
            seen,
            revision=revision,
            writers=writers_of(metadata),
            outdated=note.dress is not None and note.dress != self._dress.digest,
        )
        self._highest = max(self._highest, seen.number)
        self._known = _Known(uid=uid, revision=revision, publication=seen)
        self._unread = seen
        return seen

    def _foreign(self, metadata: Mapping[str, Any], note: Note) -> str | None:
        """Return why the object is not ours, in words, or None."""
        if not is_marked(metadata):
            return "was not made by rotator"
        if note.subject is not None and note.subject != self._subject:
            return f"holds certificate {note.subject} of rotator, not {self._subject}"
        return None

    def _drift(self, whole: JSON, note: Note, seen: Publication) -> str | None:
        """Return what somebody else changed beside the content, together with what the kind itself found."""
        found = [f"annotation {name} is missing or unreadable" for name in note.wrong]
        # Judged against the dress it was given: one that the configuration changed since is outdated, not edited.
        if note.dress in {None, self._dress.digest}:
            found += [f"{name} is missing or changed" for name in undressed(whole["metadata"], self._dress)]
        if whole.get("immutable"):
            found.append("it was made immutable")
        words = [each for each in (seen.drift, *found) if each]
        return "; ".join(words) or None

    # --- writing ----------------------------------------------------------------------------------------------------

    def put(
        self,
        content: Content,
        stamp: Stamp,
        *,
        expected: int,
        holds: Callable[[Publication], bool],
        first: Callable[[JSON], None] = lambda _: None,
    ) -> Publication:
        """
        As `write`, compared with what the server says it stored: whole, and such that it *holds* what was given.

        Raises:
            Conflict: As `write`, or if what is stored is something else.

        """
        seen = self.write(content, stamp, expected=expected, first=first)
        wrong = seen.problem or seen.drift
        if wrong is not None or not holds(seen):
            raise Conflict(
                f"{self.title} was stored otherwise than written, by admission or by somebody else: "
                f"{wrong or 'it holds something else'}"
            )
        return seen

    def write(
        self, content: Content, stamp: Stamp, *, expected: int, first: Callable[[JSON], None] = lambda _: None
    ) -> Publication:
        """
        Publish *content* as the publication after *expected* and return it as stored.

        *first* is called with the whole present object before it is replaced, if there is one of ours.

        Raises:
            Conflict: If another publication than *expected* is there, or ours was changed since it was last looked at.
            Unavailable: If the server gives no answer for as long as *patience*.

        """
        until = self._clock.monotonic() + self._patience.total_seconds()
        seen_before = self._known
        attempted: int | None = None
        races = 0
        wait = FIRST_WAIT
        while True:
            try:
                whole = self.whole()
                if whole is not None and attempted is not None and self._is_done(whole, content, stamp, attempted):
                    return self.understood(whole)
                present = self._expected(whole, expected, seen_before)
                number = max(expected, self._highest) + 1
                attempted = number
                if whole is None:
                    stored = self._create(content, stamp, number)
                else:
                    if present is not None and present.number:
                        first(whole)
                    stored = self._replace(whole, content, stamp, number)
                return self.understood(stored)
            except _LostRaceError as e:
                races += 1
                if races >= _RACES:
                    raise Conflict(f"{self.title} is changed faster than it can be written") from e
            except Unavailable as e:
                pause = max(wait, e.after or timedelta())
                if self._clock.monotonic() + pause.total_seconds() >= until:
                    raise
                self._clock.wait(self._never, pause)
                wait *= 2

    def _expected(self, whole: JSON | None, expected: int, before: _Known | None) -> Publication | None:
        """Return what *whole* means; `Conflict` unless it is what the writer decided on."""
        if whole is None:
            if expected:
                raise Conflict(f"{self.title} is gone, expected was publication {expected}")
            return None
        present = self.understood(whole)
        if present.number != expected:
            raise Conflict(f"publication {present.number} is in {self.title}, expected was {expected}")
        if before is not None and _meaning(present) != _meaning(before.publication):
            raise Conflict(f"somebody else changed {self.title} since it was looked at")
        return present

    def _create(self, content: Content, stamp: Stamp, number: int) -> JSON:
        collection = path_of("v1", self._kind.plural, namespace=self._namespace)
        try:
            return self._api.create(collection, self._body(content, stamp, number), secret=True)
        except Conflict as e:
            raise _LostRaceError from e

    def _replace(self, whole: JSON, content: Content, stamp: Stamp, number: int) -> JSON:
        if whole.get("immutable"):
            raise Rejected(f"{self.title} was made immutable: delete it, and rotator makes it anew")
        revision = whole["metadata"]["resourceVersion"]
        try:
            owners = created_as_update(whole["metadata"])
            if owners is not None:
                noted = {"metadata": {"resourceVersion": revision, "managedFields": owners}}
                revision = self._api.merge(self.path, noted, secret=True)["metadata"]["resourceVersion"]
            return self._api.apply(
                self.path, self._body(content, stamp, number, revision=revision), force=True, secret=True
            )
        except Conflict as e:
            raise _LostRaceError from e

    def _body(self, content: Content, stamp: Stamp, number: int, *, revision: str | None = None) -> JSON:
        metadata: JSON = {
            "namespace": self._namespace,
            "name": self._name,
            "labels": self._dress.all_labels,
            "annotations": annotations_of(
                number, stamp, serial=content.serial, contents=content.noted, dress=self._dress
            ),
        }
        if revision is not None:
            metadata["resourceVersion"] = revision
        return {"apiVersion": "v1", "kind": self._kind.kind, "metadata": metadata, **content.fields}

    def _is_done(self, whole: JSON, content: Content, stamp: Stamp, number: int) -> bool:
        """Return whether *whole* is what an earlier try, whose reply was lost, has written."""
        said = whole["metadata"].get("annotations") or {}
        wanted = annotations_of(number, stamp, serial=content.serial, contents=content.noted, dress=self._dress)
        return said.get(GENERATION) == str(number) and all(said.get(name) == text for name, text in wanted.items())


class _LostRaceError(Exception):
    """Somebody wrote between look and write; never leaves this module."""


def _mark(metadata: Mapping[str, Any]) -> tuple[str, str]:
    return str(metadata.get("uid", "")), str(metadata.get("resourceVersion", ""))


def _meaning(publication: Publication) -> Publication:
    """Return *publication* without what changes when others touch what is not ours."""
    return replace(publication, revision=None, writers=())
