"""
Ten thousand watched Secrets: memory, and what looking at them costs.

    python -m tests.bench.watch KUBECONFIG COUNT

Rules that must stay true here:

- The API server is the real one, and every Secret there holds a chain and a key of its own size.
- The watcher runs in a process of its own, so that its memory is nobody else's.
- What a look takes is compared with reading the same pages and throwing them away.
"""

from __future__ import annotations

import base64
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rotator.adapters.kubernetes.watched import TLS_SECRET, WatchedSecrets
from rotator.clock import SystemClock
from rotator.cluster.objects import ClusterAccess, ObjectAPI
from rotator.cluster.paths import path_of
from rotator.core.foreseen import AlertPolicy
from rotator.engine.watcher import Watched, Watcher
from tests.bench.figures import Figure
from tests.bench.memory import resident
from tests.bench.raw import Missing
from tests.fakes.certificate_authority import FakeCA
from tests.stack.cluster import BIN, Cluster

COUNT = 10_000
NAMESPACES = 20
LABELS = "team=platform"


def namespaces() -> list[str]:
    """Return where the Secrets are."""
    return [f"watched-{number}" for number in range(NAMESPACES)]


def fill(cluster: Cluster, count: int) -> None:
    """Write *count* Secrets into the cluster, spread over the namespaces."""
    now = datetime.now(tz=UTC)
    root = FakeCA("Somebody", "elsewhere", now - timedelta(days=1), now + timedelta(days=3650))
    # A hundred different certificates are enough: what is kept of each is its own.
    made = [root.material(f"spiffe://elsewhere/{n}", timedelta(days=90, hours=n), now) for n in range(100)]
    for each in namespaces():
        cluster.namespace(each)
    api = ObjectAPI(ClusterAccess(namespace="default", kubeconfig_file=cluster.kubeconfig, connections=8))

    def write(number: int) -> None:
        namespace, material = namespaces()[number % NAMESPACES], made[number % len(made)]
        body = {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": TLS_SECRET,
            "metadata": {"namespace": namespace, "name": f"tls-{number}", "labels": {"team": "platform"}},
            "data": {
                "tls.crt": base64.b64encode(material.chain_pem + root.pem).decode(),
                "tls.key": base64.b64encode(material.key_pem).decode(),
            },
        }
        api.create(path_of("v1", "secrets", namespace=namespace), body, secret=True)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(count)))
    api.close()


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Return the wall and processor seconds that *work* takes."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def measure(kubeconfig: Path, count: int) -> dict[str, float]:
    """Return what watching every Secret takes in this process."""
    api = ObjectAPI(ClusterAccess(namespace="default", kubeconfig_file=kubeconfig, timeout=timedelta(seconds=60)))

    def raw() -> None:
        for namespace in namespaces():
            for _ in api.pages(path_of("v1", "secrets", namespace=namespace), selector=LABELS, size=100, secret=True):
                pass

    raw_wall, raw_cpu = timed(raw)
    policy = AlertPolicy()
    watcher = Watcher(clock=SystemClock(), policy=lambda: policy, threads=0)
    before = resident()
    watcher.use([Watched(name="team", watch=WatchedSecrets(api, namespaces(), LABELS))])
    first_wall, first_cpu = timed(watcher.sweep)
    gc.collect()
    after = resident()
    assert count == watcher.rows()[0]["count"], f"{watcher.rows()[0]['count']} of {count} were seen"
    now = datetime.now(tz=UTC)
    _, well = timed(lambda: list(watcher.alerts(now)))
    watcher.use([])
    again = WatchedSecrets(api, namespaces(), LABELS)
    again.look()
    again_wall, again_cpu = timed(again.look)
    api.close()
    return {
        "kept": after - before,
        "peak": after,
        "raw_cpu": raw_cpu,
        "raw_wall": raw_wall,
        "first_cpu": first_cpu,
        "first_wall": first_wall,
        "again_cpu": again_cpu,
        "again_wall": again_wall,
        "alerts_cpu": well,
    }


def bench(directory: Path, _seconds: float) -> list[Figure]:
    """Fill a cluster, then watch it from a process of its own."""
    if not (BIN / "kube-apiserver").exists():
        raise Missing("kube-apiserver is not built: make stack")
    with Cluster(directory) as cluster:
        fill(cluster, COUNT)
        ran = subprocess.run(
            [sys.executable, "-m", "tests.bench.watch", str(cluster.kubeconfig), str(COUNT)],
            capture_output=True,
            text=True,
            timeout=1800,
            check=True,
        )
    found: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    many = f"{COUNT:,} watched Secrets"

    def figure(name: str, value: float, unit: str, aim: str | None = None) -> Figure:
        return Figure(bench="watch", name=f"{many}: {name}", value=value, unit=unit, aim=aim)

    return [
        figure("kept for each", found["kept"] / COUNT, "bytes", "<= 2048"),
        figure("the whole process", found["peak"] / 2**20, "MiB"),
        figure("first look / reading the pages alone, CPU", found["first_cpu"] / found["raw_cpu"], "ratio"),
        figure("look with nothing changed / reading alone, CPU", found["again_cpu"] / found["raw_cpu"], "ratio"),
        figure("look with nothing changed", found["again_wall"] * 1000, "ms"),
        figure("asking for alerts at each sweep, all well", found["alerts_cpu"] * 1000, "ms"),
    ]


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), int(sys.argv[2]))))
