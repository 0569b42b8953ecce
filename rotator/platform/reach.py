"""
Who may call what, and why: every identity with every service, in words.

Rules that must stay true here:

- Every pair is said, the refused ones with their reason.
- The sentences follow from the configuration; what the documents decide is `rotator.platform.verdict`'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rotator.platform.model import Identity, Permission, Platform, Service
from rotator.platform.permissions import callers


@dataclass(frozen=True, kw_only=True, slots=True)
class Reach:
    """One identity and one service, and by which permissions the one may call the other."""

    caller: Identity
    service: Service
    permissions: tuple[Permission, ...]

    @property
    def allowed(self) -> bool:
        """Return whether it may."""
        return bool(self.permissions)

    @property
    def sentence(self) -> str:
        """Return who may call what and why, or that he may not and why not."""
        if self.permissions:
            why = "; ".join(f"{each.name}, because {each.reason}" for each in self.permissions)
            return f"{self.caller.in_words} may call {self.service.in_words}: {why}"
        refused = f"{self.caller.in_words} may not call {self.service.in_words}"
        if self.caller.environment.trust_domain != self.service.environment.trust_domain:
            return f"{refused}: they are in two meshes"
        if self.caller.environment != self.service.environment:
            return f"{refused}: no permission reaches into another environment"
        return f"{refused}: nobody asked for it"


def reach(platform: Platform) -> Iterator[Reach]:
    """Yield every identity with every service, by service, in the configuration's order."""
    allowed = callers(platform)
    for service in platform.services:
        for caller in platform.identities:
            yield Reach(
                caller=caller,
                service=service,
                permissions=allowed[service.qualified].get(caller.qualified, ()),
            )
