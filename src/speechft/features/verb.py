"""The verb ``extract``: what it prints and the exit code."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from speechft.errors import DataError
from speechft.features.files import ExtractionReport, extract_files


def extract_verb(
    encoder: str,
    audio: Sequence[str],
    out: Path,
    options: Mapping[str, Any],
    *,
    as_json: bool,
) -> None:
    """Extract, print what was written, and fail if some files could not be used.

    Raises:
        DataError: Some files have no features; those of all others are written.
        SystemExit: The same, in processes that are not to repeat the message.
    """
    report = extract_files(encoder, audio, out, **options)
    if report.is_main:
        print(json.dumps(report.as_dict()) if as_json else "\n".join(_lines(report)))
    if report.failed:
        if not report.is_main:
            raise SystemExit(1)
        total = len(report.failed) + report.written + report.skipped
        named = ", ".join(list(report.failed)[:3])
        raise DataError(f"{len(report.failed)} of {total} files have no features: {named}")


def _lines(report: ExtractionReport) -> list[str]:
    layers = ",".join(map(str, report.layers))
    lines = [
        f"encoder {report.encoder} (sha256 {report.digest[:12]}), layers {layers}, dimension "
        f"{report.dim}, {report.frame_rate:g} frames a second",
        f"wrote {report.written} files to {report.out} ({report.seconds / 60:.1f} min of audio)",
    ]
    if report.skipped:
        lines.append(f"{report.skipped} were there already")
    return lines
