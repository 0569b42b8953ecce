"""
Permissions of others that open a service of the configuration to somebody whom it does not name.

Rules that must stay true here:

- Judged beside rotator's own documents: what those refuse all the same is no opening.
- Told of, never touched.

Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from rotator.core.model import TrustDomainName
from rotator.platform.changes import PERMISSION
from rotator.platform.check import FindingKind, foreign
from rotator.platform.documents import Document
from rotator.platform.drift import Drift, DriftKind
from rotator.platform.model import Platform

_OPENS = frozenset({FindingKind.LEAK, FindingKind.UNASKED})


def opened_by_others(
    platform: Platform, at: TrustDomainName, own: Sequence[Document], others: Sequence[Document]
) -> tuple[Drift, ...]:
    """Return which of *others*, beside rotator's *own* on the control plane of *at*, open something, by address."""
    ours = [each.resource for each in own]
    known = {each.what for each in foreign(platform, at, ours)}
    found = []
    for document in sorted(others, key=lambda each: each.address):
        if document.address.kind != PERMISSION:
            continue
        opened = [
            each.what
            for each in foreign(platform, at, [*ours, document.resource])
            if each.kind in _OPENS and each.what not in known
        ]
        if opened:
            more = f" (and {len(opened) - 1} more)" if len(opened) > 1 else ""
            found.append(
                Drift(
                    kind=DriftKind.FOREIGN,
                    address=document.address,
                    applied=None,
                    found=document,
                    says=f"opens what nobody asked for: {opened[0]}{more}",
                )
            )
    return tuple(found)
