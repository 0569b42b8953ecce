"""
Secrets of others in a cluster that are looked at, by name or by label.

Rules that must stay true here:

- Reading only, and of a Secret only ``tls.crt``: the API server sends the key beside it, which is passed over, never
  parsed and gone with the answer.
- By name takes `get` of that name. By label takes `list` in a namespace, which shows every Secret there: it is asked
  for only where the configuration says so (`watch_rights`).
- Many are read page by page, and one that has not changed is not parsed again.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

from rotator.cluster.objects import ObjectAPI
from rotator.cluster.paths import path_of
from rotator.cluster.rights import Rights, rule
from rotator.core.foreign import Foreign
from rotator.errors import Rejected
from rotator.pki.foreign import certificates_among, foreign

CERTIFICATE = "tls.crt"
TLS_SECRET = "kubernetes.io/tls"  # noqa: S105 -- a type's name, not a secret


def named_rights(namespace: str, name: str) -> Rights:
    """Return what looking at one Secret takes."""
    return Rights(namespaces={namespace: (rule("secrets", "get", names=(name,)),)})


def labelled_rights(namespaces: Sequence[str]) -> Rights:
    """Return what looking at Secrets by label takes: RBAC knows no narrower right than to list them all."""
    return Rights(namespaces={each: (rule("secrets", "list"),) for each in namespaces})


class WatchedSecret:
    """One Secret by name; a `Watch`."""

    kind = "kubernetes_secret"

    def __init__(self, cluster: ObjectAPI, namespace: str, name: str) -> None:
        """Look at the Secret *name* of *namespace*."""
        self._cluster = cluster
        self._path = path_of("v1", "secrets", namespace=namespace, name=name)
        self._which = f"{namespace}/{name}"
        self._known: tuple[str, Foreign] | None = None

    @property
    def place(self) -> str:
        """Return namespace and name."""
        return f"secret:{self._which}"

    def look(self) -> Sequence[Foreign]:
        """Return what stands in it. Raises `Rejected` if it is absent or holds no certificate."""
        found = self._cluster.get(self._path, secret=True)
        if found is None:
            raise Rejected(f"Secret {self._which} is not there")
        revision = _revision(found)
        if self._known is None or self._known[0] != revision:
            self._known = (revision, _foreign(found, self._which, which=""))
        return (self._known[1],)


class WatchedSecrets:
    """Every Secret of a label in some namespaces; a `Watch`."""

    kind = "kubernetes_secrets"

    def __init__(self, cluster: ObjectAPI, namespaces: Sequence[str], selector: str) -> None:
        """Look at Secrets of type kubernetes.io/tls with the labels of *selector* in *namespaces*."""
        self._cluster = cluster
        self._namespaces = tuple(namespaces)
        self._selector = selector
        self._known: dict[str, tuple[str, Foreign]] = {}

    @property
    def place(self) -> str:
        """Return namespaces and selector."""
        return f"secrets:{','.join(self._namespaces)}?{self._selector}"

    def look(self) -> Sequence[Foreign]:
        """Return what stands in each of them, by namespace and name; none is no mistake here."""
        known: dict[str, tuple[str, Foreign]] = {}
        unreadable: list[str] = []
        for namespace in self._namespaces:
            path = path_of("v1", "secrets", namespace=namespace)
            for page in self._cluster.pages(
                path, selector=self._selector, fields=f"type={TLS_SECRET}", size=_PAGE, secret=True
            ):
                for each in page:
                    which = f"{namespace}/{each['metadata']['name']}"
                    revision = _revision(each)
                    before = self._known.get(which)
                    if before is not None and before[0] == revision:
                        known[which] = before
                        continue
                    try:
                        known[which] = (revision, _foreign(each, which, which=which))
                    except Rejected:
                        unreadable.append(which)
        self._known = known
        if unreadable and not known:
            raise Rejected(f"Secret {unreadable[0]} holds no certificate that can be read")
        return tuple(each for _, each in known.values())


_PAGE = 100
"""Secrets at once: with their keys and annotations a page is a megabyte at most, as a rule."""


def _revision(secret: Mapping[str, Any]) -> str:
    return str(secret["metadata"]["resourceVersion"])


def _foreign(secret: Mapping[str, Any], name: str, *, which: str) -> Foreign:
    try:
        pem = base64.b64decode((secret.get("data") or {}).get(CERTIFICATE, ""), validate=True)
    except (binascii.Error, ValueError):
        raise Rejected(f"Secret {name} holds no {CERTIFICATE} that can be read") from None
    return foreign(certificates_among(pem, source=f"Secret {name}"), which=which)
