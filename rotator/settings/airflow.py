"""
How the file names an Airflow: where its API server is, and who asks there.

Rules that must stay true here:

- Attributes are named as the file's keys; the sentence below each is the key's description in the JSON Schema.
- A secret is named by its file and never stands here.
"""

from __future__ import annotations

from datetime import timedelta
from typing import ClassVar, Literal

from rotator.settings.keys import Keys
from rotator.settings.values import HTTPURL, AbsolutePath, Name, OpenText, PositiveDuration, SecretFile


class AirflowInstallation(Keys):
    """One Airflow, whatever executors and workloads it has."""

    url: HTTPURL
    """Its API server (Airflow 3) or web server (Airflow 2)."""
    ca_file: AbsolutePath | None = None
    """CA certificates that sign the server's certificate; the system's if not given."""
    client_certificate_file: AbsolutePath | None = None
    """Client certificate with its chain, PEM, where the server asks for one."""
    client_key_file: SecretFile | None = None
    """Its private key, PEM."""
    username: OpenText | None = None
    """Who asks; a user of rotator's own, with the rights that docs/airflow.md names."""
    password_file: SecretFile | None = None
    """File that holds the user's password; read at each log-in."""
    token_file: SecretFile | None = None
    """File that holds a token which somebody else renews, instead of user and password."""
    api: Literal["auto", "v1", "v2"] = "auto"
    """Which interface: v2 is Airflow 3, v1 Airflow 2; auto asks."""
    timeout: PositiveDuration = timedelta(seconds=10)
    """Of one request."""
    copy_runs_every: PositiveDuration | None = None
    """How often what ran, where, and who set it off is copied into the evidence log; not at all if not given."""


class PartOfAirflow(Keys):
    """Which part of an Airflow a workload is: parts of one Airflow are rolled one after the other."""

    shorthand: ClassVar[str] = "installation"

    installation: Name
    """The Airflow, as named under airflow."""
    component: Literal["api_server", "scheduler", "dag_processor", "triggerer", "worker"] = "worker"
    """What its members are."""
    only_one: Literal["refuse", "allow"] = "refuse"
    """Whether an API server that is the only one may be replaced; tasks survive about 35s without any."""
