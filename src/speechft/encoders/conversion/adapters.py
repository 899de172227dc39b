"""Adapters (LoRA and the like, as PEFT saves them): recognised in one place, for every verb."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speechft.commands import command
from speechft.errors import CheckpointError
from speechft.storage.files import read_json

ADAPTER_NAME = "adapter_config.json"
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")

_PART = re.compile(
    r"(^|\.)(lora_\w+|hada_w\w+|ia3_l|oft_\w+|vera_lambda_\w+|prompt_embeddings|base_layer"
    r"|parametrizations\.weight\.\d+\.lora_\w+)(\.|$)"
)
"""Names of tensors that PEFT and loralib put beside, or in the place of, those of a model."""


@dataclass(frozen=True)
class Adapter:
    """What an adapter says about itself."""

    source: str
    kind: str
    """``LoRA``, or PEFT's name of another kind."""
    base: str | None
    """Hub id, with ``@revision`` where one is told, or path of the model that it was trained on."""
    weights: Path | None = None
    """Its file of weights; None where there is none, or not one."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Its ``adapter_config.json``."""

    def refusal(self, why: str = "not an encoder") -> CheckpointError:
        """Build the error for an adapter that is not taken: what it is, its base, a way out."""
        model = self.base or "BASE"
        return CheckpointError(
            f"{self.source} holds an adapter ({self.kind}) for {self.base or 'a base not named'}, "
            f"{why}",
            hint="merge the adapter into its base first, in Python: peft.PeftModel.from_pretrained("
            f'transformers.AutoModel.from_pretrained("{model}"), "{self.source}")'
            '.merge_and_unload().save_pretrained("encoder"); then give the folder encoder',
        )

    def lacks_base(self, why: str) -> CheckpointError:
        """Build the error for an adapter whose base is not at hand: how to name it."""
        return CheckpointError(
            f"{self.source} holds an adapter ({self.kind}) for {self.base or 'a base not named'}, "
            f"{why}",
            hint="name its base before it, joined by a plus: "
            + command("inspect", f"BASE+{self.source}"),
        )


def find_adapter(path: Path) -> Adapter | None:
    """Return the adapter that a folder, or a file of one, holds; None where it holds none.

    A folder in which PEFT saved adapters by name holds them one level down.
    """
    folder = path if path.is_dir() else path.parent
    if path.is_dir():
        below = [p.parent for p in sorted(folder.glob(f"*/{ADAPTER_NAME}"))]
        is_encoder = any(folder.glob("*model*.safetensors")) or any(folder.glob("*model*.bin"))
        folders = [folder, *(() if is_encoder else below)]
        if not is_encoder and len(below) > 1 and not (folder / ADAPTER_NAME).is_file():
            names = ", ".join(place.name for place in below)
            return Adapter(str(path), f"{len(below)} of them, give one: {names}", None)
    else:
        folders = [folder] if path.name in ADAPTER_WEIGHTS else []
    for place in folders:
        if (place / ADAPTER_NAME).is_file():
            return _described(str(path), place)
        if any((place / name).is_file() for name in ADAPTER_WEIGHTS) and not _holds_model(place):
            return Adapter(str(path), "its configuration is missing", None)
    return None


def adapter_in(source: str, names: Iterable[str], folder: Path | None) -> Adapter | None:
    """Return the adapter that names of tensors tell; None where they tell none.

    Args:
        source: Where they come from.
        names: In the file.
        folder: Where the file lies; the adapter's configuration may be there.
    """
    found = next((n for n in names if _PART.search(n)), None)
    if found is None:
        return None
    if folder is not None and (folder / ADAPTER_NAME).is_file():
        return _described(source, folder)
    kind = "LoRA" if "lora_" in found or "base_layer" in found else "PEFT"
    return Adapter(source, f"{kind}: tensor {found}", None)


def _described(source: str, folder: Path) -> Adapter:
    settings = read_json(folder / ADAPTER_NAME)
    settings = settings if isinstance(settings, dict) else {}
    kind = str(settings.get("peft_type") or "LoRA or the like")
    if kind == "LORA":
        kind = "DoRA" if settings.get("use_dora") else "LoRA"
    if settings.get("r") is not None:
        kind += f", rank {settings['r']}"
    base, revision = (settings.get(name) for name in ("base_model_name_or_path", "revision"))
    told = f"{base}@{revision}" if base and revision and not Path(str(base)).exists() else base
    weights = (folder / name for name in ADAPTER_WEIGHTS)
    file = next((path for path in weights if path.is_file()), None)
    return Adapter(source, kind, str(told) if told else None, file, settings)


def _holds_model(folder: Path) -> bool:
    return any(folder.glob("model*.safetensors")) or any(folder.glob("pytorch_model*.bin"))
