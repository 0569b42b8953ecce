"""
Requests as the objects of a cluster spell them: camel case, the operation's name, the person's name beside it.

Rules that must stay true here:

- Read and written in one place, so that what one side writes the other side reads.
- A spec that asks for what this version does not know is refused, never carried out in part.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Final

from rotator.control.requests import (
    Order,
    PauseRequest,
    RotateRequest,
    adopt_request,
    apply_request,
    pause_request,
    resume_request,
    rollback_request,
    rotate_request,
    undo_request,
)
from rotator.core.approval import Operation
from rotator.durations import moment_text
from rotator.errors import ConfigError

READERS: Final[Mapping[Operation, Callable[[Mapping[str, object]], Order]]] = {
    Operation.ROTATE: rotate_request,
    Operation.PAUSE: pause_request,
    Operation.RESUME: resume_request,
    Operation.ROLLBACK: rollback_request,
    Operation.ADOPT: adopt_request,
    Operation.APPLY: apply_request,
    Operation.UNDO: undo_request,
}
"""How the fields of each operation are read; each raises `ConfigError`."""


def order_in(spec: Mapping[str, Any]) -> Order:
    """Return what *spec*, of a RotationRequest, asks for. Raises `ConfigError` if that cannot be understood."""
    try:
        operation = Operation(str(spec.get("operation", "")).lower())
    except ValueError as e:
        raise ConfigError("operation: found what this version does not know; do use its own kinds of objects") from e
    fields = {_snake(key): value for key, value in spec.items() if key not in {"operation", "requestedBy"}}
    confirm = fields.pop("confirm", None)
    if operation is not Operation.ROTATE:
        subjects = fields.pop("subjects", [])
        if not isinstance(subjects, list) or len(subjects) != 1:
            raise ConfigError(f"subjects: found no single subject; allowed exactly one for {operation}; do name it")
        fields["subject"] = subjects[0]
    order = READERS[operation](fields)
    if isinstance(order, RotateRequest) and order.compromised and (confirm,) != order.subjects:
        raise ConfigError("confirm: found another name than the subject's; do type the subject once more (law 8)")
    return order


def spec_of(order: Order, *, requested_by: str) -> dict[str, Any]:
    """Return *order*, asked by *requested_by*, as a RotationRequest spells it."""
    fields = asdict(order)
    if isinstance(order, PauseRequest):
        fields["until"] = moment_text(order.until)
    if isinstance(order, RotateRequest):
        fields["confirm"] = order.subjects[0] if order.compromised and order.subjects else None
        fields["subjects"] = list(order.subjects)
    else:
        fields["subjects"] = [fields.pop("subject")]
    spec = {_camel(key): value for key, value in fields.items() if value not in (None, False, [])}
    return {"operation": order.operation.value.capitalize(), "requestedBy": requested_by, **spec}


def _snake(name: str) -> str:
    return re.sub(r"[A-Z]", lambda found: f"_{found[0].lower()}", name)


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(each.capitalize() for each in rest)
