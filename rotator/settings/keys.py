"""
What every mapping of the configuration file has in common.

Rules that must stay true here:

- Frozen, and unknown keys are refused: what is not understood is never ignored.
- The sentence below an attribute is the key's description in the JSON Schema.
"""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from rotator.settings.values import refused


class Keys(BaseModel):
    """A mapping with known keys."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
        serialize_by_alias=True,
        # An input is never part of a message that this library makes: it could be a secret.
        hide_input_in_errors=True,
    )
    shorthand: ClassVar[str] = ""
    """The one key that may be written alone: ``directory: /path`` for ``directory: {path: /path}``."""

    @model_validator(mode="before")
    @classmethod
    def _long_form(cls, value: object) -> object:
        """Turn a shorthand into the mapping it stands for."""
        return {cls.shorthand: value} if cls.shorthand and isinstance(value, str) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Return the schema of the mapping, or of the mapping and its shorthand."""
        long = handler.resolve_ref_schema(handler(schema))
        if not cls.shorthand:
            return long
        return {"anyOf": [dict(long["properties"][cls.shorthand]), long], "description": long.get("description", "")}


class OneOf(Keys):
    """A mapping with exactly one of its keys."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            names = " | ".join(type(self).model_fields)
            raise refused(f"exactly one of {names}", "choose one" if given else "name one")
        return self

    @property
    def chosen(self) -> str:
        """Return the one key that is given."""
        return next(name for name in type(self).model_fields if getattr(self, name) is not None)
