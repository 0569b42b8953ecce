"""
Brokers with TLS and client certificates, from Debian: Redis and RabbitMQ.

Rules that must stay true here:

- They listen on 127.0.0.1 only, Erlang's own port mapper and distribution included, and die with the tests.
- Certificates are made for each test run; keys are private files.
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from rotator.embedded.process import LOOPBACK, ServerProcess, free_port, listening

BIN = Path(__file__).resolve().parent / "bin"


class RedisWithTLS:
    """A Redis that speaks TLS alone and wants a client certificate."""

    def __init__(self, directory: Path, *, ca: Path, certificate: Path, key: Path) -> None:
        """Describe it; *ca* verifies its clients, *certificate* and *key* are its own."""
        directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        tree = BIN / "redis"
        self.server = ServerProcess(
            "Redis",
            [
                tree / "usr" / "bin" / "redis-server", "--bind", LOOPBACK, "--port", "0",
                "--tls-port", str(self.port), "--tls-cert-file", certificate, "--tls-key-file", key,
                "--tls-ca-cert-file", ca, "--tls-auth-clients", "yes", "--save", "", "--dir", directory,
            ],
            log=directory / "redis.log",
            env={"LD_LIBRARY_PATH": str(tree / "usr" / "lib" / "x86_64-linux-gnu")},
        )  # fmt: skip

    @property
    def url(self) -> str:
        """Return the broker URL."""
        return f"rediss://localhost:{self.port}/0"

    def start(self) -> None:
        """Start it, or start it again."""
        self.server.start(ready=lambda: listening(self.port))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.stop()


class RabbitMQ:
    """A RabbitMQ with a plain port, and one that speaks TLS and wants a client certificate."""

    def __init__(self, directory: Path, *, ca: Path, certificate: Path, key: Path) -> None:
        """Describe it; *ca* verifies its clients, *certificate* and *key* are its own."""
        directory.mkdir(parents=True, exist_ok=True)
        self.port, self.tls_port = free_port(), free_port()
        mapper, distribution = free_port(), free_port()
        tree = BIN / "rabbitmq"
        erlang = tree / "usr" / "lib" / "erlang"
        runtime = erlang / "erts-13.1.5" / "bin"
        # Debian's own script looks for Erlang in /usr.
        programs = directory / "programs"
        programs.mkdir(exist_ok=True)
        (programs / "erl").write_text(f'#!/bin/sh\nexec "{runtime}/erlexec" "$@"\n')
        (programs / "erl").chmod(0o755)
        configuration = directory / "rabbitmq.conf"
        configuration.write_text(
            f"listeners.tcp.local = {LOOPBACK}:{self.port}\n"
            f"listeners.ssl.local = {LOOPBACK}:{self.tls_port}\n"
            f"ssl_options.cacertfile = {ca}\n"
            f"ssl_options.certfile = {certificate}\n"
            f"ssl_options.keyfile = {key}\n"
            "ssl_options.verify = verify_peer\n"
            "ssl_options.fail_if_no_peer_cert = true\n"
        )
        (directory / "enabled_plugins").write_text("[].\n")
        environment = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "HOME": str(directory),
            "ROOTDIR": str(erlang),
            "BINDIR": str(runtime),
            "EMU": "beam",
            "PROGNAME": "erl",
            "ERL_EPMD_ADDRESS": LOOPBACK,
            "ERL_EPMD_PORT": str(mapper),
            "RABBITMQ_NODENAME": f"rotator{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_CONFIG_FILE": str(configuration.with_suffix("")),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(directory / "mnesia"),
            "RABBITMQ_LOG_BASE": str(directory / "log"),
            "RABBITMQ_PID_FILE": str(directory / "rabbitmq.pid"),
            "RABBITMQ_CONF_ENV_FILE": str(directory / "none"),
        }
        self._mapper_port = mapper
        self._mapper = ServerProcess("epmd", [runtime / "epmd"], log=directory / "epmd.log", env=environment)
        scripts = tree / "usr" / "lib" / "rabbitmq" / "lib" / "rabbitmq_server-3.10.8" / "sbin"
        self.server = ServerProcess(
            "RabbitMQ", [scripts / "rabbitmq-server"], log=directory / "rabbitmq.log", env=environment
        )

    @property
    def url(self) -> str:
        """Return the broker URL of the plain port."""
        return f"amqp://guest:guest@{LOOPBACK}:{self.port}//"

    @property
    def tls_url(self) -> str:
        """Return the broker URL of the port with TLS."""
        return f"amqps://guest:guest@localhost:{self.tls_port}//"

    def start(self) -> None:
        """Start it, or start it again."""
        if not self._mapper.alive:
            self._mapper.start(ready=lambda: listening(self._mapper_port))
        self.server.start(
            ready=lambda: listening(self.port) and listening(self.tls_port), within=timedelta(seconds=120)
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.stop()
        self._mapper.stop()
