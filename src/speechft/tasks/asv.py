"""Speaker verification (SUPERB ASV): x-vectors trained to tell speakers, scored on trials."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from speechft.data.labels import Vocabulary, label_of
from speechft.errors import DataError
from speechft.tasks.answers import Answer, Heard
from speechft.tasks.base import Task
from speechft.tasks.measures import Item, Measure, weighted_eer
from speechft.tasks.parts import (
    NO_AUDIO,
    OF_LEFT_OUT,
    Labels,
    Level,
    Model,
    Needs,
    Predictions,
    Scorer,
    Split,
)

if TYPE_CHECKING:
    from lhotse.cut import Cut
    from torch import Tensor, nn

    from speechft.data.manifest import Corpus
    from speechft.tasks.left_out import LeftOut

Trial = tuple[bool, str, str]
"""(same speaker, id, id)."""

EER = Measure("eer", False, weighted_eer, written="EER")
_DEV_TRIALS = 4000
_UNSEEN = -1


class SpeakerLabels(Labels):
    """The speakers of the training split; targets are (1,) int64, -1 for other speakers."""

    def vocabulary(self, cuts: Iterable[Cut]) -> Vocabulary:
        """Collect the training speakers."""
        found = {label for cut in cuts if (label := label_of(cut, self.kind)) is not None}
        if len(found) < 2:
            raise DataError(f"task asv needs at least two training speakers, found {len(found)}")
        return Vocabulary.from_symbols(found)

    def target(self, cut: Cut, vocabulary: Vocabulary, frames: int) -> Tensor:
        """Return (1,) speaker, -1 for one that training does not hold."""
        import torch

        speaker = label_of(cut, self.kind)
        if speaker is None:
            raise DataError(f"cut {cut.id} has no speaker, which task asv needs")
        known = speaker in vocabulary
        return torch.tensor([vocabulary.symbols.index(speaker) if known else _UNSEEN])


@dataclass(frozen=True)
class SpeakerModel(Model):
    """The x-vector and a loss that tells the training speakers; predictions are embeddings.

    Logits are (B, C + H): of C speakers, then an embedding of H.
    """

    level: ClassVar[Level] = "frame"
    per_frame: ClassVar[bool] = False
    counterpart: ClassVar[str] = "ForXVector"
    least_frames: ClassVar[int] = 16
    """The contexts of the x-vector use up 14, and statistics pooling takes two."""
    loss: Literal["am-softmax", "aam-softmax", "softmax"] = "am-softmax"
    pooling: Literal["statistics", "mean"] = "statistics"
    extra_frame: bool = False
    """Whether to pool the frame too many of s3prl's training; see `XVectorHead`."""

    def head(
        self, dim: int, vocabulary: Vocabulary, hidden: int | None, units: Sequence[int]
    ) -> nn.Module:
        """Build the x-vector; ``units`` holds the pooled size (SUPERB: 512 and 1500)."""
        from speechft.tasks.speaker import SpeakerHead

        size = hidden or 512
        return SpeakerHead(
            dim,
            len(vocabulary),
            size,
            units[0] if units else 3 * size,
            biased=self.loss == "softmax",
            pooling=self.pooling,
            extra_frame=self.extra_frame,
        )

    def losses(
        self, logits: Tensor, lengths: Tensor, targets: Sequence[Tensor], vocabulary: Vocabulary
    ) -> Tensor:
        """Return losses, (B,); 0 for speakers that training does not hold."""
        import torch

        from speechft.tasks.speaker import SPEAKER_LOSSES

        labels = torch.cat(list(targets))
        return SPEAKER_LOSSES[self.loss](logits[:, : len(vocabulary)], labels, ignored=_UNSEEN)

    def predict(self, logits: Tensor, lengths: Tensor, vocabulary: Vocabulary) -> list[Any]:
        """Return the (H,) embedding of each utterance, of unit length."""
        return list(logits[:, len(vocabulary) :].cpu())


class TrialScorer(Scorer):
    """Cosines between the embeddings of the two sides of each trial.

    Trials are lines ``1|0 id id`` in the file that ``corpus.info["trials"]`` names, or names by
    split. A split without trials gets pairs of its own: all of the same speaker, as many of
    different ones, at most 4,000.
    """

    lists: ClassVar[tuple[str, ...]] = ("trials",)

    def context(
        self,
        corpus: Corpus,
        names: tuple[str, str, str],
        split: str,
        cuts: Split,
        left_out: LeftOut | None,
    ) -> list[Trial]:
        """Return the trials of a split, without those of recordings that are left out.

        Raises:
            DataError: A line cannot be read, or a trial has no audio.
        """
        named = corpus.info.get("trials")
        file = named.get(split) if isinstance(named, dict) else named
        if file is None or (not isinstance(named, dict) and split != names[2]):
            return drawn_trials(cuts, split)
        return read_trials(corpus, str(file), split, {cut.id for cut in cuts}, left_out)

    def items(
        self,
        cuts: Split,
        predictions: Predictions,
        targets: Sequence[Tensor],
        vocabulary: Vocabulary,
        context: Any,
        setting: Any,
    ) -> list[Item]:
        """Return one item a trial: its cosine, and 1 for the same speaker; none without trials."""
        embeddings = {cut.id: e for cut, e in zip(cuts, predictions, strict=True)}
        speakers = {cut.id: label_of(cut, "speaker") or "" for cut in cuts}
        items = []
        for same, first, second in context or ():
            cosine = float(embeddings[first] @ embeddings[second])
            name, truth = f"{first}|{second}", float(same)
            items.append(
                Item(name, f"{cosine:.6f}", str(int(same)), cosine, truth, group=speakers[first])
            )
        return items

    def describe(self, prediction: Any, vocabulary: Vocabulary, setting: Any) -> str:
        """Return the embedding, its values separated by spaces."""
        return " ".join(f"{value:.6f}" for value in prediction.tolist())

    def answer(self, heard: Heard) -> Answer:
        """Return the embedding; the cosine of two says how alike their speakers are."""
        text = self.describe(heard.prediction, heard.vocabulary, None)
        return Answer(text, {"embedding": [round(v, 6) for v in heard.prediction.tolist()]})


class SpeakerNeeds(Needs):
    """Where dev and test are one split, some training speakers are held out for dev instead."""

    def split_off_dev(
        self, train: Split, dev: Split, names: tuple[str, str, str]
    ) -> tuple[Split, Split]:
        """Hold out every twentieth training speaker, at least two, where dev is the test split."""
        from speechft.data.kept_cuts import chosen

        if names[1] != names[2]:
            return train, dev
        speakers = sorted({label_of(cut, "speaker") or "" for cut in train})
        held = set(speakers[:: max(1, min(20, len(speakers) // 2))])
        if len(speakers) - len(held) < 2:
            raise DataError(
                f"task asv needs at least four training speakers to hold out two for dev, found "
                f"{len(speakers)}"
            )
        return (
            chosen(train, lambda cut: label_of(cut, "speaker") not in held),
            chosen(train, lambda cut: label_of(cut, "speaker") in held),
        )


ASV = Task(
    "asv",
    "speaker verification",
    labels=SpeakerLabels("asv", "speaker"),
    model=SpeakerModel(),
    scorer=TrialScorer((EER,)),
    needs=SpeakerNeeds(),
)


def read_trials(
    corpus: Corpus, file: str, split: str, known: set[str], left_out: LeftOut | None = None
) -> list[Trial]:
    """Read trials, ``1|0 id id`` a line.

    Args:
        corpus: Whose folder holds the file.
        file: Its name.
        split: Name of the split that the trials are of.
        known: Ids of its recordings.
        left_out: Those that are left out of it, and is told the trials that name one, or that have
            no audio at all.

    Raises:
        DataError: The file cannot be read, a line is malformed, too many trials have no audio, or
            all trials are of one kind.
    """
    path = f"{corpus.place}/{file}"
    trials: list[Trial] = []
    absent: dict[str, tuple[int, str]] = {}
    bad = {} if left_out is None else left_out.of(split)
    passed = frozenset[str]() if left_out is None else left_out.passed(split)
    for number, line in enumerate(corpus.read_text(file).splitlines(), start=1):
        cells = line.split()
        if not cells:
            continue
        if len(cells) != 3 or cells[0] not in ("0", "1"):
            raise DataError(f"{path}, line {number}: expected '1|0 id id', found {line!r}")
        new = [name for name in cells[1:] if name not in known]
        if any(name in passed for name in new):
            continue
        if not new:
            trials.append((cells[0] == "1", cells[1], cells[2]))
        elif left_out is not None and any(name in bad for name in new):
            left_out.add_pairs(split, ["|".join(cells[1:])], OF_LEFT_OUT)
        else:
            absent["|".join(cells[1:])] = number, new[0]
    if absent and (left_out is None or not left_out.allows(len(absent), len(absent) + len(trials))):
        number, name = next(iter(absent.values()))
        raise DataError(
            f"{path}, line {number}: trial without audio, {name!r} is not in the split",
            hint="prepare the corpus again, or leave that trial out",
        )
    if left_out is not None:
        left_out.add_pairs(split, absent, NO_AUDIO)
    if len({same for same, _, _ in trials}) < 2:
        raise DataError(f"{path} needs trials of the same and of different speakers")
    return trials


def drawn_trials(cuts: Split, split: str = "") -> list[Trial]:
    """Draw at most 4,000 trials from the utterances of a split, half of them of the same speaker.

    The same cuts always give the same trials.

    Args:
        cuts: The utterances.
        split: Name of the split, for the error; empty for cuts that were held out of another.

    Raises:
        DataError: No speaker has two utterances, or there is only one speaker.
    """
    speakers: dict[str, list[str]] = {}
    for cut in sorted(cuts, key=lambda cut: cut.id):
        speakers.setdefault(label_of(cut, "speaker") or "", []).append(cut.id)
    same = [pair for ids in speakers.values() for pair in combinations(ids, 2)]
    if len(speakers) < 2 or not same:
        raise DataError(
            "task asv draws its trials from a split that has none: that takes two speakers, one of "
            f"them with two utterances; found speakers: {', '.join(sorted(speakers)) or 'none'}",
            hint="write a file of lines '1|0 id id' beside the manifests, and its name into "
            f'corpus.json: "info": {{"trials": {{"{split}": FILE}}}}'
            if split
            else "give training more speakers with two utterances each",
        )
    import numpy as np

    rng = np.random.default_rng(0)
    count = min(_DEV_TRIALS // 2, len(same))
    chosen = sorted(rng.choice(len(same), count, replace=False).tolist())
    trials: list[Trial] = [(True, *same[number]) for number in chosen]
    names = sorted(speakers)
    for _ in range(count):
        first, second = rng.choice(len(names), 2, replace=False)
        pair = (str(rng.choice(speakers[names[first]])), str(rng.choice(speakers[names[second]])))
        trials.append((False, *pair))
    return trials
