"""Recipes as files: packaged ones by name, your own by path, and what they extend.

Light on purpose: `speechft recipes` needs no configuration classes.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from speechft.errors import ConfigError, unknown_choice
from speechft.storage.files import read_yaml

EXTENDS = "extends"
"""Key that names the recipe whose settings a recipe begins with."""
VERBS = {"finetuning": ("run", "finetune"), "optimization": ("pretrain",)}
"""The verbs that take a recipe, by the section that only their recipes have."""

MAX_EXTENDED = 100
"""Files that a recipe may begin with, one that is extended twice counted twice."""
Read = Callable[[Path], dict[str, Any]]
_FOLDER = Path(__file__).parent / "recipes"


def packaged_recipes() -> dict[str, Path]:
    """Return the packaged recipes by name, the demo first."""
    paths = sorted(_FOLDER.glob("*.yaml"), key=lambda path: (path.stem != "demo", path.stem))
    return {path.stem: path for path in paths}


def packaged_bases() -> dict[str, Path]:
    """Return by name what packaged recipes have in common: it can be extended, not run."""
    return {path.stem: path for path in sorted((_FOLDER / "bases").glob("*.yaml"))}


def find_recipe(name: str | Path) -> Path:
    """Return the file of a packaged recipe, or the user's own file.

    Raises:
        ConfigError: There is no such recipe, or it is a base.
    """
    packaged = packaged_recipes()
    if str(name) in packaged:
        return packaged[str(name)]
    path = Path(os.path.expanduser(name))
    if path.suffix in (".yaml", ".yml"):
        return path
    if str(name) in packaged_bases():
        raise ConfigError(
            f"recipe {name} is a base of others and cannot be run by itself",
            hint=f"put 'extends: {name}' into a file of your own; choices are: "
            f"{', '.join(packaged)}",
        )
    raise unknown_choice("recipe", str(name), packaged)


def read_recipe(name: str | Path, read: Read = read_yaml) -> dict[str, Any]:
    """Read a recipe with everything that it extends; nothing in a file is ever executed.

    ``extends`` is the name of a packaged recipe or base, or a ``.yaml`` file relative to the file
    that says so; of a list each is put upon those before it. Sections are merged key by key; any
    other value, a list or null too, takes the place of what was there.

    Args:
        name: Packaged name or YAML file.
        read: From a file to its content; who reads many recipes may read what they share once.

    Raises:
        ConfigError: There is no such recipe, a file is no YAML mapping, or ``extends`` names
            nothing, goes round in a circle, or leads to more than `MAX_EXTENDED` files.
    """
    return _resolved(find_recipe(name), (), itertools.count(1), read)


def verbs_of(content: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the verbs that take a recipe; none where its sections do not tell."""
    return next((verbs for section, verbs in VERBS.items() if section in content), ())


def _resolved(
    path: Path, before: tuple[Path, ...], count: Iterator[int], read: Read
) -> dict[str, Any]:
    """Return the content of a file upon that of the one it extends.

    Args:
        path: The file.
        before: The files that extend it, the outermost first.
        count: Of the files that are read.
        read: Reads one.
    """
    if next(count) > MAX_EXTENDED:
        first = (*before, path)[0]
        raise ConfigError(
            f"recipe {first} extends more than {MAX_EXTENDED} files, one of them {path}",
            hint="extend fewer, or write what they have in common into one",
        )
    content = dict(read(path))
    if EXTENDS not in content:
        return content
    chain, result = (*before, path), dict[str, Any]()
    given = content.pop(EXTENDS)
    for name in given if isinstance(given, list) and given else [given]:
        base = _extended(name, path)
        if base.resolve() in {file.resolve() for file in chain}:
            circle = " -> ".join(str(file) for file in (*chain, base))
            raise ConfigError(f"recipes extend each other in a circle: {circle}")
        result = _merged(result, _resolved(base, chain, count, read))
    return _merged(result, content)


def _extended(name: Any, path: Path) -> Path:
    """Return the file that the recipe in ``path`` extends by ``name``."""
    if not isinstance(name, str):
        raise ConfigError(
            f"{path}: extends is {name!r}, expected the name of a recipe or file, or a list",
            hint="for example 'extends: demo' or 'extends: [demo, ../mine.yaml]'",
        )
    if name.endswith((".yaml", ".yml")):
        base = path.parent / Path(os.path.expanduser(name))
        if not base.is_file():
            raise ConfigError(f"{path} extends {name}, but {base} does not exist")
        return base
    known = packaged_recipes() | packaged_bases()
    if name not in known:
        raise unknown_choice(f"recipe that {path} extends:", name, known)
    return known[name]


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[key] = _merged(old, value) if both else value  # type: ignore[arg-type]
    return result
