"""
What the demonstration consists of: its numbers, its places, and the configuration that the real daemon is given.

Rules that must stay true here:

- Pure: numbers, paths and ports go in, a configuration document comes out; nothing is started here.
- The numbers keep law 4 with room to spare: a real operator's configuration with the days made seconds.
- Every wait of the demonstration has a bound here, and their sum stays below three minutes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

MESH = "mesh.demo"
WORKERS_DOMAIN = "workers.demo"
CLIENT = "envoy-client"
SERVER = "envoy-server"
WORKERS = "workers"
"""The certificate that both workers load, and the workload that it rolls."""
WORKER_NAMES = ("worker-1", "worker-2")
IDENTITIES: Mapping[str, str] = {
    CLIENT: f"spiffe://{MESH}/client",
    SERVER: f"spiffe://{MESH}/server",
    WORKERS: f"spiffe://{WORKERS_DOMAIN}/airflow-worker",
}
ORIGIN = "rotator.example/demo"
MOUNTS: Mapping[str, str] = {MESH: "pki_mesh", WORKERS_DOMAIN: "pki_workers"}
ROLE = "workload"


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainNumbers:
    """One trust domain's lifetimes."""

    ca_lifetime: timedelta
    ca_renew_at: float
    minimum_overlap: timedelta
    leaf: timedelta
    leaf_renew_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """Every duration that the configuration needs."""

    mesh: DomainNumbers = DomainNumbers(
        ca_lifetime=timedelta(seconds=120),
        ca_renew_at=0.5,
        # Without it a CA rotation is over in seconds: this leaves time to be killed in the middle of it.
        minimum_overlap=timedelta(seconds=20),
        leaf=timedelta(seconds=15),
        leaf_renew_at=0.4,
    )
    workers: DomainNumbers = DomainNumbers(
        ca_lifetime=timedelta(minutes=30),
        ca_renew_at=0.5,
        minimum_overlap=timedelta(seconds=20),
        leaf=timedelta(seconds=90),
        # As late as two drains in a row before the safety line allow: a roll ends before the next one is due.
        leaf_renew_at=0.5,
    )
    trust_deadline: timedelta = timedelta(seconds=6)
    skew: timedelta = timedelta(seconds=1)
    propagation: timedelta = timedelta(seconds=1)
    retry_budget: timedelta = timedelta(seconds=4)
    issue: timedelta = timedelta(milliseconds=250)
    publish: timedelta = timedelta(milliseconds=250)
    proof: timedelta = timedelta(milliseconds=500)
    drain: timedelta = timedelta(seconds=38)
    """Two drains in sequence, each of at most one task and a start."""
    sweep_every: timedelta = timedelta(seconds=1)
    checkpoint_every: timedelta = timedelta(seconds=2)
    heartbeat_every: timedelta = timedelta(seconds=10)
    task: tuple[float, float] = (5.0, 15.0)
    """Seconds that a task lasts, at least and at most."""
    task_every: timedelta = timedelta(milliseconds=2800)
    """Two workers with two slots each carry a task of 10 s every 2.5 s; a little less keeps the queue short."""
    rate: float = 250.0
    """Requests a second, above the 200 that are promised."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """When things are done and how long is waited for them, in seconds since the daemon was started."""

    at_least: float = 0.0
    """The load lasts until then, also when everything was shown before."""
    rotate_now_at: float = 15.0
    down_for: float = 1.0
    """Between SIGKILL and restart: a daemon killed here has about nine seconds before a leaf's safety line."""
    fresh_for: float = 0.8
    """Share of their life that the Envoys' leaves have left at the kill, at least."""
    activated_by: float = 95.0
    """The scheduled CA rotation has reached ``activated``."""
    completed_by: float = 132.0
    """The killed rotation has completed, and each worker was rolled."""
    quiet_by: float = 157.0
    """Every task is done and no rotation is open."""
    quiet_for: float = 20.0
    """How long renewals are held at the end, at most; a leaf's safety line ends it sooner."""

    def stretched(self, seconds: float) -> Timeline:
        """Return the same timeline whose load lasts at least *seconds*: every bound after that moves with it."""
        more = max(0.0, seconds - self.completed_by)
        return replace(self, at_least=seconds, completed_by=self.completed_by + more, quiet_by=self.quiet_by + more)


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Every file of the demonstration, below one directory."""

    root: Path

    @property
    def configuration(self) -> Path:
        """Return the daemon's configuration."""
        return self.root / "rotator.yaml"

    @property
    def ledger(self) -> Path:
        """Return the evidence log."""
        return self.root / "ledger"

    @property
    def verifier_key(self) -> Path:
        """Return the log's public key."""
        return self.root / "log.vkey"

    @property
    def pinned(self) -> Path:
        """Return the checkpoint that is copied before the kill, outside the log's folder."""
        return self.root / "pinned.checkpoint"

    @property
    def logs(self) -> Path:
        """Return where every process logs."""
        return self.root / "logs"

    @property
    def state(self) -> Path:
        """Return where database, keys and sockets lie."""
        return self.root / "state"

    @property
    def signing_key(self) -> Path:
        """Return the log's private key."""
        return self.state / "log.key"

    @property
    def broker_file(self) -> Path:
        """Return the file that holds the broker's URL."""
        return self.state / "broker"

    @property
    def results(self) -> Path:
        """Return the file to which the workers append what they finished."""
        return self.root / "tasks.jsonl"

    def certificates(self, name: str) -> Path:
        """Return the directory in which the certificate *name* is published."""
        return self.root / "certificates" / name

    def report(self, worker: str) -> Path:
        """Return where *worker* says which leaf the server sees of it."""
        return self.state / f"{worker}.report.json"

    def pid_file(self, worker: str) -> Path:
        """Return where the process of *worker* is noted."""
        return self.state / f"{worker}.pid"


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """How one worker is started."""

    name: str
    node: str
    command: Sequence[str]
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """Where the real servers are."""

    vault_address: str
    vault_ca_file: Path
    role_id_file: Path
    secret_id_file: Path
    client_admin_url: str
    server_admin_url: str
    server_address: str
    corporate_mount: str
    corporate_issuer: str
    socket: Path
    """The daemon's control socket."""
    workers: Sequence[Worker]


def written(length: timedelta) -> str:
    """Return *length* as the configuration takes it: ``250ms``, ``90s``."""
    milliseconds = length // timedelta(milliseconds=1)
    return f"{milliseconds // 1000}s" if milliseconds % 1000 == 0 else f"{milliseconds}ms"


def configuration(numbers: Numbers, places: Places, around: Surroundings) -> dict[str, object]:
    """Return the document that becomes ``rotator.yaml``."""
    return {
        "version": 1,
        "environment": "demo",
        "store": f"sqlite:///{places.state / 'state.db'}",
        "socket": str(around.socket),
        "log": {"level": "info", "format": "json"},
        "ledger": {
            "path": str(places.ledger),
            "origin": ORIGIN,
            "signing_key_file": str(places.signing_key),
            "checkpoint_every": written(numbers.checkpoint_every),
            "heartbeat_every": written(numbers.heartbeat_every),
        },
        "timing": {
            "skew": written(numbers.skew),
            "propagation": written(numbers.propagation),
            "issue": written(numbers.issue),
            "publish": written(numbers.publish),
            "proof": written(numbers.proof),
            "retry_budget": written(numbers.retry_budget),
            "sweep_every": written(numbers.sweep_every),
            "backdate": "1s",
        },
        "limits": {"issuances_per_subject": {"count": 60, "within": "1m"}},
        "issuers": {
            "corporate": {
                "vault": {
                    "address": around.vault_address,
                    "ca_file": str(around.vault_ca_file),
                    "timeout": "3s",
                    "auth": {
                        "approle": {
                            "role_id_file": str(around.role_id_file),
                            "secret_id_file": str(around.secret_id_file),
                        }
                    },
                    "mount": around.corporate_mount,
                    "issuer": around.corporate_issuer,
                }
            }
        },
        "trust_domains": {
            MESH: _domain(MESH, numbers.mesh, numbers),
            WORKERS_DOMAIN: _domain(WORKERS_DOMAIN, numbers.workers, numbers),
        },
        "certificates": _certificates(numbers, places, around),
        "workloads": {WORKERS: _workload(numbers, places, around)},
    }


def _domain(name: str, domain: DomainNumbers, numbers: Numbers) -> dict[str, object]:
    """Return one trust domain's part."""
    return {
        "model": "standalone",
        "issuer": "corporate",
        "ca": {
            "mount": MOUNTS[name],
            "role": ROLE,
            "lifetime": written(domain.ca_lifetime),
            "renew_at": f"{domain.ca_renew_at:.0%}",
            "minimum_overlap": written(domain.minimum_overlap),
        },
        "longest_leaf": written(domain.leaf),
        "trust_deadline": {"after": written(numbers.trust_deadline), "then": "hold"},
    }


def _certificates(numbers: Numbers, places: Places, around: Surroundings) -> dict[str, object]:
    """Return the three certificates' part."""
    return {
        CLIENT: {
            **_leaf(CLIENT, MESH, numbers.mesh, places),
            # A client only: nobody can present a leaf to it, so it tells itself what it trusts.
            "probes": [{"envoy_admin": around.client_admin_url}],
        },
        SERVER: {
            **_leaf(SERVER, MESH, numbers.mesh, places),
            "also_trust": [WORKERS_DOMAIN],
            "probes": [
                {"envoy_admin": around.server_admin_url},
                {"tls": {"address": around.server_address, "presents": IDENTITIES[CLIENT]}},
            ],
        },
        WORKERS: {
            **_leaf(WORKERS, WORKERS_DOMAIN, numbers.workers, places),
            "also_trust": [MESH],
            # The workers open the bundle at every call; their leaf they load at their start, hence the roll.
            "probes": [{"read_back": {}}],
            "rolls": [WORKERS],
        },
    }


def _leaf(name: str, domain: str, lifetimes: DomainNumbers, places: Places) -> dict[str, object]:
    """Return what every certificate's part begins with."""
    return {
        "trust_domain": domain,
        "identity": IDENTITIES[name],
        "lifetime": written(lifetimes.leaf),
        "renew_at": f"{lifetimes.leaf_renew_at:.0%}",
        "publish": [{"directory": str(places.certificates(name))}],
    }


def _workload(numbers: Numbers, places: Places, around: Surroundings) -> dict[str, object]:
    """Return the workers' part: two processes, drained through their broker before each is replaced."""
    return {
        "processes": [
            {
                "name": worker.name,
                "command": list(worker.command),
                "environment": dict(worker.environment),
                "pid_file": str(places.pid_file(worker.name)),
                "log_file": str(places.logs / f"{worker.name}.log"),
                "node": worker.node,
            }
            for worker in around.workers
        ],
        "max_unavailable": 1,
        "stop_timeout": "20s",
        "start_timeout": "20s",
        "drain": {
            "celery": {
                "broker_file": str(places.broker_file),
                "queues": ["default"],
                "deadline": written(numbers.drain),
                "then": "wait",
                # Loopback answers within milliseconds; a worker that is starting is asked again, not waited for.
                "timeout": "1s",
            }
        },
    }
