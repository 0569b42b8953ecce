"""
How the file says where a second person's word is needed.

Rules that must stay true here:

- Attributes are named as the file's keys; the sentence below each is the key's description in the JSON Schema.
- A rule asks for at least one word; what asks for none is left out of the file.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from pydantic import Field

from rotator.settings.keys import Keys
from rotator.settings.values import Name, OpenText, PositiveDuration

OperationWord = Literal["rotate", "pause", "resume", "rollback", "adopt", "apply", "undo"]
KindWord = Literal["certificate", "trust_domain", "token", "platform"]


class ApprovalRuleSettings(Keys):
    """One rule; where several match, the most approvals and the shortest time count."""

    name: Name
    """What status and records call it."""
    subjects: tuple[OpenText, ...] | Literal["all"] = "all"
    """Names of certificates, trust domains, tokens and signing keys it is for, or platform; * for anything."""
    kinds: tuple[KindWord, ...] = ("certificate", "trust_domain", "token", "platform")
    """Kinds of subjects it is for; token: the keys that sign them too."""
    operations: tuple[OperationWord, ...] = ("rotate", "rollback", "adopt", "pause", "apply", "undo")
    """What it is for."""
    approvals: int = Field(default=1, ge=1, le=10, strict=True)
    """How many people beside the one who asks have to agree."""
    expires_after: PositiveDuration = timedelta(hours=8)
    """How long a request waits for them before it is refused."""
    emergency_skips: bool = Field(default=False, strict=True)
    """Whether an emergency goes on without them; recorded as an exception."""


class Approval(Keys):
    """Where a second person's word is needed."""

    rules: tuple[ApprovalRuleSettings, ...] = ()
    """Rules; without any nobody's approval is needed."""
    allow_unattributed: bool = Field(default=False, strict=True)
    """Whether to carry out what is asked where nobody can be known, as inside a pod; it never approves."""
