"""
The objects of rotator's namespace in which people ask and approve.

Rules that must stay true here:

- Read in pages and by phase: what has ended is not read again, however much of it there is.
- A status is written with the revision that was read: somebody else's object of the same name is never meant.
- A name in an object is worth what the admission policy makes it: the one in force is compared with ours, word by word.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from rotator.adapters.kubernetes.people import OPEN_APPROVALS, OPEN_REQUESTS, naming_policy
from rotator.cluster.objects import JSON, ObjectAPI
from rotator.cluster.paths import path_of
from rotator.cluster.people import FINAL, ApprovalPhase, approvals_path, policy_name, requests_path
from rotator.cluster.rbac import Account
from rotator.durations import parse_moment
from rotator.errors import Conflict
from rotator.ports import PostedObject

_ADMISSION: Final = "admissionregistration.k8s.io/v1"


class PostedRequests:
    """Implements `rotator.ports.RequestBoard`."""

    def __init__(self, api: ObjectAPI, namespace: str) -> None:
        """Serve *namespace*, rotator's own, as whoever *api* is."""
        self._api = api
        self._namespace = namespace
        # Whose account may write a status says nothing about names.
        self._wanted = naming_policy(Account(namespace=namespace))[0]["spec"]

    def guarded_since(self) -> datetime | None:
        """Return since when policy and binding are in force as they should be, None if they are not."""
        name = policy_name(self._namespace)
        policy = self._api.get(path_of(_ADMISSION, "validatingadmissionpolicies", name=name))
        binding = self._api.get(path_of(_ADMISSION, "validatingadmissionpolicybindings", name=name))
        if policy is None or binding is None:
            return None
        if not (_binds(policy["spec"], self._wanted) and _denies(binding["spec"], name)):
            return None
        return max(_made_at(policy), _made_at(binding))

    def requests(self) -> tuple[PostedObject, ...]:
        """Return every request that has not ended, oldest first."""
        return self._listed(requests_path(self._namespace), OPEN_REQUESTS)

    def approvals(self) -> tuple[PostedObject, ...]:
        """Return every approval that nobody has looked at, oldest first."""
        return self._listed(approvals_path(self._namespace), OPEN_APPROVALS)

    def show(self, posted: PostedObject, status: Mapping[str, Any], *, approval: bool = False) -> None:
        """Write *status* of a request, or of an approval; `Conflict` if the object has changed or is gone."""
        where = approvals_path if approval else requests_path
        # The uid is a precondition too: an object made anew under the same name is another one.
        metadata = {"resourceVersion": posted.revision, "uid": posted.uid}
        self._api.merge(
            where(self._namespace, posted.name, part="status"), {"metadata": metadata, "status": dict(status)}
        )

    def tidy(self, ended_before: datetime) -> int:
        """Remove requests and approvals that had ended before that moment; return how many."""
        removed = 0
        for where, phases in ((approvals_path, list(ApprovalPhase)), (requests_path, sorted(FINAL))):
            for phase in phases:
                for each in self._listed(where(self._namespace), f"status.phase={phase}"):
                    finished = each.status.get("finishedAt")
                    if not isinstance(finished, str) or parse_moment(finished) >= ended_before:
                        continue
                    try:
                        self._api.delete(where(self._namespace, each.name), revision=each.revision)
                    except Conflict:
                        continue
                    removed += 1
        return removed

    def _listed(self, path: str, selector: str) -> tuple[PostedObject, ...]:
        found = [_posted(each) for each in self._api.listed(path, fields=selector)]
        return tuple(sorted(found, key=lambda each: (each.made_at, each.name)))


def _posted(found: JSON) -> PostedObject:
    metadata = found["metadata"]
    return PostedObject(
        name=metadata["name"],
        uid=metadata["uid"],
        revision=metadata["resourceVersion"],
        made_at=_made_at(found),
        spec=found.get("spec") or {},
        status=found.get("status") or {},
    )


def _made_at(found: JSON) -> datetime:
    return parse_moment(found["metadata"]["creationTimestamp"])


def _binds(found: JSON, wanted: JSON) -> bool:
    """Return whether the policy *found* refuses everything that *wanted* refuses, and lets nobody pass by."""
    matched, own = found.get("matchConstraints", {}), wanted["matchConstraints"]
    says = {each.get("expression") for each in found.get("validations", ())}
    # Expressions about the status name rotator's account, which may have another name; they say nothing about people.
    needed = {each["expression"] for each in wanted["validations"] if "tells" not in each["expression"]}
    return (
        found.get("failurePolicy", "Fail") == "Fail"
        and not any(found.get(key) for key in ("matchConditions", "paramKind"))
        and not any(matched.get(key) for key in ("excludeResourceRules", "objectSelector"))
        and matched.get("namespaceSelector") == own["namespaceSelector"]
        and {_rule(each) for each in own["resourceRules"]} <= {_rule(each) for each in matched["resourceRules"]}
        and found.get("variables") == wanted["variables"]
        and needed <= says
    )


def _rule(found: JSON) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(sorted(found.get(key, ()))) for key in ("apiGroups", "apiVersions", "operations", "resources"))


def _denies(binding: JSON, name: str) -> bool:
    return (
        binding.get("policyName") == name
        and "Deny" in binding.get("validationActions", ())
        and not binding.get("matchResources")
        and not binding.get("paramRef")
    )
