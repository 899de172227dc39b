"""The model card of a merged encoder: what it was made of, how, and what to check."""

from __future__ import annotations

from speechft.cards.card import Card, Origin, code_list, encoder_origin
from speechft.commands import typed_command
from speechft.console import visible_name
from speechft.encoders.conversion.checkpoints import Checkpoint
from speechft.encoders.families import find_family
from speechft.merging.methods import METHODS
from speechft.merging.plan import Plan
from speechft.merging.report import MergeReport


def model_card(report: MergeReport, plan: Plan) -> str:
    """Return README.md for a merged encoder.

    Args:
        report: What was merged, by names that may leave the machine.
        plan: Where it came from.
    """
    models = [("base", plan.base), *((f"tuned {n}", m) for n, m in enumerate(plan.tuned, 1))]
    digests = (report.base_digest, *report.tuned_digests)
    family = find_family(plan.base.family)
    facts = [
        ("method", f"{report.method} ({METHODS[report.method].paper})"),
        ("alpha", _alphas(report)),
        ("weight norm", report.weight_norm),
        ("dtype", report.dtype),
        ("tensors merged", str(report.merged)),
        ("kept from the base", code_list(report.kept)),
        ("set aside from the tuned models", code_list(report.set_aside)),
        ("without a place in this format", code_list(report.left_out)),
        *((key, str(value)) for key, value in report.options.items()),
    ]
    return Card(
        title="Merged speech encoder",
        summary=f"Weights between a pre-trained encoder and {_models(len(report.tuned))} tuned "
        f"from it (method `{report.method}`, alpha {_alphas(report)}), made with Speech-FT.",
        encoders=tuple(
            _origin(role, model, digest)
            for (role, model), digest in zip(models, digests, strict=True)
        ),
        relation="merge",
        facts=tuple(facts),
        notes=_forced(report),
        tags=("speech-ft", "model-merging"),
        auto_model=family is None or family.auto_model,
        command=typed_command(),
    ).text()


def _origin(role: str, model: Checkpoint, digest: str | None) -> Origin:
    return encoder_origin(role, model.folder or model.source, digest, model.folder)


def _forced(report: MergeReport) -> str:
    if not report.forced:
        return ""
    listed = "\n".join(f"* `{visible_name(p).replace('`', chr(39))}`" for p in report.forced)
    return f"**Forced.** These objections were overridden:\n\n{listed}"


def _models(count: int) -> str:
    return "a model" if count == 1 else f"{count} models"


def _alphas(report: MergeReport) -> str:
    low, high = report.alpha_range
    return f"{low:g}" if low == high else f"{low:g} to {high:g}, by tensor (see merge.json)"
