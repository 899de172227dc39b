"""A corpus by name into a folder of manifests, with the settings that it has."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from speechft.commands import command
from speechft.data.corpora import archive, cache_folder, cards, generic, hub, synthetic
from speechft.data.corpora.build import Options, build
from speechft.data.corpora.reading import Reading
from speechft.data.corpora.settings import keywords, place_and_settings
from speechft.data.manifest import Corpus
from speechft.data.tables import SUFFIXES
from speechft.errors import ConfigError, unknown_choice
from speechft.storage.locks import waiting
from speechft.storage.scratch import scratch_in


def prepare(
    name: str,
    root: str | None,
    out: Path | None,
    options: Options | None = None,
    settings: Sequence[str] = (),
) -> Corpus:
    """Prepare a corpus.

    Args:
        name: Key in `cards`, or ``hf:owner/name``.
        root: The unpacked archive, or for ``generic`` a CSV, an audiofolder or parquet.
        out: Where it goes; embedded corpora have a place in the cache.
        options: How recordings are inspected.
        settings: ``key=value`` of the corpus, such as ``subset=first-10h``.

    Raises:
        ConfigError: An argument is missing or unknown.
        DataError: The corpus is damaged in a way that is fatal.
    """
    if name in synthetic.SPECS:
        if root is not None or settings:
            raise ConfigError(f"corpus {name} is generated: it takes neither ROOT nor settings")
        spec = synthetic.SPECS[name]
        place = out or cache_folder() / f"{spec.name}-{spec.digest()[:12]}"
        with waiting():  # one process speaks, with helpers of its own
            return synthetic.prepare(spec, place)
    if name.startswith(hub.PREFIX):
        if root is not None or out is None:
            raise ConfigError(
                f"corpus {name} comes from the hub: it takes an output folder and no ROOT",
                hint=command("prepare", name, out="corpora/mine"),
            )
        with scratch_in(out):
            return hub.prepare_reference(name, out, options, settings)
    known = cards()
    if name not in known:
        if os.path.exists(os.path.expanduser(name)) or name.endswith(SUFFIXES):
            again = command("prepare", "generic", name, out=out or "corpora/mine")
            raise ConfigError(f"{name} is no kind of corpus", hint=f"for your own: {again}")
        raise unknown_choice("corpus", name, known)
    if root is None or out is None:
        raise ConfigError(
            f"corpus {name} needs {known[name].root} and an output folder",
            hint=command("prepare", name, "ROOT", out=f"corpora/{name}"),
        )
    root, behind = place_and_settings(root) if name == "generic" else (root, [])
    place = Path(os.path.expanduser(root))
    with scratch_in(out):
        if name == "generic":
            return generic.prepare(place, out, options, Reading.of([*behind, *settings]))
        module = archive(name)
        chosen = keywords(name, module.scan, settings)
        scan = module.scan(place, **chosen)
        return build(module.CARD, place, scan, out, options, config=chosen)


def write_layout(name: str, layout: str, out: Path | None) -> None:
    """Write the embedded corpus in the layout of an archive, for trying its recipe.

    Args:
        name: Key of the embedded corpus that has the parts.
        layout: Name of the archive.
        out: Where it goes.

    Raises:
        ConfigError: The corpus has no such parts, the layout is unknown, or ``out`` is missing.
    """
    from speechft.data.corpora.synthetic.archives import write_archive

    if name != synthetic.material.MATERIAL.name:
        raise ConfigError(
            f"corpus {name} cannot be written in another layout",
            hint=command("prepare", synthetic.material.MATERIAL.name, layout=layout, out="DIR"),
        )
    if out is None:
        raise ConfigError("--layout needs an output folder", hint="--out DIR")
    write_archive(layout, lambda: prepare(name, None, None), out.expanduser())
