"""
What a control plane says of itself, and which of the two models a mesh on it uses.

Rules that must stay true here:

- On Kuma 3 and later ``Mesh.mtls`` is nothing: it is accepted and issues nothing, so it never counts there.
- What a control plane is, is asked; it is never guessed from what it can do. Only where the right to read its
  configuration is missing does the caller's word stand in for it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from rotator.adapters.kuma.api import ControlPlaneAPI
from rotator.adapters.kuma.control_plane import About, Document, Environment, Mode
from rotator.errors import Denied, Rejected

FIRST_WITHOUT_MTLS = (3, 0, 0)
"""From here on a mesh's own CA backends are gone."""

_VERSION = re.compile(r"v?(\d+)\.(\d+)(?:\.(\d+))?")


class Model(StrEnum):
    """Where a mesh's CA stands."""

    PROVIDED = "provided"
    """``Mesh.mtls``, whatever kind of backend is in use now."""
    IDENTITY = "identity"
    """MeshIdentity and MeshTrust."""
    NONE = "none"
    """Neither: the mesh has no CA."""


def ask_about(api: ControlPlaneAPI, *, environment: Environment | None = None) -> About:
    """
    Return what the control plane behind *api* is.

    *environment* stands in, with a zone's mode, if the right to read the control plane's configuration is missing.

    Raises:
        Denied: If the configuration may not be read and no *environment* was given.
        Rejected: If what answers is no control plane.
    """
    index = api.get("/", doing="asking the control plane for its version")
    if index is None or not isinstance(index.get("version"), str):
        raise Rejected(f"what answers at {api.endpoint.url} is no control plane: it names no version")
    try:
        configuration = api.get("/config", doing="reading the control plane's configuration")
    except Denied:
        if environment is None:
            raise
        configuration = None
    return about_of(index, configuration or {}, environment=environment)


def about_of(
    index: Mapping[str, Any], configuration: Mapping[str, Any], *, environment: Environment | None = None
) -> About:
    """Return what *index* (``GET /``) and *configuration* (``GET /config``) say."""
    said = str(configuration.get("environment") or "").lower()
    multizone = _mapping(_mapping(configuration.get("multizone")).get("zone"))
    mode = Mode.GLOBAL if str(configuration.get("mode") or "").lower() == "global" else Mode.ZONE
    text = str(index.get("version") or "")
    # A product built on Kuma counts its own versions; what it can do is Kuma's.
    based_on = str(index.get("basedOnKuma") or "")
    found = environment or Environment.UNIVERSAL
    return About(
        product=str(index.get("product") or index.get("tagline") or ""),
        version=version_of(based_on or text),
        version_text=text,
        environment=Environment.KUBERNETES if said == "kubernetes" else Environment.UNIVERSAL if said else found,
        mode=mode,
        federated=mode is Mode.ZONE and bool(multizone.get("globalAddress")),
        instance=str(index.get("instanceId") or index.get("hostname") or ""),
    )


def version_of(text: str) -> tuple[int, int, int]:
    """Return *text* (``2.14.3``, ``3.0.0-preview.v1a2b``) as numbers; zeros for a build that names none."""
    found = _VERSION.match(text.strip())
    if found is None:
        return (0, 0, 0)
    major, minor, patch = found.groups(default="0")
    return int(major), int(minor), int(patch)


def model_used(about: About, mesh: Document | None, identities: Sequence[Document]) -> Model:
    """
    Return which model the mesh uses now, by its own document and its MeshIdentities.

    A MeshIdentity that selects proxies wins over ``Mesh.mtls``, as it does in Kuma; one that selects none counts only
    where there is nothing else.
    """
    if any(selects(each) for each in identities):
        return Model.IDENTITY
    has_mtls = mesh is not None and bool(_mapping(mesh.spec.get("mtls")).get("enabledBackend"))
    if has_mtls and about.version < FIRST_WITHOUT_MTLS:
        return Model.PROVIDED
    return Model.IDENTITY if identities else Model.NONE


def selects(identity: Document) -> bool:
    """Return whether a MeshIdentity selects any proxy: ``selector: {}`` selects none, ``dataplane: {}`` all."""
    return isinstance(_mapping(identity.spec.get("selector")).get("dataplane"), Mapping)


def _mapping(found: object) -> Mapping[str, Any]:
    """Return *found* if it is an object, else an empty one."""
    return found if isinstance(found, Mapping) else {}
