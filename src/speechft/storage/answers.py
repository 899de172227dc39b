"""What a server answered, or why no answer came, as several client libraries tell it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

_PASSING = (408, 425, 429)
"""Answers below 500 after which another try may do."""
_NO_HELP = (ValueError, TypeError, AttributeError, LookupError, NotImplementedError)


def reason(error: BaseException, silence: str) -> tuple[int, str, bool]:
    """Return the server's answer, words for it, and whether another try may do.

    The answer is 404 where nothing is there, and 0 where none came.

    Args:
        error: Of a client library.
        silence: How long the client waits for a byte, in words.
    """
    chain = list(_chain(error))
    for one in chain:
        if (status := _status(one)) is not None:
            code = _code(one)
            told = f"the server answers {status}" + (f" ({code})" if code else "")
            return status, told, status >= 500 or status in _PASSING
    last = chain[-1]
    kinds = " ".join(kind.__name__ for one in chain for kind in type(one).__mro__)
    if "Timeout" in kinds:
        return 0, f"the server sent nothing, or too little, for {silence}", True
    if "OfflineModeIsEnabled" in kinds:
        return 0, "the hub's client is told to stay offline (HF_HUB_OFFLINE)", False
    if "PayloadError" in kinds:
        return 0, "the connection ended before the file did", True
    told = " ".join(str(last).split())[:300] or type(last).__name__
    if "Credentials" in type(last).__name__:
        return 403, told, False
    if isinstance(last, FileNotFoundError):
        return 404, "there is nothing", False
    if isinstance(last, PermissionError):
        return 403, told, False
    return 0, told, not isinstance(last, _NO_HELP)


def wanted_pause(error: BaseException) -> float:
    """Return the seconds that a server wants to be left alone (``Retry-After``); 0 without.

    Args:
        error: Of a client library.
    """
    for one in _chain(error):
        response = getattr(one, "response", None)
        if isinstance(response, dict):
            headers: Any = response.get("ResponseMetadata", {}).get("HTTPHeaders")
        else:
            headers = getattr(one if response is None else response, "headers", None)
        if isinstance(headers, Mapping):
            names = {str(name).lower(): str(value) for name, value in headers.items()}
            return _seconds(names.get("retry-after", "").strip())
    return 0.0


def _seconds(text: str) -> float:
    """Return what ``Retry-After`` means: seconds, or a date of HTTP."""
    if text.isascii() and text.isdecimal():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return 0.0


def _chain(error: BaseException) -> Iterator[BaseException]:
    one: BaseException | None = error
    for _ in range(8):
        if one is None:
            return
        yield one
        one = one.__cause__


def _status(error: BaseException) -> int | None:
    """Return the number with which a server answered, as one of the libraries keeps it."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        status = getattr(response, "status_code", getattr(error, "status", None))
    return status if isinstance(status, int) else None


def _code(error: BaseException) -> str:
    """Return the name that an object store has for its answer."""
    response = getattr(error, "response", None)
    code = response.get("Error", {}).get("Code", "") if isinstance(response, dict) else ""
    return "" if str(code).isdecimal() else str(code)
