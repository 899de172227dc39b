"""Strict configuration: YAML in, ``--set key=value`` overrides, the resolved config out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from speechft.errors import ConfigError
from speechft.typed_text import MAPPINGS, choices, fields_of, typed
from speechft.wrong_values import in_words

ConfigType = TypeVar("ConfigType", bound="Config")


class Config(BaseModel):
    """Base of every configuration: immutable, unknown keys and infinite numbers are errors."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    def as_dict(self) -> dict[str, Any]:
        """Return the resolved configuration as plain JSON types."""
        return self.model_dump(mode="json")

    def as_yaml(self) -> str:
        """Return the resolved configuration as YAML, in the order of the fields."""
        return as_yaml(self.as_dict())


def as_yaml(content: Mapping[str, Any]) -> str:
    """Return plain JSON types as YAML, in their order."""
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def apply_overrides(
    content: Mapping[str, Any], overrides: str | Iterable[str], kind: type[BaseModel] | None = None
) -> dict[str, Any]:
    """Return ``content`` with ``a.b.c=value`` overrides applied.

    A value is read as the field of that name is typed (see `speechft.typed_text`); without
    ``kind``, and where a field may be anything, as YAML 1.2 reads it.

    Args:
        content: Keys and values.
        overrides: Texts ``key=value``, or one of them.
        kind: The configuration that the keys belong to.

    Raises:
        ConfigError: An override has no ``=`` or goes through a key that is not a mapping.
    """
    changes = []
    for override in [overrides] if isinstance(overrides, str) else overrides:
        key, separator, text = override.partition("=")
        if not separator or not key.strip():
            raise ConfigError(
                f"override {override!r} is not of the form key=value",
                hint="write for example --set finetuning.learning_rate=1e-4",
            )
        changes.append((key.strip(), typed(text, _annotation(kind, key.strip()))))
    return apply_changes(content, changes)


def _annotation(kind: type[BaseModel] | None, key: str) -> Any:
    """Return the type of the field at a key such as ``finetuning.steps``; `Any` if it is free."""
    current: Any = Any if kind is None else kind
    for part in key.split("."):
        for choice in choices(current):
            if isinstance(choice, type) and part in (known := fields_of(choice)):
                current = known[part]
                break
            if get_origin(choice) in MAPPINGS:
                current = get_args(choice)[1]
                break
        else:
            return Any
    return current


def apply_changes(content: Mapping[str, Any], changes: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return ``content`` with values put in under keys such as ``finetuning.steps``, one by one.

    Raises:
        ConfigError: A key goes through another that is not a mapping.
    """
    result = _copy(content)
    for key, value in changes:
        node = result
        *parents, leaf = key.split(".")
        for parent in parents:
            child = node.setdefault(parent, {})
            if not isinstance(child, dict):
                raise ConfigError(f"override of {key!r}: {parent!r} holds a value, not a section")
            node = child
        node[leaf] = _plain(value)
    return result


def build(kind: type[ConfigType], content: Mapping[str, Any], source: str) -> ConfigType:
    """Validate ``content`` against ``kind``.

    Args:
        kind: The configuration class.
        content: Keys and values.
        source: Where they come from, for error messages.

    Raises:
        ConfigError: Names every wrong key, what was expected, and the nearest valid key.
    """
    try:
        return kind.model_validate(content)
    except ConfigError as error:  # a section's own check
        raise ConfigError(f"{source}: {error.message}", hint=error.hint) from None
    except ValidationError as error:
        message, hint = in_words(error, kind, content)
        raise ConfigError(f"{source}: {message}", hint=hint) from None


def _copy(content: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _copy(v) if isinstance(v, Mapping) else v for k, v in content.items()}


def _plain(value: Any) -> Any:
    """Return a value with paths as text, also those within lists and mappings."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
