"""Speaker verification (SUPERB ASV): x-vectors trained to tell speakers, scored on trials."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechft.data.labels import Vocabulary, label_of
from speechft.data.manifest import Corpus
from speechft.errors import DataError
from speechft.tasks.base import Level, Predictions, Split, Task
from speechft.tasks.measures import Item, Measure, weighted_eer
from speechft.tasks.speaker import LOST_FRAMES, XVectorHead

if TYPE_CHECKING:
    from lhotse.cut import Cut

Trial = tuple[bool, str, str]
"""(same speaker, id, id)."""

_SCALE, _MARGIN = 30.0, 0.4
_DEV_TRIALS = 4000
_UNSEEN = -1


class SpeakerHead(nn.Module):
    """X-vector and the directions of the training speakers (AM-softmax).

    Shapes: B batch, T frames, D dim, H embedding, C speakers.
    """

    def __init__(self, dim: int, speakers: int, hidden: int, pooled: int) -> None:
        super().__init__()
        self.xvector = XVectorHead(dim, hidden, pooled)
        self.speakers = nn.Parameter(torch.empty(hidden, speakers))
        nn.init.xavier_normal_(self.speakers)

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Map (B, T, D) to (B, C + H): cosines to the speakers, then the embedding."""
        vectors, embeddings = self.xvector.both(features, lengths)
        cosines = F.normalize(vectors, dim=1) @ F.normalize(self.speakers, dim=0)
        return torch.cat([cosines, embeddings], dim=1)


class SpeakerVerification(Task):
    """Equal error rate of cosines between the embeddings of the two sides of each trial.

    Trials are lines ``1|0 id id`` in the file that ``corpus.info["trials"]`` names, or names by
    split. A split without trials gets pairs of its own: all of the same speaker, as many of
    different ones, at most 4,000. Where dev and test are the same split, one in twenty training
    speakers (at least two) is held out for dev instead.
    """

    name = "asv"
    title = "speaker verification"
    label = "speaker"
    level: ClassVar[Level] = "frame"
    metric: ClassVar[str] = "eer"
    lists: ClassVar[tuple[str, ...]] = ("trials",)
    higher_is_better: ClassVar[bool] = False

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Return the equal error rate."""
        return (Measure("eer", False, weighted_eer),)

    def vocabulary(self, cuts: Iterable[Cut]) -> Vocabulary:
        """Collect the training speakers."""
        found = {label for cut in cuts if (label := label_of(cut, self.label)) is not None}
        if len(found) < 2:
            raise DataError(f"task asv needs at least two training speakers, found {len(found)}")
        return Vocabulary.from_symbols(found)

    def head(self, dim: int, vocabulary: Vocabulary, hidden: int | None) -> nn.Module:
        """Build the x-vector with SUPERB's proportions."""
        return self.probe_head(dim, vocabulary, hidden=hidden)

    def probe_head(
        self, dim: int, vocabulary: Vocabulary, *, hidden: int | None, units: Sequence[int] = ()
    ) -> nn.Module:
        """Build the x-vector; ``units`` holds the pooled size (SUPERB: 1500)."""
        size = hidden or 512
        pooled = units[0] if units else 3 * size
        return SpeakerHead(dim, len(vocabulary), size, pooled)

    def target(self, cut: Cut, vocabulary: Vocabulary, frames: int) -> Tensor:
        """Return (1,) speaker, -1 for one that training does not hold."""
        speaker = label_of(cut, self.label)
        if speaker is None:
            raise DataError(f"cut {cut.id} has no speaker, which task asv needs")
        if not self.usable(cut, frames):
            raise DataError(
                f"cut {cut.id} has {frames} frames; the x-vector of task asv needs at least "
                f"{LOST_FRAMES + 2}, about {0.02 * (LOST_FRAMES + 3):.2f} s",
                hint="leave such recordings out of dev and test, and out of the trials",
            )
        known = speaker in vocabulary.symbols
        return torch.tensor([vocabulary.symbols.index(speaker) if known else _UNSEEN])

    def usable(self, cut: Cut, frames: int) -> bool:
        """Return whether the x-vector's contexts leave enough frames."""
        return frames > LOST_FRAMES + 1

    def losses(
        self, logits: Tensor, lengths: Tensor, targets: Sequence[Tensor], vocabulary: Vocabulary
    ) -> Tensor:
        """Return AM-softmax losses, (B,); 0 for speakers that training does not hold."""
        labels = torch.cat(list(targets))
        cosines = logits[:, : len(vocabulary)]
        margins = _MARGIN * F.one_hot(labels.clamp(min=0), len(vocabulary))
        return F.cross_entropy(
            _SCALE * (cosines - margins), labels, reduction="none", ignore_index=_UNSEEN
        )

    def predict(self, logits: Tensor, lengths: Tensor, vocabulary: Vocabulary) -> list[Any]:
        """Return the (H,) embedding of each utterance, of unit length."""
        return list(logits[:, len(vocabulary) :].cpu())

    def score(self, cut: Cut, prediction: Any, target: Tensor, vocabulary: Vocabulary) -> Item:
        """Refuse: verification scores trials, see `items`."""
        raise NotImplementedError("speaker verification scores trials, not utterances")

    def split_off_dev(
        self, train: Split, dev: Split, names: tuple[str, str, str]
    ) -> tuple[Split, Split]:
        """Hold out every twentieth training speaker where dev is the test split."""
        if names[1] != names[2]:
            return train, dev
        speakers = sorted({label_of(cut, self.label) or "" for cut in train})
        held = set(speakers[:: max(1, min(20, len(speakers) // 2))])
        if len(speakers) - len(held) < 2:
            raise DataError(
                f"task asv needs at least four training speakers to hold out two for dev, found "
                f"{len(speakers)}"
            )
        return (
            [cut for cut in train if label_of(cut, self.label) not in held],
            [cut for cut in train if label_of(cut, self.label) in held],
        )

    def context(self, corpus: Corpus, split: str, cuts: Split) -> list[Trial]:
        """Return the trials of a split.

        Raises:
            DataError: A line cannot be read, or a trial has no audio.
        """
        named = corpus.info.get("trials")
        file = named.get(split) if isinstance(named, dict) else named
        if file is None or (not isinstance(named, dict) and split != self._tested(corpus)):
            return drawn_trials(cuts)
        return read_trials(corpus, str(file), {cut.id for cut in cuts})

    def _tested(self, corpus: Corpus) -> str:
        return self.folds(corpus)[0][2]

    def items(
        self,
        cuts: Split,
        predictions: Predictions,
        targets: Sequence[Tensor],
        vocabulary: Vocabulary,
        context: Any = None,
        setting: Any = None,
    ) -> list[Item]:
        """Return one item a trial: its cosine, and 1 for the same speaker."""
        embeddings = {cut.id: e for cut, e in zip(cuts, predictions, strict=True)}
        speakers = {cut.id: label_of(cut, self.label) or "" for cut in cuts}
        items = []
        for same, first, second in context:
            cosine = float(embeddings[first] @ embeddings[second])
            name, truth = f"{first}|{second}", float(same)
            items.append(
                Item(name, f"{cosine:.6f}", str(int(same)), cosine, truth, group=speakers[first])
            )
        return items


def read_trials(corpus: Corpus, file: str, known: set[str]) -> list[Trial]:
    """Read trials, ``1|0 id id`` a line.

    Raises:
        DataError: The file cannot be read, a line is malformed, a trial has no audio, or all trials
            are of one kind.
    """
    path = f"{corpus.place}/{file}"
    trials: list[Trial] = []
    for number, line in enumerate(corpus.read_text(file).splitlines(), start=1):
        cells = line.split()
        if not cells:
            continue
        if len(cells) != 3 or cells[0] not in ("0", "1"):
            raise DataError(f"{path}, line {number}: expected '1|0 id id', found {line!r}")
        for name in cells[1:]:
            if name not in known:
                raise DataError(
                    f"{path}, line {number}: trial without audio, {name!r} is not in the split",
                    hint="prepare the corpus again, or leave that trial out",
                )
        trials.append((cells[0] == "1", cells[1], cells[2]))
    if len({same for same, _, _ in trials}) < 2:
        raise DataError(f"{path} needs trials of the same and of different speakers")
    return trials


def drawn_trials(cuts: Split) -> list[Trial]:
    """Draw at most 4,000 trials from the utterances of a split, half of them of the same speaker.

    The same cuts always give the same trials.

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
            hint="name a file of lines '1|0 id id' as trials in corpus.json",
        )
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
