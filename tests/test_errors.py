"""Errors: what a user reads, and the nearest choice they are offered."""

from __future__ import annotations

import inspect

import pytest

from speechft import errors
from speechft.errors import ConfigError, SpeechftError, nearest, unknown_choice


def test_message_and_hint_are_both_shown() -> None:
    assert str(SpeechftError("no disk")) == "no disk"
    assert str(SpeechftError("no disk", hint="buy one")) == "no disk\nhint: buy one"
    error = SpeechftError("no disk", hint="buy one")
    assert (error.message, error.hint) == ("no disk", "buy one")


def test_the_tree_is_the_one_in_the_docstring() -> None:
    classes = {
        name
        for name, item in inspect.getmembers(errors, inspect.isclass)
        if issubclass(item, SpeechftError)
    }
    drawn = SpeechftError.__doc__ or ""
    assert {name for name in classes if name in drawn} == classes
    assert issubclass(errors.LineageError, errors.CheckpointError)


@pytest.mark.parametrize(
    ("value", "expected"),
    [("dmeo", "demo"), ("DEMO", "demo"), ("pretrain", "pretrain-tiny"), ("xyzzy", None)],
)
def test_nearest(value: str, expected: str | None) -> None:
    assert nearest(value, ["demo", "pretrain-tiny"]) == expected


def test_unknown_choice_names_what_was_given_and_all_choices() -> None:
    error = unknown_choice("task", "sdi", {"sid", "pr"})
    assert isinstance(error, ConfigError)
    assert error.message == "unknown task 'sdi'; choices are: pr, sid"
    assert error.hint == "did you mean 'sid'?"
    assert unknown_choice("task", "sdi", []).message.endswith("choices are: none")
    assert unknown_choice("task", "zzz", ["sid"]).hint is None
