"""Run the evidence: every unit of ``DESIGN.md`` that has no rows yet, one after the other.

    python studies/evidence.py                    # all that is left, in the order that matters
    python studies/evidence.py --processes 2      # two at a time; more can be started beside them
    python studies/evidence.py --list             # what is there, what is left, and what it costs

Rows go to ``studies/evidence/``, a file a unit, whole or not at all. Interrupt it and run it again,
here or on another machine, and it goes on with the next unit that has no rows of this design; tuned
encoders are kept in ``--out`` and found again. A unit is locked while it is measured: any number of
processes may run beside one another. While a file ``runs/pause`` exists, all of them stand still.

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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evidence_units import ROWS, Unit, all_units, design
from rows import is_measured, kept_base, write_measured

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


def stamp_of(unit: Unit, bases: dict[int, str], study: str) -> dict[str, Any]:
    """Return what a unit's rows must say to count: base, corpus and design."""
    return {"base": bases[unit.lineage], "corpus": study, "design": design()}


def left(units: Sequence[Unit]) -> list[Unit]:
    """Return the units whose rows of this design are missing and whose base is there."""
    now = {"design": design()}
    return [
        unit
        for unit in units
        if kept_base(unit.lineage) is not None and not is_measured(ROWS / f"{unit.name}.jsonl", now)
    ]


def show(units: Sequence[Unit]) -> None:
    """Print what is there and what the rest costs."""
    now, waiting = {"design": design()}, left(units)
    for unit in units:
        there = is_measured(ROWS / f"{unit.name}.jsonl", now)
        missing = kept_base(unit.lineage) is None
        state = "done" if there else "waits for its base" if missing else f"{unit.minutes:g} min"
        print(f"{unit.tier} {unit.name}: {state}")
    without = [unit for unit in units if kept_base(unit.lineage) is None]
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
    """Measure units until none is left that nobody else is at; one that fails stops no other."""
    import torch
    from evidence_work import Work

    from speechft.encoders.load import digest_of
    from speechft.errors import SpeechftError
    from speechft.runs import lock

    torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = False
    work = Work(arguments.out, processor())
    study = work.corpus("study").digest[:12]
    digests: dict[int, str] = {}
    passed: set[str] = set()
    failed = False
    while True:
        waiting = [unit for unit in left(chosen(arguments)) if unit.name not in passed]
        if not waiting:
            return 1 if failed else 0
        unit = waiting[0]
        base = str(kept_base(unit.lineage))
        if unit.lineage not in digests:
            digests[unit.lineage] = digest_of(base)[:12]
        stamp = stamp_of(unit, digests, study)
        path = ROWS / f"{unit.name}.jsonl"
        try:
            with lock(arguments.out / "locks" / unit.name):
                if is_measured(path, stamp):
                    passed.add(unit.name)
                    continue
                print(f"{unit.name}; {left_words(waiting)}", flush=True)
                write_measured(path, stamp, unit.about(), work.measure(unit, base))
        except SpeechftError as error:
            passed.add(unit.name)
            if "in use by another process" not in error.message:
                print(f"{unit.name} failed: {error.message}", file=sys.stderr, flush=True)
                failed = True


def processor() -> str:
    """Return the model of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    return next((line.partition(":")[2].strip() for line in lines if "model name" in line), "other")


def supervise(count: int) -> int:
    """Run ourselves in children with the pinned environment; stop and go on with the pause file."""
    environment = {**os.environ, **PINNED, CHILD: "1"}
    command = [sys.executable, *sys.argv]
    children = [
        subprocess.Popen(command, env=environment, preexec_fn=lambda: os.nice(NICE))
        for _ in range(count)
    ]
    halted = False
    try:
        while any(child.poll() is None for child in children):
            if PAUSE.exists() != halted:
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
        sys.exit(supervise(arguments.processes))


if __name__ == "__main__":
    main()
