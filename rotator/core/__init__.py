"""Deciding, and nothing else: pure functions of (want, seen, policy, now)."""
