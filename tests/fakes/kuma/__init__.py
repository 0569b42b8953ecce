"""
A stand-in for Kuma's control plane and its proxies, and honest about being one.

Rules that must stay true here:

- It behaves as released Kuma is known to, the awkward parts first; where nobody has seen a released one do it, the
  docstring says GUESS.
- It shares no code with `rotator.adapters.kuma`: two readings of one truth, so that a misreading shows.

`standin.StandIn` is the whole; ``python -m tests.fakes.kuma`` runs one as a process of its own.
"""
