"""Rotator: short-lived certificates and identities for Airflow on the Kuma service mesh, rotated and proven."""

__version__ = "0.1.0"
