"""
Leaves as Secrets: how many are rotated a second beside what the API server takes at all, and what ten thousand weigh.

    python -m tests.bench.secrets COUNT                          resident memory with COUNT Secrets
    python -m tests.bench.secrets URL CA_FILE TOKEN_FILE SECONDS updates a second of one bare client

Rules that must stay true here:

- API server, etcd, journal and engine are real; the signer is the fake that passes the real one's contract.
- The raw rate is that of bare HTTP clients, each a process of its own, that update Secrets of the same size and do
  nothing else. Every update changes something: an apply that changes nothing is not stored.
- For memory the API server is played: ten thousand real Secrets would take longer to write than they say.
"""

from __future__ import annotations

import base64
import http.client
import itertools
import json
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rotator.adapters.kubernetes.secrets import SecretStore
from rotator.cluster.objects import JSON, ClusterAccess, ObjectAPI
from rotator.cluster.rbac import Account, role_objects
from rotator.cluster.rights import Rights, rule
from rotator.core.model import SubjectName
from rotator.engine.targets import CertificateTarget
from rotator.ports import Clock, Issuance
from tests.bench.figures import Figure
from tests.bench.fleet import begin, published, save, trust_domain
from tests.bench.installation import LEAF_LIFE, Installation, Meter, certificate
from tests.bench.memory import resident
from tests.bench.raw import Missing
from tests.fakes.clock import ManualClock
from tests.fakes.objects import FakeObjects
from tests.fakes.vault import FakeVault
from tests.stack.cluster import BIN, Cluster

SECRETS = 200
THREADS = 8
CLIENTS = 4
WATCHED = 10_000
NAMESPACE = "bench"


class CountingAPI(ObjectAPI):
    """An API server that counts what it is asked."""

    def __init__(self, access: ClusterAccess) -> None:
        super().__init__(access)
        self._calls = itertools.count()

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None, **words: Any) -> JSON:
        next(self._calls)
        return super()._call(method, path, body, **words)

    def calls(self) -> int:
        """Return how many requests were made; this look counts for none."""
        found = next(self._calls)
        self._calls = itertools.count(found)
        return found


def target(api: ObjectAPI, number: int, clock: Clock) -> CertificateTarget:
    """Return certificate *number*, published as a Secret."""
    name = SubjectName(f"service-{number}")
    return certificate(number, SecretStore(api, namespace=NAMESPACE, name=str(name), subject=name, clock=clock))


# --- the raw rate -----------------------------------------------------------------------------------------------------


def update(url: str, ca_file: str, token_file: str, seconds: float) -> float:
    """Update one Secret over one connection for so long; return updates a second."""
    parts = urlsplit(url)
    connection = http.client.HTTPSConnection(
        str(parts.hostname), parts.port, timeout=30, context=ssl.create_default_context(cafile=ca_file)
    )
    headers = {
        "Authorization": f"Bearer {Path(token_file).read_text(encoding='ascii')}",
        "Content-Type": "application/apply-patch+yaml",
    }
    data = {key: base64.b64encode(b"x" * 900).decode() for key in ("tls.crt", "tls.key", "ca.crt")}
    name = f"raw-{time.monotonic_ns()}"
    path = f"/api/v1/namespaces/{NAMESPACE}/secrets/{name}?fieldManager=raw&force=true"
    began = time.perf_counter()
    for done in itertools.count():
        spent = time.perf_counter() - began
        if spent >= seconds:
            return done / spent
        metadata = {"name": name, "annotations": {"n": str(done)}}
        body = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "kubernetes.io/tls", "data": data}
        connection.request("PATCH", path, body=json.dumps(body), headers=headers)
        answer = connection.getresponse()
        answer.read()
        if answer.status >= 300:
            raise AssertionError(f"the API server answered {answer.status}")
    raise AssertionError("counting ended")


def raw_rate(cluster: Cluster, token: str, directory: Path, seconds: float) -> float:
    """Return how many updates of Secrets the API server takes a second from bare clients."""
    file = directory / "token"
    file.touch(mode=0o600)
    file.write_text(token, encoding="ascii")
    command = [sys.executable, "-m", "tests.bench.secrets", cluster.url, str(cluster.ca_file), str(file), str(seconds)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(CLIENTS)]
    said = [each.communicate(timeout=seconds + 60)[0] for each in running]
    file.unlink()
    assert [0] * CLIENTS == [each.returncode for each in running], "a bare client failed"
    return sum(float(each) for each in said)


# --- rotator ----------------------------------------------------------------------------------------------------------


def rotate(api: CountingAPI, directory: Path) -> tuple[float, float, float]:
    """Rotate every Secret once by its schedule; return Secrets a second, requests a Secret, CPU seconds a Secret."""
    clock = ManualClock()
    vault = FakeVault(clock)
    domain = trust_domain(vault)
    signer = begin(directory, domain, clock)
    targets = [target(api, number, clock) for number in range(SECRETS)]
    with Installation(directory, domain, (), clock) as installation:
        rows: list[Issuance] = [published(each, domain, signer, clock) for each in targets]
        save(installation, rows)
    with Installation(directory, domain, targets, clock, threads=THREADS) as installation:
        engine = installation.engine
        _sweep(installation)
        _sweep(installation)
        clock.advance(LEAF_LIFE * 0.55)
        before, meter = api.calls(), Meter()
        for _ in range(50):
            _sweep(installation)
            views = [engine.leaves.view(each.name) for each in targets]
            seen = [view.observation.publications[0] for view in views if view is not None]
            done = sum(each is not None and each.number == 2 for each in seen)
            if done == SECRETS and all(engine.memory.open_rotation(each.name) is None for each in targets):
                break
        spent = meter.spent()
        assert done == SECRETS, f"{done} of {SECRETS} were rotated"
        requests = (api.calls() - before) / SECRETS
        engine.stop(timedelta(seconds=30))
    return SECRETS / spent.wall, requests, spent.cpu / SECRETS


def _sweep(installation: Installation) -> None:
    installation.engine.sweep()
    assert installation.engine.pool.wait_idle(timedelta(minutes=10)), "visits do not end"


def idle(api: CountingAPI, count: int) -> float:
    """Return how many requests a look at *count* unchanged Secrets takes, each."""
    stores = [target(api, number, ManualClock()).stores[0] for number in range(count)]
    for store in stores:
        store.read()
    before = api.calls()
    for store in stores:
        store.read()
    return (api.calls() - before) / count


# --- memory -----------------------------------------------------------------------------------------------------------


class PlayedAPI(ObjectAPI):
    """Holds Secrets that are never changed."""

    def __init__(self, wholes: Mapping[str, JSON]) -> None:
        self._wholes = wholes

    def close(self) -> None:
        """Do nothing."""

    def get(self, path: str, *, secret: bool = False, metadata_only: bool = False) -> JSON | None:
        """Return one Secret, or its metadata."""
        del secret
        whole = self._wholes.get(path)
        return {"metadata": whole["metadata"]} if whole is not None and metadata_only else whole


def measure(count: int, directory: Path) -> dict[str, int]:
    """Return resident bytes before and after *count* Secrets are known and seen; those themselves are there before."""
    clock = ManualClock()
    domain = trust_domain(FakeVault(clock))
    signer = begin(directory, domain, clock)
    played = FakeObjects()
    with Installation(directory, domain, (), clock) as installation:
        save(
            installation,
            (published(target(played, number, clock), domain, signer, clock) for number in range(count)),
        )
    api = PlayedAPI(played.stored)
    before = resident()
    targets = [target(api, number, clock) for number in range(count)]
    with Installation(directory, domain, targets, clock) as installation:
        installation.engine.sweep()
        installation.engine.sweep()
        after = resident()
        seen = sum(installation.engine.leaves.view(name) is not None for name in installation.engine.fleet.certificates)
        opened = len(installation.store.rotations())
    assert (count, 1) == (seen, opened), f"{seen} were seen, {opened} rotations were opened"
    return {"before": before, "after": after}


def bench(directory: Path, seconds: float) -> list[Figure]:
    """Measure rates against a real API server, then memory in a process of its own."""
    if not (BIN / "kube-apiserver").exists():
        raise Missing("kube-apiserver is missing: make stack brings it")
    with Cluster(directory / "cluster") as cluster:
        cluster.namespace(NAMESPACE)
        token = cluster.service_account(NAMESPACE, "bench")
        account = Account(namespace=NAMESPACE, name="bench")
        allowed = rule("secrets", "get", "create", "patch", "delete")
        for each in role_objects(
            Rights(namespaces={NAMESPACE: (allowed,)}), account, name="bench", cluster_name="bench"
        ):
            cluster.apply(each)
        kubeconfig = cluster.kubeconfig_for(token, NAMESPACE, directory / "kubeconfig")
        raw = raw_rate(cluster, token, directory, seconds)
        access = ClusterAccess(namespace=NAMESPACE, kubeconfig_file=kubeconfig, connections=2 * THREADS)
        api = CountingAPI(access)
        try:
            rate, requests, cpu = rotate(api, directory)
            looks = idle(api, SECRETS)
        finally:
            api.close()
    found = json.loads(
        subprocess.run(
            [sys.executable, "-m", "tests.bench.secrets", str(WATCHED)],
            capture_output=True,
            text=True,
            timeout=1800,
            check=True,
        ).stdout.splitlines()[-1]
    )

    def figure(name: str, value: float, unit: str, aim: str | None = None) -> Figure:
        return Figure(bench="secrets", name=name, value=value, unit=unit, aim=aim)

    return [
        figure("Secrets rotated / the API server's raw rate of updates", rate / raw, "ratio"),
        figure(f"requests made / the raw rate of updates ({THREADS} threads)", rate * requests / raw, "ratio"),
        figure("API requests for one rotated Secret", requests, "requests", "<= 8"),
        figure("API requests for one look at an unchanged one", looks, "requests", "<= 1"),
        figure(f"Secrets rotated ({SECRETS}, {THREADS} threads)", rate, "a second"),
        figure(f"raw updates ({CLIENTS} bare clients)", raw, "a second"),
        figure("rotator's own CPU for one rotated Secret", cpu * 1000, "CPU ms"),
        figure(f"memory for one of {WATCHED:,} Secrets", (found["after"] - found["before"]) / WATCHED / 1024, "KiB"),
        figure(f"memory for {WATCHED:,} Secrets", (found["after"] - found["before"]) / 2**20, "MiB"),
    ]


if __name__ == "__main__":
    if len(sys.argv) == 2:
        with tempfile.TemporaryDirectory(prefix="rotator-bench-secrets-") as place:
            print(json.dumps(measure(int(sys.argv[1]), Path(place))))
    else:
        print(update(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])))
