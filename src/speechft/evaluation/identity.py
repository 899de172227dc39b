"""What identifies an evaluation, and the folder that it lies in."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechft.storage.files import json_digest


@dataclass(frozen=True)
class Identity:
    """One measured thing: two evaluations with the same identity give the same figures.

    Names, places, and what costs only time or memory are no part of it.
    """

    encoder: str
    """Digest of the encoder."""
    task: str
    """Key of the task."""
    manifests: Mapping[str, str]
    """Digests by name: of the splits that the probe is trained, chosen and tested on, and of
    further lists that the task reads."""
    config: Mapping[str, Any]
    """The resolved configuration, plain JSON types: protocol and probe, splits of every fold,
    precision, and whatever differs from the defaults."""
    seeds: tuple[int, ...]
    """Seeds of the probes that share a grid."""

    @property
    def evaluation(self) -> str:
        """Return the digest of all but encoder and seeds: what makes figures comparable."""
        return json_digest({"task": self.task, "manifests": self.manifests, "config": self.config})

    def stage(self) -> dict[str, Any]:
        """Return the arguments of `runs.stage`."""
        config = {"task": self.task, **self.config, "seeds": list(self.seeds)}
        if len(self.seeds) > 1:
            config["order"] = (
                "by seed"  # older versions trained all seeds in the order of the first
            )
        return {
            "name": "evaluate",
            "config": config,
            "inputs": {"encoder": self.encoder, **self.manifests},
        }

    def folder(self, results: Path, name: str) -> Path:
        """Return where the evaluation lies.

        It is ``evaluation/<encoder>-<8 hex>/<task>-<8 hex>``: the first digits tell encoders of the
        same name apart, the second evaluations of one encoder on the same task.

        Args:
            results: Folder of ``results.jsonl``.
            name: Of the encoder in tables.
        """
        key = json_digest([self.evaluation, list(self.seeds)])
        return encoder_folder(results, name, self.encoder) / f"{slug(self.task)}-{key[:8]}"


def encoder_folder(results: Path, name: str, digest: str) -> Path:
    """Return where all evaluations of an encoder lie; see `Identity.folder`."""
    hexadecimal = len(digest) == 64 and set(digest) <= set("0123456789abcdef")
    key = digest if hexadecimal else hashlib.sha256(digest.encode()).hexdigest()
    return results / "evaluation" / f"{slug(name)}-{key[:8]}"


def slug(name: str) -> str:
    """Return a name as part of a folder's name: letters, digits, dots and dashes.

    One that has nothing of these is told apart by a digest.
    """
    plain = "".join(c if c.isalnum() or c in ".-" else "-" for c in name).strip("-.").lower()
    return plain[:80] or f"encoder-{json_digest(name.encode('utf-8', 'replace').decode())[:8]}"
