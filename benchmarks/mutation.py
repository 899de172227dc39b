"""Mutation testing: of a seeded sample of small errors put into the code, how many do tests notice?

    python benchmarks/mutation.py [--count 300] [--seed 0] [--out runs/mutation] [--again]

A mutant is one change of a module's syntax tree: a comparison, an operator, a constant, a
condition, a result. Messages, docstrings, annotations and declarations are left alone. One run of
the tests notes which test reaches which line; a mutant is then tried with those alone, the quickest
first, in a child forked from a process that has imported the heavy libraries. It is killed by a
test that fails or by one that does not end. Rows lie in ``OUT/mutants.jsonl``, and a further call
goes on with what is missing; ``--again`` tries the survivors anew, with tests that were added or
with more ``--seconds``.
"""

from __future__ import annotations

import argparse
import ast
import collections
import copy
import importlib.machinery
import json
import math
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "speechft"
GROUPS: dict[str, tuple[tuple[str, ...], tuple[str, ...], int]] = {
    "merging": (("merging/**/*.py",), ("tests/merging",), 50),
    "phases and schedules": (
        ("finetuning/phases.py", "finetuning/schedules.py", "finetuning/layers.py"),
        tuple(f"tests/finetuning/test_{name}.py" for name in ("phases", "schedules", "layers")),
        15,
    ),
    "metrics": (
        ("tasks/metrics/*.py", "tasks/measures.py"),
        (
            *("tests/tasks/metrics", "tests/tasks/test_measures.py", "tests/tasks/test_turns.py"),
            "tests/evaluation/test_score.py",
        ),
        20,
    ),
    "score and intervals": (
        ("evaluation/score.py", "evaluation/superb_score.py"),
        ("tests/evaluation/test_score.py", "tests/evaluation/test_superb_score.py"),
        15,
    ),
}
"""Files that are changed, tests that have to notice, and their share of the sample in percent."""

SWAPPED: dict[type, type] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any"}
SPOKEN = {"log", "warn", "ConfigError", "CheckpointError", "LineageError", "RunError", "DataError"}
"""Calls whose arguments are messages."""


@dataclass(frozen=True)
class Mutant:
    """One change: in which file, at which place of its tree, and what it says."""

    group: str
    file: str
    number: int
    line: int
    change: str

    @property
    def key(self) -> str:
        """Name of its row."""
        return f"{self.file}:{self.line}:{self.number}"


def changes(tree: ast.Module) -> Iterator[tuple[ast.AST, Callable[[], None], str]]:
    """Yield every change of a tree: the node, what makes it (for good), and what it says."""
    for node in _code(tree):
        if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPPED:
            new = SWAPPED[type(node.ops[0])]
            name = f"{type(node.ops[0]).__name__} to {new.__name__}"
            yield node, lambda n=node, o=new: n.ops.__setitem__(0, o()), name
        elif isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign) and type(node.op) in SWAPPED:
            new = SWAPPED[type(node.op)]
            name = f"{type(node.op).__name__} to {new.__name__}"
            yield node, lambda n=node, o=new: setattr(n, "op", o()), name
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
            new = ast.UAdd if isinstance(node.op, ast.USub) else None
            name = f"{type(node.op).__name__} removed"
            if new:
                yield node, lambda n=node, o=new: setattr(n, "op", o()), name
            else:
                yield node, lambda n=node: _become(n, n.operand), name
        elif isinstance(node, ast.Constant) and type(node.value) in (int, float, bool):
            value = node.value
            other = not value if isinstance(value, bool) else value + 1
            yield node, lambda n=node, v=other: setattr(n, "value", v), f"{value} to {other}"
        elif isinstance(node, ast.If | ast.IfExp | ast.While):
            yield node, lambda n=node: setattr(n, "test", _negated(n.test)), "condition negated"
        elif isinstance(node, ast.comprehension) and node.ifs:
            yield (
                node.ifs[0],
                lambda n=node: n.ifs.__setitem__(0, _negated(n.ifs[0])),
                "filter negated",
            )
        elif isinstance(node, ast.Return) and node.value is not None:
            if not (isinstance(node.value, ast.Constant) and node.value.value is None):
                yield node, lambda n=node: setattr(n, "value", _none(n)), "returns None"
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield node, lambda n=node: setattr(n, "value", _none(n)), "call removed"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in NAMES:
                new = NAMES[node.func.id]
                name = f"{node.func.id} to {new}"
                yield node, lambda n=node, i=new: setattr(n.func, "id", i), name
        elif isinstance(node, ast.Continue | ast.Break):
            yield node, lambda n=node: _become(n, ast.Pass()), "jump removed"


def _code(node: ast.AST) -> Iterator[ast.AST]:
    """Walk what computes: no annotation, declaration, message, import, decorator or docstring."""
    for name, field in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_params"):
            continue
        for child in field if isinstance(field, list) else [field]:
            if not isinstance(child, ast.AST) or _is_spoken(child):
                continue
            yield child
            yield from _code(child)


def _is_spoken(node: ast.AST) -> bool:
    if isinstance(node, ast.Import | ast.ImportFrom | ast.JoinedStr | ast.Raise | ast.Assert):
        return True
    if isinstance(node, ast.Expr):
        node = node.value
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name):
        return node.test.id == "TYPE_CHECKING"
    called = node.func if isinstance(node, ast.Call) else None
    return isinstance(called, ast.Name) and called.id in SPOKEN


def _negated(test: ast.expr) -> ast.expr:
    return ast.copy_location(ast.UnaryOp(ast.Not(), test), test)


def _none(node: ast.AST) -> ast.expr:
    return ast.copy_location(ast.Constant(None), node)


def _become(node: ast.AST, other: ast.AST) -> None:
    """Turn a node into another one in its place."""
    node.__class__ = other.__class__  # type: ignore[assignment]
    node.__dict__.update(other.__dict__)


def mutants(group: str) -> list[Mutant]:
    """Return every mutant of a group's files."""
    found = []
    for pattern in GROUPS[group][0]:
        for path in sorted(SOURCE.glob(pattern)):
            for number, (node, _, change) in enumerate(changes(ast.parse(path.read_text()))):
                name = str(path.relative_to(SOURCE))
                found.append(Mutant(group, name, number, node.lineno, change))
    return found


def sample(count: int, seed: int) -> list[Mutant]:
    """Return the seeded sample, each group with its share."""
    chosen = []
    for group, (_, _, share) in GROUPS.items():
        every = mutants(group)
        generator = random.Random(f"{seed}:{group}")
        chosen += generator.sample(every, min(len(every), round(count * share / 100)))
    return chosen


def mutated(mutant: Mutant) -> ast.Module:
    """Return the changed tree of a mutant's file."""
    tree = ast.parse((SOURCE / mutant.file).read_text())
    for number, (_, make, _) in enumerate(changes(tree)):
        if number == mutant.number:
            make()
            return ast.fix_missing_locations(tree)
    raise ValueError(mutant)


class Reach:
    """A plugin of pytest that notes which lines of which files each test reaches, and its time."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._lines: set[tuple[str, int]] = set()
        self._filter: dict[Any, bool] = {}
        self.tests: dict[str, dict[str, Any]] = {}
        self.failed: list[str] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Note what a phase of a test reached; pytest calls this."""
        own = self.tests.setdefault(report.nodeid, {"seconds": 0.0, "lines": [], "setup": []})
        own["seconds"] += report.duration
        if report.failed:
            self.failed.append(report.nodeid)
        elif report.when in ("setup", "call"):
            key = "setup" if report.when == "setup" else "lines"
            own[key] = sorted(f"{Path(f).relative_to(SOURCE)}:{n}" for f, n in self._lines)
        self._lines.clear()

    def trace(self, frame: FrameType, event: str, _: Any) -> Any:
        """Note a line of the code in question; Python calls this for every function."""
        code = frame.f_code
        wanted = self._filter.get(code)
        if wanted is None:
            name = code.co_filename
            wanted = self._filter[code] = name.startswith(self._prefix)
        if not wanted:
            return None
        self._lines.add((code.co_filename, frame.f_lineno))
        return self._line

    def _line(self, frame: FrameType, event: str, _: Any) -> Any:
        self._lines.add((frame.f_code.co_filename, frame.f_lineno))
        return self._line


def in_child(work: Callable[[], int], seconds: float) -> int | None:
    """Return the exit code of a forked child that does the work; None when it did not end.

    Args:
        work: What it does.
        seconds: Of the processor; ten times as long on the clock, since others may compute too.
    """
    pid = os.fork()
    if not pid:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(seconds), resource.RLIM_INFINITY))
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        try:
            os._exit(work())
        except BaseException:
            Path(tempfile.gettempdir(), "mutation-error.txt").write_text(traceback.format_exc())
            os._exit(90)
    end = time.monotonic() + 10 * seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return None if code == -signal.SIGXCPU else code
        time.sleep(0.02)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def pytest_run(arguments: list[str], *plugins: object) -> int:
    """Run pytest in this process with temporary files of its own."""
    import pytest

    folder = tempfile.mkdtemp(prefix="mutant-")
    try:
        usual = ["-q", "-x", "-p", "no:cacheprovider", "--no-header", "--tb=no"]
        return int(pytest.main([*usual, f"--basetemp={folder}/t", *arguments], [*plugins]))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def reach(out: Path) -> dict[str, dict[str, Any]]:
    """Run the tests of all groups once, unchanged, and return what each of them reaches."""
    out.mkdir(parents=True, exist_ok=True)
    for index, (group, (_, tests, _)) in enumerate(GROUPS.items()):
        place = out / f"reach-{index}.json"
        if place.exists():
            continue

        def work(tests: tuple[str, ...] = tests, place: Path = place) -> int:
            plugin = Reach(str(SOURCE))
            threading.settrace(plugin.trace)
            sys.settrace(plugin.trace)
            code = pytest_run(["--maxfail=1000", *tests], plugin)
            sys.settrace(None)
            kept = {n: t for n, t in plugin.tests.items() if n not in plugin.failed}
            place.write_text(json.dumps(kept))
            return 0 if code in (0, 1) else code

        began = time.monotonic()
        code = in_child(work, 1800)
        print(f"{group}: tests unchanged, {time.monotonic() - began:.0f} s", flush=True)
        if code != 0:
            sys.exit(f"the tests of {group} did not run: {code}")
    found: dict[str, dict[str, Any]] = {}
    for index in range(len(GROUPS)):
        found |= json.loads((out / f"reach-{index}.json").read_text())
    return found


def tests_for(mutant: Mutant, known: dict[str, dict[str, Any]], most: float) -> list[str]:
    """Return the tests that reach a mutant, quickest first, of ``most`` seconds together.

    A line that runs in a fixture counts for every test of that file, and one that runs on import,
    or once for all tests, for every test that reaches the module.
    """
    tree = ast.parse((SOURCE / mutant.file).read_text())
    spans = [
        (node.lineno, node.end_lineno or node.lineno)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.Lambda)
    ]
    in_function = any(first <= mutant.line <= last for first, last in spans)
    wanted = {f"{mutant.file}:{n}" for n in _statement(tree, mutant.line)}
    start = mutant.file + ":"
    chosen, around, files = set(), set(), set()
    for name, test in known.items():
        if in_function:
            if wanted & set(test["setup"]):
                files.add(name.split("::")[0])
            if wanted & set(test["lines"]):
                chosen.add(name)
        if any(line.startswith(start) for line in (*test["lines"], *test["setup"])):
            around.add(name)
    if len(chosen) < 2:
        chosen |= around
    chosen |= {name for name in known if name.split("::")[0] in files}
    ordered, seconds = [], 0.0
    for name in sorted(chosen, key=lambda n: known[n]["seconds"]):
        seconds += known[name]["seconds"]
        if seconds > most and ordered:
            break
        ordered.append(name)
    return ordered


def _statement(tree: ast.Module, line: int) -> range:
    """Return the lines of the smallest statement around a line; of a compound one, its head."""
    best = range(line, line + 1)
    size = 10**9
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            last = body[0].lineno - 1 if body else node.end_lineno or node.lineno
            last = max(last, node.lineno)
            if node.lineno <= line <= last and last - node.lineno < size:
                best, size = range(node.lineno, last + 1), last - node.lineno
    return best


def put_in(mutant: Mutant) -> None:
    """Have this process import the mutant in place of its file."""
    tree, path = mutated(mutant), str(SOURCE / mutant.file)
    usual = importlib.machinery.SourceFileLoader.get_code

    def get_code(self: Any, name: str) -> Any:
        if getattr(self, "path", None) == path:
            return compile(copy.deepcopy(tree), path, "exec", dont_inherit=True)
        return usual(self, name)

    importlib.machinery.SourceFileLoader.get_code = get_code  # type: ignore[method-assign]


def attempt(mutant: Mutant, known: dict[str, dict[str, Any]], most: float) -> dict[str, Any]:
    """Try one mutant and return its row."""
    tests = tests_for(mutant, known, most)
    row = {**asdict(mutant), "key": mutant.key, "tests": len(tests)}
    if not tests:
        return {**row, "state": "not reached"}

    def work() -> int:
        put_in(mutant)
        return pytest_run(tests)

    expected = sum(known[name]["seconds"] for name in tests)
    began = time.monotonic()
    code = in_child(work, 30 + 5 * expected)
    state = {0: "survived", None: "killed: no end"}.get(code, "killed")
    return {**row, "state": state, "seconds": round(time.monotonic() - began, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/mutation"))
    parser.add_argument("--seconds", type=float, default=40, help="of tests at most, a mutant")
    parser.add_argument("--again", action="store_true", help="try survivors anew")
    parser.add_argument("--nice", type=int, default=19, help="of this process and its children")
    options = parser.parse_args()
    os.nice(options.nice)
    os.chdir(ROOT)
    sys.path.insert(0, str(SOURCE.parent))
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # they would be imported too late
    sys.dont_write_bytecode = True
    import accelerate  # noqa: F401 - imported before the children are forked
    import hypothesis  # noqa: F401
    import lhotse  # noqa: F401
    import pydantic  # noqa: F401
    import sklearn.metrics  # noqa: F401
    import torch
    import transformers.models.hubert.modeling_hubert
    import transformers.models.wavlm.modeling_wavlm  # noqa: F401

    torch.set_num_threads(1)
    chosen = sample(options.count, options.seed)
    known = reach(options.out)
    place = options.out / "mutants.jsonl"
    rows = [json.loads(line) for line in place.read_text().splitlines()] if place.exists() else []
    rows = [r for r in rows if not options.again or r["state"].startswith("killed")]
    place.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = {row["key"] for row in rows}
    for mutant in random.Random(1).sample(chosen, len(chosen)):
        if mutant.key not in done:
            rows.append(attempt(mutant, known, options.seconds))
            with open(place, "a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    for group in (*GROUPS, None):
        own = [r["state"].split(":")[0] for r in rows if group in (None, r["group"])]
        counts = collections.Counter(own)
        share = 100 * counts["killed"] / max(1, len(own))
        print(f"{group or 'all'}: {share:.1f} % of {len(own)} killed; {dict(counts)}")
    for row in rows:
        if not row["state"].startswith("killed"):
            print(f"  {row['state']}: {row['file']}:{row['line']} {row['change']}")


if __name__ == "__main__":
    main()
