"""What a thing is called in files that leave the machine and on the terminal: no path, no secret.

An encoder is known by its hub id, its packaged name, or the name of its folder or file, beside
which a digest stands; several with one name by as much of their paths as tells them apart. Whatever
writes cards, reports and metadata takes names from here, and every message and error passes
`shown` on its way.
"""

from __future__ import annotations

import os
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

HIDDEN = "***"
"""What stands for a secret."""

_ASSETS = Path(__file__).parent / "assets"
_ROOTS = ("/", "./", "../", "~")
_NO_NAMES = ("", ".", "..", "~")
"""Parts of a path that name nothing."""
_CACHED = re.compile(r"(?:^|[/\\])models--(?P<id>[^/\\]+?)(?:[/\\]|$)")
"""A place in the cache of the hub, as huggingface_hub lays it out."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_LOST_SLASH = re.compile(r"\b(https?|s3|hf):/(?=[^/\s])")
"""In an address that was taken for a path."""
_FILE = re.compile(r"\bfile:/+")
_USER = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+:/{1,2})(?P<user>[^\s/?#'\"<>]*)@")
_USER_WITH_SIGNS = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+:/{1,2})[^\s/?#'\"<>@:]*:(?!\d+(?:[/?#]|\s|$))[^\s'\"<>]*@"
)
"""A password that holds ``/`` or ``?``, which belongs in no address but is typed all the same."""
_PARAMETER = re.compile(
    r"(?P<name>[?&;#][\w.%-]*(?:token|key|secret|passw|pwd|signature|sig|credential|auth)[\w.%-]*=)"
    r"[^&;#\s'\"<>]+",
    re.IGNORECASE,
)
_PART = r"/[^\s/'\"`<>|,;:()\[\]{}=]+"
_STANDING: dict[str, str] = {}
"""Places in the cache that stand for addresses, see `stands_for`."""
_ABSOLUTE = re.compile(rf"(?<![\w.~/:*<>)\]-])(?:~[\w.-]*(?:{_PART})+|(?:{_PART}){{2,}})/?")


def masked(text: str) -> str:
    """Return a text without the secrets of the addresses in it.

    ``https://user:PW@host/x?token=T`` becomes ``https://***@host/x?token=***``; so do addresses
    that were taken for a path and lost a slash, which they get back.
    """
    if ":/" not in text:
        return text
    text = _LOST_SLASH.sub(r"\1://", text)
    for pattern in (_USER_WITH_SIGNS, _USER):
        text = pattern.sub(rf"\g<scheme>{HIDDEN}@", text)
    return _PARAMETER.sub(rf"\g<name>{HIDDEN}", text)


def stands_for(path: str | Path, address: str) -> None:
    """Have messages call what lies at a path of the cache by the address that the user typed."""
    places = {os.path.abspath(path), str(path)}
    _STANDING.update(dict.fromkeys(places, masked(address)))


def shown(text: str) -> str:
    """Return a text as messages show it: addresses without secrets, and none by its place here."""
    for path in sorted((path for path in _STANDING if path in text), key=len, reverse=True):
        text = text.replace(path, _STANDING[path])
    return masked(text)


def public_name(place: str | Path) -> str:
    """Return what a thing is called where its place must not be told.

    Args:
        place: A path, an address, a hub id, a packaged name, or any other name.

    Returns:
        The hub id of what lies in the cache of the hub, the name of a packaged encoder, the last
        part of any other path; addresses without secrets, names as they are.
    """
    text = _FILE.sub("/", str(place))
    if _ADDRESS.match(text):
        return masked(text)
    path = Path(text)
    if cached := _CACHED.search(text):
        return cached["id"].replace("--", "/", 1)
    if path.is_relative_to(_ASSETS) and path != _ASSETS:
        return path.relative_to(_ASSETS).parts[0]
    if path.name in ("", "..") and text:
        return Path(*path.parts, ".").absolute().resolve().name or text
    return path.name if is_place(text) else text


def hub_id(place: str | Path) -> str | None:
    """Return the id on the hub of what is named by it, or lies in the cache of the hub.

    Args:
        place: As for `public_name`; a revision behind ``@`` is no part of the id.

    Returns:
        ``owner/name``; None for whatever is no model of the hub.
    """
    text = str(place)
    if _CACHED.search(text):
        return public_name(text)
    name = text.partition("@")[0]
    return name if is_hub_id(name) and not is_place(text) else None


def is_hub_id(name: str) -> bool:
    """Return whether a name is of the form ``owner/name``, in the signs that the hub allows."""
    return _HUB_ID.fullmatch(name) is not None and not re.search(r"--|\.\.", name)


def distinct_names(places: Sequence[str], *, brief: bool = False) -> list[str]:
    """Return what things are called beside each other: no more of a path than tells them apart.

    Args:
        places: Paths, addresses, hub ids or other names, each once.
        brief: For tables: of hub ids, too, no more than that.

    Returns:
        A name for each, distinct also where case does not count; where nothing tells two apart,
        they are numbered.
    """
    names = [public_name(place) for place in places]
    names = [Path(name).name or name for name in names] if brief else names
    parts = [[p for p in masked(place).split("/") if p not in _NO_NAMES] for place in places]
    rest = [part[: -1 - name.count("/")] for part, name in zip(parts, names, strict=True)]
    while alike := [n for n in _repeated(names) if rest[n]]:
        for n in alike:
            names[n] = f"{rest[n].pop()}/{names[n]}"
    for count, n in enumerate(_repeated(names), 1):
        names[n] = f"{names[n]}-{count}"
    return names


def _repeated(names: Sequence[str]) -> list[int]:
    """Return the numbers of the names that occur more than once, whatever their case."""
    folded = Counter(name.casefold() for name in names)
    return [n for n, name in enumerate(names) if folded[name.casefold()] > 1]


def _names_of(known: Iterable[str]) -> dict[str, str]:
    places = list(dict.fromkeys(place for place in known if "/" in place))
    return dict(zip(places, distinct_names(places), strict=True))


def is_place(name: str) -> bool:
    """Return whether a name is a path, rather than a hub id or any other name.

    Settings may stand behind it: ``data/my.csv?text=COLUMN``.
    """
    if name.startswith(_ROOTS) or name.partition("?")[0].count("/") > 1:
        return True
    try:
        return "/" in name and any(Path(n).exists() for n in (name, name.partition("?")[0]))
    except (OSError, ValueError):
        return False


def public_text(text: str, known: Iterable[str] = ()) -> str:
    """Return a text with names in the stead of paths, and without secrets.

    Args:
        text: A sentence, or several lines.
        known: Places that may occur in it, however they are written; absolute paths are found.
    """
    names = _names_of(known)
    for place in sorted(names, key=len, reverse=True):
        text = text.replace(place, names[place])
    text = _FILE.sub("/", masked(text))
    return _ABSOLUTE.sub(lambda found: public_name(found[0]), text)


def public(content: Any, known: Iterable[str] = ()) -> Any:
    """Return plain JSON types with names in the stead of paths, and without secrets.

    Args:
        content: Mappings, lists, texts and numbers; paths become text.
        known: See `public_text`.
    """
    known = tuple(known)
    if isinstance(content, Mapping):
        return {name: public(value, known) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return type(content)(public(value, known) for value in content)
    if isinstance(content, Path):
        return public_name(content)
    if not isinstance(content, str):
        return content
    is_name = content in known or not re.search(r"\s", content)
    if is_name and is_place(content):
        return _names_of(known).get(content) or public_name(content)
    return public_text(content, known)


def public_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return an encoder's configuration without where it was loaded from."""
    content: dict[str, Any] = public({n: v for n, v in config.items() if n != "_name_or_path"})
    return content


def public_command(words: Iterable[str]) -> str:
    """Return a command line with names in the stead of paths, also behind ``--option=`` and keys.

    Args:
        words: The words, as ``sys.argv`` has them.
    """
    shown = []
    for word in words:
        before, mark, settings = word.partition("?")
        head, sign, value = before.rpartition("=")
        at_address = _ADDRESS.search(word) and not _FILE.search(word)
        place = not at_address and is_place(_FILE.sub("/", value))
        named = head + sign + public_name(value) + mark + settings
        shown.append(named if place else masked(word))
    return shlex.join(shown)
