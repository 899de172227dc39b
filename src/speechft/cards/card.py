"""The card of an encoder that may leave the machine: README.md with metadata that the hub reads."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from speechft.cards.licences import derived
from speechft.console import visible_name
from speechft.errors import CheckpointError
from speechft.naming import hub_id, is_hub_id, public_name, public_text
from speechft.storage.documents import parse_yaml, read_limited, text_of

CARD_NAME = "README.md"
_MAX_CARD = 4 << 20
_BLOCK = re.compile(r"\A\s*---\r?\n(?P<yaml>.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_UNKNOWN = "not known"
_FIRST = (
    "base_model datasets language library_name license license_link license_name metrics "
    "model_name pipeline_tag tags"
).split()
"""Keys that the hub's client knows, in its order; others follow."""


@dataclass(frozen=True)
class Origin:
    """An encoder that another one was made of, or speech that it heard."""

    role: str
    """Such as ``base`` or ``speech``."""
    name: str
    """Hub id, packaged name, or name of the folder."""
    digest: str | None = None
    licence: str | None = None
    """As it is known: an identifier of the hub, or the terms in words."""
    on_hub: tuple[str, ...] = ()
    """Its id on the hub; of an encoder that is not there, those of what it was made of."""
    is_base: bool = True
    """Whether the weights began as those of this encoder, rather than learned from it."""


def encoder_origin(
    role: str, place: str | Path, digest: str | None, folder: Path | None = None
) -> Origin:
    """Return what a card says about an encoder: its name, and what its own card tells.

    Args:
        role: See `Origin`.
        place: What the user gave: a path, hub id or packaged name.
        digest: See `speechft.encoders.load.digest_of`.
        folder: Where its card may lie.
    """
    told = {} if folder is None else read_metadata(folder)
    licence = told.get("license")
    bases = told.get("base_model")
    inherited = [bases] if isinstance(bases, str) else bases if isinstance(bases, list) else []
    known = hub_id(place) or (None if folder is None else hub_id(folder))
    return Origin(
        role,
        public_name(place),
        digest,
        licence if isinstance(licence, str) else None,
        (known,) if known else tuple(n for n in inherited if isinstance(n, str) and is_hub_id(n)),
    )


@dataclass(frozen=True)
class Card:
    """What a card says; it holds names, never places."""

    title: str
    summary: str
    """A sentence or two."""
    encoders: tuple[Origin, ...] = ()
    """What it was made of."""
    speech: tuple[Origin, ...] = ()
    """What it heard."""
    relation: Literal["merge", "finetune"] | None = None
    """What it is to its base, in the hub's words."""
    facts: tuple[tuple[str, str], ...] = ()
    """Further rows of its table."""
    notes: str = ""
    """Markdown at its end."""
    tags: tuple[str, ...] = ()
    auto_model: bool = True
    """Whether transformers alone loads it."""
    pipeline: str = "feature-extraction"
    """What it is for, as the hub calls it; empty where it has no name for that."""
    usage: str = ""
    """Python that uses it, in the stead of the line that says how an encoder is loaded."""
    evaluated_as: str | None = None
    """The digest that results know it by, where that is not the one of its own folder."""
    command: str | None = None
    """The command line that made it, as `speechft.naming.public_command` shows it."""

    def text(self) -> str:
        """Return ``README.md``."""
        rows = [
            (o.role, _code(o.name), o.licence, o.digest) for o in (*self.encoders, *self.speech)
        ]
        lines = [f"# {visible_name(self.title)}", "", self.summary, ""]
        if rows:
            lines += ["| | source | licence or terms | SHA-256 |", "|---|---|---|---|"]
            lines += [
                f"| {role} | {name} | {_cell(terms or _UNKNOWN)} | {_code(digest or _UNKNOWN)} |"
                for role, name, terms, digest in rows
            ]
            lines.append("")
        if self.facts:
            lines += ["| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in self.facts), ""]
        if self.notes:
            lines += [self.notes.strip(), ""]
        if self.command:
            lines += ["```", visible_name(self.command).replace("```", "'''"), "```", ""]
        if self.usage:
            lines += ["```python", self.usage.strip(), "```", ""]
        else:
            loads = "transformers.AutoModel.from_pretrained" if self.auto_model else _OURS
            lines += [f"Load it with `{loads}(<this folder>)`.", ""]
        return with_metadata(self.metadata(), "\n".join(lines))

    def metadata(self) -> dict[str, Any]:
        """Return the metadata, without what is not known.

        ``base_model`` holds ids of the hub alone, which would link any other name to a stranger's
        model.
        """
        bases = list(dict.fromkeys(name for o in self.encoders if o.is_base for name in o.on_hub))
        heard = [name for o in self.speech for name in (o.on_hub or (o.name,))]
        terms = [o.licence for o in self.speech]
        found = {
            "license": derived([o.licence for o in self.encoders], terms),
            "library_name": "transformers" if self.auto_model else "speechft",
            "pipeline_tag": self.pipeline,
            "base_model": bases[0] if len(bases) == 1 else bases,
            "base_model_relation": self.relation,
            "datasets": list(dict.fromkeys(heard)),
            "tags": list(dict.fromkeys(("speech", "speechft", *self.tags))),
            "encoder_digest": self.evaluated_as,
        }
        return {name: value for name, value in found.items() if value}


_OURS = "speechft.load_encoder"


def with_metadata(metadata: Mapping[str, Any], body: str) -> str:
    """Return a card: metadata as YAML, then Markdown.

    Without figures they are written as ``ModelCardData`` writes them (a test compares), but without
    importing the hub's client, which takes longer than a small merge.

    Args:
        metadata: Arguments of ``huggingface_hub.ModelCardData``.
        body: Markdown.

    Raises:
        ValueError: The metadata are not what the hub takes.
    """
    if {"eval_results", "model-index"} & metadata.keys():
        from huggingface_hub.repocard_data import ModelCardData

        text = ModelCardData(**metadata).to_yaml()
    else:
        import yaml

        first = [name for name in _FIRST if name in metadata]
        ordered = {name: metadata[name] for name in dict.fromkeys((*first, *metadata))}
        text = yaml.dump(ordered, allow_unicode=True, sort_keys=False).strip()
    return f"---\n{text}\n---\n\n{body.lstrip()}"


def read_card(folder: Path) -> tuple[dict[str, Any], str]:
    """Return metadata and Markdown of the card in a folder; nothing where there is none.

    Raises:
        CheckpointError: It cannot be read, or its metadata are no YAML mapping.
    """
    import yaml

    path = folder / CARD_NAME
    try:
        text = text_of(read_limited(path, _MAX_CARD))
    except FileNotFoundError:
        return {}, ""
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    block = _BLOCK.match(text)
    if block is None:
        return {}, text
    try:
        content = parse_yaml(block["yaml"], unique=False)  # people wrote it
    except yaml.YAMLError as error:
        raise CheckpointError(f"the metadata of {path} are not YAML: {error}") from None
    if content is not None and not isinstance(content, dict):
        raise CheckpointError(f"the metadata of {path} are no mapping of keys")
    return content or {}, text[block.end() :]


def read_metadata(folder: Path) -> dict[str, Any]:
    """Return the metadata of the card in a folder; nothing where there is none, or a broken one."""
    try:
        return read_card(folder)[0]
    except CheckpointError:
        return {}


def _code(name: str) -> str:
    """Return a name as code within a table, whatever signs it holds."""
    return "`" + _cell(name).replace("`", "'") + "`"


def _cell(text: str) -> str:
    return visible_name(public_text(text)).replace("|", "\\|")


def code_list(names: Sequence[str], most: int = 6) -> str:
    """Return how many names there are, and the first of them as code."""
    shown = ", ".join(_code(name) for name in names[:most])
    return (
        f"{len(names)}" + (f": {shown}" if names else "") + (", ..." if len(names) > most else "")
    )
