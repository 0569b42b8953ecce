"""
Where objects are at an API server.

Rules that must stay true here:

- Pure text; every part that comes from outside is quoted.
"""

from __future__ import annotations

from urllib.parse import quote


def path_of(
    version: str, plural: str, *, namespace: str | None = None, name: str | None = None, part: str | None = None
) -> str:
    """
    Return the path of an object, or of the collection without *name*.

    *version* is as in ``apiVersion`` (``v1``, ``apps/v1``); *part* is a subresource such as ``status``.
    """
    group = f"/api/{version}" if "/" not in version else f"/apis/{version}"
    where = f"/namespaces/{quote(namespace, safe='')}" if namespace is not None else ""
    which = f"/{quote(name, safe='')}" if name is not None else ""
    return f"{group}{where}/{plural}{which}" + (f"/{part}" if part is not None else "")
