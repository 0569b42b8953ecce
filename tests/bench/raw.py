"""
The raw rate of a server: what `wrk` gets from it, which no client in Python can reach.

Rules that must stay true here:

- An answer that is not a success is an error of the bench, never part of a rate.
- A token stands in a private file for as long as wrk runs, not in its argument list.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

SCRIPT = """\
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["X-Vault-Token"] = [==[{token}]==]
wrk.body = [==[{body}]==]
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("RESULT %d %d %d\\n", summary.requests, summary.duration,
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


class Missing(Exception):
    """A tool that only the system's packages bring is not there."""


def wrk_rate(
    url: str, body: Mapping[str, object], *, token: str, connections: int, seconds: float, directory: Path
) -> float:
    """Return how many successful POSTs of *body* a second *url* answers over *connections* kept-alive connections."""
    wrk = shutil.which("wrk")
    if wrk is None:
        raise Missing(
            "wrk is missing, so there is no raw rate to compare with: install it (Debian: apt-get install wrk)"
        )
    script = directory / "wrk.lua"
    script.touch(mode=0o600)
    script.write_text(SCRIPT.format(token=token, body=json.dumps(body)), encoding="utf-8")
    try:
        ran = subprocess.run(
            [wrk, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "10s", "-s", script, url],
            capture_output=True,
            text=True,
            timeout=seconds + 60,
            check=True,
        )
    finally:
        script.unlink()
    found = re.search(r"^RESULT (\d+) (\d+) (\d+)$", ran.stdout, re.MULTILINE)
    assert found is not None, ran.stdout + ran.stderr
    requests, microseconds, errors = map(int, found.groups())
    assert (0, True) == (errors, requests > 0), f"{errors} of {requests} requests failed: {url}"
    return requests / (microseconds / 1_000_000)
