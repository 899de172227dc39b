"""Does memory stay flat whatever the corpus? Anonymous memory by number of utterances.

    python benchmarks/memory.py [--sizes 1000,10000,100000] [--parts prepare,plan,evaluate,frames]

Every figure is the peak of RssAnon of a process of its own (mapped and cached pages are free to
the system and not in it). ``prepare``: a table of so many rows, all of one small recording, headers
only. ``plan``: labels, the batch plan of an epoch and the first batch's cuts of a fine-tuning on
such a corpus. ``evaluate``: SID under the protocol ``s3prl``, with the crops it trains on, on
features that a stand-in encoder makes up; ten updates of the probe. One utterance in fifty is dev,
one is test. ``frames`` (only if it is named: 42,000 utterances are 25 hours): phone recognition of
real frames, ``tiny-hubert`` on the embedded speech under as many names, an epoch of one probe.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import subprocess
import sys
import tempfile
import threading
import time
import wave
from collections.abc import Callable, Iterator
from pathlib import Path

PARTS = ("prepare", "plan", "evaluate", "frames")
SPEAKERS = 50


class Peak:
    """The most anonymous memory of this process while something runs, in MB."""

    def __init__(self) -> None:
        self.most = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Peak:
        """Begin to look every 20 ms."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            self.most = max(self.most, anonymous())


def anonymous() -> float:
    """Return the anonymous memory of this process in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("this system does not tell anonymous memory")


def write_wave(path: Path, seconds: float) -> None:
    """Write noise that no reader leaves out."""
    import numpy as np

    samples = np.random.default_rng(0).integers(-3000, 3000, round(16_000 * seconds), np.int16)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(samples.tobytes())


def split_of(number: int) -> str:
    """Return the split of an utterance."""
    return {0: "dev", 1: "test"}.get(number % 50, "train")


def write_table(folder: Path, count: int) -> Path:
    """Write a table of segments of one recording."""
    write_wave(folder / "a.wav", 30.0)
    with open(folder / "corpus.csv", "w") as file:
        file.write("path,start,end,split,speaker,text\n")
        for number in range(count):
            start = (number % 20_000) / 1000
            end = start + 1.5 + number / 1e8  # no segment twice
            speaker = number // 50 % SPEAKERS
            file.write(f"a.wav,{start:.8f},{end:.8f},{split_of(number)},s{speaker},SO IT WAS\n")
    return folder / "corpus.csv"


def write_manifests(folder: Path, count: int) -> None:
    """Write a prepared corpus without preparing any, a line of JSON an utterance."""
    folder.mkdir()
    counts = dict.fromkeys(("train", "dev", "test"), 0)
    with contextlib.ExitStack() as stack:
        files = {
            split: stack.enter_context(gzip.open(folder / f"{split}.jsonl.gz", "wt", 1))
            for split in counts
        }
        for number in range(count):
            split = split_of(number)
            counts[split] += 1
            samples = 16_000 * 3 + number * 37 % 100_000
            if split == "train" and number % 10 == 2:
                samples = 16_000 * 9 + number % 1000  # longer than SID's crops
            line = line_of(f"utterance-{number:08d}", samples, f"s{number // 50 % SPEAKERS:03d}")
            files[split].write(json.dumps(line) + "\n")
    common = {"hours": 1.0, "speakers": SPEAKERS}
    statistics = {
        split: {"utterances": n, **common, "labels": {"speaker": n, "text": n}}
        for split, n in counts.items()
    }
    content = {"name": "made-up", "digest": str(count), "statistics": statistics, "info": {}}
    (folder / "corpus.json").write_text(json.dumps(content))


def line_of(name: str, samples: int, speaker: str) -> dict[str, object]:
    """Return a cut as lhotse writes it."""
    seconds = samples / 16_000
    source = {"type": "file", "channels": [0], "source": f"/nowhere/{name}.wav"}
    recording = {
        "id": name,
        "sources": [source],
        "sampling_rate": 16_000,
        "num_samples": samples,
        "duration": seconds,
        "channel_ids": [0],
    }
    told = {"id": name, "recording_id": name, "start": 0.0, "duration": seconds, "channel": 0}
    supervision = {**told, "text": "SO IT WAS", "speaker": speaker}
    cut = {"id": name, "start": 0.0, "duration": seconds, "channel": 0, "type": "MonoCut"}
    return {**cut, "supervisions": [supervision], "recording": recording}


def prepare(folder: Path, count: int) -> Callable[[], object]:
    """Return what prepares a table."""
    from speechft.data.corpora import generic
    from speechft.data.corpora.build import Options

    table = write_table(folder, count)
    return lambda: generic.prepare(table, folder / "corpus", Options(samples=False, jobs=1))


def plan(folder: Path, count: int) -> Callable[[], object]:
    """Return what plans a fine-tuning, to the first batch."""
    from helpers import tiny_encoder
    from speechft.data.batching import BatchPlan
    from speechft.data.manifest import open_corpus
    from speechft.finetuning.splits import SplitReader
    from speechft.tasks import find_task

    write_manifests(folder / "corpus", count)
    encoder = tiny_encoder()

    def work() -> object:
        reader = SplitReader(open_corpus(folder / "corpus"), encoder, ("train", "dev"))
        found = reader.read(find_task("sid").at(encoder.timing))
        planned = BatchPlan(found.train, seconds=160.0, utterances=16, seed=0, max_duration=8.0)
        return planned.largest(), planned.epochs(1), planned.batch(0)

    return work


def evaluate(folder: Path, count: int) -> Callable[[], object]:
    """Return what evaluates SID under the protocol ``s3prl``, with ten updates of its probe."""
    import torch

    import speechft.features.extract as module
    from helpers import tiny_encoder
    from speechft.data.manifest import open_corpus
    from speechft.encoders.base import EncoderOutput
    from speechft.evaluation.candidates import Candidate
    from speechft.evaluation.config import EvaluationConfig
    from speechft.evaluation.protocols import PROTOCOLS
    from speechft.evaluation.suite import evaluate_encoder
    from speechft.tasks import find_task

    write_manifests(folder / "corpus", count)
    encoder = tiny_encoder()
    encoder.save(folder / "encoder")
    corpus, task = open_corpus(folder / "corpus"), find_task("sid")
    changed = {"steps": 10, "evaluate_steps": 5, "crops": 2}
    settings = PROTOCOLS["s3prl"]
    settings["sid"] = settings["sid"].model_copy(update=changed)

    def made_up(encoder: object, group: list[object], *_: object) -> EncoderOutput:
        states = torch.randn(len(group), 2, 768)
        return EncoderOutput((states,) * 13, torch.full((len(group),), 2), 50.0)

    module.encode = made_up  # type: ignore[assignment]
    config = EvaluationConfig(tasks=("sid",), protocol="s3prl", floors=(), cache=None)
    candidate = Candidate("stand-in", str(folder / "encoder"))
    return lambda: evaluate_encoder(candidate, [task], corpus, config, folder / "out", seed=0)


def write_repeated(folder: Path, corpus: Path, count: int) -> None:
    """Write a prepared corpus of ``count`` names for the training utterances of another one."""
    folder.mkdir()
    content = json.loads((corpus / "corpus.json").read_text())
    kept = {name: content["statistics"][name] for name in ("train", "dev", "test")}
    for split, told in kept.items():
        with gzip.open(corpus / f"{split}.jsonl.gz", "rt") as manifest:
            lines = manifest.readlines()
        wanted = count if split == "train" else len(lines)
        with gzip.open(folder / f"{split}.jsonl.gz", "wt", 1) as file:
            for number in range(wanted):
                cut = json.loads(lines[number % len(lines)])
                for part in (cut, cut["recording"], *cut["supervisions"]):
                    part["id"] = f"{split}-{number:08d}"
                for supervision in cut["supervisions"]:
                    supervision["recording_id"] = cut["id"]
                for source in cut["recording"]["sources"]:
                    source["source"] = str(corpus / source["source"])
                file.write(json.dumps(cut) + "\n")
        told["hours"] *= wanted / told["utterances"]
        told["labels"] = dict.fromkeys(told["labels"], wanted)
        told["utterances"] = wanted
    told_of = {"name": "repeated", "digest": str(count), "statistics": kept, "info": {}}
    (folder / "corpus.json").write_text(json.dumps(told_of))


def frames(folder: Path, count: int) -> Callable[[], object]:
    """Return what evaluates PR on real frames, with an epoch of one probe."""
    from speechft.data.corpora import find_corpus
    from speechft.data.manifest import open_corpus
    from speechft.evaluation.candidates import Candidate
    from speechft.evaluation.config import EvaluationConfig
    from speechft.evaluation.protocols import PROTOCOLS
    from speechft.evaluation.suite import evaluate_encoder
    from speechft.tasks import find_task

    spoken = find_corpus("synthetic-study", folder / "spoken").folder
    write_repeated(folder / "corpus", spoken, count)
    brief = {"epochs": 1, "learning_rates": (0.01,), "halve_at": (), "extend": 0}
    PROTOCOLS["brief"] = {
        name: settings.model_copy(update=brief) for name, settings in PROTOCOLS["mini"].items()
    }
    config = EvaluationConfig(tasks=("pr",), protocol="brief", floors=(), cache=None)
    corpus, task = open_corpus(folder / "corpus"), find_task("pr")
    candidate = Candidate("tiny-hubert", "tiny-hubert")
    return lambda: evaluate_encoder(candidate, [task], corpus, config, folder / "out", seed=0)


def measured(part: str, count: int, place: str | None) -> dict[str, object]:
    """Run one part at one size in this process; return what it took."""
    with tempfile.TemporaryDirectory(dir=place) as scratch:
        known = {"prepare": prepare, "plan": plan, "evaluate": evaluate, "frames": frames}
        work = known[part](Path(scratch), count)
        before, started = anonymous(), time.process_time()
        with Peak() as peak:
            work()
        seconds = time.process_time() - started
    return {
        "part": part,
        "utterances": count,
        "before": round(before),
        "peak": round(peak.most),
        "seconds": round(seconds, 1),
    }


def rows(given: argparse.Namespace) -> Iterator[dict[str, object]]:
    """Yield the figures, each of a process of its own."""
    for part in given.parts.split(","):
        for count in map(int, given.sizes.split(",")):
            asked = [sys.executable, __file__, "--one", part, "--sizes", str(count)]
            asked += ["--place", given.place] if given.place else []
            found = subprocess.run(asked, check=True, stdout=subprocess.PIPE, text=True)
            yield json.loads(found.stdout.splitlines()[-1])


def arguments(given: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", default="1000,10000,100000", help="utterances, with commas")
    parser.add_argument("--parts", default=",".join(PARTS[:3]), help="with commas")
    parser.add_argument("--place", help="folder of what is written; else TMPDIR")
    parser.add_argument("--one", choices=PARTS, help=argparse.SUPPRESS)
    return parser.parse_args(given)


def main(given: list[str]) -> None:
    """Print a table."""
    asked = arguments(given)
    if asked.one:
        print(json.dumps(measured(asked.one, int(asked.sizes), asked.place)))
        return
    print("| | utterances | RssAnon before, MB | peak, MB | processor s |\n|---|---|---|---|---|")
    for row in rows(asked):
        print("| " + " | ".join(str(row[key]) for key in row) + " |", flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    main(sys.argv[1:])
