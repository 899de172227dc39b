"""Values of ``--set key=value``, read as the schema types them rather than as YAML 1.1 guesses.

A field of text takes the text as it stands (``2026-11-27``, ``007``, ``yes``, ``C# one``), quotes
around it are taken off. A number may have underscores and leading zeros, a switch may be ``yes`` or
``off``, ``None`` and ``null`` are nothing where a field may be nothing. ``[...]`` and ``{...}``
hold lists and sections. Where the schema does not tell, YAML 1.2 does.
"""

from __future__ import annotations

import contextlib
import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml
from pydantic import BaseModel

from speechft.storage.documents import parse_yaml

_BOOLS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_DIGITS = 4_000
"""Digits of a whole number; Python itself reads no more than 4,300."""
_NOTHING = frozenset({"", "~", "null", "none"})
_LISTS = (list, tuple, set, frozenset, Sequence)
MAPPINGS = (dict, Mapping)
"""Types of sections whose keys are free."""


def choices(annotation: Any) -> list[Any]:
    """Return the types that an annotation allows, one by one."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return choices(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [kind for part in get_args(annotation) for kind in choices(part)]
    value = getattr(annotation, "__value__", None)  # an alias made with ``type``
    return [annotation] if value is None else choices(value)


def fields_of(kind: type) -> dict[str, Any]:
    """Return the types of the fields of a section, which is a model or a dataclass, by name."""
    if issubclass(kind, BaseModel):
        return {name: field.annotation for name, field in kind.model_fields.items()}
    if not is_dataclass(kind):
        return {}
    hints = get_type_hints(kind, include_extras=True)
    return {f.name: hints.get(f.name, Any) for f in fields(kind)}


def typed(text: str, annotation: Any = Any) -> Any:
    """Return what a text means for a field.

    Args:
        text: As it was written.
        annotation: Type of the field.

    Returns:
        A value of that type where the text can be one; otherwise what YAML 1.2 makes of it, for
        the schema to refuse.
    """
    kinds = choices(annotation)
    plain = text.strip()
    if Any in kinds:
        return _guessed(text)
    literals = [value for k in kinds if get_origin(k) is Literal for value in get_args(k)]
    if plain in literals:
        return plain
    if type(None) in kinds and plain.lower() in _NOTHING:
        return None
    if plain[:1] in ("[", "{") and not set(kinds) <= {str}:
        return _nested(text, kinds)
    quoted = _quoted(plain)
    if quoted is not None:
        return quoted
    for kind, read in ((bool, _bool), (int, _int), (float, _float)):
        if kind in kinds and (value := read(plain, str in kinds)) is not None:
            return value
    return plain if str in kinds else _guessed(text)


def _bool(text: str, or_text: bool) -> bool | None:
    known = {"true": True, "false": False} if or_text else _BOOLS
    return known.get(text.lower())


def _int(text: str, or_text: bool) -> int | None:
    pattern = r"[-+]?(0|[1-9]\d*)" if or_text else r"[-+]?\d+(_\d+)*"
    if re.fullmatch(pattern, text, re.ASCII) and len(text) <= _DIGITS:
        return int(text)
    if not or_text and (value := _float(text, False)) is not None and value.is_integer():
        return int(value)
    return None


def _float(text: str, or_text: bool) -> float | None:
    if or_text and not re.fullmatch(
        r"[-+]?((\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|\.inf|\.nan)", text, re.ASCII
    ):
        return None
    with contextlib.suppress(ValueError):
        return float(text.replace(".inf", "inf").replace(".nan", "nan"))
    return None


def _quoted(text: str) -> str | None:
    """Return what stands between quotes; None where the text is not one quoted text."""
    if len(text) < 2 or text[0] != text[-1] or text[0] not in "'\"":
        return None
    try:
        value = parse_yaml(text)
    except yaml.YAMLError:
        return None
    return value if isinstance(value, str) else None


def _nested(text: str, kinds: list[Any]) -> Any:
    """Return a list or a section whose parts are typed by the schema."""
    try:
        value = parse_yaml(text, typed=False)
    except yaml.YAMLError:
        return text.strip()
    for kind in kinds:
        origin = get_origin(kind) or kind
        if isinstance(value, list) and origin in _LISTS:
            parts = [part for part in get_args(kind) if part is not Ellipsis] or [Any]
            each = parts if len(parts) == len(value) else [parts[0]] * len(value)
            return [_again(item, part) for item, part in zip(value, each, strict=True)]
        if isinstance(value, dict) and origin in MAPPINGS:
            part = (get_args(kind) or (str, Any))[1]
            return {key: _again(item, part) for key, item in value.items()}
        if isinstance(value, dict) and isinstance(kind, type) and (known := fields_of(kind)):
            return {key: _again(item, known.get(key, Any)) for key, item in value.items()}
    return _guessed(text)


def _again(value: Any, annotation: Any) -> Any:
    if isinstance(value, str):
        return typed(value, annotation)
    for kind in choices(annotation):
        if isinstance(value, list) and (get_origin(kind) or kind) in _LISTS:
            part = next(iter(get_args(kind)), Any)
            return [_again(item, part) for item in value]
        if isinstance(value, dict):
            known = fields_of(kind) if isinstance(kind, type) else {}
            free = get_args(kind)[1] if get_origin(kind) in MAPPINGS else Any
            return {key: _again(item, known.get(key, free)) for key, item in value.items()}
    return value


def _guessed(text: str) -> Any:
    """Return what YAML 1.2 makes of a text; a comment sign is part of it."""
    plain = text.strip()
    if re.search(r"(^|\s)#", plain):
        return plain if plain[0] not in "[{'\"" else _parsed(plain)
    return _parsed(plain)


def _parsed(text: str) -> Any:
    try:
        return parse_yaml(text) if text else None
    except yaml.YAMLError:
        return text
