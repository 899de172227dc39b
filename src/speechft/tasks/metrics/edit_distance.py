"""Error rates from edit distance: WER, CER, PER."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from rapidfuzz.distance import Levenshtein


@dataclass(frozen=True)
class Edits:
    """Smallest number of edits from a reference to a hypothesis."""

    substitutions: int
    insertions: int
    deletions: int

    @property
    def total(self) -> int:
        """Return all edits."""
        return self.substitutions + self.insertions + self.deletions

    def as_dict(self) -> dict[str, float]:
        """Return the counts by name."""
        return {name: float(value) for name, value in asdict(self).items()}


def edits(reference: Sequence[str], hypothesis: Sequence[str]) -> Edits:
    """Count the edits that turn the reference into the hypothesis (Levenshtein)."""
    tags = [edit.tag for edit in Levenshtein.editops(reference, hypothesis)]
    return Edits(tags.count("replace"), tags.count("insert"), tags.count("delete"))


def wer(
    references: Sequence[str],
    hypotheses: Sequence[str],
    *,
    separator: str | None = None,
    empty: float | None = None,
) -> float:
    """Return the word error rate over a corpus: edits / reference words.

    Args:
        references: Texts, words separated by white space.
        hypotheses: As many texts.
        separator: What separates words; None is any run of white space (SUPERB ASR,
            ``asr/expert.py``). ``" "`` counts every single space as ``s3prl.metric.wer`` does, so
            that double spaces and empty texts hold empty words.
        empty: What to return when there is no reference word (``asr/expert.py``: 1.0); None
            refuses.

    Raises:
        ValueError: Different numbers of texts, or no reference word.
    """
    return _rate(references, hypotheses, lambda text: text.split(separator), empty)


def per(
    references: Sequence[str],
    hypotheses: Sequence[str],
    *,
    separator: str | None = None,
    empty: float | None = None,
) -> float:
    """Return the phone error rate over a corpus; arguments and errors as for `wer`."""
    return _rate(references, hypotheses, lambda text: text.split(separator), empty)


def cer(
    references: Sequence[str], hypotheses: Sequence[str], *, empty: float | None = None
) -> float:
    """Return the character error rate over a corpus; spaces count.

    Args:
        references: Texts.
        hypotheses: As many texts.
        empty: What to return when there is no reference character; None refuses.

    Raises:
        ValueError: Different numbers of texts, or no reference character.
    """
    return _rate(references, hypotheses, list, empty)


def _rate(
    references: Sequence[str],
    hypotheses: Sequence[str],
    units: Callable[[str], list[str]],
    empty: float | None,
) -> float:
    pairs = [(units(r), units(h)) for r, h in zip(references, hypotheses, strict=True)]
    length = sum(len(reference) for reference, _ in pairs)
    if length == 0:
        if empty is not None:
            return empty
        raise ValueError("the references are empty: an error rate is not defined")
    return sum(edits(reference, hypothesis).total for reference, hypothesis in pairs) / length
