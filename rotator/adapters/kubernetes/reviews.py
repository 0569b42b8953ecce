"""
Who a caller of the HTTP service is and what they may read, asked of the API server: TokenReview, SubjectAccessReview.

Rules that must stay true here:

- A token counts only if it was made for `AUDIENCE`: one that a workload holds for the API server opens nothing here,
  and one that was shown here opens nothing at the API server.
- The right is ``get`` on rotator's own resources (`RESOURCES`, group `GROUP`) in rotator's own namespace: a Role grants
  it, and a ClusterRole over the API server's own paths does not grant it by accident.
- No token is part of an error.
"""

from __future__ import annotations

from typing import Any, Final

from rotator.cluster.objects import ObjectAPI
from rotator.cluster.paths import path_of
from rotator.cluster.rights import Rights, rule
from rotator.ports.reviewing import Reader

AUDIENCE: Final = "rotator.io"
GROUP: Final = "rotator.io"
RESOURCES: Final = ("status", "log")
"""What can be read: the status (page and JSON), and the evidence log."""

READER_ROLE: Final = "rotator-reader"

_TOKEN_REVIEWS: Final = ("authentication.k8s.io/v1", "tokenreviews")
_ACCESS_REVIEWS: Final = ("authorization.k8s.io/v1", "subjectaccessreviews")


class ClusterReviewer:
    """Asks one API server. Implements `rotator.ports.reviewing.Reviewer`."""

    def __init__(self, api: ObjectAPI, *, namespace: str) -> None:
        """Ask *api* for rights in *namespace*, rotator's own."""
        self._api = api
        self._namespace = namespace

    def identify(self, token: str) -> Reader | None:
        """Return whose *token* is; None if it is not good, or not made for `AUDIENCE`. Raises `AdapterError`."""
        version, plural = _TOKEN_REVIEWS
        review = {
            "apiVersion": version,
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [AUDIENCE]},
        }
        status = self._api.create(path_of(version, plural), review, secret=True).get("status", {})
        # An authenticator that knows no audiences answers without any: then nobody knows for whom the token was made.
        if not status.get("authenticated") or AUDIENCE not in status.get("audiences", ()):
            return None
        user = status.get("user", {})
        return Reader(
            name=str(user.get("username", "")),
            uid=str(user.get("uid", "")),
            groups=tuple(user.get("groups", ())),
            extra={key: tuple(values) for key, values in (user.get("extra") or {}).items()},
        )

    def may_get(self, reader: Reader, resource: str) -> bool:
        """Return whether *reader* has the right ``get`` on *resource*, one of `RESOURCES`. Raises `AdapterError`."""
        version, plural = _ACCESS_REVIEWS
        review = {
            "apiVersion": version,
            "kind": "SubjectAccessReview",
            "spec": {
                "user": reader.name,
                "uid": reader.uid,
                "groups": list(reader.groups),
                "extra": {key: list(values) for key, values in reader.extra.items()},
                "resourceAttributes": {
                    "verb": "get",
                    "group": GROUP,
                    "resource": resource,
                    "namespace": self._namespace,
                },
            },
        }
        status = self._api.create(path_of(version, plural), review).get("status", {})
        return bool(status.get("allowed")) and not status.get("denied")


def reviewing_rights() -> Rights:
    """Return what rotator itself needs to ask who somebody is and what they may; none of it changes anything."""
    return Rights(
        cluster=tuple(
            rule(plural, "create", group=version.partition("/")[0])
            for version, plural in (_TOKEN_REVIEWS, _ACCESS_REVIEWS)
        )
    )


def reader_role(namespace: str) -> dict[str, Any]:
    """Return the Role in *namespace*, rotator's own, that lets whoever is bound to it read status and log."""
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": READER_ROLE, "namespace": namespace},
        "rules": [rule(each, "get", group=GROUP) for each in RESOURCES],
    }
