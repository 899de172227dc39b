"""An alpha without labels of other tasks: what the tuned task gains against how far features move.

Not yet judged: whether it finds the alpha that labels would choose is a question for the study.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from speechft.analysis.choosing import sample_frames
from speechft.analysis.similarity import batches_of, cka
from speechft.console import progress_bar
from speechft.data.batching import pad, seed_of
from speechft.data.labels import MAX_LEFT_OUT, label_of
from speechft.data.manifest import Corpus
from speechft.devices import Precision, autocast, pick_device, resolve_precision
from speechft.encoders.base import Encoder
from speechft.evaluation.config import LIMIT
from speechft.evaluation.encoders import open_corpora
from speechft.evaluation.limit import limited
from speechft.features.downsampler import DownsamplerCache, downsampler_key
from speechft.features.extract import batch_limits, count_frames, encode, group_by_length, in_float
from speechft.finetuning.splits import SplitReader
from speechft.merging.repeated import Merger
from speechft.runs import lock, stage
from speechft.storage.files import json_digest, read_json, write_json
from speechft.storage.headers import is_whole
from speechft.sweeping.corpora import corpora_of, tell_corpora
from speechft.sweeping.drawing import draw_suggestion
from speechft.sweeping.merged import Place, merge_command
from speechft.sweeping.settings import Point, SweepSettings, read_alphas
from speechft.sweeping.sweep import Sweep, shares_downsampler
from speechft.sweeping.tuning import KeptHead, kept_head
from speechft.sweeping.writing import put_json

if TYPE_CHECKING:
    from lhotse.cut import Cut

SUGGESTION_FILE = "suggestion.json"
GRID = read_alphas("0:1:0.05")
"""Coefficients that are looked at."""
FALLBACK = 0.25
"""The paper's, where what is gained says nothing."""
UTTERANCES = 500
"""Of train and of dev at most, classes in turn."""
UPDATES, RATE, BATCH = 200, 1e-3, 16
"""Of the head, at each coefficient, from the kept one: Adam."""
STATUS = "not yet judged"


@dataclass(frozen=True)
class Measurement:
    """What was measured at one alpha."""

    alpha: float
    loss: float
    """Mean loss of dev with the head refitted."""
    kept_loss: float
    """The same with the head as it was kept."""
    similarity: tuple[float | None, ...]
    """CKA with the base on frames of dev, by layer from 0; None where features do not vary."""


@dataclass(frozen=True)
class Suggestion:
    """The alpha that is suggested, and the curves that it was read from."""

    alpha: float
    reason: str
    task: str
    curve: tuple[Measurement, ...]
    gains: tuple[float, ...] = field(default=())
    r"""G(a) = (L(0) - L(a)) / (L(0) - L(1)), L the dev loss with the head refitted; empty where
    L(0) <= L(1)."""
    kept_gains: tuple[float, ...] = field(default=())
    """The same with the head as it was, which was trained on the tuned encoder."""
    drifts: tuple[float, ...] = field(default=())
    """D(a) = (1 - CKA(a)) / (1 - CKA(1)), mean over the layers that moved."""

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain JSON types."""
        return {
            "status": STATUS,
            "alpha": self.alpha,
            "reason": self.reason,
            "task": self.task,
            "alphas": [one.alpha for one in self.curve],
            "loss": [one.loss for one in self.curve],
            "loss_of_kept_head": [one.kept_loss for one in self.curve],
            "cka": [list(one.similarity) for one in self.curve],
            "gain": list(self.gains),
            "gain_of_kept_head": list(self.kept_gains),
            "drift": list(self.drifts),
        }


def suggest(
    settings: SweepSettings,
    corpus: str | Sequence[str],
    folder: Path,
    seed: int = 0,
    precision: Precision = "auto",
    max_left_out: float = MAX_LEFT_OUT,
) -> Sweep:
    """Suggest an alpha; writes ``suggestion.json`` and a picture of its curves.

    Read are the splits that the tuned task is tuned on, no labels of other tasks, never test.

    Args:
        settings: Base, one tuned encoder, and how they are merged.
        corpus: As `find_corpus` takes them, the first with the task is used; none for those that
            the encoder was tuned on.
        folder: Where results go.
        seed: Of the frames, the utterances and the refitting.
        precision: Of the encoders.
        max_left_out: Largest share of a split that may be left out.

    Raises:
        ConfigError: There is no kept head.
        SpeechftError: The models do not belong together, or the corpus lacks the task's labels.
    """
    head = kept_head(settings.tuned)
    places = corpora_of(settings.tuned, corpus)
    with lock(folder):
        merger = Merger(settings.base, settings.tuned)
        shared = shares_downsampler(merger, _point(settings, 1.0))
        place = Place()
        encoder = _encoder(place, merger, settings, 0.0)
        opened = open_corpora(places, folder, test=False)
        found = next((one for one in opened if head.task.supported_by(one)), opened[0])
        tell_corpora(settings.tuned, [found])
        data = _Data.of(head, found, encoder, seed, max_left_out)
        job = _Job(head, data, seed, resolve_precision(precision, pick_device()), shared)
        config = {
            "merge": settings.merge.changed(),
            "head": head.digest,
            "seed": seed,
            "precision": job.precision,
            "refit": [UPDATES, RATE, BATCH],
            "utterances": UTTERANCES,
        }
        names = [name for part in (data.train, data.dev) for name in (cut.id for cut in part)]
        inputs = {
            "base": job.digest(merger, settings, 0.0),
            "tuned": job.digest(merger, settings, 1.0),
            "corpus": found.digest,
            "utterances": json_digest(names),
        }
        with stage(folder / "suggestion", name="suggest", config=config, inputs=inputs) as work:
            if not work.done:
                curve = job.measure(place, merger, settings, work.scratch)
                write_json(work.scratch / SUGGESTION_FILE, read_off(curve, head.name).as_dict())
        suggestion = _read(folder / "suggestion" / SUGGESTION_FILE)
        put_json(folder / SUGGESTION_FILE, suggestion.as_dict())
        draw_suggestion(suggestion.as_dict(), folder)
    made = settings.merge.only(alpha=suggestion.alpha)
    command = merge_command(settings.base, settings.tuned, made)
    return Sweep([], [], (head.name,), None, command, suggestion=suggestion)


def read_off(curve: Sequence[Measurement], task: str) -> Suggestion:
    """Return the alpha where the gain exceeds the drift most, on a grid that ends in 0 and 1.

    Where L(0) <= L(1), or the gain falls from one alpha to the next, the curve says nothing about
    a trade-off, and the paper's 0.25 is taken.

    Args:
        curve: Measurements in ascending order of alpha.
        task: Key of the tuned task.
    """
    losses = [one.loss for one in curve]
    gains, kept = (_gains([getattr(one, n) for one in curve]) for n in ("loss", "kept_loss"))
    drifts = _drifts([one.similarity for one in curve])
    found = tuple(curve), gains, kept, drifts
    if not gains:
        why = f"the loss of {task} on dev does not fall from the base to the tuned encoder"
        return Suggestion(FALLBACK, f"{why} ({losses[0]:.3g} to {losses[-1]:.3g})", task, *found)
    if any(after < before for before, after in itertools.pairwise(gains)):
        why = f"what {task} gains does not rise with alpha throughout"
        return Suggestion(FALLBACK, why, task, *found)
    if not drifts:
        return Suggestion(FALLBACK, "the features of no layer moved", task, *found)
    excess = np.array(gains) - np.array(drifts)
    best = int(excess.argmax())
    share = f"{gains[best]:.0%} of the gain on {task} at {drifts[best]:.0%} of the drift"
    return Suggestion(curve[best].alpha, share, task, *found)


def _gains(losses: Sequence[float]) -> tuple[float, ...]:
    first, last = losses[0], losses[-1]
    if not first > last:
        return ()
    return tuple((first - loss) / (first - last) for loss in losses)


def _drifts(similarities: Sequence[Sequence[float | None]]) -> tuple[float, ...]:
    table = 1 - np.array(similarities, np.float64)  # None becomes NaN
    moved = np.isfinite(table).all(0) & (table[-1] > 1e-9)
    if not moved.any():
        return ()
    return tuple(float(value) for value in (table[:, moved] / table[-1, moved]).mean(1))


def _read(file: Path) -> Suggestion:
    content = read_json(file)
    columns = [content[key] for key in ("alphas", "loss", "loss_of_kept_head", "cka")]
    curve = [Measurement(a, b, c, tuple(d)) for a, b, c, d in zip(*columns, strict=True)]
    return read_off(curve, content["task"])


def _point(settings: SweepSettings, alpha: float) -> Point:
    return Point(alpha, None, settings.merge.only(alpha=alpha))


def _encoder(place: Place, merger: Merger, settings: SweepSettings, alpha: float) -> Encoder:
    return place.encoder(merger.merge(_point(settings, alpha).settings).checkpoint)


@dataclass(frozen=True)
class _Data:
    """The utterances that are looked at."""

    train: list[Cut]
    dev: list[Cut]
    frames: list[Any]
    """Numbers of the sampled frames of each utterance of dev."""

    @classmethod
    def of(cls, head: KeptHead, corpus: Corpus, encoder: Encoder, seed: int, limit: float) -> _Data:
        """Read the splits of the tuned task, without what it cannot use."""
        reader = SplitReader(corpus, encoder, limit=limit, setting=LIMIT)
        read = reader.read(head.task.at(encoder.timing), lambda _: head.vocabulary)
        read.left_out.report()

        def balanced(cut: Cut) -> str | None:
            own = None if head.task.level == "frame" else label_of(cut, head.task.label)
            return own or label_of(cut, "speaker")

        train, dev = limited([read.train, read.dev], UTTERANCES, balanced)
        counts = count_frames(encoder, dev)
        drawn = [
            sample_frames(count, encoder.timing, seed, cut.id)
            for count, cut in zip(counts, dev, strict=True)
        ]
        return cls(train, dev, drawn)


@dataclass
class _Job:
    """Measures one alpha after the other; the downsampler's outputs are shared where they may."""

    head: KeptHead
    data: _Data
    seed: int
    precision: Any
    shared: bool

    def __post_init__(self) -> None:
        self.device = pick_device()
        self.cache = DownsamplerCache() if self.shared else None

    def digest(self, merger: Merger, settings: SweepSettings, alpha: float) -> str:
        """Return the digest of the weights at one end."""
        return json_digest(list(merger.merge(_point(settings, alpha).settings).weights))

    def measure(
        self, place: Place, merger: Merger, settings: SweepSettings, scratch: Path
    ) -> list[Measurement]:
        """Return what is found at each alpha; what an interrupted run had found is read."""
        base = _encoder(place, merger, settings, 0.0)
        self.task = self.head.task.at(base.timing)
        reference = self._sampled(base)
        curve = []
        with progress_bar("suggestion", len(GRID)) as bar:
            for alpha in GRID:
                file = scratch / f".alpha-{alpha:g}.json"
                if not is_whole(file):
                    one = self._at(_encoder(place, merger, settings, alpha), alpha, reference)
                    write_json(file, [one.loss, one.kept_loss, list(one.similarity)])
                loss, kept, similarity = read_json(file)
                curve.append(Measurement(alpha, loss, kept, tuple(similarity)))
                bar.advance(1)
        return curve

    def _at(self, encoder: Encoder, alpha: float, reference: Any) -> Measurement:
        train = self._encoded(encoder, self.data.train)[0]
        dev, frames = self._encoded(encoder, self.data.dev, sampled=True)
        head = self.head.build(encoder.dim).to(self.device)
        kept = self._loss(head, dev)
        self._refit(head, train)
        return Measurement(alpha, self._loss(head, dev), kept, self._similarity(reference, frames))

    def _sampled(self, encoder: Encoder) -> Any:
        return self._encoded(encoder, self.data.dev, sampled=True)[1]

    def _encoded(
        self, encoder: Encoder, cuts: Sequence[Cut], *, sampled: bool = False
    ) -> tuple[list[Tensor], Any]:
        """Return the (T, D) float16 last hidden states, and (F, N, D) sampled frames of all."""
        encoder.to(self.device)
        key = None if self.cache is None else downsampler_key(encoder, self.precision)
        seconds, multiple = batch_limits(encoder, self.device)
        last: dict[str, Tensor] = {}
        frames: dict[str, Any] = {}
        wanted = dict(zip((c.id for c in self.data.dev), self.data.frames, strict=True))
        for group in group_by_length(cuts, seconds, encoder.window):
            with torch.inference_mode(), autocast(self.precision, self.device):
                output = in_float(encode(encoder, group, self.device, self.cache, key, multiple))
            for number, cut in enumerate(group):
                count = int(output.lengths[number])
                last[cut.id] = output.last_hidden_state[number, :count].half().cpu().clone()
                if sampled:
                    chosen = torch.from_numpy(wanted[cut.id]).to(self.device)
                    rows = torch.stack([layer[number, chosen] for layer in output.layers], 1)
                    frames[cut.id] = rows.float().cpu().numpy()
        whole = np.concatenate([frames[cut.id] for cut in cuts]) if sampled else None
        return [last[cut.id] for cut in cuts], whole

    def _similarity(self, reference: Any, frames: Any) -> tuple[float | None, ...]:
        """Return CKA by layer; None where the features of a layer do not vary."""
        counts = [len(numbers) for numbers in self.data.frames]
        utterances = np.repeat(np.arange(len(counts)), counts)
        batches = batches_of(utterances, self.seed)
        one = np.zeros(len(utterances), np.int64)  # no interval is asked for
        layers = range(frames.shape[1])
        return tuple(cka(reference[:, n], frames[:, n], batches, one).value for n in layers)

    def _refit(self, head: nn.Module, states: Sequence[Tensor]) -> None:
        """Train the head on the frozen encoder's hidden states."""
        optimizer = torch.optim.Adam(head.parameters(), lr=RATE)
        head.train()
        with torch.random.fork_rng(devices=[]):
            for step in range(UPDATES):
                rng = np.random.default_rng([self.seed, step])
                chosen = rng.permutation(len(states))[:BATCH].tolist()
                torch.manual_seed(seed_of(self.seed, "refit", step))
                optimizer.zero_grad()
                loss = self._losses(head, states, self.data.train, chosen).mean()
                torch.autograd.backward([loss])
                nn.utils.clip_grad_norm_(head.parameters(), 1.0)
                optimizer.step()

    def _loss(self, head: nn.Module, states: Sequence[Tensor]) -> float:
        """Return the mean loss over dev."""
        head.eval()
        order = sorted(range(len(states)), key=lambda number: len(states[number]))
        total = 0.0
        with torch.no_grad():
            for first in range(0, len(order), BATCH):
                chosen = order[first : first + BATCH]
                total += float(self._losses(head, states, self.data.dev, chosen).sum())
        return total / len(states)

    def _losses(
        self, head: nn.Module, states: Sequence[Tensor], cuts: Sequence[Cut], chosen: Sequence[int]
    ) -> Tensor:
        rows = [states[number].float() for number in chosen]
        lengths = torch.tensor([len(row) for row in rows], device=self.device)
        task, vocabulary = self.task, self.head.vocabulary
        targets = [task.target(cuts[n], vocabulary, len(states[n])).to(self.device) for n in chosen]
        logits = head(pad(rows).to(self.device), lengths)
        return task.losses(logits, lengths, targets, vocabulary)
