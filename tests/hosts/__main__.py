"""``python tests/hosts``: two hosts on this machine, and what happens when one of them fails.

Prints figures; needs root and iproute2.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "src")]

from hosts.trials import Trials, digest, trials  # noqa: E402
from hosts.world import two_hosts, why_not  # noqa: E402


def main() -> None:
    """Run the trials and print what came of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trials", nargs="*", help="names; all without any")
    parser.add_argument("--each", type=int, default=2, help="processes on each host")
    parser.add_argument("--corpus", default="synthetic", help="as --corpus takes it")
    parser.add_argument("--json", type=Path, help="file for the outcomes")
    given = parser.parse_args()
    if reason := why_not():
        sys.exit(f"no hosts here: {reason}")
    for number in (signal.SIGINT, signal.SIGTERM):  # namespaces and mounts go in any case
        signal.signal(number, lambda *_: sys.exit(1))
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="hosts-") as folder, two_hosts() as hosts:
        begun = time.monotonic()
        found = Trials(hosts, Path(folder), given.corpus, given.each)
        took = time.monotonic() - begun
        print(f"whole: {took:.0f} s, encoder {digest(found.whole)}", flush=True)
        known = trials(found)
        for name in given.trials or known:
            outcome = known[name]()
            outcomes.append(outcome)
            ended = "; ".join(outcome.wrong) or "resumed to the same bits"
            stopped = f"stopped after {outcome.stopped:.1f} s, " if outcome.stopped > 1e-2 else ""
            print(f"{outcome.name}: {stopped}{ended}", flush=True)
            for message in outcome.messages:
                print(f"  {message}", flush=True)
    if given.json:
        given.json.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=2))
    sys.exit(any(outcome.wrong for outcome in outcomes))


if __name__ == "__main__":
    main()
