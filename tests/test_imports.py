"""No circle among files: what imports what, at the top of a file, within functions or lazily.

A circle of two files is one file in two places: neither can be read, tested or moved alone. Counted
is what may run: imports in functions too, and the tables of packages that import on demand.
Imports for type checkers only (``if TYPE_CHECKING``) run never and are left out.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parent.parent / "src"

Graph = dict[str, dict[str, int]]
"""Module to what it imports, with the line that does."""


def read_graph(folder: Path) -> Graph:
    """Return the imports among all modules below a folder of packages."""
    files = {_name(path.relative_to(folder)): path for path in sorted(folder.rglob("*.py"))}
    return {name: dict(sorted(_imports(name, path, files).items())) for name, path in files.items()}


def _name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(name: str, path: Path, files: dict[str, Path]) -> dict[str, int]:
    tree = ast.parse(path.read_text())
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    # a module with __getattr__ imports on demand what it declares to type checkers
    on_demand = any(isinstance(n, ast.FunctionDef) and n.name == "__getattr__" for n in tree.body)
    # where the name of what is imported is made at run time, it is among the file's strings
    words = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
    tails = {str(word).replace("-", "_") for word in words}
    found: dict[str, int] = {}
    for node in _that_runs(tree, on_demand):
        for target in _targets(node, name, package, files, tails):
            if target != name or path.name != "__init__.py":
                found.setdefault(target, node.lineno)
    return found


def _that_runs(node: ast.AST, on_demand: bool) -> Iterator[ast.stmt | ast.Call]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom | ast.Call):
            yield child
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for part in child.body if on_demand else child.orelse:
                yield from _that_runs(ast.Module([part], []), on_demand)
        else:
            yield from _that_runs(child, on_demand)


def _targets(
    node: ast.AST, name: str, package: str, files: dict[str, Path], tails: set[str]
) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names if alias.name in files]
    if isinstance(node, ast.ImportFrom):
        up = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        origin = ".".join([*up, *filter(None, [node.module])])
        whole = [f"{origin}.{alias.name}" for alias in node.names]
        return [full if full in files else origin for full in whole if {full, origin} & set(files)]
    if not (isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module")):
        return []
    text = ast.unparse(node.args[0]).lstrip("f").strip("'\"").replace("{__name__}", name)
    stem, made, _ = text.partition("{")
    return [file for file in ({stem + tail for tail in tails} if made else {text}) if file in files]


def circles(graph: Graph) -> list[list[str]]:
    """Return the groups of modules that reach each other, largest first (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for target in graph[module]:
            if target not in index:
                visit(target)
                low[module] = min(low[module], low[target])
            elif target in stack:
                low[module] = min(low[module], index[target])
        if low[module] == index[module]:
            group = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(group) > 1 or module in graph[module]:
                found.append(sorted(group))

    for module in graph:
        if module not in index:
            visit(module)
    return sorted(found, key=lambda group: (-len(group), group))


def report(graph: Graph, groups: list[list[str]]) -> str:
    """Return every import within the circles, a line each."""
    lines = []
    for group in groups:
        lines.append(f"circle of {len(group)} files:")
        lines += [
            f"  {module}:{line} imports {target}"
            for module in group
            for target, line in graph[module].items()
            if target in group
        ]
    return "\n".join(lines)


@pytest.fixture(scope="module")
def graph() -> Graph:
    return read_graph(SRC)


def test_no_file_imports_its_own_importers(graph: Graph) -> None:
    found = circles(graph)
    assert not found, report(graph, found)


def test_what_counts_as_an_import(tmp_path: Path) -> None:
    files = {
        "p/__init__.py": "",
        "p/top.py": "import p.low",
        "p/low.py": "def f():\n    from . import top",
        "p/typed.py": "if TYPE_CHECKING:\n    from p.user import x",
        "p/user.py": "from p.typed import y",
        "p/lazy/__init__.py": "import importlib\nif TYPE_CHECKING:\n    from p.lazy.a import x\n"
        "def __getattr__(name):\n    return importlib.import_module('p.other')",
        "p/lazy/a.py": "from p.lazy import x",
        "p/other.py": "",
        "p/table/__init__.py": "NAMES = ('one-more',)\ndef load(name):\n"
        "    return importlib.import_module(f'{__name__}.{tidy(name)}')",
        "p/table/one_more.py": "from ..table import load",
        "p/table/two.py": "from ..table import load",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = read_graph(tmp_path)
    assert found["p.lazy"].keys() == {"p.lazy.a", "p.other"}
    assert circles(found) == [
        ["p.lazy", "p.lazy.a"],
        ["p.low", "p.top"],
        ["p.table", "p.table.one_more"],
    ]
    assert "p.low:2 imports p.top" in report(found, circles(found))
