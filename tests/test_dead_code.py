"""No code that only tests run: what the product does not use is deleted, or the product uses it.

Code with no caller but tests is worse than none: it is tested in place of what users run. A
name counts as used where src, studies, benchmarks or a template read it, outside of what is
itself unused; strings that are a name and nothing else count, for tables name what they import.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PUBLIC = ("speechft", "speechft/merging", "speechft/tasks/metrics")
"""Packages whose ``__all__`` users import."""

DOCUMENTED = {"from_s3prl": "docs/superb.md"}
"""Further names that users import, and where they are told to."""

KNOWN: set[str] = set()
"""Unused for now, as ``file:name``; what is used or gone must be taken from here."""


@dataclass(frozen=True)
class Definition:
    """A function, class, method or constant at some place in a file."""

    file: str
    name: str
    lines: range
    owner: str | None
    """Class that it is a method of."""

    def __str__(self) -> str:
        return f"{self.file}:{self.owner}.{self.name}" if self.owner else f"{self.file}:{self.name}"

    def place(self) -> set[tuple[str, int]]:
        return {(self.file, line) for line in self.lines}


@dataclass(frozen=True)
class Code:
    """What is defined, and every place where a name is read."""

    defined: list[Definition]
    read: list[tuple[str, str, int]]
    """Name, file and line."""
    public: set[str]


def read_code(src: Path, *users: Path) -> Code:
    """Read the definitions below ``src`` and what is read there and by the users."""
    code = Code([], [], set(DOCUMENTED))
    for folder in (src, *users):
        for path in sorted(folder.rglob("*.py")):
            tree = ast.parse(path.read_text())
            file = path.relative_to(folder if folder == src else folder.parent).as_posix()
            code.read.extend((name, file, line) for name, line in _reads(tree))
            if folder == src:
                code.defined.extend(_definitions(tree, file))
                if path.name == "__init__.py" and path.parent.relative_to(src).as_posix() in PUBLIC:
                    code.public.update(_exported(tree))
        for path in sorted(folder.rglob("*.jinja")):
            code.read.extend((name, path.name, 0) for name in re.findall(r"\w+", path.read_text()))
    return code


def _exported(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            yield from ast.literal_eval(node.value)


def _definitions(node: ast.AST, file: str, owner: str | None = None) -> Iterator[Definition]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef) and not (
            child.name.startswith("__") or _is_handed_over(child)
        ):
            yield Definition(file, child.name, _lines(child), owner)
        elif isinstance(child, ast.ClassDef):
            yield Definition(file, child.name, _lines(child), owner)
            if not any("." in ast.unparse(base) for base in child.bases):
                # a library calls the methods of its own classes by itself, such as forward
                yield from _definitions(child, file, child.name)
        elif isinstance(child, ast.Assign | ast.AnnAssign) and owner is None:
            targets = child.targets if isinstance(child, ast.Assign) else [child.target]
            for target in targets:
                if isinstance(target, ast.Name) and not target.id.startswith("__"):
                    yield Definition(file, target.id, _lines(child), owner)


def _is_handed_over(node: ast.FunctionDef) -> bool:
    """Return whether a decorator gives the function to somebody: a command, a validator."""
    decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
    return any(("." in d or "(" in d) and not d.startswith("functools.") for d in decorators)


def _lines(node: ast.stmt) -> range:
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)


def _reads(tree: ast.Module) -> Iterator[tuple[str, int]]:
    lists = [n.value for n in tree.body if isinstance(n, ast.Assign) and _is_all(n)]
    skipped = {id(item) for value in lists for item in ast.walk(value)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            yield node.attr, node.lineno
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in skipped
            and re.fullmatch(r"[\w.:]+", node.value)
        ):
            yield from ((word, node.lineno) for word in re.split(r"[.:]", node.value))


def _is_all(node: ast.Assign) -> bool:
    return ast.unparse(node.targets[0]) == "__all__"


def unused(code: Code) -> list[Definition]:
    """Return what is not read by code that runs: at the top of files, or within what is used."""
    holder: dict[tuple[str, int], Definition] = {}
    for definition in sorted(code.defined, key=lambda d: -len(d.lines)):
        holder.update(dict.fromkeys(definition.place(), definition))
    read_in: dict[Definition | None, set[str]] = defaultdict(set)
    for name, file, line in code.read:
        read_in[holder.get((file, line))].add(name)
    by_name: dict[str, list[Definition]] = defaultdict(list)
    for definition in code.defined:
        by_name[definition.name].append(definition)
    used: set[Definition] = {d for d in code.defined if code.public & {d.name, d.owner}}
    waiting = [d for name in read_in[None] for d in by_name[name]] + list(used)
    while waiting:
        definition = waiting.pop()
        used.add(definition)
        waiting += [d for name in read_in[definition] for d in by_name[name] if d not in used]
    return sorted(set(code.defined) - used, key=str)


@pytest.fixture(scope="module")
def dead() -> list[Definition]:
    return unused(read_code(ROOT / "src", ROOT / "studies", ROOT / "benchmarks"))


def test_everything_is_used(dead: list[Definition]) -> None:
    found = [f"{d}, {len(d.lines)} lines" for d in dead if str(d) not in KNOWN]
    assert not found, "only tests use this:\n" + "\n".join(found)


@pytest.mark.parametrize(("name", "place"), DOCUMENTED.items())
def test_what_is_public_by_documentation_is_documented(name: str, place: str) -> None:
    assert name in (ROOT / place).read_text()


def test_known_exceptions_are_still_needed(dead: list[Definition]) -> None:
    mended = KNOWN - {str(definition) for definition in dead}
    assert not mended, f"used or gone, take it from KNOWN: {sorted(mended)}"


def test_what_counts_as_used(tmp_path: Path) -> None:
    files = {
        "src/p/__init__.py": "from p.a import shown\n__all__ = ['shown', 'listed']",
        "src/p/a.py": "LIMIT = 3\ndef shown(): return LIMIT\ndef listed(): pass\n"
        "def alone(): return helper()\ndef helper(): return alone()\n"
        "def named(): pass\nclass Kept:\n    def used(self): pass\n"
        "    def unused(self): pass\n    @app.command()\n    def verb(self): pass\n"
        "    def written(self): pass\nclass Layer(nn.Module):\n    def forward(self): pass\n",
        "src/p/report.jinja": "{{ kept.written }}",
        "studies/s.py": "import p.a\np.a.Kept().used()\nTABLE = {'x': 'p.a:named'}\np.a.Layer",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = unused(read_code(tmp_path / "src", tmp_path / "studies"))
    names = ["LIMIT", "alone", "helper", "listed", "shown"]  # nobody outside uses p
    assert [str(d) for d in found] == ["p/a.py:Kept.unused", *(f"p/a.py:{n}" for n in names)]
