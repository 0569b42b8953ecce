"""
A Secret in which one certificate is published: key, chain and bundle as one object of type ``kubernetes.io/tls``.

::

    NAME             tls.crt (leaf, then intermediates), tls.key (PKCS#8), ca.crt (trust bundle)
                     annotations rotator.io/...: whose it is, since when, what the parts should hash to
    NAME-previous    the publication before, until `forget`; of a type of its own, which nothing mounts by accident

Rules that must stay true here:

- Key, certificate and chain move as one (law 9): one write of one object. No key of another publication ever stands in
  it, so that whatever mounts the Secret sees one publication and nothing else.
- The publication before is copied beside it before it is replaced, and removed when cut-over is proven. A crash in
  between leaves a copy, never a gap.
- Whatever is wrong with the content becomes a `Publication.problem`; what is wrong beside leaf and key, whose repair
  needs no new certificate, a `Publication.drift`.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from rotator.adapters.kubernetes.notes import PREFIX, SUBJECT, Dress, Note, changed, is_marked, note_of
from rotator.adapters.kubernetes.place import Content, Kind, Place
from rotator.cluster.objects import JSON, ObjectAPI
from rotator.cluster.paths import path_of
from rotator.core.model import Publication, SubjectName
from rotator.errors import Conflict, Rejected, Unavailable
from rotator.pki.certificates import Material, key_spki_sha256, leaf_of, material, parse_certificates
from rotator.pki.published import BUNDLE, CHAIN, KEY, is_pair, published_bundle, published_leaf
from rotator.ports import Clock, Stamp

TYPE: Final = "kubernetes.io/tls"

PREVIOUS: Final = "-previous"
"""Ends the name of the Secret that holds the publication before."""

PREVIOUS_TYPE: Final = "rotator.io/previous"

_KIND: Final = Kind(
    kind="Secret", plural="secrets", type=TYPE, noted=(CHAIN, BUNDLE), has_serial=True
)  # fmt: skip


class SecretStore:
    """`LeafStore` over one Secret. Every call looks at the API server."""

    def __init__(
        self,
        api: ObjectAPI,
        *,
        namespace: str,
        name: str,
        subject: SubjectName,
        clock: Clock,
        dress: Dress | None = None,
        adopt: bool = False,
        patience: timedelta = timedelta(seconds=5),
    ) -> None:
        """
        Name the Secret; it is made at the first `put`, its namespace is not.

        *adopt* lets rotator take over a Secret that it did not make; *patience* is how long one `put` is tried.
        """
        self._api = api
        self._namespace, self._name = namespace, name
        self._place = Place(
            api,
            kind=_KIND,
            namespace=namespace,
            name=name,
            subject=subject,
            dress=dress or Dress(),
            adopt=adopt,
            clock=clock,
            patience=patience,
            reading=self._understand,
        )
        self._previous = _Previous(api, namespace, name, subject)

    @property
    def target(self) -> str:
        """Return the place as people name it."""
        return f"kubernetes_secret:{self._namespace}/{self._name}"

    def read(self) -> Publication | None:
        """
        Return what the Secret holds, parsed; None if there is none.

        Raises:
            Rejected: If somebody else's Secret is there and may not be taken over: a person must look.

        """
        return self._place.read()

    @property
    def just_read(self) -> JustRead:
        """Return the same Secret for a probe that looks right after each `read` and need not ask again."""
        return JustRead(self.target, self._place)

    def material(self) -> Material:
        """Return what is published, key included; a bundle that somebody spoiled comes back empty."""
        whole = self._place.whole()
        if whole is None:
            raise Rejected(f"nothing is published in {self.target}")
        parts = _parts(whole)
        if missing := [key for key in (CHAIN, KEY) if key not in parts]:
            raise Rejected(f"{self.target} lacks {', '.join(missing)}")
        try:
            return material(parts[CHAIN], parts[KEY], parts.get(BUNDLE, b""))
        except Rejected:
            if published_bundle(parts, []):
                raise
            leaf = leaf_of(parse_certificates(parts[CHAIN], source=CHAIN))
            if key_spki_sha256(parts[KEY], source=KEY) != leaf.spki_sha256:
                raise
            return Material(chain_pem=parts[CHAIN], key_pem=parts[KEY], bundle_pem=b"", leaf=leaf, bundle=())

    def put(self, material: Material, *, expected: int, stamp: Stamp) -> Publication:
        """
        Publish *material* as the next publication: one write, compared with what the server says it stored.

        Raises:
            Conflict: If another publication than *expected* is there, or somebody changed it meanwhile.
            Rejected: If what is there is somebody else's, or cannot be changed.

        """
        noted = {CHAIN: material.chain_pem, BUNDLE: material.bundle_pem}
        parts = {**noted, KEY: material.key_pem}
        fields = {"type": _KIND.type, "data": {key: _coded(part) for key, part in parts.items()}}
        content = Content(fields=fields, noted=noted, serial=material.leaf.serial)
        return self._place.put(
            content,
            stamp,
            expected=expected,
            holds=lambda seen: (material.leaf, material.bundle) == (seen.leaf, seen.bundle),
            first=self._previous.keep,
        )

    def forget(self, *, keep: frozenset[int]) -> None:
        """Remove the copy of the publication before, unless *keep* names it and it is not the current one."""
        self._previous.forget(keep=keep)

    def _understand(self, whole: JSON, note: Note) -> Publication:
        """Return what the content of *whole* means."""
        parts = _parts(whole)
        problems = [f"{key} is missing" for key in (CHAIN, KEY) if key not in parts]
        drifts = [] if BUNDLE in parts else [f"{BUNDLE} is missing"]
        for key in changed(note, parts):
            (drifts if key == BUNDLE else problems).append(f"{key} was changed by somebody else")
        leaf = published_leaf(parts, problems)
        pair = is_pair(parts, leaf, problems)
        return Publication(
            target=self.target,
            number=note.number,
            leaf=leaf,
            bundle=published_bundle(parts, drifts),
            key_matches=pair,
            leaf_published_at=note.leaf_published_at,
            bundle_published_at=note.bundle_published_at,
            problem="; ".join(problems) or None,
            drift="; ".join(drifts) or None,
            subject=note.subject,
            rotation_id=note.rotation_id,
        )


@dataclass(frozen=True, slots=True)
class JustRead:
    """A place as it was read last: each reading is given once, then the place is read anew."""

    target: str
    _place: Place

    def read(self) -> Publication | None:
        """Return what the last reading of the place found, or read it now."""
        return self._place.once()


class _Previous:
    """The copy of the publication before."""

    def __init__(self, api: ObjectAPI, namespace: str, name: str, subject: SubjectName) -> None:
        self._api = api
        self._namespace, self._name = namespace, name + PREVIOUS
        self._subject = subject
        self._copied: tuple[int, str] | None = None
        """Number and resourceVersion of the copy that this process made and has not removed."""
        self._is_gone = False
        """This process has seen that there is none."""

    @property
    def _path(self) -> str:
        return path_of("v1", "secrets", namespace=self._namespace, name=self._name)

    @property
    def _title(self) -> str:
        return f"Secret {self._namespace}/{self._name}"

    def keep(self, whole: JSON) -> None:
        """Copy *whole* beside itself, over an older copy. A Secret without a usable pair is not worth keeping."""
        parts = _parts(whole)
        number = _number(whole)
        if not is_pair(parts, published_leaf(parts, []), []):
            return
        if self._copied is not None and self._copied[0] == number:
            return
        self._is_gone = False
        body = self._body(whole, parts)
        if self._copied is None:
            try:
                stored = self._api.create(path_of("v1", "secrets", namespace=self._namespace), body, secret=True)
            except Conflict:
                # What an earlier process left, or somebody else's.
                stored = None
            if stored is not None:
                self._copied = (number, stored["metadata"]["resourceVersion"])
                return
        present = self._present()
        if present is None:
            self._copied = None
            # Whoever calls tries again for as long as it may.
            raise Unavailable(f"{self._title} came and went")
        if not self._is_mine(present):
            raise Rejected(
                f"{self._title} was not made by rotator: delete or rename it, the publication before is kept there"
            )
        body["metadata"]["resourceVersion"] = present["metadata"]["resourceVersion"]
        stored = self._api.apply(self._path, body, force=True, secret=True)
        self._copied = (number, stored["metadata"]["resourceVersion"])

    def _body(self, whole: JSON, parts: Mapping[str, bytes]) -> JSON:
        said = whole["metadata"].get("annotations") or {}
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "namespace": self._namespace,
                "name": self._name,
                "labels": Dress().all_labels,
                # Rotator's notes alone: another tool's (a last-applied configuration) may hold a key in the clear.
                "annotations": {name: text for name, text in said.items() if name.startswith(PREFIX)}
                | {SUBJECT: str(self._subject)},
            },
            "type": PREVIOUS_TYPE,
            "data": {key: _coded(parts.get(key, b"")) for key in (CHAIN, KEY, BUNDLE)},
        }

    def forget(self, *, keep: frozenset[int]) -> None:
        """Remove the copy, unless it is one of *keep* and not merely the current publication once more."""
        if self._is_gone:
            return
        current = max(keep, default=0)
        if self._copied is not None and not self._is_kept(self._copied[0], keep, current):
            with contextlib.suppress(Conflict):
                self._api.delete(self._path, revision=self._copied[1], secret=True)
                self._copied, self._is_gone = None, True
                return
        present = self._present()
        if present is not None and self._is_mine(present):
            if self._is_kept(_number(present), keep, current):
                return
            self._api.delete(self._path, revision=present["metadata"]["resourceVersion"], secret=True)
        self._copied, self._is_gone = None, True

    @staticmethod
    def _is_kept(number: int, keep: frozenset[int], current: int) -> bool:
        return number in keep and number != current

    def _present(self) -> JSON | None:
        return self._api.get(self._path, secret=True, metadata_only=True)

    def _is_mine(self, present: JSON) -> bool:
        said = present["metadata"].get("annotations") or {}
        return is_marked(present["metadata"]) and said.get(SUBJECT) == self._subject


def _number(whole: JSON) -> int:
    """Return the publication's number as it is noted, 0 if it is not."""
    return note_of(whole["metadata"], (), serial=False).number


def _parts(whole: JSON) -> dict[str, bytes]:
    """Return the content of a Secret by key; what is not base64 (the server lets none in) is left out."""
    found: dict[str, bytes] = {}
    for key in (CHAIN, KEY, BUNDLE):
        text = (whole.get("data") or {}).get(key)
        if text is None:
            continue
        try:
            found[key] = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError, TypeError):
            continue
    return found


def _coded(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
