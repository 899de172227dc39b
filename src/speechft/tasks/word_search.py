"""Beam search for words with an n-gram language model over CTC symbols (SUPERB ASR with LM)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from speechft.errors import DataError
from speechft.extras import needs
from speechft.storage.documents import numbered_lines, text_of

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

BOUNDARY = "|"
"""Symbol between words."""
_NO_WORDS = frozenset({"<s>", "</s>", "<unk>", "<UNK>"})
_IMPOSSIBLE = -1e4


@dataclass(frozen=True)
class LanguageModel:
    """A language model and the settings of the search with it; the defaults are s3prl's."""

    file: Path
    """Word n-gram model in the ARPA format, ``.arpa`` or ``.arpa.gz``."""
    weight: float = 2.0
    """Of the model's log10 probability."""
    word_score: float = -1.0
    """Added for every word."""
    beam: int = 5
    """Hypotheses that are kept."""
    beam_threshold: float = 25.0
    """Hypotheses that are so much worse than the best one are given up."""


class WordSearch:
    """The best sequence of a language model's words by the CTC symbols of an utterance.

    ``max over words and alignments of log P(alignment) + weight log10 P_LM(words)
    + word_score n`` with n words, the end of the sentence part of P_LM. The lexicon is the list of
    the model's words, spelled letter by letter and separated by one `BOUNDARY` or more; a last
    frame that ends the last word is added to every utterance, as targets have no boundary there.

    Source: flashlight's lexicon decoder with KenLM; the defaults are those of s3prl 0.4
    ``downstream/asr/config.yaml``.

    Args:
        model: Language model and settings.
        symbols: CTC symbols, letters in upper case.
        blank: Number of the CTC blank.

    Raises:
        ConfigError: The extra ``lm`` is not installed.
        DataError: The file cannot be read, or none of its words can be spelled.
    """

    def __init__(self, model: LanguageModel, symbols: Sequence[str], *, blank: int = 0) -> None:
        library, kenlm, dictionary = _flashlight()
        numbers = {symbol: number for number, symbol in enumerate(symbols)}
        self._boundary = numbers.get(BOUNDARY, len(symbols))
        self._columns, self._blank = max(len(symbols), self._boundary + 1), blank
        self._words = list(model_words(model.file))
        spelled = {
            word: [*(numbers[letter] for letter in word.upper()), self._boundary]
            for word in self._words
            if numbers.keys() >= set(word.upper())
        }
        if not spelled:
            raise DataError(
                f"language model {model.file}: none of its {len(self._words)} words can be spelled "
                f"with the characters of the training split, such as {' '.join(symbols[-5:])}",
                hint="give a model of words in the language of the corpus",
            )
        try:
            names = dictionary([*self._words, "<unk>"])
            probabilities = kenlm(str(model.file), names)
        except (RuntimeError, ValueError) as error:  # such as a word that is listed twice
            reason = str(error).strip().rpartition("\n")[2]
            raise DataError(
                f"language model {model.file} cannot be read by KenLM: {reason}"
            ) from None
        trie = library.Trie(self._columns, self._boundary)
        start = probabilities.start(False)
        for word, letters in spelled.items():
            place = names.get_index(word)
            trie.insert(letters, place, probabilities.score(start, place)[1])
        trie.smear(library.SmearingMode.MAX)
        options = library.LexiconDecoderOptions(
            beam_size=model.beam,
            beam_size_token=self._columns,
            beam_threshold=model.beam_threshold,
            lm_weight=model.weight,
            word_score=model.word_score,
            unk_score=float("-inf"),
            sil_score=0.0,
            log_add=False,
            criterion_type=library.CriterionType.CTC,
        )
        unknown = names.get_index("<unk>")
        self._decoder = library.LexiconDecoder(
            options, trie, probabilities, self._boundary, blank, unknown, [], False
        )

    def __call__(self, logits: Tensor) -> list[str]:
        """Return the words of an utterance, in upper case.

        Args:
            logits: (T, C) of its frames.
        """
        import torch

        frames, classes = logits.shape
        emissions = torch.full((frames + 1, self._columns), _IMPOSSIBLE)
        emissions[:frames, :classes] = logits.detach().float().cpu().log_softmax(-1)
        emissions[frames, [self._boundary, self._blank]] = 0.0
        found = self._decoder.decode(emissions.data_ptr(), frames + 1, self._columns)
        if not found:
            return []
        return [self._words[number].upper() for number in found[0].words if number >= 0]


def check_model(file: Path) -> None:
    """Refuse what `WordSearch` would refuse, as far as the beginning of the file tells.

    Raises:
        ConfigError: The extra ``lm`` is not installed.
        DataError: The file cannot be read, or holds no words in the ARPA format.
    """
    _flashlight()
    if next(model_words(file), None) is None:
        raise DataError(f"language model {file} holds no words")


def model_words(file: Path) -> Iterator[str]:
    """Yield the words of a model in the ARPA format, markers of sentences and <unk> left out.

    Raises:
        DataError: The file cannot be read, or is not in that format.
    """
    section = ""
    try:
        for number, text in numbered_lines(file):
            line = text_of(text).strip()
            if line.startswith("\\"):
                if section == "\\1-grams:":
                    return
                section = line
            elif not section:
                break
            elif section == "\\1-grams:":
                cells = line.split()
                if len(cells) not in (2, 3):
                    raise DataError(
                        f"language model {file}, line {number}: expected 'log10 probability, "
                        f"word, back-off', found {line[:60]!r}"
                    )
                if cells[1] not in _NO_WORDS:
                    yield cells[1]
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"language model {file} cannot be read: {reason}") from None
    raise DataError(
        f"language model {file} is not in the ARPA format: "
        + ("its first line is not \\data\\" if not section else "its list of words has no end"),
        hint="give a file FILE.arpa or FILE.arpa.gz, such as KenLM's lmplz or SRILM's ngram-count "
        "write; binary models hold no list of words",
    )


def _flashlight() -> tuple[Any, Any, Any]:
    """Return the library, its class of KenLM models, and that of word lists."""
    with needs("lm", "decoding with a language model", "flashlight-text"):
        from flashlight.lib.text import decoder
        from flashlight.lib.text.decoder.kenlm import KenLM
        from flashlight.lib.text.dictionary import Dictionary
    return decoder, KenLM, Dictionary
