"""Speech in the layout of a real archive: file names, headers and label formats as they ship.

What is written here is read by the recipes of `speechft.data.corpora`, so that each of them is
exercised from the archive's shape on, without a licensed recording.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from speechft.data.corpora.synthetic.layouts import commands, scenes, speakers, transcribed
from speechft.data.corpora.synthetic.layouts.spoken import Spoken
from speechft.errors import unknown_choice

__all__ = ["LAYOUTS", "Spoken", "write_layout"]

Splits = Mapping[str, Sequence[Spoken]]

LAYOUTS: dict[str, Callable[[Path, Splits], None]] = {
    "tedlium3": transcribed.tedlium3,
    "librispeech": transcribed.librispeech,
    "voxceleb1": speakers.voxceleb1,
    "iemocap": speakers.iemocap,
    "snips": commands.snips,
    "speech-commands": commands.speech_commands,
    "fluent-speech-commands": commands.fluent_speech_commands,
    "timit": transcribed.timit,
    "crema-d": speakers.crema_d,
    "aishell3": transcribed.aishell3,
    "libri2mix": scenes.libri2mix,
    "quesst14": scenes.quesst14,
}
"""Writers by the name of the corpus whose layout they write."""


def write_layout(name: str, root: Path, splits: Splits) -> None:
    """Write utterances as the archive of a corpus has them.

    Args:
        name: Key in `LAYOUTS`.
        root: The folder that the archive would be unpacked into.
        splits: Utterances by split: ``train``, ``dev`` and ``test``.

    Raises:
        ConfigError: There is no such layout.
    """
    if name not in LAYOUTS:
        raise unknown_choice("layout", name, LAYOUTS)
    root.mkdir(parents=True, exist_ok=True)
    LAYOUTS[name](root, splits)
