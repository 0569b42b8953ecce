"""
What an Envoy uses, by its own report (admin ``/certs``): leaf and bundle.

Rules that must stay true here:

- A leaf is in use when *every* TLS context with that identity shows it. While some still show another, the one that
  ends first is reported, so that a half-done switch never looks done.
- A bundle is what *every* such context trusts: the intersection. Without a single CA entry it is unknown, not empty.
- No answer, an answer that cannot be read, and an Envoy that shows nothing of ours are all "not reachable": an Envoy
  that has not loaded our certificate has acknowledged nothing.

The report names no usable paths (files behind a watched directory are shown as ``<inline>``), so contexts are told
apart by the SPIFFE ID in their leaf.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import urllib3

from rotator.core.model import Serial, Served
from rotator.pki.certificates import normal_serial
from rotator.ports import Clock

# A report holds about 400 bytes a certificate; ten thousand of them are no mesh proxy's.
_LONGEST_REPORT = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class _Context:
    """One TLS context of the report."""

    serial: Serial
    ends: str
    """RFC 3339, as Envoy writes it; all in one form, so they compare as text."""
    trusts: frozenset[str]


class EnvoyAdminProbe:
    """Reads ``/certs`` of one Envoy's admin interface."""

    def __init__(
        self, url: str, *, clock: Clock, identity: str | None = None, timeout: timedelta = timedelta(seconds=2)
    ) -> None:
        """
        Name the Envoy without asking it yet.

        Args:
            url: Admin interface, ``http://127.0.0.1:9901``.
            clock: Stamps what is seen.
            identity: Only contexts whose leaf carries this SPIFFE ID count; None counts all.
            timeout: For connecting and for each wait for bytes.
        """
        self._url = url.rstrip("/")
        self._clock = clock
        self._identity = identity
        seconds = timeout.total_seconds()
        # More than one: its own reconciler and its trust domain may look at the same time.
        self._http = urllib3.PoolManager(
            maxsize=4, retries=False, timeout=urllib3.Timeout(connect=seconds, read=seconds)
        )

    @property
    def name(self) -> str:
        """Return the probe as people name it."""
        return f"envoy_admin:{self._url}"

    def look(self) -> Served:
        """Return what this Envoy uses now."""
        try:
            contexts = _contexts(self._report(), self._identity)
        except urllib3.exceptions.HTTPError:
            return self._unseen("no answer")
        except (ValueError, KeyError, TypeError, AttributeError):
            return self._unseen("an answer that is no certificate report")
        if not contexts:
            return self._unseen(f"it shows no certificate of {self._identity or 'anyone'}")
        used = min(contexts, key=lambda context: (context.ends, context.serial))
        others = sorted({context.serial for context in contexts} - {used.serial})
        bundles = [context.trusts for context in contexts if context.trusts]
        return Served(
            probe=self.name,
            seen_at=self._clock.now(),
            reachable=True,
            serial=used.serial,
            bundle=frozenset.intersection(*bundles) if bundles else None,
            detail=f"other contexts show {', '.join(others)}" if others else "",
        )

    def _report(self) -> Mapping[str, Sequence[Mapping[str, Sequence[Mapping[str, object]]]]]:
        """Return the parsed report."""
        answer = self._http.request("GET", f"{self._url}/certs", redirect=False, preload_content=False)
        try:
            if answer.status != 200:  # noqa: PLR2004 -- HTTP
                raise ValueError(f"status {answer.status}")
            content = answer.read(_LONGEST_REPORT)
        finally:
            # Not back into the pool: an Envoy that restarts closes what it had, and one look a sweep is cheap.
            answer.close()
        report = json.loads(content)
        if not isinstance(report, dict):
            raise TypeError("no object")
        return report

    def _unseen(self, why: str) -> Served:
        return Served(probe=self.name, seen_at=self._clock.now(), reachable=False, detail=why)


def _contexts(
    report: Mapping[str, Sequence[Mapping[str, Sequence[Mapping[str, object]]]]], identity: str | None
) -> tuple[_Context, ...]:
    """Return the TLS contexts that show a leaf with *identity*."""
    found: list[_Context] = []
    for each in report["certificates"]:
        trusts = frozenset(normal_serial(str(anchor["serial_number"])) for anchor in each.get("ca_cert", ()))
        # The chain of each leaf starts with the leaf; a context with two leaves (RSA and ECDSA) lists both in a row.
        for leaf in each.get("cert_chain", ())[:1]:
            names = leaf.get("subject_alt_names", ())
            uris = {name.get("uri") for name in names} if isinstance(names, list) else set()
            if identity is None or identity in uris:
                serial = normal_serial(str(leaf["serial_number"]))
                found.append(_Context(serial=serial, ends=str(leaf["expiration_time"]), trusts=trusts))
    return tuple(found)
