"""
Streams of data planes in other processes, as plain requests beside the API.

Rules that must stay true here:

- This is the stand-in's own and no part of Kuma's API: a released kuma-dp speaks xDS here.
- A stream that a restarted control plane does not know is ``closed``, and its proxy connects anew.
"""

from __future__ import annotations

from collections.abc import Callable

import urllib3

from tests.fakes.kuma.connections import Admin, ProxySilent
from tests.fakes.kuma.plane import ServingPlane
from tests.fakes.kuma.store import MESH, Json

_TIMEOUT = urllib3.Timeout(connect=2.0, read=5.0)


def stream_answer(planes: dict[str, ServingPlane], path: str, body: Json) -> Json | None:
    """Return the answer to ``connect``, ``poll`` and ``disconnect``; None for anything else."""
    calls: dict[str, Callable[[dict[str, ServingPlane], Json], Json]] = {
        "connect": _connect,
        "poll": _poll,
        "disconnect": _disconnect,
    }
    return calls[path](planes, body) if path in calls else None


def _connect(planes: dict[str, ServingPlane], body: Json) -> Json:
    zone = body.get("zone") or next(iter(planes))
    plane = planes[zone]
    if plane.store.get(MESH, "", body["mesh"]) is None:
        return {"refused": f"mesh {body['mesh']} is not found"}
    port = body["dataplane"]["networking"]["admin"]["port"]
    connection = plane.connect(
        body["mesh"],
        body["name"],
        dataplane=body["dataplane"],
        labels=body["labels"],
        admin=envoy_admin(port),
        over_http=True,
    )
    return {"connection": f"{zone}/{connection}"}


def _poll(planes: dict[str, ServingPlane], body: Json) -> Json:
    zone, _, connection = body["connection"].partition("/")
    try:
        desired = planes[zone].poll(connection, body["version"], accepted=body["accepted"])
    except KeyError:
        return {"closed": True}
    return {"desired": desired.as_json() if desired is not None else None}


def _disconnect(planes: dict[str, ServingPlane], body: Json) -> Json:
    zone, _, connection = body["connection"].partition("/")
    planes[zone].disconnect(connection, keeps_dataplane=body["keeps_dataplane"])
    return {}


def envoy_admin(port: int) -> Admin:
    """Return what asks an Envoy on loopback, as a control plane does through its proxies' admin interfaces."""

    def ask(what: str) -> bytes:
        with urllib3.PoolManager(retries=False, timeout=_TIMEOUT) as http:
            try:
                answer = http.request("GET", f"http://127.0.0.1:{port}/{what}")
            except urllib3.exceptions.HTTPError as e:
                raise ProxySilent(f"the Envoy at port {port} did not answer") from e
            if answer.status != 200:
                raise ProxySilent(f"the Envoy at port {port} answered with {answer.status}")
            return answer.data

    return ask
