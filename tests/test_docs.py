"""Documentation that holds: every code block runs or is read, every link and page has a place.

A block of Python runs, and so does a block of commands behind ``<!-- run -->``, in a folder with
tiny encoders (base, tuned, other, merged), recordings and a table. What needs more says so in the
line above: ``<!-- needs: a hub model -->``. Commands are parsed in any case.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import speechft
from helpers import speech_encoder
from speechft import cli
from speechft.storage.documents import parse_json, parse_yaml
from test_commands import parse

ROOT = Path(__file__).parent.parent
PROGRAMS = {"speechft", "git", "make", "cd", "pip", "python", "accelerate", "export"}
"""What a block of commands may begin its lines with."""
PLAIN = {"text", "csv", "diff", "jsonl"}
"""Kinds of blocks that nobody can run."""
MARK = re.compile(r"<!-- (run|needs: [^>]+) -->")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    kind: str
    mark: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def commands(self) -> list[str]:
        """Return the commands of a block of commands, else none."""
        lines = self.text.replace("\\\n", " ").splitlines()
        lines = [line.removeprefix("$ ").split("  #")[0].strip() for line in lines]
        return [line for line in lines if re.match(r"speechft [a-z]", line)]


def pages() -> list[Path]:
    """Return what people read: the README and everything below ``docs``."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: str, text: str) -> Iterator[Block]:
    """Yield the fenced blocks of a page with the marks above them."""
    for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S):
        above = text[: found.start()].rstrip().rpartition("\n")[2]
        mark = MARK.fullmatch(above.strip())
        line = text.count("\n", 0, found.start()) + 1
        yield Block(page, line, found[1], mark[1] if mark else "", found[2])


BLOCKS = [
    block
    for path in pages()
    for block in blocks(path.relative_to(ROOT).as_posix(), path.read_text())
]
RUN = [b for b in BLOCKS if b.mark == "run" or (b.kind == "python" and not b.mark)]


def test_there_are_blocks_of_every_kind() -> None:
    assert len(BLOCKS) > 40
    assert {"run", "needs: minutes"} <= {block.mark for block in BLOCKS}
    fenced = sum(len(re.findall(r"^```", path.read_text(), re.M)) for path in pages())
    assert fenced == 2 * len(BLOCKS), "a fence that is not closed, or is indented"


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_is_known(block: Block) -> None:
    """Commands parse, Python compiles, YAML and JSON are such; an unmarked other kind fails."""
    if block.kind in ("bash", "sh", "console"):
        for line in block.text.replace("\\\n", " ").splitlines():
            words = line.removeprefix("$ ").split("  #")[0].split()
            assert not words or words[0] in PROGRAMS or line.startswith("#"), line
    elif block.kind == "python":
        ast.parse(block.text)
    elif block.kind == "yaml":
        assert isinstance(parse_yaml(block.text), dict)
    elif block.kind == "json":
        parse_json(block.text)
    elif block.kind:
        assert block.kind in PLAIN, f"say {sorted(PLAIN)}, or teach this test to try it"
    for command in block.commands:
        words = shlex.split(re.split(r"\s(?:&&|\||>)\s", command)[0])
        if not {"--help", "..."} & set(words):
            parse(shlex.join(words))
    if block.mark == "run":
        assert block.commands or block.kind == "python", "there is nothing to run"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with what the pages speak of."""
    folder = tmp_path_factory.mktemp("docs")
    base = speech_encoder("hubert")
    base.save(folder / "base")
    for seed, name in enumerate(("tuned", "other")):
        generator = torch.Generator().manual_seed(seed)
        tuned = speech_encoder("hubert")
        with torch.no_grad():
            for parameter in tuned.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(0.1 * parameter.std(correction=0) * noise)
        tuned.save(folder / name)
    speechft.merge(folder / "base", folder / "tuned", alpha=0.5, out=folder / "merged")
    (folder / "recordings").mkdir()
    rows = ["path,split,speaker"]
    for number, split in enumerate(("train", "dev", "test")):
        noise = 0.1 * np.random.default_rng(number).standard_normal(8_000)
        soundfile.write(folder / "recordings" / f"{number}.wav", noise, 16_000)
        rows.append(f"recordings/{number}.wav,{split},ann")
    (folder / "my.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.mark.parametrize("block", RUN, ids=str)
def test_a_block_runs(
    block: Block,
    workplace: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(workplace, tmp_path, dirs_exist_ok=True)
    if re.search(r"""--out merged|out=["']merged""", block.text):
        shutil.rmtree(tmp_path / "merged")
    monkeypatch.chdir(tmp_path)
    if block.kind == "python":
        exec(compile(block.text, str(block), "exec"), {"__name__": "__main__"})
        return
    for command in block.commands:
        monkeypatch.setattr(sys, "argv", shlex.split(command))
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        assert code == 0, (command, capsys.readouterr().err)


def test_what_is_marked_to_need_something_says_what() -> None:
    needs = {block.mark.removeprefix("needs: ") for block in BLOCKS if "needs" in block.mark}
    assert needs <= {"minutes", "hours", "corpora, a GPU", "corpora", "a hub model", "its context"}


def test_blocks_are_found_with_their_marks() -> None:
    text = "a\n<!-- run -->\n```bash\nspeechft doctor  # look\n```\n\n```\nfree\n```\n"
    found = list(blocks("p.md", text))
    assert [(b.line, b.kind, b.mark, b.commands) for b in found] == [
        (3, "bash", "run", ["speechft doctor"]),
        (7, "", "", []),
    ]


@pytest.fixture(scope="module")
def site() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs", ROOT / "tools" / "documentation.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_has_one_place(site: ModuleType) -> None:
    def leaves(part: Any) -> Iterator[str]:
        if isinstance(part, str):
            yield part
            return
        for item in part.values() if isinstance(part, dict) else part:
            yield from leaves(item)

    placed = list(leaves(site.navigation()))
    written = {path.relative_to(ROOT / "docs").as_posix() for path in pages()[1:]}
    assert sorted(placed) == sorted(written | site.generated().keys())


def test_links_lead_somewhere(site: ModuleType) -> None:
    known = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.*")}
    texts = {path.relative_to(ROOT / "docs").as_posix(): path.read_text() for path in pages()[1:]}
    made = site.generated()
    broken = []
    for place, text in (texts | made).items():
        plain = re.sub(r"^```.*?^```$|`[^`\n]*`", "", text, flags=re.M | re.S)
        for link in re.findall(r"\]\(([^)#\s]+)", plain):
            target = os.path.normpath(Path(place).parent / link)
            if not re.match("[a-z]+:", link) and target not in known | made.keys():
                broken.append(f"{place}: {link}")
    for link in re.findall(r"\]\(([^)#\s]+)", (ROOT / "README.md").read_text()):
        if not re.match("[a-z]+:", link) and not (ROOT / link).exists():
            broken.append(f"README.md: {link}")
    assert broken == []


def test_the_reference_has_every_verb_and_option(site: ModuleType) -> None:
    page = site.command_page()
    for command in cli.app.registered_commands:
        assert command.callback is not None
        assert f"\n## {command.callback.__name__}\n" in page
    assert "| `--alpha` |" in page
    assert "```\nspeechft doctor --json\n```" in page
    public = site.python_page()
    shown = re.findall(r"^::: (\S+)$", public, re.M)
    named = set(speechft.__all__) - {"errors", "tasks", "__version__"}
    assert len(shown) > len(named)
    for place in shown:
        module, _, attribute = place.rpartition(".")
        assert getattr(importlib.import_module(module), attribute).__doc__


def test_walk_throughs_show_their_patches_whole(site: ModuleType) -> None:
    additions = {path.stem for path in (ROOT / "tests" / "additions").glob("*.patch")}
    assert site.ADDITIONS.keys() == additions
    for name in additions:
        patch = (ROOT / "tests" / "additions" / f"{name}.patch").read_text()
        page = site.addition_page(name)
        for line in patch.splitlines():
            if line.startswith("+") and not line.startswith("+++"):
                assert line[1:] in page


def test_a_page_that_asks_another_host_is_found(site: ModuleType) -> None:
    page = '<a href="https://x.y"></a><link rel="canonical" href="https://x.y"><img src="a.png">'
    assert site.foreign(page) == []
    for asks in ('<script src="//cdn.x/a.js"></script>', "<link rel=stylesheet href=https://f.x>"):
        assert len(site.foreign(page + asks)) == 1


def test_pictures_are_what_the_script_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "studies"))
    pictures = importlib.import_module("pictures")
    table = pictures.rows()
    pictures.why_stable(table).save(tmp_path / "a.svg")
    pictures.superb(table).save(tmp_path / "b.svg")
    for drawn, name in (("a", "why-stable"), ("b", "superb")):
        kept = (ROOT / "docs" / "concepts" / f"{name}.svg").read_text()
        assert (tmp_path / f"{drawn}.svg").read_text() == kept


NOTEBOOK = ROOT / "docs" / "notebooks" / "retrofit.ipynb"


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cells in order, as Jupyter would run them, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    book = json.loads(NOTEBOOK.read_text())
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(book["cells"]):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
    assert (tmp_path / "merged" / "model.safetensors").is_file()
    assert NOTEBOOK.stat().st_size < 100_000
    assert all(not cell.get("outputs") for cell in book["cells"])


def test_the_citation_is_whole() -> None:
    told = parse_yaml((ROOT / "CITATION.cff").read_text())
    assert str(told["version"]) == speechft.__version__
    assert told["cff-version"] == "1.2.0"
    paper = told["preferred-citation"]
    assert [author["family-names"] for author in paper["authors"]] == [
        "Lin",
        "Huang",
        "Tang",
        "Lee",
    ]
    assert "2502.12672" in paper["url"]


def test_issue_templates_are_forms() -> None:
    kinds = {"textarea", "input", "checkboxes", "markdown", "dropdown"}
    for path in sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")):
        form = parse_yaml(path.read_text())
        if path.stem != "config":
            assert form.keys() >= {"name", "description", "body"}, path.name
            assert {part["type"] for part in form["body"]} <= kinds
            assert len({part["id"] for part in form["body"]}) == len(form["body"])


def test_the_changelog_has_its_form() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## (.*)$", text, re.M)
    assert versions[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", v) for v in versions[1:])
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.*)$", text, re.M)) <= kinds


def test_the_tree_of_the_readme_names_every_room() -> None:
    text = (ROOT / "README.md").read_text()
    rooms = {
        path.name for path in (ROOT / "src/speechft").iterdir() if (path / "__init__.py").is_file()
    }
    assert {room for room in rooms if f" {room}/" not in text} == set()
    files = {path.name for path in (ROOT / "src/speechft").glob("[a-z]*.py")} - {"version.py"}
    assert {file for file in files if f" {file} " not in text} == set()


def test_the_readme_names_every_verb() -> None:
    text = (ROOT / "README.md").read_text()
    verbs = {c.callback.__name__ for c in cli.app.registered_commands if c.callback is not None}
    assert {v for v in verbs if f"speechft {v}" not in text and f"make {v}" not in text} == set()
