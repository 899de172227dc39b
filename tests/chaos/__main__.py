"""``make chaos``: verbs killed, stopped and starved at random moments; prints counts and figures.

It may be stopped and goes on: trials that are done stand in the file of counts.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "src")]

import torch  # noqa: E402, F401 - imported once, for all forks

from chaos.injuries import INJURIES, VERBS, Chaos  # noqa: E402
from helpers import tiny_encoder  # noqa: E402, F401
from speechft import api, pipeline  # noqa: E402, F401
from speechft.features import files  # noqa: E402, F401


def main() -> None:
    """Run trials until so many kills are done, and print what came of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--typed", type=int, default=50, help="of them through the command line")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=600.0)
    parser.add_argument("--counts", type=Path, default=Path("chaos.jsonl"))
    given = parser.parse_args()
    lines = given.counts.read_text().splitlines() if given.counts.exists() else []
    done = [json.loads(line) for line in lines]
    ends = time.monotonic() + 60 * given.minutes
    with tempfile.TemporaryDirectory() as folder, open(given.counts, "a") as file:
        chaos = Chaos(Path(folder) / "chaos")
        number = len(done)
        often = [1 / chaos.whole(name).seconds for name in VERBS]
        while time.monotonic() < ends:
            kills = sum(trial["injury"] == "kill" for trial in done)
            typed = sum(trial["injury"] == "kill" and trial["typed"] for trial in done)
            if kills >= given.kills and typed >= given.typed:
                break
            draw = random.Random(f"{given.seed} {number}")
            (name,) = draw.choices(list(VERBS), often)
            injury = draw.choice(["kill"] * 12 + list(INJURIES[1:]))
            by_hand = injury == "kill" and draw.random() < 1.2 * given.typed / given.kills
            wrong = chaos.trial(name, injury, draw.random(), typed=by_hand)
            done.append({"verb": name, "injury": injury, "typed": by_hand, "wrong": wrong})
            file.write(json.dumps(done[-1]) + "\n")
            file.flush()
            if wrong:
                print(f"trial {number}, {name}, {injury}: {wrong}", flush=True)
            number += 1
    _print(done)
    sys.exit(any(trial["wrong"] for trial in done))


def _print(done: list[dict[str, object]]) -> None:
    for key in ("injury", "verb"):
        counts = Counter(str(trial[key]) for trial in done)
        lost = Counter(str(trial[key]) for trial in done if trial["wrong"])
        for name in sorted(counts):
            print(f"{name:16} {counts[name]:5} trials {lost[name]:3} losses")
    typed = sum(bool(trial["typed"]) for trial in done)
    kills = sum(trial["injury"] == "kill" for trial in done)
    losses = sum(bool(trial["wrong"]) for trial in done)
    print(f"{len(done)} trials, {kills} kills, {typed} typed, {losses} losses")


if __name__ == "__main__":
    main()
