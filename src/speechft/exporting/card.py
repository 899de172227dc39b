"""The card of an exported model: what it is, how to run it, and where it differs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from speechft.cards.card import Card, Origin, encoder_origin
from speechft.commands import typed_command
from speechft.encoders.load import resolve_encoder
from speechft.evaluation.candidates import find_candidate
from speechft.storage.files import file_digest
from speechft.tasks.saved import read_record

if TYPE_CHECKING:
    from speechft.exporting.export import ExportReport


def export_card(report: ExportReport, file: Path, encoder: object) -> str:
    """Return README.md of an exported model.

    It names no licence: what the head heard may have terms that ``pipeline.json`` does not tell.

    Args:
        report: What was written.
        file: The description of the head, ``pipeline.json``.
        encoder: The encoder as the user gave it, or None.
    """
    known = read_record(file)
    found = find_candidate(file.parent, known.encoder, known.encoder_digest, encoder)
    own = found.own or found.given is not None
    place = None if own else resolve_encoder(found.source, download=False)
    folder = place if place is not None and place.is_dir() else None
    head = Origin("head", known.task, file_digest(file.with_name(known.weights)), is_base=False)
    differs = "\n".join(["What differs:", "", *(f"* {note}" for note in report.notes)])
    return Card(
        title=report.architecture,
        summary=f"A head of task `{known.task}` with its encoder, trained and exported with "
        "Speech-FT. It takes 16 kHz mono arrays.",
        encoders=(encoder_origin("encoder", found.source, report.encoder_digest, folder), head),
        relation="finetune",
        facts=(
            ("training", known.protocol),
            ("classes", str(len(known.vocabulary))),
            ("difference from speechft", f"{report.difference:.1e} of {report.largest:.3g}"),
        ),
        notes=differs if report.notes else "",
        tags=("speech-ft",),
        pipeline=report.pipeline,
        usage=_usage(report),
        evaluated_as=report.encoder_digest,
        command=typed_command(),
    ).text()


def _usage(report: ExportReport) -> str:
    if report.pipeline:
        return (
            "from transformers import pipeline\n\n"
            f'run = pipeline("{report.pipeline}", model="FOLDER")\n'
            "print(run(array))"
        )
    return (
        f"from transformers import AutoFeatureExtractor, {report.architecture}\n\n"
        'front = AutoFeatureExtractor.from_pretrained("FOLDER")\n'
        f'model = {report.architecture}.from_pretrained("FOLDER").eval()\n'
        'output = model(**front(array, sampling_rate=16000, return_tensors="pt"))'
    )
