"""Names in the stead of places, addresses without secrets; test_leaks.py looks at whole runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechft.encoders.opening import packaged_encoders
from speechft.errors import DataError
from speechft.naming import (
    distinct_names,
    masked,
    public,
    public_command,
    public_config,
    public_name,
    public_text,
    shown,
    stands_for,
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://user:PW@host/x", "https://***@host/x"),
        (
            "see https://u:p@ss@h.org/x?a=1&token=abc&b=2 now",
            "see https://***@h.org/x?a=1&token=***&b=2 now",
        ),
        ("s3://key:sec/ret@bucket/x", "s3://***@bucket/x"),
        ("https:/user:PW@host/x", "https://***@host/x"),
        ("https://:PW@host", "https://***@host"),
        ("https://token@host/x?X-Amz-Signature=dead", "https://***@host/x?X-Amz-Signature=***"),
        ("https://host:80/a@b", "https://host:80/a@b"),
        ("http://host/x?layer=3", "http://host/x?layer=3"),
        ("a@b: c/d", "a@b: c/d"),
    ],
)
def test_secrets_of_addresses_are_masked(text: str, shown: str) -> None:
    assert masked(text) == shown
    assert masked(shown) == shown
    error = DataError(f"{text} cannot be read", hint=text)
    assert (error.message, error.hint, str(error.args[0])) == (
        f"{shown} cannot be read",
        shown,
        f"{shown} cannot be read",
    )


def test_what_lies_in_the_cache_goes_by_its_address(tmp_path: Path) -> None:
    stands_for(tmp_path / "x", "s3://me:PW@bucket/runs/x")
    stands_for(tmp_path / "x" / "sub", "https://host/sub")
    assert shown(f"wrote {tmp_path}/x/a.json") == "wrote s3://***@bucket/runs/x/a.json"
    assert shown(f"{tmp_path}/x/sub/b, {tmp_path}") == f"https://host/sub/b, {tmp_path}"
    assert DataError(f"{tmp_path / 'x'} is empty").message == "s3://***@bucket/runs/x is empty"


@given(
    user=st.text("abcXYZ019._~!$&*+,;=-", min_size=1),
    password=st.text("abcXYZ019._~!$&*+,;=-:@", min_size=6),
    rest=st.sampled_from(["", "/", "/a/b.wav", "?x=1", ":8080/a"]),
)
def test_no_password_passes(user: str, password: str, rest: str) -> None:
    shown = masked(f"cannot read https://{user}:{password}@host.org{rest}, try again")
    assert shown == f"cannot read https://***@host.org{rest}, try again"


@pytest.mark.parametrize(
    ("place", "name"),
    [
        (
            "/home/a/hub/models--facebook--hubert-base-ls960/snapshots/abc",
            "facebook/hubert-base-ls960",
        ),
        ("/x/models--a--b--c/snapshots/1/pytorch_model.bin", "a/b--c"),
        ("/x/models--gpt2/snapshots/1", "gpt2"),
        ("facebook/hubert-base-ls960@v1", "facebook/hubert-base-ls960@v1"),
        ("/home/a/my encoders/one/", "one"),
        ("~/x/two", "two"),
        ("../a/three.pt", "three.pt"),
        ("runs/a/encoder", "encoder"),
        ("file:///home/a/four", "four"),
        ("/home/a/my.py:Mine", "my.py:Mine"),
        ("tiny-hubert", "tiny-hubert"),
        ("the base state dict", "the base state dict"),
        ("/", "/"),
    ],
)
def test_what_a_place_is_called(place: str, name: str) -> None:
    assert public_name(place) == name


def test_encoders_get_names_of_their_own() -> None:
    given = ["runs/a/merged_0.25", "runs/b/merged-0.25", "x/A", "y/b", "q.r/s", "q r/s", "q-r/s"]
    names = distinct_names(given, brief=True)
    assert names == ["merged_0.25", "merged-0.25", "A", "b", "q.r/s", "q r/s", "q-r/s"]
    paths = ["/home/me/one/run/encoder", "two/run/encoder", "./encoder", "base"]
    assert distinct_names(paths) == ["one/run/encoder", "two/run/encoder", "encoder", "base"]
    assert distinct_names(["org/x", "other/x"], brief=True) == ["org/x", "other/x"]
    assert (distinct_names(["org/x"]), distinct_names(["org/x"], brief=True)) == (["org/x"], ["x"])
    assert distinct_names(["org/x", "Org/X"]) == ["org/x-1", "Org/X-2"]
    assert distinct_names(["/a/E", "/a/e"]) == ["a/E-1", "a/e-2"], "no more is left of the paths"


def test_texts_tell_known_places_apart() -> None:
    known = ["/home/me/a/encoder", "/home/me/b/encoder", "/home/me/base"]
    told = {"tuned": known[:2], "base": known[2], "command": f"merge {' '.join(known)}"}
    assert public(told, known) == {
        "tuned": ["a/encoder", "b/encoder"],
        "base": "base",
        "command": "merge a/encoder b/encoder base",
    }
    assert public_text(f"{known[0]} alone", known[:1]) == "encoder alone"


def test_what_lies_here_and_in_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some" / "encoder").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "some")
    assert public_name(".") == "some"
    assert public_name("..") == tmp_path.name
    monkeypatch.chdir(tmp_path)
    assert public_name("some/encoder") == "encoder"
    assert public_name("other/encoder") == "other/encoder", "a hub id"
    for name, place in packaged_encoders().items():
        assert public_name(place) == name
        assert public_name(place / "model.safetensors") == name


def test_texts_and_plain_types() -> None:
    text = "/home/al ice/base, bf16/fp32 (/a/b/c) /m/ ~/x/y file:///a/b/z https://h/a/b"
    shown = "base, bf16/fp32 (c) /m/ y z https://h/a/b"
    assert public_text(text, ["/home/al ice/base"]) == shown
    content = {
        "a": ["/x/y", 1, None],
        "b": (Path("/p/q"), "/a/b is not /a/c: d"),
        "c/d/e": 0.5,
    }
    assert public(content) == {"a": ["y", 1, None], "b": ("q", "b is not c: d"), "c/d/e": 0.5}
    assert public_config({"_name_or_path": "/a/b", "hidden_size": 3}) == {"hidden_size": 3}


def test_commands() -> None:
    words = ["speechft", "merge", "/home/a/b", "a/b/c", "--out=/x/y", "-s", "data.corpus=/c/d e/f"]
    assert public_command(words) == "speechft merge b c --out=y -s data.corpus=f"
    assert public_command(["x=https://u:p@h/x?a=b"]) == "'x=https://***@h/x?a=b'"
    assert public_command(["file:///a/b", "x=file:///c/d"]) == "b x=d"
