"""What is done to two hosts, and what must come of it: one message a host, and the same bits."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file

from helpers import tiny_encoder, tone_corpus
from hosts.world import Host, Launch, fill, small_disk, until
from speechft.data.labels import label_of
from speechft.data.manifest import open_corpus, write_corpus
from speechft.data.utterances import Utterance
from speechft.data.waveform import count_samples, place_of

STEPS = 60
MANY = 10_000
"""Utterances, more than are kept in memory."""
_PATIENCE = 600.0
"""Seconds that a launch may take from its start to its first checkpoint, and to its end."""
_SETTINGS = {
    "finetuning.task": "sid",
    "finetuning.strategy": "plain-cnn",
    "finetuning.hidden": "null",
    "finetuning.steps": str(STEPS),
    "finetuning.batch_utterances": "2",
    "finetuning.max_duration": "1.5",
    "finetuning.checkpoint_every": "5",
    "finetuning.evaluate_every": "30",
    "finetuning.precision": "fp32",
}


@dataclass
class Outcome:
    """What came of a trial."""

    name: str
    stopped: float = 0.0
    """Seconds from the injury until no rank was left."""
    messages: list[str] = field(default_factory=list)
    """What the ranks of each host said about the error."""
    wrong: list[str] = field(default_factory=list)
    """What should not be so."""

    def expect(self, holds: bool, what: str) -> None:
        """Note what is wrong unless it holds."""
        if not holds:
            self.wrong.append(what)


class Trials:
    """Trials on two hosts, with what a command makes that nothing disturbs.

    Args:
        hosts: Where.
        place: Folder for everything.
        corpus: As ``--corpus`` takes it; None makes one of tones.
        each: Processes on each host.
    """

    def __init__(
        self, hosts: tuple[Host, Host], place: Path, corpus: str | None = None, each: int = 2
    ) -> None:
        self.hosts, self.place, self.each = hosts, place, each
        self.encoder, self.audio = place / "encoder", place / "tones"
        tiny_encoder().save(self.encoder)
        self.audio.mkdir()
        tones = tone_corpus(self.audio, per_speaker=12)
        self.corpus = corpus or str(tones.folder)
        self._launches, self._launcher = 0, "torchrun"
        self.whole = place / "whole"
        self._end_well(self._launch(self._tuning(self.whole)))

    def _tuning(self, out: Path, corpus: str | None = None) -> list[str]:
        settings = {"encoder": str(self.encoder), **_SETTINGS}
        changes = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
        return ["finetune", "demo", "--corpus", corpus or self.corpus, "--out", str(out), *changes]

    def _launch(self, command: list[str]) -> Launch:
        self._launches += 1
        logs = self.place / f"logs-{self._launches}"
        return Launch(self.hosts, command, self.each, logs, self._launcher)

    def _end_well(self, launch: Launch) -> None:
        """Wait for a launch that nothing disturbs.

        Raises:
            RuntimeError: It failed.
        """
        try:
            codes = launch.wait(_PATIENCE)
        finally:
            launch.kill()
        if codes != [0, 0]:
            said = [launch.said(host) + launch.launcher_said(host) for host in self.hosts]
            raise RuntimeError(f"exit codes {codes}:\n" + "\n".join(said))

    @contextmanager
    def _begun(self, out: Path, name: str) -> Iterator[tuple[Launch, Outcome]]:
        """Yield a fine-tuning that has written a checkpoint and goes on."""
        outcome = Outcome(name)
        launch = self._launch(self._tuning(out))
        try:
            until(lambda: _steps(out) >= 5 or not launch.running, _PATIENCE, "a checkpoint")
            if not launch.running:
                said = [launch.said(host) + launch.launcher_said(host) for host in self.hosts]
                raise RuntimeError("it ended before it was injured:\n" + "\n".join(said))
            yield launch, outcome
        finally:
            launch.kill()

    def _stopped(self, launch: Launch, outcome: Outcome, reason: str, spoken: int = 2) -> None:
        """See that all ranks stop within a minute, and what they say.

        Args:
            launch: What was injured just now.
            outcome: Takes what is seen.
            reason: Stands in the message of each host that says one.
            spoken: Number of hosts whose ranks say something.
        """
        outcome.stopped = until(lambda: not launch.ranks(), 120, "all ranks stop")
        codes = launch.wait(60)
        outcome.expect(outcome.stopped < 60, f"the ranks took {outcome.stopped:.0f} s to stop")
        outcome.expect(0 not in codes, f"exit codes of the launchers: {codes}")
        told = 0
        for host in self.hosts:
            said = launch.said(host)
            found = [line for line in said.splitlines() if line.startswith("error: ")]
            outcome.messages += [f"{host.name}: {line}" for line in found]
            told += bool(found)
            outcome.expect(len(found) <= 1, f"{len(found)} messages on {host.name}")
            outcome.expect("Traceback" not in said, f"a traceback on {host.name}:\n{said}")
            outcome.expect(all(reason in line for line in found), f"not {reason!r}: {found}")
        outcome.expect(told == spoken, f"{told} hosts said what happened, expected {spoken}")

    def _go_on(self, out: Path, outcome: Outcome) -> Outcome:
        """Give the command again and compare what it makes."""
        before = _steps(out)
        launch = self._launch(self._tuning(out))
        self._end_well(launch)
        said = launch.said(self.hosts[0])
        outcome.expect(f"resumed after {before} of" in said, f"not resumed after {before}:\n{said}")
        outcome.expect(_same(out, self.whole), "the encoder differs from that of the whole run")
        outcome.expect(not _left(out), f"left behind: {_left(out)}")
        return outcome

    def killed(self, rank: int) -> Outcome:
        """Kill one rank."""
        out = self.place / f"killed-{rank}-{self._launcher}"
        with self._begun(out, f"kill -9 of rank {rank}, {self._launcher}") as (launch, outcome):
            os.kill(launch.process(rank), signal.SIGKILL)
            host = self.hosts[rank // self.each].name
            alone = self.each == 1  # nobody is left on that host
            reason = f"rank {rank} on {host} ended without a word"
            self._stopped(launch, outcome, reason, 1 if alone else 2)
        return self._go_on(out, outcome)

    def accelerated(self) -> Outcome:
        """The same under `accelerate launch`, whose encoder is that of torchrun."""
        self._launcher = "accelerate"
        try:
            return self.killed(2 * self.each - 1)
        finally:
            self._launcher = "torchrun"

    def cut(self) -> Outcome:
        """Cut the link, and mend it before going on."""
        out, second = self.place / "cut", self.hosts[1]
        with self._begun(out, "link cut") as (launch, outcome):
            second.set_link("down")
            try:
                self._stopped(launch, outcome, "is out of reach")
            finally:
                second.set_link("up")
        return self._go_on(out, outcome)

    def told_to_end(self) -> Outcome:
        """Have torchrun end on one host, as a scheduler does: all stop after the same update."""
        out = self.place / "told"
        with self._begun(out, "SIGTERM to one host") as (launch, outcome):
            launch.signal_host(1)
            self._stopped(launch, outcome, "", 0)
            said = launch.said(self.hosts[0])
            outcome.expect("checkpoint after" in said, f"no word of a checkpoint:\n{said}")
        return self._go_on(out, outcome)

    def full_disk(self) -> Outcome:
        """Fill the disk that the first process writes checkpoints to."""
        with small_disk(self.place / "disk", "8m") as disk:
            out = disk / "out"
            with self._begun(out, "full disk of rank 0") as (launch, outcome):
                filler = fill(disk)
                self._stopped(launch, outcome, "no space left to write")
                filler.unlink()
            return self._go_on(out, outcome)

    def full_second_disk(self) -> Outcome:
        """Start where the second host has no room for what does not fit into memory."""
        outcome, place, second = (
            Outcome("full disk of the second host"),
            self.place / "many-out",
            self.hosts[1],
        )
        corpus, out = many_tones(self.audio, self.place / "many"), place / "out"
        place.mkdir()
        with small_disk(self.place / "second-disk", "1m") as disk:
            filler = fill(disk)
            second.mounts.append((disk, place))
            try:
                launch = self._launch(self._tuning(out, corpus))
                try:
                    until(lambda: not launch.running, _PATIENCE, "an end")
                    self._stopped(launch, outcome, "No space left")
                finally:
                    launch.kill()
                outcome.expect(list(disk.iterdir()) == [filler], "the second host left something")
            finally:
                second.mounts.pop()
        self._end_well(self._launch(self._tuning(out, corpus)))
        outcome.expect(not _left(out), f"left behind: {_left(out)}")
        return outcome

    def own_disks(self) -> Outcome:
        """Kill a rank where the second host sees nothing of the outputs."""
        place, hidden = self.place / "first-only", self.place / "nothing"
        place.mkdir()
        hidden.mkdir()
        second = self.hosts[1]
        second.mounts.append((hidden, place))
        try:
            out = place / "out"
            with self._begun(out, "outputs on one host alone") as (launch, outcome):
                os.kill(launch.process(2 * self.each - 1), signal.SIGKILL)
                self._stopped(launch, outcome, "ended without a word", min(2, self.each))
            self._go_on(out, outcome)
            outcome.expect(not any(hidden.iterdir()), "the second host wrote something")
            return outcome
        finally:
            second.mounts.pop()

    def missing(self) -> Outcome:
        """Start where the second host does not see the encoder."""
        outcome, out, second = (
            Outcome("no encoder on one host"),
            self.place / "missing",
            self.hosts[1],
        )
        hidden = self.place / "no-encoder"
        hidden.mkdir()
        second.mounts.append((hidden, self.encoder))
        try:
            launch = self._launch(self._tuning(out))
            try:
                until(lambda: not launch.running, _PATIENCE, "an end")
                self._stopped(launch, outcome, str(self.encoder))
            finally:
                launch.kill()
        finally:
            second.mounts.pop()
        self._end_well(self._launch(self._tuning(out)))
        outcome.expect(_same(out, self.whole), "the encoder differs from that of the whole run")
        return outcome


def many_tones(audio: Path, folder: Path) -> str:
    """Write a corpus of more utterances than are kept in memory; return its folder."""
    tones = open_corpus(audio)
    folder.mkdir()
    splits = {}
    for name, count in (("train", MANY), ("dev", 12), ("test", 3)):
        found = list(tones.split(name))
        splits[name] = [
            Utterance(
                id=f"{name}-{number}",
                path=str(place_of(cut)),
                samples=count_samples(cut),
                speaker=label_of(cut, "speaker"),
            )
            for number in range(count)
            for cut in [found[number % len(found)]]
        ]
    write_corpus(folder, "many", "none", splits, {"licence": "none"})
    return str(folder)


def trials(found: Trials) -> dict[str, Callable[[], Outcome]]:
    """Return all trials by name."""
    last = 2 * found.each - 1
    return {
        "kill": lambda: found.killed(last),
        "kill-first": lambda: found.killed(0),
        "accelerate": found.accelerated,
        "cut": found.cut,
        "term": found.told_to_end,
        "disk": found.full_disk,
        "second-disk": found.full_second_disk,
        "missing": found.missing,
        "own-disks": found.own_disks,
    }


def _checkpoints(out: Path) -> list[Path]:
    return sorted(out.glob(".partial/*/.checkpoints/step-*.pt"))


def _steps(out: Path) -> int:
    """Return after how many updates the newest checkpoint was written."""
    return max((int(path.stem.split("-")[1]) for path in _checkpoints(out)), default=0)


def _left(out: Path) -> list[str]:
    return [str(path) for path in out.rglob("*") if path.suffix in (".tmp", ".partial")]


def _same(out: Path, other: Path) -> bool:
    one, two = (load_file(folder / "encoder" / "model.safetensors") for folder in (out, other))
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def digest(out: Path) -> str:
    """Return the digest of an encoder's file, to be printed."""
    content = (out / "encoder" / "model.safetensors").read_bytes()
    return hashlib.sha256(content).hexdigest()[:12]
