"""
Questions and orders to Celery workers through their broker, and only what may be known of the answers.

Rules that must stay true here:

- No argument of a task leaves this module: Airflow's carry the task's own token. Of what a worker does, only
  the *number* of units is kept, and it is taken while the answer is decoded.
- The broker's URL holds a password: it is read anew for every conversation and stands in no error and no ``repr``.
- One conversation is one connection, closed at its end, with a timeout on connecting, sending and waiting.
  Nothing is published twice: a broken connection is `Unavailable`, never a silent retry without end.
- A broker with TLS is verified, by name too; files of CA, certificate and key are read for each conversation, so that
  a rotated certificate is used at once.
- Asking must not change the workers' world: with the library's default visibility timeout of an hour, a mere
  question through Redis would put every task that runs longer than that back on its queue, to be run again.

Source: Celery's remote control ("pidbox") as spoken by kombu 5.7 and Celery 5.6: a broadcast to the fanout exchange
``celery.pidbox`` with ``method``, ``arguments``, ``destination``, ``ticket`` and ``reply_to``.
"""

from __future__ import annotations

import socket
import ssl
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from amqp.exceptions import AccessRefused, AMQPError, NotFound, ResourceLocked
from kombu import Connection, Consumer, Exchange, Producer, Queue
from kombu.exceptions import KombuError
from kombu.message import Message
from kombu.transport.base import StdChannel
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from rotator.errors import ConfigError, Denied, Rejected, Unavailable
from rotator.ports import Clock

Broker = Callable[[], str]
"""Gives the broker's URL as it is now."""

_WITH_TLS = frozenset({"rediss", "amqps"})

# Longer than any task lives. The transport computes "now minus this", finds nothing older, and restores nothing.
_NEVER_RESTORE_SECONDS = 100 * 365 * 86400

_SCHEMES = frozenset({"redis", "rediss", "sentinel", "amqp", "amqps", "pyamqp"})


def broker_from_file(path: Path) -> Broker:
    """Return a reader of the broker URL in *path*, read at each call so that a rotated password is used at once."""

    def read() -> str:
        try:
            url = path.read_text(encoding="utf-8").strip()
        except FileNotFoundError as e:
            raise ConfigError(f"the broker file {path} does not exist") from e
        except PermissionError as e:
            raise Denied(f"the broker file {path} may not be read by this user") from e
        except (OSError, UnicodeDecodeError):
            # A decoding error quotes the bytes it stumbled over.
            raise ConfigError(f"the broker file {path} cannot be read as text") from None
        return usable(url, source=str(path))

    return read


def usable(url: str, *, source: str) -> str:
    """Return *url* if it can be a broker's. Raises `ConfigError` naming *source*, never the URL."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in _SCHEMES and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good:
        # Raised outside the handler: the parser's own error quotes what it could not read, which may be the password.
        raise ConfigError(f"{source} does not hold a broker URL ({', '.join(sorted(_SCHEMES))})")
    return url


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one worker told of itself. Numbers and names only."""

    pid: int | None
    """The main process, as the worker itself sees it."""
    queues: frozenset[str]
    """Queues it consumes now."""
    busy: int
    """Units of work that run, are reserved, or wait in it for their time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerTLS:
    """How a broker whose URL asks for TLS (``rediss://``, ``amqps://``) is verified, and what is shown to it."""

    ca_file: Path | None = None
    """PEM of who may have signed the broker's certificate; None for the system's own list."""
    certificate_file: Path | None = None
    """Client certificate with its chain, PEM."""
    key_file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """One command to some nodes; *read* takes from a reply what may be kept, None if it cannot be read."""

    command: str
    arguments: Mapping[str, str]
    read: Callable[[object], object]
    ticket: str = field(default_factory=lambda: str(uuid.uuid4()))


class RemoteControl:
    """One broker's workers. Safe from several threads: nothing is shared between conversations."""

    def __init__(
        self,
        broker: Broker,
        *,
        clock: Clock,
        timeout: timedelta = timedelta(seconds=2),
        transport_options: Mapping[str, object] | None = None,
        exchange: str = "celery",
        tls: BrokerTLS | None = None,
    ) -> None:
        """
        Describe the broker without calling it.

        Args:
            broker: Gives the URL; see `broker_from_file`.
            clock: For the deadline of a conversation.
            timeout: How long connecting may take, and again how long the workers may take to answer.
            transport_options: As in Celery's ``broker_transport_options`` (``master_name``, ``global_keyprefix``, ...).
            exchange: Celery's ``control_exchange``.
            tls: For a broker with TLS; what the system trusts, and no certificate, if not given.
        """
        self._broker = broker
        self._clock = clock
        self._timeout = timeout.total_seconds()
        self._transport_options = dict(transport_options or {})
        self._tls = tls or BrokerTLS()
        self._exchange = Exchange(f"{exchange}.pidbox", type="fanout", durable=False, delivery_mode="transient")
        self._replies = Exchange(f"reply.{exchange}.pidbox", type="direct", durable=False, delivery_mode="transient")

    def look(self, nodes: Collection[str]) -> dict[str, Answer]:
        """
        Return what each of *nodes* does now; silent ones are absent. Returns as soon as all have answered.

        A worker answers in the order of the questions. Work is counted after the queues were listed, and in the order
        in which a unit moves (scheduled, reserved, active), so that none slips through between two counts.
        """
        stats = _Question(command="stats", arguments={}, read=_pid)
        queues = _Question(command="active_queues", arguments={}, read=_queue_names)
        counts = [_Question(command=c, arguments={}, read=_count) for c in ("scheduled", "reserved", "active")]
        replies = self._ask([stats, queues, *counts], nodes, "workers were asked what they do")
        seen = {}
        for node in nodes:
            pid, names = replies[stats.ticket].get(node), replies[queues.ticket].get(node)
            numbers = [replies[count.ticket].get(node) for count in counts]
            # Half an answer is none: it must never be read as "idle".
            if isinstance(names, frozenset) and all(isinstance(number, int) for number in numbers):
                busy = sum(number for number in numbers if isinstance(number, int))
                seen[node] = Answer(pid=pid if isinstance(pid, int) else None, queues=names, busy=busy)
        return seen

    def mailboxes(self, nodes: Collection[str]) -> frozenset[str]:
        """
        Return those of *nodes* that the broker keeps a mailbox for: a worker that listens to remote control has one.

        None for a worker that runs and is connected means that its remote control is off. One that is there proves
        nothing: over Redis it outlives a worker that was killed.
        """
        found = set()
        with _translated("it was asked who listens"), self._connected() as connection:
            for node in sorted(set(nodes)):
                if self._has_mailbox(connection, f"{node}.{self._exchange.name}"):
                    found.add(node)
        return frozenset(found)

    def _has_mailbox(self, connection: Connection, queue: str) -> bool:
        # A channel of its own each: a broker that knows no such queue closes the channel over the question.
        channel: Any = connection.channel()
        table = getattr(channel, "get_table", None)
        if table is not None:
            with channel:
                return any(queue == bound[-1] for bound in table(self._exchange.name))
        try:
            channel.queue_declare(queue, passive=True)
        except NotFound:
            return False
        except ResourceLocked:
            return True  # it is the worker's alone
        channel.close()
        return True

    def cancel(self, node: str, queues: Collection[str]) -> None:
        """Let *node* stop consuming *queues*. Raises `Unavailable` unless it confirms each."""
        self._order("cancel_consumer", node, queues, "to stop consuming")

    def add(self, node: str, queues: Collection[str]) -> None:
        """Let *node* consume *queues*. Raises `Unavailable` unless it confirms each."""
        self._order("add_consumer", node, queues, "to consume")

    def _order(self, command: str, node: str, queues: Collection[str], what: str) -> None:
        orders = [_Question(command=command, arguments={"queue": queue}, read=_accepted) for queue in sorted(queues)]
        replies = self._ask(orders, [node], f"{node} was told {what}")
        for order in orders:
            match replies[order.ticket].get(node):
                case True:
                    pass
                case False:
                    raise Rejected(f"{node} refused {what} {order.arguments['queue']}")
                case _:
                    raise Unavailable(f"{node} did not answer when it was told {what} {order.arguments['queue']}")

    def _ask(self, questions: Sequence[_Question], nodes: Collection[str], doing: str) -> dict[str, dict[str, object]]:
        """Return the replies of *nodes* by ticket and node, once all are there or the time is over."""
        by_ticket = {question.ticket: question for question in questions}
        replies: dict[str, dict[str, object]] = {ticket: {} for ticket in by_ticket}
        if not nodes or not questions:
            return replies

        def take(body: object, message: Message) -> None:
            question = by_ticket.get(str(message.headers.get("ticket")))
            if question is None or not isinstance(body, dict):
                return  # a late reply to an earlier conversation
            for node, reply in body.items():
                if node in nodes:
                    replies[question.ticket][node] = question.read(reply)

        with _translated(doing), self._connected() as connection, connection.channel() as channel:
            name = str(uuid.uuid4())
            # It goes with the conversation; should that break off, the broker forgets it after a minute.
            box = Queue(
                f"{name}.{self._replies.name}", self._replies, name, exclusive=True, auto_delete=True, expires=60
            )(channel)
            with Consumer(channel, [box], callbacks=[take], accept=["json"], no_ack=True):
                self._send(channel, questions, nodes, reply_to=name)
                deadline = self._clock.monotonic() + self._timeout
                while any(len(told) < len(set(nodes)) for told in replies.values()):
                    left = deadline - self._clock.monotonic()
                    if left <= 0:
                        break
                    with suppress(socket.timeout):
                        connection.drain_events(timeout=left)
            # Over Redis, closing leaves the binding behind, and every later reply would be looked up among all of them.
            box.delete()
        return replies

    def _send(
        self, channel: StdChannel, questions: Sequence[_Question], nodes: Collection[str], *, reply_to: str
    ) -> None:
        producer = Producer(channel, serializer="json")
        for question in questions:
            producer.publish(
                {
                    "method": question.command,
                    "arguments": dict(question.arguments),
                    "destination": sorted(nodes),
                    "ticket": question.ticket,
                    "reply_to": {"exchange": self._replies.name, "routing_key": reply_to},
                },
                exchange=self._exchange,
                declare=[self._exchange],
                retry=False,
            )

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        """Open one connection that never retries by itself, and close it."""
        options = {
            **self._transport_options,
            "visibility_timeout": _NEVER_RESTORE_SECONDS,
            "socket_connect_timeout": self._timeout,
            # The transport's own blocking read on the server lasts up to one second.
            "socket_timeout": self._timeout + 1,
            # The same for AMQP, in its library's words.
            "read_timeout": self._timeout + 1,
            "write_timeout": self._timeout + 1,
            "max_retries": 0,
        }
        url = usable(self._broker(), source="the broker setting")
        parts = urlsplit(url)
        scheme = parts.scheme
        # What a URL says of TLS would replace our options as a whole, "do not verify" included.
        kept = [each for each in parts.query.split("&") if each and not each.startswith("ssl_")]
        # The library's transport for amqps takes no options for TLS.
        url = parts._replace(scheme="amqp" if scheme == "amqps" else scheme, query="&".join(kept)).geturl()
        connection = Connection(
            url,
            connect_timeout=self._timeout,
            transport_options=options,
            ssl=self._tls_options(scheme, url) if scheme in _WITH_TLS else False,
        )
        try:
            # Left to itself it would try once more, two seconds later.
            connection.ensure_connection(max_retries=0, reraise_as_library_errors=False)
            yield connection
        finally:
            connection.release()

    def _tls_options(self, scheme: str, url: str) -> dict[str, object]:
        """Return what the transport wants to know; each of the two libraries behind it has its own words."""
        ca, certificate, key = (
            None if each is None else str(each)
            for each in (self._tls.ca_file, self._tls.certificate_file, self._tls.key_file)
        )
        if scheme == "rediss":
            return {
                "ssl_cert_reqs": ssl.CERT_REQUIRED,
                "ssl_check_hostname": True,
                **({"ssl_ca_certs": ca} if ca else {}),
                **({"ssl_certfile": certificate, "ssl_keyfile": key} if certificate else {}),
            }
        return {
            "cert_reqs": ssl.CERT_REQUIRED,
            "server_hostname": urlsplit(url).hostname,
            "ca_certs": ca,
            **({"certfile": certificate, "keyfile": key} if certificate else {}),
        }


@contextmanager
def _translated(doing: str) -> Iterator[None]:
    """Run broker calls; *doing* completes "the broker did not answer while ..."."""
    try:
        yield
    except (AuthenticationError, NoPermissionError, AccessRefused) as e:
        raise Denied(f"the broker refused this user while {doing}: mend the user or its rights in the broker") from e
    except (KombuError, ConnectionError, RedisError, AMQPError, OSError) as e:
        raise Unavailable(f"the broker did not answer while {doing}") from e


def _pid(reply: object) -> int | None:
    pid = reply.get("pid") if isinstance(reply, dict) else None
    return pid if isinstance(pid, int) else None


def _queue_names(reply: object) -> frozenset[str] | None:
    if not isinstance(reply, list):
        return None
    return frozenset(str(queue["name"]) for queue in reply if isinstance(queue, dict) and "name" in queue)


def _count(reply: object) -> int | None:
    """Return how many units a reply lists: the only thing that may be known of them."""
    return len(reply) if isinstance(reply, list) else None


def _accepted(reply: object) -> bool:
    return isinstance(reply, dict) and "ok" in reply
