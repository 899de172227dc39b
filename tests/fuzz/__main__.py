"""The long fuzz: ``make fuzz MINUTES=30`` generates and runs cases, and prints what they did."""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from fuzz import fixtures as made
from fuzz.cases import Case
from fuzz.changes import OUTSIDE
from fuzz.strategies import STRATEGIES, generate
from fuzz.watch import Outcome, Runner


def place_of(outcome: Outcome) -> str:
    """Return what tells one finding from another: the last lines of a traceback in `speechft`."""
    lines = re.findall(r'File ".*?/(speechft/[^"]*)", line (\d+)', outcome.told)
    last = outcome.told.strip().split("\n")[-1].split(":")[0][:80]
    where = ":".join(lines[-1]) if lines else ""
    extra = [*outcome.executions, *outcome.writes, *outcome.reads, *outcome.sockets][:1]
    return f"{outcome.result} {where} {last if outcome.result != 'ok' else ''} {extra or ''}"


def rounds(fixtures: Path, kinds: list[str], start: int, size: int) -> Iterator[tuple[str, Case]]:
    """Yield cases of all kinds in turn, without end."""
    while True:
        for kind in kinds:
            for case in generate(kind, fixtures, size, start):
                yield kind, case
        start += 1


def main() -> int:
    """Run for some minutes; 1 where a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--inputs", type=int, default=1_000_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--round", type=int, default=40, help="Cases of a kind in a row.")
    parser.add_argument("--kinds", default=",".join(STRATEGIES))
    parser.add_argument("--found", type=Path, help="Folder for cases that broke a promise.")
    given_ = parser.parse_args()
    warnings.simplefilter("ignore")
    end = time.monotonic() + 60 * given_.minutes
    results: Counter[str] = Counter()
    places: dict[str, int] = Counter()
    slowest, peak, inputs = (0.0, ""), (0, ""), 0
    with tempfile.TemporaryDirectory(prefix="fuzz-fixtures-") as text:
        fixtures = Path(text)
        made.build(fixtures)
        outside = Path(OUTSIDE)
        outside.mkdir(exist_ok=True)
        (outside / "secret").write_text("secret")
        runner = Runner(fixtures)
        for kind, case in rounds(fixtures, given_.kinds.split(","), given_.seed, given_.round):
            if time.monotonic() > end or inputs >= given_.inputs:
                break
            outcome = runner.run(case)
            results["asked"] += bool(outcome.asked)
            inputs += 1
            results[outcome.result] += 1
            for name in ("executions", "writes", "reads", "sockets"):
                results[name] += bool(getattr(outcome, name))
            slowest = max(slowest, (outcome.seconds, f"{kind} {case.target}"))
            peak = max(peak, (outcome.memory, f"{kind} {case.target}"))
            if outcome.bad or outcome.seconds > 8:
                place = f"{kind}/{case.target}: {place_of(outcome)}"
                if place not in places:
                    print(f"--- {place}\n{outcome.told[-1500:]}", flush=True)
                    if given_.found is not None:
                        given_.found.mkdir(parents=True, exist_ok=True)
                        name = hashlib.sha256(place.encode()).hexdigest()[:12]
                        (given_.found / f"{kind}-{name}.json").write_text(case.as_text())
                places[place] += 1
        runner.close()
    print(f"inputs {inputs:,}, of them accepted {results['ok']:,}, refused {results['refused']:,}")
    print(
        f"executions {results['executions']}, writes outside {results['writes']}, reads outside "
        f"{results['reads']}, sockets {results['sockets']} (and {results['asked']} for an address "
        f"or hub id on the command line), tracebacks {results['traceback']}, "
        f"hangs {results['hang']}, killed {results['killed']}"
    )
    print(f"slowest {slowest[0]:.1f} s ({slowest[1]})")
    print(f"peak memory {peak[0] / 2**20:.0f} MB ({peak[1]})")
    for place, count in sorted(places.items(), key=lambda item: -item[1]):
        print(f"{count:6d} {place}")
    return int(bool(places))


if __name__ == "__main__":
    sys.exit(main())
