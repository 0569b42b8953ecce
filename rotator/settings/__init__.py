"""
A person's YAML becomes frozen, typed settings, or one error that lists everything that is wrong with it.

Rules that must stay true here:

- pydantic and PyYAML live in this package only.
- Every line of the error names file, line and key, what was found, what is allowed and what to do.
- Nothing but the file decides: no environment variable, no clock, no look at other files.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic.json_schema import GenerateJsonSchema

from rotator.core.window import written
from rotator.errors import ConfigError
from rotator.settings.checks import check
from rotator.settings.document import read_document
from rotator.settings.model import Settings
from rotator.settings.platform_model import platform_of
from rotator.settings.policies import (
    alert_policy,
    approval_policy,
    authority_policy,
    calendar,
    leaf_policy,
    managed_certificate,
    managed_token,
    policy_sha256,
    rollout_policy,
    signing_key_policy,
    token_policy,
)
from rotator.settings.problems import refuse_all

__all__ = [
    "Settings",
    "alert_policy",
    "approval_policy",
    "authority_policy",
    "calendar",
    "json_schema",
    "leaf_policy",
    "load",
    "managed_certificate",
    "managed_token",
    "platform_of",
    "policy_sha256",
    "rollout_policy",
    "signing_key_policy",
    "token_policy",
]


class _Schema(GenerateJsonSchema):
    """Shows defaults as a person would write them."""

    def encode_default(self, dft: object) -> object:
        """Return *dft* as it stands in the file."""
        return written(dft) if isinstance(dft, timedelta) else super().encode_default(dft)


def load(path: Path) -> Settings:
    """
    Return the settings in the file at *path*.

    Raises:
        ConfigError: With every problem, one line each: ``file:line: key: found X; allowed Y; do Z``.
    """
    document = read_document(path)
    try:
        settings = Settings.model_validate(document.root)
    except ValidationError as e:
        refuse_all(document, e)
        document.complain()
        raise ConfigError(f"{path}:1: (file): found what does not fit; allowed the published schema; do mend it") from e
    check(settings, document)
    document.complain()
    return settings


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of the file, for editors; references and arithmetic are checked by `load` alone."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://rotator.example/schema/rotator-1.json",
        **Settings.model_json_schema(by_alias=True, schema_generator=_Schema),
        "title": "rotator configuration, version 1",
    }
