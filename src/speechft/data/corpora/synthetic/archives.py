"""Imitations of real archives: splits of the embedded corpus that suit a task, in its layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from speechft.console import progress_bar
from speechft.data.corpora import librispeech
from speechft.data.corpora.synthetic.espeak import Espeak, Prosody
from speechft.data.corpora.synthetic.layouts import LAYOUTS, Spoken, write_layout
from speechft.data.corpora.synthetic.layouts.spoken import write_lines
from speechft.data.corpora.synthetic.phones import SILENCE, to_arpabet
from speechft.data.labels import label_of, phones_of
from speechft.data.manifest import Corpus, load_waveform
from speechft.errors import ConfigError, unknown_choice
from speechft.runs import lock

_PLAIN = ("train", "dev", "test")
_SPLITS: dict[str, tuple[str, str, str]] = {
    "voxceleb1": ("train", "sid-dev", "sid-test"),
    "speech-commands": ("ks-train", "ks-dev", "ks-test"),
    "fluent-speech-commands": ("ic-train", "ic-dev", "ic-test"),
    "libri2mix": ("sd-train", "sd-dev", "sd-test"),
    "quesst14": ("documents", "dev-queries", "test-queries"),
    "aishell3": ("languages-train", "languages-dev", "languages-test"),
}


def write_archive(layout: str, corpus: Callable[[], Corpus], root: Path) -> None:
    """Write the splits of the embedded corpus that suit an archive, with its files and formats.

    Args:
        layout: Name of an archive.
        corpus: Gives the embedded SUPERB corpus.
        root: The folder that the archive would be unpacked into; new or empty.

    Raises:
        ConfigError: There is no such layout, or the folder holds something already.
        DataError: The corpus cannot be made.
    """
    if layout not in LAYOUTS:
        raise unknown_choice("layout", layout, LAYOUTS)
    if root.exists() and any(root.iterdir()):
        raise ConfigError(f"folder {root} is not empty", hint="choose a new folder with --out")
    opened = corpus()
    with lock(root):
        splits = {}
        for part, split in zip(_PLAIN, _SPLITS.get(layout, _PLAIN), strict=True):
            splits[part] = _spoken(opened, split, layout)
        write_layout(layout, root, splits)
        if layout == "librispeech":
            words = {w for items in splits.values() for item in items for w in item.text.split()}
            lines = [f"{w.upper()}  {' '.join(p)}" for w, p in sorted(_pronounce(words).items())]
            write_lines(root / "LibriSpeech" / librispeech.LEXICON, lines)


def _pronounce(words: set[str]) -> dict[str, list[str]]:
    """Return each word's phones in American English, as espeak-ng says it alone."""
    espeak, plain = Espeak(), Prosody(rate=160, pitch=50, range=40)
    return {
        word: [
            phone
            for mnemonic, _ in espeak.say(word, "en-us", plain).phonemes
            for phone in to_arpabet(mnemonic)
            if phone != SILENCE
        ]
        for word in sorted(words)
    }


def _spoken(corpus: Corpus, split: str, layout: str) -> list[Spoken]:
    spoken = []
    with progress_bar(f"reading {split}", corpus.statistics[split]["utterances"]) as bar:
        for cut in corpus.split(split):
            bar.advance()
            labels = dict(cut.supervisions[0].custom or {})
            if layout == "aishell3" and "pinyin" not in labels:
                continue
            if labels.get("word") == "_silence_":
                continue  # the layout brings noise of its own
            if layout == "quesst14":
                labels.pop("language")
            spoken.append(
                Spoken(
                    id=cut.id,
                    waveform=load_waveform(cut),
                    text=label_of(cut, "text") or "",
                    speaker=label_of(cut, "speaker") or "",
                    phones=phones_of(cut),
                    labels=labels,
                )
            )
    return spoken
