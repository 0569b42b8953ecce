"""
Everything that the control planes are told of the platform, part by part.

Rules that must stay true here:

- One list of parts: what is rendered, compared, applied and checked is the same.
- A control plane is told of its own trust domain alone.
- No two documents of one control plane have one name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import Final

from rotator.core.model import TrustDomainName
from rotator.errors import ConfigError
from rotator.platform.model import Platform
from rotator.platform.permissions import permissions
from rotator.platform.resources import Resource, in_order
from rotator.platform.routes import routes
from rotator.platform.telemetry import telemetry

PARTS: Final[Mapping[str, Callable[[Platform, TrustDomainName], Iterable[Resource]]]] = {
    "permissions": permissions,
    "routes": routes,
    "telemetry": telemetry,
}
"""What is rendered for one control plane, by the name of its part."""


def rendered(platform: Platform, at: TrustDomainName) -> tuple[Resource, ...]:
    """
    Return every document for the control plane of the trust domain *at*, in the order in which they are applied.

    Raises:
        ConfigError: If two would have one name.
    """
    found = in_order(each for part in PARTS.values() for each in part(platform, at))
    for one, other in pairwise(found):
        if one.key == other.key:
            raise ConfigError(
                f"two things of the platform would both be {one.kind} {one.name}: rename an environment or a service"
            )
    return found
