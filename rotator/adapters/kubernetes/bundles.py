"""
A ConfigMap in which a certificate's trust bundle is published, for whoever trusts and shows no certificate of its own.

Rules that must stay true here:

- Only the one configured key is rotator's; what others keep in the same ConfigMap is left alone.
- A ConfigMap acknowledges nothing: an authority counts as published only where it stands here too, and as trusted only
  by what the certificate's own probes and rolled workloads show (law 1).
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from rotator.adapters.kubernetes.notes import Dress, Note, changed
from rotator.adapters.kubernetes.place import Content, Kind, Place
from rotator.cluster.objects import JSON, ObjectAPI
from rotator.core.model import Publication, SubjectName
from rotator.errors import Rejected
from rotator.pki.certificates import Material
from rotator.pki.published import BUNDLE, published_bundle
from rotator.ports import Clock, Stamp

_PLURAL: Final = "configmaps"


class BundleStore:
    """`LeafStore` over one ConfigMap that is given the bundle alone (``holds_leaf`` is false)."""

    def __init__(
        self,
        api: ObjectAPI,
        *,
        namespace: str,
        name: str,
        subject: SubjectName,
        clock: Clock,
        key: str = BUNDLE,
        dress: Dress | None = None,
        adopt: bool = False,
        patience: timedelta = timedelta(seconds=5),
    ) -> None:
        """Name the ConfigMap and the *key* in it; it is made at the first `put`, its namespace is not."""
        self._target = f"kubernetes_configmap:{namespace}/{name}"
        self._key = key
        self._place = Place(
            api,
            kind=Kind(kind="ConfigMap", plural=_PLURAL, type=None, noted=(key,), has_serial=False),
            namespace=namespace,
            name=name,
            subject=subject,
            dress=dress or Dress(),
            adopt=adopt,
            clock=clock,
            patience=patience,
            reading=self._understand,
        )

    @property
    def target(self) -> str:
        """Return the place as people name it."""
        return self._target

    def read(self) -> Publication | None:
        """Return what the ConfigMap holds. Raises `Rejected` if somebody else's is there."""
        return self._place.read()

    def material(self) -> Material:
        """Raise `Rejected`: there is no key here to publish again."""
        raise Rejected(f"nothing is published in {self._target} but a bundle")

    def put(self, material: Material, *, expected: int, stamp: Stamp) -> Publication:
        """Publish the bundle of *material* as the next publication; raises as `SecretStore.put`."""
        content = Content(
            fields={"data": {self._key: material.bundle_pem.decode("ascii")}},
            noted={self._key: material.bundle_pem},
            serial=None,
        )
        return self._place.put(content, stamp, expected=expected, holds=lambda seen: material.bundle == seen.bundle)

    def forget(self, *, keep: frozenset[int]) -> None:
        """Do nothing: of a bundle nothing is kept beside it."""

    def _understand(self, whole: JSON, note: Note) -> Publication:
        text = (whole.get("data") or {}).get(self._key)
        parts = {} if text is None else {self._key: str(text).encode()}
        problems = [] if parts else [f"{self._key} is missing"]
        problems += [f"{key} was changed by somebody else" for key in changed(note, parts)]
        bundle = published_bundle({} if text is None else {BUNDLE: str(text).encode()}, problems)
        return Publication(
            target=self._target,
            number=note.number,
            leaf=None,
            bundle=bundle,
            leaf_published_at=note.leaf_published_at,
            bundle_published_at=note.bundle_published_at,
            problem="; ".join(problems) or None,
            subject=note.subject,
            rotation_id=note.rotation_id,
            holds_leaf=False,
        )
