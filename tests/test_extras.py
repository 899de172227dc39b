"""Extras: one table of what is missing for which verb, and one sentence that says how to get it."""

from __future__ import annotations

import ast
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import distribution, packages_distributions, requires
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement

from helpers import speech_encoder
from processes import Child
from speechft import cli
from speechft.errors import PackageError
from speechft.extras import EXTRAS, how_to_get, needs, requirement_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OWN_PURPOSES = {"all", "dev", "docs"}
"""Extras that no verb needs."""


def test_the_table_holds_every_extra_of_the_package() -> None:
    assert EXTRAS.keys() == PROJECT["optional-dependencies"].keys() - OWN_PURPOSES
    everything = PROJECT["optional-dependencies"]["all"]
    assert set(re.split(r"[\[\],]", everything[0])[1:-1]) == EXTRAS.keys()


def test_the_table_names_verbs_that_exist() -> None:
    verbs = {
        command.callback.__name__ for command in cli.app.registered_commands if command.callback
    }
    for name, extra in EXTRAS.items():
        assert extra.verbs, name
        assert set(extra.verbs) <= verbs, name


def _nodes(text: str) -> Iterator[tuple[str, ast.AST]]:
    """Yield what stands in the files of the package that hold a text."""
    for path in sorted((ROOT / "src").rglob("*.py")):
        if text in (content := path.read_text()):
            file = path.relative_to(ROOT / "src" / "speechft").as_posix()
            yield from ((file, node) for node in ast.walk(ast.parse(content)))


def test_what_is_missing_is_said_in_one_place() -> None:
    """Elsewhere nobody catches imports: a device and a diagnosis have no extra."""
    allowed = {"extras.py", "devices.py", "diagnosis.py"}
    found = [
        f"{file}:{node.lineno}"
        for file, node in _nodes("ImportError")
        if isinstance(node, ast.ExceptHandler)
        and node.type is not None
        and "ImportError" in ast.unparse(node.type)
        and file not in allowed
    ]
    assert not found, "use speechft.extras.needs"
    calls = [node for _, node in _nodes("needs(") if isinstance(node, ast.Call)]
    named = [node.args[0] for node in calls if ast.unparse(node.func) == "needs"]
    used = {node.value for node in named if isinstance(node, ast.Constant)}
    assert used == EXTRAS.keys() - {"tensorboard"}  # without it a training goes on, and says so


def test_a_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(PackageError) as caught, needs("search", "a search"):
        import optuna  # noqa: F401
    assert caught.value.message == "a search needs optuna, which is not installed"
    assert caught.value.hint == "pip install 'speechft[search]'"
    assert how_to_get("demo") == "pip install 'speechft[demo]' (espeak-ng is GPL-3)"


def _closure(start: list[str]) -> set[str]:
    """Return what pip installs for some packages without extras."""
    found: set[str] = set()
    waiting = [Requirement(text) for text in start]
    while waiting:
        requirement = waiting.pop()
        name = requirement_name(requirement.name)
        marker = requirement.marker
        extras = requirement.extras or {""}
        if name in found or (marker and not any(marker.evaluate({"extra": e}) for e in extras)):
            continue
        found.add(name)
        waiting += [Requirement(text) for text in requires(name) or () if "extra ==" not in text]
    return found


BLOCK = """
import json, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in refused: raise ModuleNotFoundError(name, name=name)
refused = set(json.loads(sys.argv.pop(1)))
for name in list(sys.modules):
    if name.partition(".")[0] in refused: del sys.modules[name]
sys.meta_path.insert(0, Refuse())
from speechft.cli import main
for given in json.loads(sys.argv.pop(1)):
    sys.argv = ["speechft", *given]
    try: main()
    except SystemExit as stop: assert not stop.code, (given, stop.code)
"""


@pytest.mark.integration
def test_the_core_merges_inspects_and_converts(tmp_path: Path) -> None:
    """With every module refused that the core's own requirements do not bring."""
    core = _closure(PROJECT["dependencies"]) | {"speechft", "setuptools"}
    assert {"torch", "tokenizers", "jinja2"} <= core
    assert not {"matplotlib", "peft", "pyarrow", "optuna", "scikit-learn"} & core
    owners = packages_distributions().items()
    refused = sorted(m for m, names in owners if not set(map(requirement_name, names)) & core)
    assert {"matplotlib", "peft", "sklearn", "optuna"} <= set(refused)
    encoder = speech_encoder("hubert")
    encoder.save(tmp_path / "base")
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.1 * parameter.std(correction=0) * torch.randn_like(parameter))
    encoder.save(tmp_path / "tuned")
    places = {name: str(tmp_path / name) for name in ("base", "tuned", "merged", "out.pt", "back")}
    verbs = [
        ["merge", places["base"], places["tuned"], "--alpha", "0.25", "--out", places["merged"]],
        ["inspect", places["merged"]],
        ["convert", places["merged"], places["out.pt"]],
        ["convert", places["out.pt"], places["back"]],
        ["doctor", "--json"],
    ]
    child = Child(BLOCK, [json.dumps(refused), json.dumps(verbs)], tmp_path)
    code, out, err = child.wait()
    assert code == 0, err
    assert out.count("equal to the bit") == 2
    assert distribution("torch").version in out
