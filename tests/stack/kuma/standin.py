"""
The stand-in control plane as a process of its own, and real Envoys that outlive it.

Rules that must stay true here:

- Honest about what it is: `product` says stand-in.
- Kuma's own delays unless told otherwise; nothing is made quicker to make a rotation look better.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.fakes.kuma.dataplane import DataPlane
from tests.fakes.kuma.process import StandInProcess
from tests.stack.kuma.plane import Json
from tests.stack.kuma.scenarios import PHASES

_SERVICES = (*(f"service-{number}" for number in range(5)), *(f"joiner-{phase.value}" for phase in PHASES))


class StandInPlane:
    """One control plane and its proxies. Implements `tests.stack.kuma.plane.MeshUnderTest`."""

    def __init__(
        self,
        directory: Path,
        *,
        mesh: str,
        version: str,
        zones: tuple[str, ...] = (),
        services: tuple[str, ...] = _SERVICES,
    ) -> None:
        """Describe it; entering starts the control plane. *services* are all that will ever take part."""
        self._mesh = mesh
        self._process = StandInProcess(directory / "cp", version=version, zones=zones)
        self._proxies = DataPlane(self._process.url, directory / "dp", services, mesh=mesh, zones=zones)
        self._undo = ExitStack()

    # --- the control plane ------------------------------------------------------------------------------------------

    @property
    def product(self) -> str:
        """Return what it stands in for."""
        return f"stand-in for Kuma {self._process.version}"

    @property
    def url(self) -> str:
        """Return its HTTP API."""
        return self._process.url

    @property
    def token_file(self) -> Path | None:
        """Return the file with an administrator's token."""
        return self._process.token_file

    @property
    def mesh(self) -> str:
        """Return the mesh's name."""
        return self._mesh

    def api(self, method: str, path: str, body: Json | None = None) -> Json:
        """Call the HTTP API with every right."""
        status, answer = self._process.call(method, path, body)
        assert status < 300, f"{method} {path}: {status} {answer}"
        return answer

    def restart(self) -> None:
        """Kill the control plane and start it anew, with what it had stored."""
        self._process.restart()

    # --- proxies ----------------------------------------------------------------------------------------------------

    def start_proxy(self, name: str) -> None:
        """Start *name*."""
        self._proxies.start_proxy(name)

    def stop_proxy(self, name: str) -> None:
        """Stop *name*; its Dataplane stays, offline."""
        self._proxies.stop_proxy(name)

    @property
    def freezes(self) -> bool:
        """Return True."""
        return True

    def freeze_proxy(self, name: str) -> None:
        """Let *name* acknowledge nothing."""
        self._proxies.freeze_proxy(name)

    def thaw_proxy(self, name: str) -> None:
        """Let *name* take what it is given again."""
        self._proxies.thaw_proxy(name)

    def outbounds(self) -> Mapping[str, int]:
        """Return the pairs of running proxies."""
        return self._proxies.outbounds()

    def inbounds(self) -> Mapping[str, int]:
        """Return the inbound ports of running proxies."""
        return self._proxies.inbounds()

    # --- life -------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._undo.enter_context(self._process)
        self._undo.enter_context(self._proxies)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.close()
