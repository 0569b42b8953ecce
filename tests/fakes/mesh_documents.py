"""
One mesh's documents in memory, held to the same contract suite as the real ways (`tests.contract.test_documents`).

Rules that must stay true here:

- Every write passes the `Faults` point; reading has no effect to lose.
- A document's revision counts its writes, and never comes again.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rotator.core.model import TrustDomainName
from rotator.errors import Conflict, Rejected
from rotator.platform.documents import Address, Document, document_with
from rotator.ports import SeenDocument
from tests.fakes.faults import Faults


class MemoryDocuments:
    """Implements `rotator.ports.MeshDocuments`."""

    def __init__(self, trust_domain: TrustDomainName, mesh: str, faults: Faults | None = None) -> None:
        """Hold nothing yet."""
        self.trust_domain = trust_domain
        self.mesh = mesh
        self.faults = faults or Faults()
        self.there: dict[Address, SeenDocument] = {}
        self.history: list[tuple[str, str]] = []
        """Every effect: ``write`` or ``remove``, and the name."""
        self.behind: tuple[str, ...] = ()
        """Proxies that have not acknowledged."""
        self.adds: Mapping[str, Any] = {}
        """What the control plane adds to every spec that it is given."""
        self._revisions = itertools.count(1)

    def listed(self) -> Mapping[Address, SeenDocument]:
        """Return everything."""
        return dict(self.there)

    def write(self, wanted: Document, seen: SeenDocument | None) -> SeenDocument:
        """Create or replace."""
        with self.faults.call(f"write {wanted.address.name}"):
            if not wanted.is_rotators:
                raise Rejected(f"{wanted.address.in_words} is not rotator's")
            self._expect(wanted.address, seen)
            self.put(replace(wanted, spec={**self.adds, **wanted.spec}))
            self.history.append(("write", wanted.address.name))
        return self.there[wanted.address]

    def remove(self, seen: SeenDocument) -> None:
        """Remove what was seen."""
        address = seen.document.address
        with self.faults.call(f"remove {address.name}"):
            if not seen.document.is_rotators:
                raise Rejected(f"{address.in_words} is not rotator's")
            if address not in self.there:
                return
            self._expect(address, seen)
            del self.there[address]
            self.history.append(("remove", address.name))

    def says(self, seen: SeenDocument, wanted: Document) -> bool:
        """Return whether *seen* is *wanted* with what is added here."""
        return seen.document == replace(wanted, spec={**self.adds, **wanted.spec})

    def lagging(self) -> tuple[str, ...]:
        """Return who is behind."""
        return self.behind

    # --- by hand ----------------------------------------------------------------------------------------------------

    def put(self, document: Document) -> None:
        """Put *document* there, as anybody may."""
        self.there[document.address] = SeenDocument(document=document, revision=str(next(self._revisions)))

    def take(self, address: Address) -> None:
        """Take what is at *address* away, as anybody may."""
        del self.there[address]

    def document(self, kind: str, name: str, spec: Mapping[str, Any], labels: Mapping[str, str]) -> Document:
        """Return a document of this mesh."""
        address = Address(trust_domain=self.trust_domain, mesh=self.mesh, kind=kind, name=name)
        return document_with(address, labels, spec)

    def _expect(self, address: Address, seen: SeenDocument | None) -> None:
        present = self.there.get(address)
        if (seen.revision if seen is not None else None) != (present.revision if present is not None else None):
            raise Conflict(f"{address.in_words} was changed by somebody else")
