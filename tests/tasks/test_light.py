"""Listing and finding tasks imports nothing heavy: the command line answers at once."""

from __future__ import annotations

import subprocess
import sys

HEAVY = {"lhotse", "matplotlib", "numpy", "pydantic", "scipy", "sklearn", "torch", "transformers"}
_LOOK = """
import sys
import speechft.tasks as tasks
names = [tasks.find_task(n).name for n in (*tasks.TASKS, "label:language")]
shown = [m.heading for t in tasks.TASKS.values() for m in t.measures]
tasks.measure_of("sid", "uar"), tasks.LanguageModel, tasks.S3PRL_KEYS
print(" ".join(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def test_the_list_of_tasks_imports_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", _LOOK], capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stdout.split())


def test_what_computes_is_there_when_it_is_used() -> None:
    import speechft.tasks

    for name in speechft.tasks.__all__:
        assert getattr(speechft.tasks, name) is not None
