"""Certificates, requests and bundles: pure functions over bytes, with ``cryptography`` and nothing else."""
