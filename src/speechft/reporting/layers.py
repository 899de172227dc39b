"""The figures of an analysis by layer, one a question, and the page that shows them with words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from speechft.analysis.rows import AnalysisRow
from speechft.analysis.sentences import LEADING, sentences
from speechft.console import log
from speechft.errors import PackageError
from speechft.extras import needs
from speechft.reporting.figures import Look
from speechft.reporting.plots import shorten
from speechft.reporting.svg import Style, panel, styles_of, to_svg
from speechft.storage.outputs import put_text

PAGE_NAME = "analysis.md"

TITLES = {
    "similarity": "How alike are the hidden states to the base's?",
    "linearity": "Do features lie where the weights do, on one line?",
    "weights": "Where did the weights move?",
    "phones": "What do the layers know of phones?",
    "words": "What do the layers know of words?",
    "speakers": "What do the layers know of speakers?",
    "labels": "What do the layers know of other labels?",
}
"""The questions in the order of the page."""

_SHOWN = {"similarity": ("cka",), **LEADING}
"""The measures of a question, the first that there is is drawn."""
_AXES = {
    "cka": "CKA with the base",
    "abx_across": "ABX error across speakers, % ↓",
    "abx_within": "ABX error within speakers, % ↓",
    "cca_phone": "CCA with phones ↑",
    "cca_word": "CCA with words ↑",
    "speaker_eer": "speaker EER, % ↓",
}

_NARROW = 20
"""Characters up to which two names stand side by side in a legend."""

Line = tuple[str, Style, list[AnalysisRow]]


def write_page(
    rows: Sequence[AnalysisRow], folder: Path, earlier: Callable[[], bool] | None = None
) -> list[Path]:
    """Write the figures of an analysis, and a page of Markdown with a sentence for each.

    Args:
        rows: Of one analysis.
        folder: Where ``analysis.md`` and the figures go.
        earlier: See `speechft.storage.outputs.replacing`.

    Returns:
        The files; without matplotlib the page alone.
    """
    said = sentences(rows)
    drawn: dict[str, str] = {}
    try:
        with needs("report", "a figure"):
            import matplotlib  # noqa: F401
        drawn = {f"{question}.svg": svg for question, svg in figures_of(rows).items()}
    except PackageError as error:
        log(f"no figures: {error}")
    for name, svg in drawn.items():
        put_text(folder / name, svg, earlier=earlier)
    parts = ["# What fine-tuning did, layer by layer"]
    for question, title in TITLES.items():
        if question in said:
            lines = [f"* {sentence}" for sentence in said[question]]
            parts += [f"## {title}", "\n".join(lines)]
            if f"{question}.svg" in drawn:
                parts.append(f"![{title}]({question}.svg)")
    put_text(folder / PAGE_NAME, "\n\n".join(parts) + "\n", earlier=earlier)
    return [folder / PAGE_NAME, *(folder / name for name in drawn)]


def figures_of(rows: Sequence[AnalysisRow]) -> dict[str, str]:
    """Return the figures of an analysis as SVG by question, in the order of `TITLES`."""
    said, drawn = sentences(rows), {}
    for question in TITLES:
        text = " ".join(said.get(question, ()))
        svg = _figure(question, text, [row for row in rows if row.question == question])
        if svg is not None:
            drawn[question] = svg
    return drawn


def _figure(question: str, text: str, rows: Sequence[AnalysisRow]) -> str | None:
    """Return the figure of a question as SVG; None where there is nothing to draw."""
    lines, axis = _lines(question, rows)
    if not any(row.value is not None for _, _, part in lines for row in part):
        return None
    names = [name for name, _, part in lines if any(row.value is not None for row in part)]
    columns = 2 if max(map(len, names)) <= _NARROW else 1
    height = 3.2 + 0.2 * -(-len(names) // columns)
    with panel(5.0, height) as (figure, axes):
        for name, style, part in lines:
            _draw(axes, name, style, part)
        layers = sorted(
            {row.layer for _, _, part in lines for row in part if row.layer is not None}
        )
        axes.set_xticks(layers[:: max(1, len(layers) // 13)])
        axes.set_xlabel("layer (0: input of the first)")
        axes.set_ylabel(axis)
        if question == "similarity":
            axes.set_ylim(top=1.03)
        elif question in ("linearity", "weights"):
            axes.set_ylim(bottom=0)
        figure.legend(loc="outside upper left", ncols=columns, frameon=False, fontsize=10)
        return to_svg(figure, question, f"{TITLES[question]} {text}")


def _lines(question: str, rows: Sequence[AnalysisRow]) -> tuple[list[Line], str]:
    """Return the lines of a figure and the text of its axis."""
    layered = [row for row in rows if row.layer is not None]
    if question == "linearity":
        return _linearity(layered), "1 − cosine"
    if question == "weights":
        return _weights(layered), "move over the base's norm"
    if question == "labels":
        found = [row for row in layered if row.encoder == layered[-1].encoder]
        names = list(dict.fromkeys(row.measure for row in found))
        styles = _styles(names, reference=False)
        parts = [
            (
                f"{n.removeprefix('knn_')} ({layered[-1].encoder})",
                styles[n],
                [r for r in found if r.measure == n],
            )
            for n in names
        ]
        return parts, "right by nearest neighbours, %"
    measure = next((m for m in _SHOWN[question] if any(r.measure == m for r in layered)), None)
    chosen = [row for row in layered if row.measure == measure]
    names = list(dict.fromkeys(row.encoder for row in chosen))
    base = question != "similarity"
    styles = _styles(names, reference=base)
    parts = [(n, styles[n], [r for r in chosen if r.encoder == n]) for n in names]
    return parts, _AXES.get(measure or "", "right by nearest neighbours, %")


def _linearity(rows: Sequence[AnalysisRow]) -> list[Line]:
    """Return how far the features are from the line, and dashed how far the ends are apart."""
    lines: list[Line] = []
    keys = list(dict.fromkeys((r.encoder, r.against, r.measure.partition("_")[0]) for r in rows))
    styles = _styles([f"{e} {a} {k}" for e, a, k in keys], reference=False)
    for encoder, against, kind in keys:
        style = styles[f"{encoder} {against} {kind}"]
        other = f"{encoder} and {against}" if kind == "ctl" else encoder
        for measure, words, dash in (
            ("cosine", f"{other}: off the line", "-"),
            ("baseline", f"{other}: between the ends", (0, (3.0, 2.0))),
        ):
            part = [
                row.model_copy(update=_distance(row))
                for row in rows
                if (row.encoder, row.against, row.measure)
                == (encoder, against, f"{kind}_{measure}")
            ]
            lines.append((words, Style(style.color, style.marker, dash), part))
    return lines


def _distance(row: AnalysisRow) -> dict[str, Any]:
    ends = row.interval
    turned = None if ends is None else (1 - ends[1], 1 - ends[0])
    return {"value": None if row.value is None else 1 - row.value, "interval": turned}


def _weights(rows: Sequence[AnalysisRow]) -> list[Line]:
    """Return the moves of the kinds of modules of one encoder, or of several encoders whole."""
    moved = [row for row in rows if row.measure == "weight_move"]
    encoders = list(dict.fromkeys(row.encoder for row in moved))
    if len(encoders) > 1:
        styles = _styles(encoders, reference=False)
        whole = [row for row in moved if row.module is None]
        return [(n, styles[n], [r for r in whole if r.encoder == n]) for n in encoders]
    kinds = list(dict.fromkeys(row.module for row in moved if row.module is not None))
    styles = _styles(kinds, reference=False)
    return [(kind, styles[kind], [r for r in moved if r.module == kind]) for kind in kinds]


def _styles(names: Sequence[str], *, reference: bool) -> Mapping[str, Style]:
    """Return a style by name; where there is a reference it is the first."""
    looks = [Look.REFERENCE, Look.TUNED] if reference else [Look.TUNED]
    looks += [Look.MERGED, Look.PLAIN, *[Look.OTHER] * len(names)]
    return styles_of(dict(zip(names, looks, strict=False)))


def _draw(axes: Any, name: str, style: Style, rows: Sequence[AnalysisRow]) -> None:
    points = list(_points(rows))
    if not points:
        return
    layers, values, lows, highs = zip(*points, strict=True)
    axes.fill_between(layers, lows, highs, color=style.hex, alpha=0.13, linewidth=0)
    axes.plot(
        layers,
        values,
        color=style.hex,
        linestyle=style.dash,
        marker=style.marker,
        label=shorten(name, 52),
        zorder=3,
    )


def _points(rows: Sequence[AnalysisRow]) -> Iterator[tuple[int, float, float, float]]:
    for row in sorted(rows, key=lambda row: row.layer or 0):
        if row.value is not None and row.layer is not None:
            low, high = row.interval or (row.value, row.value)
            yield row.layer, row.value, low, high
