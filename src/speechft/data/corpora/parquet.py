"""Hugging Face parquet: rows with audio bytes, written out as files that manifests can name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from speechft.data.columns import PLAIN, Naming, unusable
from speechft.errors import DataError
from speechft.extras import needs
from speechft.storage.disk import is_regular
from speechft.storage.documents import UNPACKED, parse_json
from speechft.storage.files import atomic_write

_ROWS = 256
_FEW_ROWS, _LEAST = 10_000, 8
"""Rows that any file may have, and bytes of it for each of more."""
_NO_RATE = "has samples without a rate"
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,8}\Z")
_MAGIC = {b"RIFF": ".wav", b"fLaC": ".flac", b"OggS": ".ogg", b"NIST": ".sph", b"FORM": ".aiff"}


def read_parquet(
    path: Path, folder: Path, root: Path, naming: Naming = PLAIN
) -> Iterator[tuple[dict[str, Any], Path | str]]:
    """Yield the rows of a parquet file and where the audio of each lies, or why it has none.

    The column ``audio`` holds ``{bytes, path}`` as Hugging Face datasets write it, bytes alone, a
    path, or decoded samples as ``{array, sampling_rate}``. Bytes and samples go to files in
    ``folder``; without them, the path counts, relative to ``root``. Numbers of a
    ``ClassLabel`` become its names.

    Args:
        path: The parquet file.
        folder: Where audio files go.
        root: What paths without bytes are relative to.
        naming: What columns mean.

    Raises:
        DataError: pyarrow is not installed, the file cannot be read, or it has no ``audio``.
    """
    with needs("parquet", f"parquet, such as {path},"):
        import pyarrow.parquet as pq
        from pyarrow import ArrowException
    try:
        if path.exists() and not is_regular(path):
            raise OSError("no regular file")  # pyarrow would wait for a pipe
        file = pq.ParquetFile(path)
        _check_size(path, file.metadata)
        columns = file.schema_arrow.names
        naming.check(path, columns)
        meant = [name for name in columns if "path" in naming.of(name)]
        held = "audio" if "audio" in meant else next(iter(meant), None)
        if held is None:
            raise DataError(
                f"{path} lacks the column audio; it has: {', '.join(columns)}",
                hint="the column audio holds {bytes, path} as Hugging Face datasets write it; for "
                f"another name: '{path}?path=COLUMN'",
            )
        names = _class_names(file.schema_arrow.metadata or {})
        number = 0
        for batch in file.iter_batches(batch_size=_ROWS):
            for row in batch.to_pylist():
                audio: Path | str
                try:
                    audio = audio_file(row.pop(held), number, folder, root)
                except ValueError as error:
                    audio = f"the cell {held} {error}"
                for column, known in names.items():
                    value = row.get(column)
                    if isinstance(value, int) and 0 <= value < len(known):
                        row[column] = known[value]
                yield row, audio
                number += 1
    except (OSError, ArrowException) as error:
        raise DataError(f"parquet file {path} cannot be read: {error}") from None


def _check_size(path: Path, metadata: Any) -> None:
    """Refuse few bytes that stand for many rows, or unpack to many bytes.

    Raises:
        DataError: It does.
    """
    size = path.stat().st_size
    rows, most = metadata.num_rows, max(_FEW_ROWS, size // _LEAST)
    groups = [metadata.row_group(n) for n in range(metadata.num_row_groups)]
    parts = [group.column(n) for group in groups for n in range(group.num_columns)]
    held, allowed = sum(p.total_uncompressed_size for p in parts), UNPACKED[0] + UNPACKED[1] * size
    if rows > most or held > allowed:
        told = f"{rows:,} rows" if rows > most else f"{held:,} bytes"
        raise DataError(
            f"parquet file {path} of {size:,} bytes says that it holds {told}",
            hint=f"at most {most:,} rows and {allowed:,} bytes are read from a file of that size",
        )


def _class_names(metadata: dict[bytes, bytes]) -> dict[str, list[str]]:
    try:
        features = parse_json(metadata.get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    if not isinstance(features, dict):
        return {}
    return {
        column: feature["names"]
        for column, feature in features.items()
        if isinstance(feature, dict) and isinstance(feature.get("names"), list)
    }


def audio_file(value: Any, number: int, folder: Path, root: Path) -> Path:
    """Return where the audio of a row lies, written to a file where it has none of its own.

    Args:
        value: ``{bytes, path}``, ``{array, sampling_rate}``, bytes, or a path.
        number: Of the row.
        folder: Where files go.
        root: What paths without bytes are relative to.

    Raises:
        ValueError: Says why the value is no audio, without its subject.
    """
    if isinstance(value, str) and value:
        return _below(root, value)
    if isinstance(value, bytes):
        value = {"bytes": value}
    if isinstance(value, list) or (value is not None and not isinstance(value, dict)):
        raise ValueError(_NO_RATE)
    if value and value.get("array") is not None and value.get("bytes") is None:
        return _decoded(value, folder / f"{number:07d}.wav")
    content, name = (value or {}).get("bytes"), (value or {}).get("path") or ""
    if not isinstance(content, bytes) or not isinstance(name, str):
        content = None
        name = name if isinstance(name, str) else ""
    if content is None:
        if name:
            return _below(root, name)
        raise ValueError("has no audio: neither bytes nor samples nor a path")
    suffix = _MAGIC.get(bytes(content[:4])) or (_SUFFIX.search(name) or (".audio",))[0]
    return _written(folder / f"{number:07d}{suffix}", content)


def _below(root: Path, name: str) -> Path:
    """Return the place of a file; as it stands where it cannot be one, which its row then says."""
    return root / name if unusable({"path": name}) else (root / name).resolve()


def _decoded(value: dict[str, Any], path: Path) -> Path:
    """Write decoded samples, (S,) or (channels, S), as a WAV of the same numbers."""
    import io

    import numpy as np
    import soundfile

    rate = value.get("sampling_rate") or value.get("sample_rate")
    if not rate:
        raise ValueError(_NO_RATE)
    buffer = io.BytesIO()
    try:
        samples = np.asarray(value["array"], dtype=np.float32)
        soundfile.write(buffer, samples.T, int(rate), format="WAV", subtype="FLOAT")
    except (ValueError, TypeError, OverflowError, RuntimeError):  # no numbers, ragged, a rate of -5
        raise ValueError("has samples or a rate that are none") from None
    return _written(path, buffer.getvalue())


def _written(path: Path, content: bytes) -> Path:
    if not (path.is_file() and path.read_bytes() == content):
        with atomic_write(path) as file:
            file.write(content)
    return path.resolve()
