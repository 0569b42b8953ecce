"""What the file may say of an Airflow and of the workloads that are its parts."""

from __future__ import annotations

from pathlib import Path

import pytest

from rotator.core.rollout import AtDrainDeadline
from rotator.errors import ConfigError
from rotator.settings import load, rollout_policy
from tests.settings.test_load import BASE

WITH_AIRFLOW = BASE.replace(
    "    drain: {celery: {broker_file: /etc/broker, deadline: 3h}}\n",
    "    airflow: main\n"
    "    drain: {celery: {broker_file: /etc/broker, deadline: 3h, then: skip}}\n"
    "airflow:\n"
    '  main: {url: "https://airflow.example", username: rotator, password_file: /etc/password}\n',
)


def written(tmp_path: Path, old: str = "", new: str = "") -> Path:
    assert not old or WITH_AIRFLOW.count(old) == 1
    path = tmp_path / "rotator.yaml"
    path.write_text(WITH_AIRFLOW.replace(old, new) if old else WITH_AIRFLOW)
    return path


def test_a_workload_names_its_airflow(tmp_path: Path) -> None:
    """Its name alone means workers; drain and deadline become the core's policy."""
    settings = load(written(tmp_path))
    part = settings.workloads["workers"].airflow
    assert part is not None
    assert ("main", "worker") == (part.installation, part.component)
    policy = rollout_policy(settings.workloads["workers"])
    assert (True, AtDrainDeadline.SKIP, 0) == (policy.drained, policy.at_drain_deadline, policy.keep_available)


def test_the_last_api_server_stays_unless_said_otherwise(tmp_path: Path) -> None:
    """Without a drain it is replaced as it is, and one always stays."""
    for word, kept in (("", 1), (", only_one: allow", 0)):
        path = written(
            tmp_path, "    airflow: main\n", f"    airflow: {{installation: main, component: api_server{word}}}\n"
        )
        text = path.read_text()
        path.write_text(text.replace("    drain: {celery: {broker_file: /etc/broker, deadline: 3h, then: skip}}\n", ""))
        policy = rollout_policy(load(path).workloads["workers"])
        assert (False, kept) == (policy.drained, policy.keep_available)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("airflow: main\n", "airflow: other\n",
         "workloads.workers.airflow: found other; allowed what stands under airflow (main)"),
        (", password_file: /etc/password", "", "airflow.main: found neither password_file nor token_file"),
        ("username: rotator, ", "", "airflow.main.username: found nothing; allowed a name beside password_file"),
        ("https://airflow.example", "http://airflow.example",
         "airflow.main.url: found http://airflow.example; allowed https"),
        ("username: rotator,", "client_key_file: /k, username: rotator,",
         "airflow.main: found half a client certificate"),
        ("airflow: main\n", "airflow: {installation: main, component: scheduler}\n",
         "workloads.workers.drain: found a Celery drain of a scheduler"),
        ("then: skip", "tls: {key_file: /k}", "drain.celery.tls: found half a client certificate"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused(tmp_path: Path, old: str, new: str, says: str) -> None:
    """In one line with its key, what is allowed and what to do."""
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, old, new))
    assert says in str(caught.value)


def test_a_gentle_stop_needs_airflow(tmp_path: Path) -> None:
    """Nothing else would show what a worker does that never answers."""
    path = written(tmp_path, "then: skip", "without_remote_control: stop")
    drain = load(path).workloads["workers"].drain
    assert drain is not None
    assert drain.celery is not None
    assert "stop" == drain.celery.without_remote_control
    path.write_text(path.read_text().replace("    airflow: main\n", ""))
    with pytest.raises(ConfigError, match="without_remote_control: found stop without airflow"):
        load(path)
