"""Observe, decide, execute, verify, record."""
