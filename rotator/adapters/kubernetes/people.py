"""
What people may ask of rotator in a cluster: the kinds of their objects, whose name stands in them, and who may.

Rules that must stay true here:

- Pure. What the API server can refuse it refuses: another's name, a change afterwards, an emergency without the right.
- What it cannot see (whose request an approval is for) rotator refuses, and records.
- A spec never changes: an approval is for what the approver read.
- Only rotator's account writes a status.
- The chart and the tests use these documents; deploy/people holds them rendered.
"""

from __future__ import annotations

from typing import Any, Final

from rotator.cluster.people import (
    APPROVAL,
    APPROVALS,
    EMERGENCY_VERB,
    FINAL,
    GROUP,
    MACHINES,
    REQUEST,
    REQUESTS,
    VERSION,
    ApprovalPhase,
    Decision,
    Operation,
    RequestPhase,
    policy_name,
)
from rotator.cluster.rbac import RBAC, Account, bound_policy, quoted
from rotator.cluster.rights import Rights, rule

JSON = dict[str, Any]

LONGEST_TEXT: Final = 1000
LONGEST_NAME: Final = 255
MOST_SUBJECTS: Final = 100
_MOST_ROTATIONS = 10_000

_ONE_LINE: Final = r"^[^\x00-\x1f\x7f]+$"
_CHANGES_NEVER: Final = {"rule": "self == oldSelf", "message": "what was asked never changes: make another one"}


def definitions() -> tuple[JSON, ...]:
    """Return the CustomResourceDefinitions of RotationRequest and RotationApproval."""
    return (_request_definition(), _approval_definition())


def own_rights(namespace: str) -> Rights:
    """Return what rotator needs to serve the requests of *namespace*, its own."""
    name = policy_name(namespace)
    admission = "admissionregistration.k8s.io"
    return Rights(
        cluster=(
            # Without the policy a name in a request would be anybody's word: rotator looks before it believes one.
            rule("validatingadmissionpolicies", "get", group=admission, names=[name]),
            rule("validatingadmissionpolicybindings", "get", group=admission, names=[name]),
        ),
        namespaces={
            namespace: (
                # People choose the names: RBAC cannot know them.
                rule(REQUESTS, "get", "list", "delete", group=GROUP),
                rule(APPROVALS, "get", "list", "delete", group=GROUP),
                rule(f"{REQUESTS}/status", "patch", group=GROUP),
                rule(f"{APPROVALS}/status", "patch", group=GROUP),
            )
        },
    )


def roles_of_people(namespace: str) -> tuple[JSON, ...]:
    """
    Return the Roles to bind people to in *namespace*: ``rotator-requester``, ``-emergency`` and ``-approver``.

    Each may also read requests and approvals. Nobody may change one: they are made once.
    """
    reads = rule(REQUESTS, "get", "list", "watch", group=GROUP), rule(APPROVALS, "get", "list", "watch", group=GROUP)
    asks = rule(REQUESTS, "create", group=GROUP)
    return (
        _role("rotator-requester", namespace, (asks, *reads)),
        # A verb of our own: the admission policy asks the authorizer for it.
        _role("rotator-emergency", namespace, (rule(REQUESTS, "create", EMERGENCY_VERB, group=GROUP), *reads)),
        _role("rotator-approver", namespace, (rule(APPROVALS, "create", group=GROUP), *reads)),
    )


def naming_policy(account: Account) -> tuple[JSON, ...]:
    """
    Return the admission policy that binds the names in requests and approvals to whoever makes them, and its binding.

    It judges the namespace of *account*, rotator's own: the only one that writes a status there.
    """
    namespace = account.namespace
    spec = {
        "failurePolicy": "Fail",
        "matchConstraints": {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
            "resourceRules": [
                _watched("CREATE", REQUESTS, APPROVALS),
                _watched("UPDATE", REQUESTS, APPROVALS, f"{REQUESTS}/status", f"{APPROVALS}/status"),
            ],
        },
        "variables": [
            {"name": "asks", "expression": _created(REQUESTS)},
            {"name": "answers", "expression": _created(APPROVALS)},
            # A request on the object itself has no such field at all.
            {"name": "tells", "expression": "has(request.subResource) && request.subResource == 'status'"},
        ],
        "validations": [
            {
                "expression": "!variables.asks || object.spec.requestedBy == request.userInfo.username",
                "messageExpression": "'spec.requestedBy must be your own name, ' + request.userInfo.username",
                "message": "spec.requestedBy must be your own name",
                "reason": "Forbidden",
            },
            {
                "expression": f"!variables.asks || !({_URGENT}) || authorizer.group({quoted(GROUP)}).resource("
                f"{quoted(REQUESTS)}).namespace(request.namespace).check({quoted(EMERGENCY_VERB)}).allowed()",
                "message": f"emergency, compromised, pastSafetyLine and acceptInterruption take the right "
                f"{EMERGENCY_VERB} on {REQUESTS}.{GROUP} (role rotator-emergency)",
                "reason": "Forbidden",
            },
            {
                "expression": "!variables.answers || object.spec.approvedBy == request.userInfo.username",
                "messageExpression": "'spec.approvedBy must be your own name, ' + request.userInfo.username",
                "message": "spec.approvedBy must be your own name",
                "reason": "Forbidden",
            },
            {
                "expression": f"!variables.answers || object.spec.decision != {quoted(Decision.APPROVE)} || "
                "object.spec.request.requestedBy != request.userInfo.username",
                "message": "nobody approves their own request: ask somebody else",
                "reason": "Forbidden",
            },
            {
                "expression": f"!variables.answers || !request.userInfo.username.startsWith({quoted(MACHINES)})",
                "message": "a ServiceAccount is nobody who could approve",
                "reason": "Forbidden",
            },
            {
                "expression": f"!variables.tells || request.userInfo.username == {quoted(account.username)}",
                "message": "the status is rotator's own word",
                "reason": "Forbidden",
            },
        ],
    }
    return bound_policy(policy_name(namespace), spec)


_URGENT: Final = (
    "(has(object.spec.emergency) && object.spec.emergency) || (has(object.spec.compromised) && object.spec.compromised)"
    " || (has(object.spec.pastSafetyLine) && object.spec.pastSafetyLine) || has(object.spec.acceptInterruption)"
)


def _request_definition() -> JSON:
    text = {"type": "string", "minLength": 1, "maxLength": LONGEST_TEXT, "pattern": _ONE_LINE}
    name = {**text, "maxLength": LONGEST_NAME}
    spec = {
        "type": "object",
        "description": "What is asked, by whom and why. Never changes.",
        "required": ["operation", "requestedBy"],
        "x-kubernetes-validations": [
            _CHANGES_NEVER,
            {
                "rule": f"self.operation == '{Operation.ROTATE}' || (!has(self.everything) && has(self.subjects) "
                "&& self.subjects.size() == 1)",
                "message": "only a rotation can be for several subjects or for everything: name exactly one",
            },
            {
                "rule": "has(self.subjects) != (has(self.everything) && self.everything)",
                "message": "name subjects, or say everything: true, not both",
            },
            {
                "rule": f"self.operation == '{Operation.RESUME}' || has(self.reason)",
                "message": "say why in reason",
            },
            {
                "rule": f"has(self.until) == (self.operation == '{Operation.PAUSE}')",
                "message": "a pause, and only a pause, ends at until",
            },
            *_belongs("emergency", Operation.ROTATE),
            *_belongs("compromised", Operation.ROTATE),
            *_belongs("pastSafetyLine", Operation.PAUSE),
            *_belongs("acceptInterruption", Operation.ADOPT),
            *_belongs("dryRun", Operation.ROTATE, Operation.ADOPT, Operation.APPLY, Operation.UNDO),
            *_belongs("ticket", Operation.ROTATE, Operation.ADOPT, Operation.APPLY, Operation.UNDO),
            *_belongs("plan", Operation.APPLY, Operation.UNDO),
            *_belongs("overwrite", Operation.UNDO),
            *_belongs("supersede", Operation.APPLY, Operation.UNDO),
            {
                "rule": f"has(self.change) == (self.operation == '{Operation.UNDO}')",
                "message": "undo, and only undo, names a change",
            },
            {
                "rule": "!(has(self.compromised) && self.compromised) ? !has(self.confirm) : (has(self.confirm) && "
                "has(self.subjects) && self.subjects.size() == 1 && self.confirm == self.subjects[0])",
                "message": "a compromise is for one trust domain, named once more in confirm; confirm is for it alone",
            },
        ],
        "properties": {
            "operation": {"type": "string", "enum": [each.value for each in Operation]},
            "subjects": {
                "type": "array",
                "minItems": 1,
                "maxItems": MOST_SUBJECTS,
                "x-kubernetes-list-type": "set",
                "items": name,
                "description": "Names of certificates and trust domains in rotator's configuration, or platform.",
            },
            "everything": {"type": "boolean", "description": "Every certificate and trust domain."},
            "requestedBy": {**name, "description": "Your own name, as `kubectl auth whoami` says it."},
            "reason": {**text, "description": "Why; in the log it stands as a commitment."},
            "ticket": {**name, "description": "The ticket it belongs to; stands in the log in clear."},
            "dryRun": {"type": "boolean", "description": "Answer with the plan and change nothing."},
            "emergency": {"type": "boolean", "description": "Skip windows and freezes, and nothing else."},
            "compromised": {"type": "boolean", "description": "The trust domain's CA key is in wrong hands."},
            "confirm": {**name, "description": "With compromised: the subject once more."},
            "until": {"type": "string", "format": "date-time", "description": "When a pause ends."},
            "pastSafetyLine": {"type": "boolean", "description": "The subject may expire of the pause."},
            "acceptInterruption": {
                **text,
                "description": "Why an adoption may interrupt what its plan says it interrupts.",
            },
            "plan": {**name, "description": "Digest of the plan of the platform that was shown; another is refused."},
            "change": {**name, "description": "Which change of the platform is undone."},
            "overwrite": {
                "type": "boolean",
                "description": "Undo also where a document is not as that change left it.",
            },
            "supersede": {
                "type": "boolean",
                "description": "Also while another change of the platform is under way: that one ends where it stands.",
            },
        },
    }
    columns = (
        ("Operation", "string", ".spec.operation"),
        ("Subjects", "string", ".spec.subjects"),
        ("By", "string", ".spec.requestedBy"),
        ("Phase", "string", ".status.phase"),
        ("Message", "string", ".status.message"),
        ("Age", "date", ".metadata.creationTimestamp"),
    )
    return _definition(REQUEST, REQUESTS, "rotreq", spec, _request_status(), columns)


def _request_status() -> JSON:
    moment = {"type": "string", "format": "date-time"}
    names = {"type": "array", "items": {"type": "string"}}
    return {
        "type": "object",
        "description": "Where it stands; rotator's own word.",
        "properties": {
            "phase": {"type": "string", "enum": [each.value for each in RequestPhase]},
            "message": {"type": "string"},
            "approvalsNeeded": {"type": "integer"},
            "approvalsGiven": {"type": "integer"},
            "expiresAt": {**moment, "description": "When it is refused if the approvals are not there."},
            "takenAt": moment,
            "finishedAt": moment,
            "plan": {
                "type": "array",
                "maxItems": _MOST_ROTATIONS,
                "items": {
                    "type": "object",
                    "properties": {
                        "subject": {"type": "string"},
                        "what": {"type": "string"},
                        "trust_domain": {"type": "string"},
                        "mesh": {"type": "string"},
                        "diff": {"type": "string", "description": "What it changes in a document, as unified diff."},
                    },
                },
            },
            "digest": {"type": "string", "description": "Of the plan of the platform: what is approved is this."},
            "differs": {**names, "description": "What is not as the change that is to be undone left it."},
            "rotations": {
                "type": "array",
                "maxItems": _MOST_ROTATIONS,
                "items": {
                    "type": "object",
                    "properties": {
                        "id": {"type": "string"},
                        "subject": {"type": "string"},
                        "kind": {"type": "string"},
                        "state": {"type": "string"},
                        "phase": {"type": "string"},
                        "waitingOn": names,
                        "proven": {"type": "integer"},
                        "total": {"type": "integer"},
                        "alert": {"type": "boolean"},
                        "outcome": {"type": "string"},
                    },
                },
            },
            "refused": {
                "type": "array",
                "maxItems": _MOST_ROTATIONS,
                "items": {
                    "type": "object",
                    "properties": {"subject": {"type": "string"}, "why": {"type": "string"}},
                },
            },
            "found": {"type": "string", "description": "What a mesh runs on that is to be adopted."},
            "interrupts": {"type": "string", "description": "What its adoption interrupts."},
        },
    }


def _approval_definition() -> JSON:
    text = {"type": "string", "minLength": 1, "maxLength": LONGEST_TEXT, "pattern": _ONE_LINE}
    name = {**text, "maxLength": LONGEST_NAME}
    spec = {
        "type": "object",
        "description": "A second person's word on one request. Never changes.",
        "required": ["request", "decision", "approvedBy"],
        "x-kubernetes-validations": [
            _CHANGES_NEVER,
            {
                "rule": f"self.decision == '{Decision.APPROVE}' || has(self.reason)",
                "message": "say in reason why you reject it",
            },
        ],
        "properties": {
            "request": {
                "type": "object",
                "required": ["name", "uid", "requestedBy"],
                "description": "The request as you read it: its spec cannot have changed since.",
                "properties": {
                    "name": name,
                    "uid": name,
                    "requestedBy": {**name, "description": "Whose request it is."},
                },
            },
            "decision": {"type": "string", "enum": [each.value for each in Decision]},
            "approvedBy": {**name, "description": "Your own name, as `kubectl auth whoami` says it."},
            "reason": {**text, "description": "Why; in the log it stands as a commitment."},
        },
    }
    status = {
        "type": "object",
        "description": "Whether it counted; rotator's own word.",
        "properties": {
            "phase": {"type": "string", "enum": [each.value for each in ApprovalPhase]},
            "message": {"type": "string"},
            "finishedAt": {"type": "string", "format": "date-time"},
        },
    }
    columns = (
        ("Request", "string", ".spec.request.name"),
        ("Decision", "string", ".spec.decision"),
        ("By", "string", ".spec.approvedBy"),
        ("Phase", "string", ".status.phase"),
        ("Message", "string", ".status.message"),
        ("Age", "date", ".metadata.creationTimestamp"),
    )
    return _definition(APPROVAL, APPROVALS, "rotapp", spec, status, columns)


def _definition(
    kind: str, plural: str, short: str, spec: JSON, status: JSON, columns: tuple[tuple[str, str, str], ...]
) -> JSON:
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "shortNames": [short],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    # What has ended piles up; rotator asks for the rest alone.
                    "selectableFields": [{"jsonPath": ".status.phase"}],
                    "additionalPrinterColumns": [
                        {"name": title, "type": type_, "jsonPath": path} for title, type_, path in columns
                    ],
                    "schema": {
                        "openAPIV3Schema": {
                            "type": "object",
                            "required": ["spec"],
                            "properties": {
                                "apiVersion": {"type": "string"},
                                "kind": {"type": "string"},
                                "metadata": {"type": "object"},
                                "spec": spec,
                                "status": status,
                            },
                        }
                    },
                }
            ],
        },
    }


def _belongs(field: str, *operations: Operation) -> tuple[JSON, ...]:
    """Return the rule that *field* is for *operations* alone."""
    allowed = " || ".join(f"self.operation == '{each}'" for each in operations)
    named = " and ".join(each.lower() for each in operations)
    return ({"rule": f"!has(self.{field}) || {allowed}", "message": f"{field} is for {named} alone"},)


def _role(name: str, namespace: str, rules: tuple[JSON, ...]) -> JSON:
    return {
        "apiVersion": f"{RBAC}/v1",
        "kind": "Role",
        "metadata": {"name": name, "namespace": namespace},
        "rules": list(rules),
    }


def _created(plural: str) -> str:
    return f"request.operation == 'CREATE' && request.resource.resource == {quoted(plural)}"


def _watched(operation: str, *resources: str) -> JSON:
    return {
        "apiGroups": [GROUP],
        "apiVersions": [VERSION],
        "operations": [operation],
        "resources": list(resources),
    }


OPEN_REQUESTS: Final = ",".join(f"status.phase!={each}" for each in sorted(FINAL))
"""Selects the requests that have not ended."""

OPEN_APPROVALS: Final = ",".join(f"status.phase!={each.value}" for each in ApprovalPhase)
"""Selects the approvals that nobody has looked at."""
