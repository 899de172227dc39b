"""The embedded corpus: multi-speaker speech with transcripts, aligned phones, styles and intents.

Audio is generated on first use into a cache, in fixed shards, each by a fresh process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from pydantic import Field

from speechft.config import Config
from speechft.console import log, progress_bar
from speechft.data.corpora.synthetic import material
from speechft.data.corpora.synthetic.espeak import variants
from speechft.data.corpora.synthetic.texts import TextSet
from speechft.data.corpora.synthetic.voices import VoicePool
from speechft.data.manifest import Corpus, open_corpus, write_corpus
from speechft.data.utterances import Utterance
from speechft.errors import DataError
from speechft.runs import stage
from speechft.storage.files import json_digest
from speechft.storage.headers import is_whole

GENERATOR_VERSION = 7
"""Raised whenever the same spec would give other audio."""

SHARD_SIZE = 200
LICENCE = "generated speech, no rights reserved; made with espeak-ng (GPL-3 program)"


class PartitionSpec(Config):
    """One split of the corpus: who says what, how often, in which conditions."""

    name: str
    """Name of the split."""
    utterances: int
    """Number of utterances; speakers take turns."""
    voices: VoicePool
    """Pool of voice variants."""
    speakers: int
    """Number of speakers from that pool."""
    texts: str
    """Kind of text: command, sentence or words."""
    text_set: TextSet
    """Which part of the vocabulary and of the sentence templates."""
    styles: bool = True
    """Speak in five styles; otherwise in none, with free range and rate."""
    noise: bool = True
    """Add rooms and noise; the clean signal otherwise."""
    foreign_share: float = 0.0
    """Share of utterances in other languages (pseudo-words by their own spelling rules)."""


class SyntheticSpec(Config):
    """Everything that determines the audio, beside the version of the generator."""

    name: str = "synthetic"
    """Name of the corpus."""
    seed: int = 7
    """Seed of every draw."""
    partitions: tuple[PartitionSpec, ...] = Field(min_length=1)
    """The splits."""

    def digest(self) -> str:
        """Return the digest of spec and generator version."""
        return json_digest({"generator": GENERATOR_VERSION, "spec": self.as_dict()})


def _split(
    name: str, utterances: int, voices: VoicePool, speakers: int, texts: str, text_set: TextSet
) -> PartitionSpec:
    return PartitionSpec(
        name=name,
        utterances=utterances,
        voices=voices,
        speakers=speakers,
        texts=texts,
        text_set=text_set,
    )


DEMO = SyntheticSpec(
    partitions=(
        _split("tune-train", 480, "seen", 32, "sentence", "tune"),
        _split("tune-dev", 64, "seen", 32, "sentence", "tune"),
        _split("train", 480, "seen", 32, "command", "train"),
        _split("dev", 96, "seen", 32, "command", "test"),
        _split("dev-unseen", 96, "unseen-dev", 12, "command", "test"),
        _split("test", 320, "seen", 32, "command", "test"),
        _split("test-unseen", 300, "unseen-test", 30, "command", "test"),
    )
)
"""What the demo tunes, probes and tests on: voices that are ``seen`` in tuning for speaker
identification, ``unseen`` ones for the speaker-independent tasks."""

STUDY = SyntheticSpec(
    name="synthetic-study",
    seed=11,
    partitions=(
        _split("tune-train", 1_280, "seen", 32, "sentence", "tune"),
        _split("tune-dev", 128, "seen", 32, "sentence", "tune"),
        _split("train", 1_280, "seen", 32, "command", "train"),
        _split("dev", 192, "seen", 32, "command", "test"),
        _split("dev-unseen", 192, "unseen-dev", 12, "command", "test"),
        _split("test", 1_024, "seen", 32, "command", "test"),
        _split("test-unseen", 1_020, "unseen-test", 30, "command", "test"),
    ),
)
"""The same as the demo's, three times as large: for gates, anchors and studies."""

NEW_VOICES = SyntheticSpec(
    name="synthetic-new-voices",
    partitions=(
        _split("train", 240, "new", 20, "command", "train"),
        _split("dev", 60, "new", 20, "command", "test"),
        _split("test", 300, "new", 20, "command", "test"),
    ),
)
"""Voices that nothing else uses: does what speaker identification gained hold for new speakers?"""

PRETRAIN = SyntheticSpec(
    name="synthetic-pretrain",
    partitions=(
        PartitionSpec(
            name="train",
            utterances=27_000,
            voices="pretrain",
            speakers=440,
            texts="words",
            text_set="pretrain",
            styles=False,
            noise=False,
            foreign_share=0.2,
        ),
    ),
)
"""What the packaged encoder is pre-trained on: about 33 hours, clean; noise is added on the fly."""

SPECS: dict[str, SyntheticSpec | material.MaterialSpec] = {
    spec.name: spec for spec in (DEMO, STUDY, NEW_VOICES, PRETRAIN, material.MATERIAL)
}

TASK_SPLITS = {
    "sid": ("train", "dev", "test"),
    "*": ("train", "dev-unseen", "test-unseen"),
}
"""Probe splits by task; ``*`` stands for every other task."""


def prepare(
    spec: SyntheticSpec | material.MaterialSpec, folder: Path, processes: int = 2
) -> Corpus:
    """Generate the corpus into ``folder`` unless it is there already.

    Args:
        spec: What to generate.
        folder: Where it goes; audio, manifests and ``corpus.json``.
        processes: Worker processes at a time.

    Raises:
        DataError: espeak-ng is not installed, or a worker failed.
        RunError: The folder is in use, or the disk is full.
    """
    if isinstance(spec, material.MaterialSpec):
        return material.prepare(spec, folder, run_jobs, processes)
    inputs = {"spec": spec.digest()}
    with stage(folder, name="corpus", config=spec.as_dict(), inputs=inputs) as work:
        if not work.done:
            log(f"{spec.name}: speaking {sum(p.utterances for p in spec.partitions)} utterances")
            run_jobs(list(_jobs(spec, work.scratch)), processes)
            splits = {p.name: _utterances(p, work.scratch) for p in spec.partitions}
            info = {
                "licence": LICENCE,
                "generator_version": GENERATOR_VERSION,
                "spec": spec.digest(),
                "task_splits": TASK_SPLITS if "tune-train" in splits else {},
                "tuning_splits": ["tune-train", "tune-dev"] if "tune-train" in splits else [],
            }
            write_corpus(work.scratch, spec.name, spec.digest(), splits, info)
    return open_corpus(folder)


def _jobs(spec: SyntheticSpec, folder: Path) -> Iterator[dict[str, Any]]:
    for partition in spec.partitions:
        for first in range(0, partition.utterances, SHARD_SIZE):
            yield {
                "partition": partition.as_dict(),
                "first": first,
                "last": min(first + SHARD_SIZE, partition.utterances),
                "seed": spec.seed,
                "folder": str(folder / partition.name / f"shard-{first // SHARD_SIZE:04d}"),
            }


def run_jobs(jobs: list[dict[str, Any]], processes: int) -> None:
    """Run every job that is not finished, ``processes`` at a time."""
    variants()  # without espeak-ng: one clear error before any worker starts
    left = [job for job in jobs if not is_whole(Path(job["folder"]) / "shard.jsonl")]
    with (
        ThreadPoolExecutor(processes) as pool,
        progress_bar("speaking (shards)", len(jobs), len(jobs) - len(left)) as bar,
    ):
        waiting: set[Future[None]] = {pool.submit(_run_worker, job) for job in left}
        try:
            while waiting:
                finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in finished:
                    future.result()
                    bar.advance()
        except BaseException:
            for future in waiting:
                future.cancel()
            raise


def _run_worker(job: dict[str, Any]) -> None:
    command = [sys.executable, "-m", job.get("module", f"{__name__}.worker")]
    with tempfile.TemporaryFile() as errors:
        done = subprocess.run(
            command, input=json.dumps(job).encode(), stdout=errors, stderr=errors, check=False
        )
        if done.returncode != 0:
            errors.seek(0)
            lines = errors.read().decode(errors="replace").strip().splitlines()
            reason = lines[-1] if lines else f"it ended with exit status {done.returncode}"
            raise DataError(f"a worker of the embedded corpus failed: {reason}")


def _utterances(partition: PartitionSpec, folder: Path) -> Iterator[Utterance]:
    for shard in sorted((folder / partition.name).iterdir()):
        for line in (shard / "shard.jsonl").read_text().splitlines():
            item = json.loads(line)
            yield Utterance(
                id=item["id"],
                path=f"{partition.name}/{shard.name}/{item['id']}.wav",
                samples=item["samples"],
                text=item["text"],
                speaker=item["speaker"],
                phones=[tuple(phone) for phone in item["phones"]],
                labels={
                    "style": item["style"],
                    "language": item["language"],
                    **({"intent": "/".join(item["intent"])} if item["intent"] else {}),
                },
                sha256=item["sha256"],
            )
