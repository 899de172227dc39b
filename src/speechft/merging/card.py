"""The model card of a merged encoder: what it was made of, how, and what to check."""

from __future__ import annotations

from speechft.console import visible_name
from speechft.merging.methods import METHODS
from speechft.merging.report import MergeReport


def model_card(report: MergeReport, command: str | None) -> str:
    """Return README.md for a merged encoder.

    Args:
        report: What was merged.
        command: The command line, where there was one.
    """
    tuned = "\n".join(
        f"| tuned {number} | {_code(source)} | `{digest}` |"
        for number, (source, digest) in enumerate(
            zip(report.tuned, report.tuned_digests, strict=True), start=1
        )
    )
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: feature-extraction",
        "tags: [speech, speech-ft, model-merging]",
        "---",
        "",
        "# Merged speech encoder",
        "",
        f"Weights between a pre-trained encoder and {_models(len(report.tuned))} tuned from it "
        f"(method `{report.method}`, alpha {_alphas(report)}), made with Speech-FT.",
        "",
        "| | source | SHA-256 |",
        "|---|---|---|",
        f"| base | {_code(report.base)} | `{report.base_digest}` |",
        tuned,
        "",
        "| | |",
        "|---|---|",
        f"| method | {report.method} ({METHODS[report.method].paper}) |",
        f"| alpha | {_alphas(report)} |",
        f"| weight norm | {report.weight_norm} |",
        f"| dtype | {report.dtype} |",
        f"| tensors merged | {report.merged} |",
        f"| kept from the base | {_names(report.kept)} |",
        f"| set aside from the tuned models | {_names(report.set_aside)} |",
        f"| without a place in this format | {_names(report.left_out)} |",
    ]
    lines += [f"| {key} | {value} |" for key, value in report.options.items()]
    if report.forced:
        lines += ["", "**Forced.** These objections were overridden:", ""]
        lines += [f"* {_code(problem)}" for problem in report.forced]
    if command:
        lines += ["", "```", visible_name(command).replace("```", "'''"), "```"]
    lines += ["", "Load it with `transformers.AutoModel.from_pretrained(<this folder>)`.", ""]
    return "\n".join(lines)


def _models(count: int) -> str:
    return "a model" if count == 1 else f"{count} models"


def _alphas(report: MergeReport) -> str:
    low, high = report.alpha_range
    return f"{low:g}" if low == high else f"{low:g} to {high:g}, by tensor (see merge.json)"


def _code(name: str) -> str:
    """Return a name as code within a table, whatever signs it holds."""
    return "`" + visible_name(name).replace("`", "'").replace("|", "\\|") + "`"


def _names(names: tuple[str, ...]) -> str:
    shown = ", ".join(_code(name) for name in names[:6])
    return f"{len(names)}" + (f": {shown}" if names else "") + (", ..." if len(names) > 6 else "")
