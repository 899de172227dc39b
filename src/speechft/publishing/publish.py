"""Publish a model: look at every file, complete its card, upload in one commit."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechft.cards.card import CARD_NAME, read_card
from speechft.console import log
from speechft.encoders.load import digest_of
from speechft.errors import CheckpointError, SpeechftError
from speechft.publishing.contents import File, private_things, read_contents
from speechft.publishing.describing import RESULTS_NAME, figures_of, published_card, tested_of
from speechft.publishing.upload import Upload, check_repo_id, upload
from speechft.results import ResultRow, read_rows
from speechft.storage.files import CONFIG_NAME, encoder_digest


@dataclass(frozen=True)
class Publication:
    """What was published, or would be."""

    repo_id: str
    private: bool
    files: tuple[File, ...]
    """Without the card."""
    card: str
    """README.md as it is uploaded."""
    left_out: tuple[str, ...]
    """Hidden names, which are not uploaded."""
    url: str | None = None
    """Where it is; None for a dry run."""
    sent: bool = False
    """False where the repository held all of it already."""

    @property
    def sizes(self) -> dict[str, int]:
        """Return the bytes of every file by name, the card's first."""
        return {CARD_NAME: len(self.card.encode()), **{f.name: f.size for f in self.files}}

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        digests = {file.name: file.sha256 for file in self.files}
        digests[CARD_NAME] = hashlib.sha256(self.card.encode()).hexdigest()
        return {
            "repo_id": self.repo_id,
            "private": self.private,
            "url": self.url,
            "sent": self.sent,
            "files": [
                {"name": name, "bytes": size, "sha256": digests[name]}
                for name, size in self.sizes.items()
            ],
            "left_out": list(self.left_out),
            "card": self.card,
        }

    def lines(self) -> list[str]:
        """Return the publication as text; a dry run shows the card."""
        kind = "private" if self.private else "public"
        does = "would upload to" if self.url is None else "uploaded to"
        if self.url is not None and not self.sent:
            does = "nothing to send, all of it is in"
        width = max(map(len, self.sizes))
        lines = [f"{does} {self.repo_id} ({kind})"]
        lines += [f"  {name:{width}}  {size:>13,} bytes" for name, size in self.sizes.items()]
        if self.left_out:
            lines.append(f"  hidden, not uploaded: {', '.join(self.left_out)}")
        if self.url is None:
            lines += ["", *self.card.rstrip().splitlines()]
        return lines


def publish(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    licence: str | None = None,
    results: str | Path | Sequence[str | Path] = (),
    dry_run: bool = False,
    overwrite: bool = False,
) -> Publication:
    """Upload a folder that holds a Hugging Face model, with a card, in one commit.

    Nothing in the folder is changed. Uploaded are safetensors, JSON, Markdown and licences, each
    read as what its name says; links, pickles and anything else are refused.

    Args:
        folder: An encoder or another model in Hugging Face format.
        repo_id: ``user/name``.
        private: Only its owners see the repository.
        licence: An identifier of the hub, such as ``apache-2.0``; None takes the one that follows
            from what the model was made of, as its card tells.
        results: Folders of evaluations, or files of result rows, for the card's figures; those of
            the folder and of the run that it lies in are found.
        dry_run: Check everything and show what would be uploaded; needs no network and no token.
        overwrite: Replace what the repository holds.

    Raises:
        CheckpointError: The folder holds no model, or something that is not published.
        ConfigError: No licence is known, or an argument is wrong.
        DataError: The results are not of this model, or cannot be read.
        RunError: There is no token, the repository holds something else, or the hub refuses.
    """
    place = Path(os.path.abspath(Path(os.path.expanduser(folder)))).resolve()
    check_repo_id(repo_id)
    files, hidden = read_contents(place)
    files = [file for file in files if file.name != CARD_NAME]
    given = _places(results)
    rows = figures_of(given, _digests(place)) if given else _near(place)
    card = published_card(place, repo_id, files, rows, licence)
    _check_card(card, place)
    asked = Upload(repo_id, private, files, card)
    told = Publication(repo_id, private, tuple(files), card, tuple(hidden))
    if dry_run:
        return told
    url, sent = upload(asked, overwrite=overwrite)
    return Publication(**{**vars(told), "url": url, "sent": sent})


def _places(results: Any) -> list[Path]:
    named = [results] if isinstance(results, str | os.PathLike) else list(results)
    return [Path(os.path.expanduser(name)) for name in named]


def _near(folder: Path) -> list[ResultRow]:
    """Return the figures of a model that lie in its folder, or in that of its run, if there are."""
    digests = _digests(folder)
    near = [p for p in (folder.parent, folder) if (p / RESULTS_NAME).is_file()]
    own = [p for p in near if _tells_of(p, digests)]
    return figures_of(own, digests)


def _tells_of(place: Path, digests: set[str]) -> bool:
    try:
        return bool(tested_of(read_rows(place / RESULTS_NAME), digests))
    except SpeechftError as error:  # of something else that lies there
        log(f"no figures are taken from there: {error.message}")
        return False


def _digests(folder: Path) -> set[str]:
    """Return the digests that result rows know a model by.

    A pipeline names in the metadata of its card (``encoder_digest``) the encoder that it was
    evaluated as.
    """
    found = set()
    told = read_card(folder)[0].get("encoder_digest")
    if isinstance(told, str):
        found.add(told)
    if (folder / CONFIG_NAME).is_file():
        try:
            found.add(digest_of(folder))
        except CheckpointError:
            found.add(encoder_digest(folder))
    return found


def _check_card(card: str, folder: Path) -> None:
    if problems := private_things(card.splitlines()):
        raise CheckpointError(
            f"the card of {folder} cannot be published: it {problems[0]}",
            hint=f"mend {folder / CARD_NAME}",
        )
