"""
Which hosts Airflow's own settings name, as far as they may be read.

Rules that must stay true here:

- Of an environment only variables that hold an address are looked at, and of an address only host and port: a
  connection's user and password are dropped before anything else is done with it.
- A setting is held against a destination only if it is named for it.
"""

from __future__ import annotations

import configparser
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from rotator.bootstrap.fleet import workload_place
from rotator.bootstrap.sessions import Sessions
from rotator.doctor.parties import Party
from rotator.errors import RotatorError
from rotator.platform.call import HostUse
from rotator.platform.model import Component, Identity, InCluster, Service
from rotator.settings import Settings
from rotator.settings.workloads import ProcessSettings, Workload

_URLS: Final = {
    ("core", "execution_api_server_url"): "AIRFLOW__CORE__EXECUTION_API_SERVER_URL",
    ("api", "base_url"): "AIRFLOW__API__BASE_URL",
    ("webserver", "base_url"): "AIRFLOW__WEBSERVER__BASE_URL",
}
_CONNECTION: Final = "AIRFLOW_CONN_"
_PORTS: Final = {"http": 80, "https": 443}
_API_SERVER: Final = frozenset({"apiserver", "airflowapiserver", "executionapi", "airflow", "airflowapi", "webserver"})


def host_uses(settings: Settings, sessions: Sessions, caller: Party, service: Party) -> tuple[tuple[HostUse, ...], str]:
    """Return where Airflow's settings name a host on behalf of *caller*, and why none could be read, if so."""
    entry = caller.entry
    if not isinstance(entry, Identity) or entry.component is Component.OTHER:
        return (), ""
    problems: list[str] = []
    found = [
        use
        for where, variables in _environments(settings, sessions, entry, problems)
        for use in _of_variables(variables, where, service)
    ]
    return tuple(dict.fromkeys(found)), "" if found else "; ".join(dict.fromkeys(problems))


def _environments(
    settings: Settings, sessions: Sessions, entry: Identity, problems: list[str]
) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Yield what the caller's workloads are given, with what it stands in."""
    for name, workload in settings.workloads.items():
        if workload.airflow is None or workload.airflow.component != entry.component.value:
            continue
        if isinstance(entry.place, InCluster):
            yield from _of_pods(settings, sessions, name, entry.place, problems)
        elif _consumes(workload, entry.queue):
            for process in workload.processes or ():
                yield from _of_process(name, process, problems)


def _consumes(workload: Workload, queue: str | None) -> bool:
    celery = workload.drain.celery if workload.drain is not None else None
    queues = {each for process in workload.processes or () for each in process.queues}
    queues |= set(celery.queues) if celery is not None else set()
    return queue is None or not queues or queue in queues


def _of_pods(
    settings: Settings, sessions: Sessions, name: str, where: InCluster, problems: list[str]
) -> Iterator[tuple[str, Mapping[str, str]]]:
    place = workload_place(settings.workloads[name])
    if place is None or place.namespace != where.namespace:
        return
    try:
        owner = sessions.cluster(settings).get(place.path)
    except RotatorError as e:
        problems.append(str(e))
        return
    if owner is None:
        problems.append(f"there is no {place}")
        return
    template = owner["spec"]["template"]
    if template.get("spec", {}).get("serviceAccountName") in {None, where.service_account}:
        yield f"workload {name}", dict(_variables(template))


def _of_process(name: str, process: ProcessSettings, problems: list[str]) -> Iterator[tuple[str, Mapping[str, str]]]:
    where = f"{process.name} of workload {name}"
    if process.command is None:
        problems.append(f"what unit {process.unit} is given cannot be seen from here")
        return
    given = dict(process.environment)
    if process.environment_file is not None:
        try:
            given |= _lines(process.environment_file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError):
            problems.append(f"{process.environment_file} cannot be read")
    home = given.get("AIRFLOW_HOME")
    of_file = {} if home is None else _of_file(Path(home) / "airflow.cfg")
    # Variables win over the file, as in Airflow.
    yield where, {**of_file, **{key: said for key, said in given.items() if _holds_address(key)}}


def _lines(text: str) -> dict[str, str]:
    found = {}
    for line in text.splitlines():
        name, given, said = line.strip().partition("=")
        if given and _holds_address(name):
            found[name] = said.strip("\"'")
    return found


def _of_file(path: Path) -> dict[str, str]:
    parser = configparser.RawConfigParser(strict=False)
    try:
        parser.read_string(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, configparser.Error):
        return {}
    return {
        variable: parser.get(section, key)
        for (section, key), variable in _URLS.items()
        if parser.has_option(section, key)
    }


def _holds_address(variable: str) -> bool:
    return variable in _URLS.values() or variable.startswith(_CONNECTION)


def _variables(template: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for container in template.get("spec", {}).get("containers", ()):
        for each in container.get("env", ()):
            name, said = str(each.get("name", "")), each.get("value")
            if isinstance(said, str) and _holds_address(name):
                yield name, said


def _of_variables(variables: Mapping[str, str], where: str, service: Party) -> Iterator[HostUse]:
    entry = service.entry
    name = _plain(entry.name) if isinstance(entry, Service) else None
    for variable, said in sorted(variables.items()):
        address = _address(said)
        if address is None:
            continue
        connection = variable.removeprefix(_CONNECTION) if variable.startswith(_CONNECTION) else None
        if connection is not None:
            meant = _plain(connection) == name
        else:
            meant = variable == _URLS["core", "execution_api_server_url"] and name in _API_SERVER
        yield HostUse(where=f"{variable} of {where}", host=address[0], port=address[1], meant=meant)


def _address(said: str) -> tuple[str, int | None] | None:
    """Return host and port of an address, or of a connection as a URI or as JSON; nothing else of it is kept."""
    if said.lstrip().startswith("{"):
        found = re.search(r'"host"\s*:\s*"([^"]+)"', said)
        port = re.search(r'"port"\s*:\s*"?(\d+)', said)
        if found is None:
            return None
        host = found[1]
        if "//" in host:
            return _address(host)
        return host, int(port[1]) if port is not None else None
    try:
        url = urlsplit(said)
        return None if url.hostname is None else (url.hostname, url.port or _PORTS.get(url.scheme))
    except ValueError:
        return None


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
