"""Files of hidden states, one an utterance: written atomically, and known again."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from speechft.data.places import file_of
from speechft.errors import CheckpointError, RunError
from speechft.storage.disk import remove
from speechft.storage.files import atomic_write, create_text, json_text, read_json, write_error
from speechft.storage.headers import is_whole, sorted_metadata
from speechft.storage.outputs import refuse

if TYPE_CHECKING:
    from lhotse.cut import Cut

RECORD_NAME = "extract.json"
_HEARD = "audio-*.json"
"""Notes of manifests whose audio, which lies at addresses, the features here are of."""
KEY = "hidden_states"


class Writer:
    """Writes one file an utterance, atomically, and knows which ones are there.

    Args:
        out: The folder.
        settings: How features are made.
        manifests: See `Sources`.
        dtype: On disk.
        nonfinite: Write what is no finite number.
    """

    def __init__(
        self,
        out: Path,
        settings: dict[str, Any],
        manifests: Mapping[str, str],
        dtype: torch.dtype,
        nonfinite: bool,
    ) -> None:
        self._out, self.settings, self._dtype = out, settings, dtype
        self._manifests, self._nonfinite = manifests, nonfinite
        self._suffix = f".{settings['format']}"
        self._known: set[str] = set()
        self._whole: set[str] = set()
        self._begun = False

    def _is_known(self, note: str) -> bool:
        """Return whether a note is here: how features are made, or of which audio some are.

        Raises:
            RunError: They are made with other settings.
        """
        if note not in self._known and (self._out / note).is_file():
            if note == RECORD_NAME:
                self._compare()
            self._known.add(note)
        return note in self._known

    def _is_ours(self, name: str) -> bool:
        """Return whether what an item's features are called is what an extraction of it wrote."""
        digest = self._manifests.get(name)
        return self._is_known(RECORD_NAME) and (digest is None or self._is_known(_note(digest)))

    def _begin(self) -> None:
        """Say what is written here, and of which audio, unless this or another process has."""
        if self._begun:
            return
        self._is_known(RECORD_NAME)
        notes = {_note(digest): {"manifest": digest} for digest in {*self._manifests.values()}}
        try:
            self._out.mkdir(parents=True, exist_ok=True)
            for note, content in {RECORD_NAME: self.settings, **notes}.items():
                with contextlib.suppress(FileExistsError):
                    create_text(self._out / note, json_text(content))
        except OSError as error:
            raise write_error(self._out, error) from error
        self._begun = self._is_known(RECORD_NAME)

    def clear(self, names: Iterable[str]) -> None:
        """Make room for features where no extraction of this audio wrote what is there.

        Raises:
            RunError: There is something else, and `overwriting` is off.
        """
        strange = [name for name in names if self.path(name).exists() and not self._is_ours(name)]
        known = self._is_known(RECORD_NAME)
        by = "an extraction of this audio as it is now" if known else "extract"
        refuse([str(self.path(name)) for name in strange], by=by)
        for name in strange:
            remove(self.path(name))
        own = {_note(digest) for digest in self._manifests.values()}
        for note in self._out.glob(_HEARD) if strange else ():
            if note.name not in own:  # what it tells may hold no longer
                remove(note)

    def _compare(self) -> None:
        try:
            old = read_json(self._out / RECORD_NAME)
        except CheckpointError:
            old = None
        known = old if isinstance(old, dict) else {}
        if known.keys().isdisjoint(self.settings):
            raise RunError(
                f"{self._out / RECORD_NAME} was not written by extract",
                hint="choose another --out, or look what it is and move it away",
            )
        different = [name for name, value in self.settings.items() if known.get(name) != value]
        if different:
            told = ", ".join(
                f"{name} {known.get(name)} instead of {self.settings[name]}" for name in different
            )
            raise RunError(
                f"{self._out} holds features that were made otherwise: {told}",
                hint="choose another --out, or the settings that they were made with",
            )

    def has(self, name: str, cut: Cut) -> bool:
        """Tell whether features are there that are not older than their audio.

        Of audio at an address, what its manifest told when they were written is what it tells now.
        """
        path = self.path(name)
        if not path.exists() or not self._is_ours(name) or not self._is_whole(name):
            return False
        if name in self._manifests:
            return True
        audio = Path(file_of(cut.recording.sources[0].source))
        return audio.exists() and path.stat().st_mtime_ns >= audio.stat().st_mtime_ns

    def _is_whole(self, name: str) -> bool:
        if name not in self._whole and is_whole(self.path(name)):
            self._whole.add(name)
        return name in self._whole

    def damaged(self, names: Iterable[str]) -> list[Path]:
        """Return the files of features that are there and cut off: they do not count."""
        there = (name for name in names if self.path(name).exists())
        return [self.path(name) for name in there if not self._is_whole(name)]

    def path(self, name: str) -> Path:
        """Return where the features of an item go."""
        return self._out / f"{name}{self._suffix}"

    def write(self, name: str, states: Tensor) -> str:
        """Write (N, T, D) hidden states; return why not, where they are no finite numbers."""
        states = states.to(self._dtype).cpu().contiguous()
        if not self._nonfinite and not states.isfinite().all():
            return f"has hidden states that are no finite {str(self._dtype)[6:]} numbers"
        self._begin()
        if self._suffix == ".npy":
            import numpy as np

            buffer = io.BytesIO()
            np.save(buffer, states.numpy())
            data = buffer.getvalue()
        else:
            from safetensors.torch import save

            facts = {"format": "pt", **{k: str(v) for k, v in self.settings.items()}}
            data = sorted_metadata(save({KEY: states}, metadata=facts))
        with atomic_write(self.path(name)) as file:
            file.write(data)
        return ""


def _note(digest: str) -> str:
    return _HEARD.replace("*", digest[:16])
