"""Adapters (LoRA and the like, as PEFT saves them): recognised in one place, for every verb."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from speechft.errors import CheckpointError
from speechft.files import read_json

ADAPTER_NAME = "adapter_config.json"
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")

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
    """Hub id or path of the model that it was trained on."""

    def refusal(self) -> CheckpointError:
        """Build the error of every verb that takes an encoder: what it is, its base, a way out."""
        model = self.base or "BASE"
        return CheckpointError(
            f"{self.source} holds an adapter ({self.kind}) for {self.base or 'a base not named'}, "
            "not an encoder",
            hint="merge the adapter into its base first, in Python: peft.PeftModel.from_pretrained("
            f'transformers.AutoModel.from_pretrained("{model}"), "{self.source}")'
            '.merge_and_unload().save_pretrained("encoder"); then give the folder encoder',
        )


def find_adapter(path: Path) -> Adapter | None:
    """Return the adapter that a folder, or a file of one, holds; None where it holds none.

    A folder in which PEFT saved adapters by name holds them one level down.
    """
    folder = path if path.is_dir() else path.parent
    if path.is_dir():
        below = [folder, *(p.parent for p in sorted(folder.glob(f"*/{ADAPTER_NAME}")))]
        is_encoder = any(folder.glob("*model*.safetensors")) or any(folder.glob("*model*.bin"))
        folders = below[: 1 if is_encoder else None]
    else:
        folders = [folder] if path.name in _WEIGHTS else []
    for place in folders:
        if (place / ADAPTER_NAME).is_file():
            return _described(str(path), place)
        if any((place / name).is_file() for name in _WEIGHTS) and not _holds_model(place):
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
    base = settings.get("base_model_name_or_path")
    return Adapter(source, kind, str(base) if base else None)


def _holds_model(folder: Path) -> bool:
    return any(folder.glob("model*.safetensors")) or any(folder.glob("pytorch_model*.bin"))
