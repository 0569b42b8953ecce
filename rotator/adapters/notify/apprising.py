"""
Mail, chat and everything else that apprise reaches.

Rules that must stay true here:

- apprise is an optional extra: it is imported when a receiver wants it, and its absence is one clear line.
- Its addresses hold passwords: they stand in a file of their own, and neither they nor what apprise says of them
  reaches a log or an error.
- Every address is tried by itself: one that fails makes the message come again to itself alone.
"""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from typing import Any

from rotator.adapters.notify.wording import Links, moment
from rotator.core.model import Severity
from rotator.errors import ConfigError, Unavailable
from rotator.ports import Message, Notice

NOTICES_SHOWN = 20
"""In one message for people; the rest is counted."""


class AppriseReceiver:
    """Tells everybody whose address stands in one file; a `Receiver`."""

    def __init__(self, name: str, urls_file: Path, *, links: Links) -> None:
        """
        Read the addresses: one a line, ``#`` begins a comment.

        Raises:
            ConfigError: If apprise is not installed, or the file cannot be read or holds what apprise does not know.
        """
        self._name = name
        self._links = links
        try:
            apprise = importlib.import_module("apprise")
        except ModuleNotFoundError as e:
            raise ConfigError(
                f"alerts.notify {name}: apprise is not installed: pip install 'rotator[apprise]', or use a webhook"
            ) from e
        # It may quote addresses.
        logging.getLogger("apprise").propagate = False
        # Each by itself, in our own thread: apprise's own way to send to many keeps threads as long as the process.
        asset = apprise.AppriseAsset(async_mode=False)
        self._words: Any = apprise.NotifyType
        self._targets: list[Any] = []
        for number, url in _addresses(name, urls_file):
            target = apprise.Apprise.instantiate(url, asset=asset)
            if target is None:
                raise ConfigError(f"alerts.notify {name}: apprise does not know the address in {urls_file}:{number}")
            self._targets.append(target)
        self._delivered: tuple[str, set[int]] = ("", set())
        """Id of the last message, and the targets that have it."""

    def send(self, message: Message) -> None:
        """Tell every address that does not have *message* yet. Raises `Unavailable` if one did not take it."""
        done = self._delivered[1] if self._delivered[0] == message.id else set()
        self._delivered = (message.id, done)
        failed = []
        for number, target in enumerate(self._targets):
            if number in done:
                continue
            if target.notify(title=self.title(message), body=self.body(message), notify_type=self._grade(message)):
                done.add(number)
            else:
                failed.append(str(number + 1))
        if failed:
            raise Unavailable(f"{self._name}: apprise could not deliver to address {', '.join(failed)} of its file")

    def close(self) -> None:
        """Nothing is open between messages."""

    def title(self, message: Message) -> str:
        """Return one line: how many, how grave, where."""
        firing = sum(each.raised for each in message.notices)
        ended = len(message.notices) - firing
        counts = ", ".join(f"{count} {word}" for count, word in ((firing, "firing"), (ended, "resolved")) if count)
        return f"rotator {self._links.environment}: {counts}"

    def body(self, message: Message) -> str:
        """Return one paragraph for each notice, grave ones first, and what was left out."""
        shown = message.notices[:NOTICES_SHOWN]
        parts = [self._paragraph(each) for each in shown]
        if more := len(message.notices) - len(shown):
            parts.append(f"and {more} more: rotator status")
        if message.left_out:
            parts.append(f"{message.left_out} earlier notices were overtaken before they could be sent")
        return "\n\n".join(parts)

    def _grade(self, message: Message) -> Any:  # noqa: ANN401 -- a library without types that is imported late
        """Return apprise's word for the gravest of *message*."""
        firing = [each.severity for each in message.notices if each.raised]
        if Severity.CRITICAL in firing:
            return self._words.FAILURE
        return self._words.WARNING if firing else self._words.SUCCESS

    def _paragraph(self, notice: Notice) -> str:
        if not notice.raised:
            return f"RESOLVED at {moment(notice.at)}: {notice.key} (since {moment(notice.since)})"
        still = "STILL " if notice.again else ""
        page = self._links.runbook(notice.kind)
        return f"{still}{notice.severity.value.upper()} since {moment(notice.since)}: {notice.summary}\n{page}"


def _addresses(name: str, file: Path) -> list[tuple[int, str]]:
    """Return line number and address of each line; at least one."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"alerts.notify {name}: cannot read {file}") from e
    found = [(number, line.strip()) for number, line in enumerate(lines, 1)]
    found = [(number, line) for number, line in found if line and not line.startswith("#")]
    if not found:
        raise ConfigError(f"alerts.notify {name}: {file} holds no address")
    return found
