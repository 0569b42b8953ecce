"""
Whether a renewal can come in time: the same arithmetic for certificates and tokens.

Rules that must stay true here:

- What is refused is shown with its arithmetic.
"""

from __future__ import annotations

from datetime import timedelta

from rotator.core.window import LeafPolicy, written
from rotator.settings.document import Document, Place
from rotator.settings.model import Settings


def check_renewal(
    settings: Settings, document: Document, place: Place, lifetime: timedelta, policy: LeafPolicy
) -> None:
    """Refuse at *place* a renewal that opens too late for its safety line, or without a sweep in between."""
    budget = policy.budget
    complaints = policy.complaints(lifetime)
    parts = (
        f"(budget: issue {written(budget.issue)} + publish {written(budget.publish)} + drain {written(budget.drain)} + "
        f"proof {written(budget.proof)} + retry_budget {written(budget.retry)} = {written(budget.total)})"
    )
    do = "do renew earlier, lengthen lifetime, or shorten timing or the drain's deadline"
    for complaint in complaints:
        document.refuse(place, f"found that {complaint} {parts}; allowed an opening before the safety line; {do}")
    opens, line = lifetime * policy.renew_at, lifetime - max(lifetime / 10, budget.total)
    if not complaints and opens + settings.timing.sweep_every > line:
        document.refuse(
            place,
            f"found that a renewal opens {written(opens)} after issue, sweep_every is "
            f"{written(settings.timing.sweep_every)}, and the safety line is {written(line)} after issue {parts}; "
            f"allowed at least one sweep in between; {do}, or sweep more often",
        )
