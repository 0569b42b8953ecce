"""
Everything the engine can do, and one sentence for each.

Rules that must stay true here:

- `Step` is the whole list: what is not in it does not happen. Plan, log and evidence share these words.
- A step is an order to move the world; it may be given twice (law 13) and carries what a reader needs to understand it.
- `Wait` names who or what is waited for; nobody waits in silence.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import assert_never

from rotator.core.model import Authority, IssuerId, SubjectName, TrustDomainName


class Reason(StrEnum):
    """Why a leaf is issued again, in the order in which reasons are looked for."""

    ABSENT = "absent"
    UNREADABLE = "unreadable"
    KEY_MISMATCH = "key_mismatch"
    REVOKED = "revoked"
    CHAIN_BROKEN = "chain_broken"
    ISSUER_CHANGED = "issuer_changed"
    IDENTITY_CHANGED = "identity_changed"
    NAMES_CHANGED = "names_changed"
    KEY_TYPE_CHANGED = "key_type_changed"
    EXPIRED = "expired"
    ASKED_FOR = "asked_for"
    EXPIRING = "expiring"


class RepublishReason(StrEnum):
    """Why material that is good is written again without a new certificate."""

    BUNDLE_CHANGED = "bundle_changed"
    TARGET_BEHIND = "target_behind"
    """One of several targets lacks what another holds (a crash fell between two writes)."""
    DRIFTED = "drifted"
    """Somebody else changed what stands beside good material."""
    SETTINGS_CHANGED = "settings_changed"
    """The configuration asks for other labels or annotations than the place bears."""


# --- leaf steps -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class IssueLeaf:
    """Make a key, have it signed, check what came back, publish leaf, chain and bundle as one."""

    certificate: SubjectName
    signer: Authority
    reasons: tuple[Reason, ...]
    safety_line: datetime | None
    """Past this moment bookkeeping no longer stops the step (law 12); None if there is no live leaf to lose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Republish:
    """Write the present leaf and key again with the wanted bundle, to every target that differs."""

    certificate: SubjectName
    reason: RepublishReason


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainMember:
    """Stop one member from taking new work."""

    workload: SubjectName
    member: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaceMember:
    """Stop one drained member and start it anew."""

    workload: SubjectName
    member: str
    forced: bool = False
    """The operator's written choice at the drain deadline; recorded as an exception."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UndrainMember:
    """Let one member take work again (its roll was deferred or aborted)."""

    workload: SubjectName
    member: str
    because: str
    decided_by: str = ""
    """Whose word it is, where it is somebody's; empty if it follows from what was seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RaiseNumber:
    """Want more members of a workload for the time of its roll."""

    workload: SubjectName
    by: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LowerNumber:
    """Want as many members of a workload as before its roll; if somebody set the number since, theirs stands."""

    workload: SubjectName
    because: str


# --- token steps -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class IssueToken:
    """Have a token issued, check what came back, and publish it."""

    token: SubjectName
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RepublishToken:
    """Write the present token again, to every target that differs."""

    token: SubjectName
    reason: RepublishReason


@dataclass(frozen=True, slots=True, kw_only=True)
class AddSigningKey:
    """Add a key that signs tokens from then on; what the ones before signed stays valid."""

    name: SubjectName
    serial: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustSigningKey:
    """Take a new signing key for known everywhere, so that tokens are issued anew."""

    name: SubjectName
    serial: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveSigningKey:
    """Remove a signing key that no token needs any more; whatever it signed is refused from then on."""

    name: SubjectName
    serial: int


# --- authority steps ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareIssuer:
    """Have a new CA generation made and signed by the corporate PKI; nothing uses it yet."""

    trust_domain: TrustDomainName
    number: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishBundle:
    """Publish this trust domain's bundle to a wave of consumers."""

    trust_domain: TrustDomainName
    bundle: tuple[IssuerId, ...]
    """Newest first."""
    consumers: tuple[SubjectName, ...]
    shrink: bool = False
    """True when an authority leaves the bundle (only after law 2 allows it)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivateIssuer:
    """Let a trusted generation sign from now on."""

    trust_domain: TrustDomainName
    issuer: IssuerId
    without: tuple[SubjectName, ...] = ()
    """Parties that have not acknowledged and are left behind by the operator's written choice."""
    back: bool = False
    """True when this walks a rotation back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReissueLeaves:
    """Issue the leaves of a wave of consumers anew from the active generation."""

    trust_domain: TrustDomainName
    signer: IssuerId
    consumers: tuple[SubjectName, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetireIssuer:
    """Take a generation that nobody trusts or serves out of service: revoked if it lives on, else lapsed."""

    trust_domain: TrustDomainName
    issuer: IssuerId
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokeIssuer:
    """Compromise only: have the corporate PKI revoke a generation before anything else happens."""

    trust_domain: TrustDomainName
    issuer: IssuerId


LeafStep = IssueLeaf | Republish
RollStep = DrainMember | ReplaceMember | UndrainMember | RaiseNumber | LowerNumber
AuthorityStep = PrepareIssuer | PublishBundle | ActivateIssuer | ReissueLeaves | RetireIssuer | RevokeIssuer
TokenStep = IssueToken | RepublishToken
SigningKeyStep = AddSigningKey | TrustSigningKey | RemoveSigningKey
Step = LeafStep | RollStep | AuthorityStep | TokenStep | SigningKeyStep


# --- what is not a step -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Nothing to do before *until*, or before those in *on* have moved."""

    until: datetime | None
    on: tuple[str, ...] = ()
    """Who or what is waited for, as people name it."""
    why: str = ""
    alert: bool = False
    """True when a person should know (a deadline passed while waiting)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Nothing:
    """The world is as wanted; look again at *next_look*."""

    next_look: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The intent has reached its end state."""

    rolled_back: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The intent would break a law and is not carried out; what was under way before it goes on."""

    reason: str


def sentence(step: Step) -> str:
    """Return the one sentence that plan, log and evidence use for *step*."""
    match step:
        case IssueLeaf():
            why = ", ".join(reason.value.replace("_", " ") for reason in step.reasons)
            return f"issue {step.certificate} anew from {step.signer.id[:12]} ({why})"
        case Republish():
            return f"publish {step.certificate} again ({step.reason.value.replace('_', ' ')})"
        case IssueToken():
            why = ", ".join(reason.value.replace("_", " ") for reason in step.reasons)
            return f"issue {step.token} anew ({why})"
        case RepublishToken():
            return f"publish {step.token} again ({step.reason.value.replace('_', ' ')})"
        case AddSigningKey():
            return f"add signing key {step.serial} of {step.name}"
        case TrustSigningKey():
            return f"issue every token of {step.name} anew from signing key {step.serial}"
        case RemoveSigningKey():
            return f"remove signing key {step.serial} of {step.name}"
        case DrainMember():
            return f"drain {step.member} of {step.workload}"
        case ReplaceMember():
            return f"replace {step.member} of {step.workload}{' without waiting for its work' if step.forced else ''}"
        case UndrainMember():
            return f"let {step.member} of {step.workload} take work again ({step.because})"
        case RaiseNumber():
            return f"want {step.by} more of {step.workload} for the time of its roll"
        case LowerNumber():
            return f"want as many of {step.workload} as before its roll ({step.because})"
        case PrepareIssuer():
            return f"prepare generation {step.number} of {step.trust_domain} ({step.reason})"
        case PublishBundle():
            names = ", ".join(issuer[:12] for issuer in step.bundle)
            verb = "shrink the bundle" if step.shrink else "publish the bundle"
            return f"{verb} of {step.trust_domain} to {{{names}}} for {len(step.consumers)} consumers"
        case ActivateIssuer():
            verb = "sign with the old generation again" if step.back else "activate"
            left = f", without {', '.join(step.without)}" if step.without else ""
            return f"{verb} {step.issuer[:12]} in {step.trust_domain}{left}"
        case ReissueLeaves():
            return f"reissue {len(step.consumers)} leaves of {step.trust_domain} from {step.signer[:12]}"
        case RetireIssuer():
            return f"retire {step.issuer[:12]} of {step.trust_domain} ({step.reason})"
        case RevokeIssuer():
            return f"revoke {step.issuer[:12]} of {step.trust_domain} at the corporate PKI"
        case other:
            assert_never(other)
