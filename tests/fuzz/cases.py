"""A case: the files that somebody made, and the reader or verb that is run on them."""

from __future__ import annotations

import base64
import json
import os
import re
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PIPE = b"a pipe that nobody writes to"
LINK = b"a link to "
"""Followed by where it leads, relative to the folder of the link."""
_ADDRESS = re.compile(r"[a-z0-9]+://|[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w.-]+)?$")
"""An address, or an id of the hub."""


@dataclass(frozen=True)
class Case:
    """What one execution is given."""

    target: str
    """Key in `fuzz.targets.TARGETS`."""
    files: dict[str, bytes] = field(default_factory=dict)
    """Contents by path below an empty folder; `PIPE` stands for a pipe that nobody writes to,
    `LINK` with a target for a link."""
    arguments: tuple[str, ...] = ()

    def write(self, folder: Path) -> None:
        """Write the files below a folder."""
        for name, content in self.files.items():
            path = os.path.join(os.fsencode(folder), name.encode("utf-8", "surrogateescape"))
            os.makedirs(os.path.dirname(path), exist_ok=True)
            if content == PIPE:
                os.mkfifo(path)
                continue
            if content.startswith(LINK):
                os.symlink(content.removeprefix(LINK), path)
                continue
            with open(path, "wb") as file:
                file.write(content)

    @property
    def asks_network(self) -> bool:
        """Return whether an argument is an address or an id of the hub: then it is asked for."""
        typed = [part for argument in self.arguments for part in argument.split("=")]
        return any(_ADDRESS.match(text) and text not in self.files for text in typed)

    def as_text(self) -> str:
        """Return it as JSON, for the corpus of found cases."""
        packed = {n: base64.b64encode(zlib.compress(c, 9)).decode() for n, c in self.files.items()}
        content = {"target": self.target, "files": packed, "arguments": list(self.arguments)}
        return json.dumps(content, indent=1) + "\n"


def read_case(path: Path) -> Case:
    """Read a case that `Case.as_text` wrote."""
    content: dict[str, Any] = json.loads(path.read_text())
    files = {n: zlib.decompress(base64.b64decode(c)) for n, c in content["files"].items()}
    return Case(content["target"], files, tuple(content["arguments"]))
