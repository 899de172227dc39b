"""Run the evidence: every unit of ``DESIGN.md`` that has no rows yet, one after the other.

    python studies/evidence.py                    # all that is left, in the order that matters
    python studies/evidence.py --processes 2      # two at a time; more can be started beside them
    python studies/evidence.py --list             # what is there, what is left, and what it costs

Rows go to ``studies/evidence/``, a file a unit, whole or not at all. Interrupt it and run it again,
here or on another machine, and it goes on with the next unit that has no rows of this design; tuned
encoders are kept in ``--out`` and found again. Any number of processes may run beside one another:
each takes units that no other is at (``speechft status OUT`` shows them). While a file
``runs/pause`` exists, all of them stand still. Commit rows together with what
``studies/evidence_table.py`` makes of them: a test compares.

Each process has one thread, a low priority, and instructions pinned to AVX2, so that figures of
processors of one kind are the same to the bit.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from evidence_units import ROWS, STUDY, Unit, all_units, design
from rows import Rows, is_measured, kept_base, write_measured

PINNED = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "MKL_CBWR": "AVX2",
    "PYTHONHASHSEED": "0",
}
"""Environment of whatever computes."""
NICE = 10
PAUSE = Path("runs/pause")
CHILD = "EVIDENCE_CHILD"


def chosen(arguments: Any) -> list[Unit]:
    """Return the units that were asked for, in order."""
    return [
        unit
        for unit in all_units()
        if (not arguments.lineages or unit.lineage in arguments.lineages)
        and (unit.tier in arguments.tier)
        and (not arguments.units or any(part in unit.name for part in arguments.units))
    ]


def is_done(unit: Unit) -> bool:
    """Return whether the rows of a unit are there, of this design."""
    return is_measured(ROWS / f"{unit.name}.jsonl", {"design": design(), **unit.stamp()})


def show(units: Sequence[Unit]) -> None:
    """Print what is there and what the rest costs."""
    waiting, without = [], []
    for unit in units:
        state = "done"
        if kept_base(unit.lineage) is None:
            without.append(unit)
            state = "waits for its base"
        elif not is_done(unit):
            waiting.append(unit)
            state = f"{unit.minutes:g} min"
        print(f"{unit.tier} {unit.name}: {state}")
    print(left_words(waiting, without))


def left_words(waiting: Sequence[Unit], without: Sequence[Unit] = ()) -> str:
    """Return in words what is left to do."""
    hours = sum(unit.minutes for unit in waiting) / 60
    text = f"{len(waiting)} units left, about {hours:.1f} hours of one core"
    if without:
        later = sum(unit.minutes for unit in without) / 60
        text += f"; {len(without)} more ({later:.1f} hours) wait for their base"
    return text


def work_off(arguments: Any) -> int:
    """Measure what was asked for; return the exit code."""
    import torch
    from evidence_work import Work

    from speechft.encoders.load import digest_of

    torch.set_num_threads(1)
    work = Work(arguments.out, processor())
    made = {"corpus": work.corpus(STUDY).digest[:12], "design": design()}
    bases: dict[int, str] = {}

    def stamp(unit: Unit) -> dict[str, Any]:
        if unit.lineage not in bases:
            bases[unit.lineage] = digest_of(str(kept_base(unit.lineage)))[:12]
        return {"base": bases[unit.lineage], **made, **unit.stamp()}

    def measure(unit: Unit) -> Rows:
        return work.measure(unit, str(kept_base(unit.lineage)))

    units = [unit for unit in chosen(arguments) if kept_base(unit.lineage) is not None]
    return run_units(units, measure, stamp, ROWS, arguments.out)


def run_units(
    units: Sequence[Unit],
    measure: Callable[[Unit], Rows],
    stamp: Callable[[Unit], dict[str, Any]],
    rows: Path,
    folder: Path,
) -> int:
    """Measure units until all are, with whoever else works in a folder; a failure stops no other.

    Args:
        units: In order.
        measure: Gives the rows of one.
        stamp: What its rows must say to count: base, corpus and design.
        rows: Folder of the files.
        folder: Where processes that measure the same meet.

    Returns:
        1 if one failed, else 0.
    """
    from speechft.errors import DataError, SpeechftError
    from speechft.parallel import sharing
    from speechft.parallel.claims import Claim

    def shared(unit: Unit) -> sharing.Unit:
        path = rows / f"{unit.name}.jsonl"

        def run(claim: Claim | None) -> None:
            waiting = [u for u in units if not is_measured(rows / f"{u.name}.jsonl", {})]
            print(f"{unit.name}; {left_words(waiting)}", flush=True)
            try:
                found = measure(unit)
            except SpeechftError as error:
                print(f"{unit.name} failed: {error.message}", file=sys.stderr, flush=True)
                raise DataError(error.message, hint=error.hint) from error
            if claim is not None:
                claim.check()
            write_measured(path, stamp(unit), unit.about(), found)

        return sharing.Unit(unit.name, lambda: is_measured(path, stamp(unit)), run)

    return int(bool(sharing.work_off(folder, "evidence", [shared(unit) for unit in units])))


def processor() -> str:
    """Return the model of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    return next((line.partition(":")[2].strip() for line in lines if "model name" in line), "other")


def supervise(command: Sequence[str], count: int, pause: Path = PAUSE) -> int:
    """Run children with the pinned environment, which stand still while the pause file is there.

    Args:
        command: Of each child.
        count: How many.
        pause: The file.

    Returns:
        The largest exit code.
    """
    environment = {**os.environ, **PINNED, CHILD: "1"}
    children = [
        subprocess.Popen(command, env=environment, preexec_fn=lambda: os.nice(NICE))
        for _ in range(count)
    ]
    halted = False
    try:
        while any(child.poll() is None for child in children):
            if pause.exists() != halted:
                halted = not halted
                print("paused" if halted else "going on", flush=True)
                _tell(children, signal.SIGSTOP if halted else signal.SIGCONT)
            time.sleep(0.5)
    finally:
        _tell(children, signal.SIGCONT)
        _tell(children, signal.SIGTERM)
    return max(abs(child.wait()) for child in children)


def _tell(children: Sequence[subprocess.Popen[bytes]], number: signal.Signals) -> None:
    for child in children:
        if child.poll() is None:
            child.send_signal(number)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/evidence"))
    parser.add_argument("--lineages", type=int, nargs="+", help="of these only")
    parser.add_argument("--tier", nargs="+", choices=["A", "B", "X"], default=["A", "B"])
    parser.add_argument("--units", nargs="+", help="whose name holds one of these")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--list", action="store_true")
    arguments = parser.parse_args()
    if arguments.list:
        show(chosen(arguments))
    elif os.environ.get(CHILD):
        sys.exit(work_off(arguments))
    else:
        sys.exit(supervise([sys.executable, *sys.argv], arguments.processes))


if __name__ == "__main__":
    main()
