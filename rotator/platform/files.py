"""
What is rendered, as files: by environment and part.

Rules that must stay true here:

- The same platform gives the same files of the same bytes.
- What belongs to one environment stands in its folder, what a whole mesh shares in that of its trust domain.
- No credential stands in any file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, Final

from rotator.core.model import TrustDomainName
from rotator.platform.chart import AIRFLOW_3_SINCE, NEWEST, Version, values
from rotator.platform.machines import dataplanes, tokens
from rotator.platform.model import Environment, Platform
from rotator.platform.rendering import PARTS
from rotator.platform.resources import Resource, canonical_yaml, in_order, kubernetes_object, universal
from rotator.platform.telemetry_airflow import airflow_values
from rotator.platform.telemetry_collector import collector_configuration
from rotator.platform.workloads import namespace, pod_templates, pods_of, service_accounts

SYSTEM_NAMESPACE: Final = "kuma-system"


class Form(StrEnum):
    """In which form a control plane takes documents."""

    UNIVERSAL = "universal"
    KUBERNETES = "kubernetes"


def files(
    platform: Platform,
    forms: Mapping[TrustDomainName, tuple[Form, str]],
    *,
    environment: str | None = None,
    chart: Version = NEWEST,
) -> Mapping[str, str]:
    """
    Return each file's text by its path, in order.

    *forms* is, for each trust domain, the form of its documents and the control plane's namespace; *environment* leaves
    out what is another's, and keeps what its mesh shares; *chart* is the version of Airflow's.

    Raises:
        ConfigError: If that chart cannot say what is wanted.
    """
    wanted = {each.name: each for each in platform.environments if environment in {None, each.name}}
    found: dict[str, str] = {}
    for at in dict.fromkeys(each.trust_domain for each in wanted.values()):
        form, namespace = forms[at]
        for part, rendering in PARTS.items():
            for folder, resources in _folders(in_order(rendering(platform, at)), at).items():
                if folder in wanted or folder == at:
                    found[f"{folder}/{part}.yaml"] = canonical_yaml(
                        [_written(each, form, namespace) for each in resources]
                    )
    for each in wanted.values():
        found |= _in_cluster(platform, each, chart)
        found |= _on_machines(platform, each)
        if platform.telemetry is not None and pods_of(platform, each):
            told = airflow_values(each, platform.telemetry)
            found[f"{each.name}/airflow-telemetry.yaml"] = canonical_yaml([told])
    if platform.telemetry is not None:
        found["collector.yaml"] = canonical_yaml([collector_configuration(platform.telemetry)])
    return dict(sorted(found.items()))


def _in_cluster(platform: Platform, environment: Environment, chart: Version) -> Mapping[str, str]:
    if not pods_of(platform, environment):
        return {}
    templates = pod_templates(platform, environment, asks_the_database=chart < AIRFLOW_3_SINCE)
    objects = [
        namespace(environment),
        *service_accounts(platform, environment),
        *(() if templates is None else (templates,)),
    ]
    return {
        f"{environment.name}/kubernetes.yaml": canonical_yaml(objects),
        f"{environment.name}/airflow-values.yaml": canonical_yaml([values(platform, environment, chart)]),
    }


def _on_machines(platform: Platform, environment: Environment) -> Mapping[str, str]:
    proxies = dataplanes(platform, environment)
    if not proxies:
        return {}
    return {
        **{f"{environment.name}/dataplanes/{each.name}.yaml": canonical_yaml([universal(each)]) for each in proxies},
        f"{environment.name}/tokens.yaml": canonical_yaml([{"tokens": tokens(platform, environment)}]),
    }


def _written(resource: Resource, form: Form, namespace: str) -> dict[str, Any]:
    return universal(resource) if form is Form.UNIVERSAL else kubernetes_object(resource, namespace=namespace)


def _folders(resources: Iterable[Resource], at: TrustDomainName) -> Mapping[str, list[Resource]]:
    found: dict[str, list[Resource]] = {}
    for each in resources:
        found.setdefault(each.environment or at, []).append(each)
    return found
