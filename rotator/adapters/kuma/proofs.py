"""
Asking proxies what they trust, many at a time, and not again while nothing can have changed.

Rules that must stay true here:

- An answer is kept only if it shows what was published last, and only for the same connection of the same proxy and
  the same revisions of everything that a bundle is made of: any write anywhere in between asks everybody again.
- A proxy that is not online is not asked; one that does not answer is None, never an error.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Final

from rotator.adapters.kuma.control_plane import Proxies, ProxyReport, ProxyView
from rotator.core.model import IssuerId, TrustDomainName

AT_ONCE: Final = 16
"""Views read at a time: each makes the control plane ask the proxy's Envoy for its whole configuration."""


def views_of(proxies: Proxies, names: Sequence[str]) -> dict[str, ProxyView | None]:
    """Return what each proxy of *names* shows now, `AT_ONCE` asked side by side. Raises what `Proxies` raises."""
    if not names:
        return {}
    with ThreadPoolExecutor(max_workers=min(AT_ONCE, len(names)), thread_name_prefix="proofs") as pool:
        return dict(zip(names, pool.map(proxies.view, names), strict=True))


class Proofs:
    """Remembers, between visits, which proxies were seen with what is published now."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._token: Hashable = None
        self._seen: dict[str, tuple[str, datetime | None, ProxyView]] = {}

    def views(
        self,
        proxies: Proxies,
        reports: Iterable[ProxyReport],
        *,
        token: Hashable,
        wanted: frozenset[str],
        signer: IssuerId | None,
        domain: TrustDomainName,
    ) -> Mapping[str, ProxyView | None]:
        """
        Return the view of every proxy that is online, asked now unless it has been proven for *token* before.

        *token* changes with every write to what bundles are made of; *wanted* are the SHA-256 of what is published,
        *signer* who signs now, *domain* whose entry of `ProxyView.bundles` counts. A view that shows both is a proof,
        as long as proxy, connection and leaf stay.
        """
        online = {each.name: each for each in reports if each.online}
        with self._lock:
            if token != self._token:
                self._token, self._seen = token, {}
            proven = {
                name: view
                for name, (connection, issued_at, view) in self._seen.items()
                if name in online
                and (online[name].connection, online[name].certificate_issued_at) == (connection, issued_at)
            }
        asked = sorted(online.keys() - proven.keys())
        if not asked:
            return dict(proven)
        answers = views_of(proxies, asked)
        with self._lock:
            if token == self._token:
                for name, view in answers.items():
                    if view is None or not online[name].connection:
                        continue
                    trusted = view.bundles.get(domain)
                    if trusted == wanted and signer is not None and view.leaf_issuer == signer:
                        self._seen[name] = (online[name].connection, online[name].certificate_issued_at, view)
        return {**proven, **answers}
