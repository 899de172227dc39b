"""The card of an exported model: what it is, how to run it, and where it differs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from speechft.console import visible_name

if TYPE_CHECKING:
    from speechft.exporting.export import ExportReport
    from speechft.tasks.saved import SavedHead


def export_card(report: ExportReport, known: SavedHead) -> str:
    """Return README.md of an exported model.

    Args:
        report: What was written.
        known: The head that was exported.
    """
    lines = ["---", "library_name: transformers"]
    if report.pipeline:
        lines.append(f"pipeline_tag: {report.pipeline}")
    lines += ["tags: [speech, speech-ft]", "---", "", f"# {visible_name(report.architecture)}", ""]
    lines += [
        f"A head of task {visible_name(known.task)} with its encoder, trained and exported with "
        "Speech-FT.",
        "",
        "| | |",
        "|---|---|",
        f"| encoder | SHA-256 `{report.encoder_digest}` |",
        f"| training | {visible_name(known.protocol)} |",
        f"| classes | {len(known.vocabulary)} |",
        f"| difference from speechft | {report.difference:.1e} of {report.largest:.3g} |",
        "",
        "It takes 16 kHz mono arrays:",
        "",
        "```python",
        *_usage(report),
        "```",
    ]
    if report.notes:
        lines += ["", "What differs:", "", *(f"* {note}" for note in report.notes)]
    return "\n".join([*lines, ""])


def _usage(report: ExportReport) -> list[str]:
    if report.pipeline:
        return [
            "from transformers import pipeline",
            "",
            f'run = pipeline("{report.pipeline}", model="FOLDER")',
            "print(run(array))",
        ]
    return [
        f"from transformers import AutoFeatureExtractor, {report.architecture}",
        "",
        'front = AutoFeatureExtractor.from_pretrained("FOLDER")',
        f'model = {report.architecture}.from_pretrained("FOLDER").eval()',
        'output = model(**front(array, sampling_rate=16000, return_tensors="pt"))',
    ]
