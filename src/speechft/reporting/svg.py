"""Look of the figures: colours, markers, and matplotlib figures as inline SVG of the page."""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from speechft.reporting.figures import Look

WIDTH, HEIGHT = 4.7, 3.3
"""Size of a panel in inches; at 72 units an inch, text of 11 is 11 px on a 340 px column."""

LIGHT = {
    "ink": "#1d2126",
    "muted": "#656d78",
    "grid": "#e4e7eb",
    "reference": "#4a5360",
    "merged": "#0063a8",
    "tuned": "#a66a00",
    "plain": "#c2410d",
    "floor": "#8a929c",
    "other-1": "#7a4ba0",
    "other-2": "#00785b",
    "other-3": "#9b3d6b",
}
"""Colours by name. The hues keep apart for colour-blind eyes; markers and dashes differ too."""

DARK = {
    "ink": "#e8eaed",
    "muted": "#a0a8b3",
    "grid": "#333a43",
    "reference": "#c3cad3",
    "merged": "#5cb3f0",
    "tuned": "#e3ad45",
    "plain": "#ff8a5c",
    "floor": "#7d8590",
    "other-1": "#c09be0",
    "other-2": "#4fc3a1",
    "other-3": "#e58fba",
}
"""The same names on a dark page."""

_RC = {
    "svg.fonttype": "none",
    "svg.hashsalt": "speechft",
    "text.parse_math": False,
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 11,
    "axes.labelsize": 11,
    "axes.labelcolor": LIGHT["muted"],
    "axes.edgecolor": LIGHT["muted"],
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LIGHT["grid"],
    "grid.linewidth": 0.8,
    "xtick.color": LIGHT["muted"],
    "ytick.color": LIGHT["muted"],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.major.pad": 6,
    "text.color": LIGHT["ink"],
    "lines.linewidth": 2.0,
    "lines.markersize": 6.5,
}


@dataclass(frozen=True)
class Style:
    """How one encoder looks in every figure."""

    color: str
    """Name in `LIGHT`."""
    marker: str
    dash: str | tuple[float, tuple[float, ...]] = "-"

    @property
    def hex(self) -> str:
        """The colour on a light page."""
        return LIGHT[self.color]


_STYLES = {
    Look.REFERENCE: Style("reference", "o", (0, (4.0, 1.8))),
    Look.PLAIN: Style("plain", "s", (0, (1.2, 1.4))),
    Look.TUNED: Style("tuned", "^", (0, (6.0, 1.6, 1.2, 1.6))),
    Look.MERGED: Style("merged", "D"),
    Look.FLOOR: Style("floor", "X", (0, (1.0, 2.0))),
}
_OTHERS = (
    Style("other-1", "v", (0, (3.0, 1.2))),
    Style("other-2", "P", (0, (5.0, 1.2, 1.0, 1.2, 1.0, 1.2))),
    Style("other-3", "X", (0, (2.0, 2.0))),
)


def styles_of(looks: Mapping[str, Look]) -> dict[str, Style]:
    """Return a style for every encoder; those without a look of their own take turns."""
    styles, others = {}, 0
    taken: set[Look] = set()
    for name, look in looks.items():
        if look in _STYLES and (look is Look.FLOOR or look not in taken):
            styles[name] = _STYLES[look]
            taken.add(look)
        else:
            styles[name] = _OTHERS[others % len(_OTHERS)]
            others += 1
    return styles


@contextmanager
def panel(width: float = WIDTH, height: float = HEIGHT) -> Iterator[tuple[Any, Any]]:
    """Open a figure with one set of axes in the look of the report, whatever matplotlibrc says."""
    import matplotlib.style
    from matplotlib.figure import Figure

    with matplotlib.style.context(["default", _RC]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.add_subplot()


def to_svg(figure: Any, name: str, label: str) -> str:
    """Return a figure as an ``<svg>`` element: no ids that clash, no dates, colours as variables.

    Call it inside `panel`.

    Args:
        figure: A matplotlib figure.
        name: Unique on the page; prefixes the ids.
        label: What a reader who cannot see it should know.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    box = re.search(r'viewBox="([^"]+)"', text)
    body = text[text.index(">", text.index("<svg")) + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", body, flags=re.S)
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{box.group(1) if box else ""}" role="img" aria-label="{html.escape(label)}">'
    )
    return opening + _colours(_ids(body.strip(), name))


def _ids(body: str, name: str) -> str:
    """Keep only the ids that something refers to, and make them unique on the page."""
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', body))

    def rename(match: re.Match[str]) -> str:
        return f' id="{name}-{match.group(1)}"' if match.group(1) in used else ""

    body = re.sub(r' id="([^"]*)"', rename, body)
    return re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", body)


def with_prefix(svg: str, prefix: str) -> str:
    """Return a figure of ours whose ids, and what refers to them, begin with a prefix."""
    return re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{prefix}", svg) if prefix else svg


def _colours(body: str) -> str:
    """Replace the colours of the light page by variables, so that a dark page sets its own."""
    for name, value in LIGHT.items():
        body = re.sub(rf"(fill|stroke): {value}", rf"\g<1>: var(--{name}, {value})", body)
    return body


_SHAPES = {
    "": "",
    "o": '<circle cx="14" cy="7" r="4"/>',
    "s": '<rect x="10.2" y="3.2" width="7.6" height="7.6"/>',
    "^": '<path d="M14 2.4 18.4 10.6H9.6Z"/>',
    "v": '<path d="M14 11.6 9.6 3.4H18.4Z"/>',
    "D": '<path d="M14 2 19 7 14 12 9 7Z"/>',
    "P": '<path d="M12.5 3h3v2.5H18v3h-2.5V11h-3V8.5H10v-3h2.5Z"/>',
    "X": '<path d="M11 3 14 6 17 3 18 4 15 7 18 10 17 11 14 8 11 11 10 10 13 7 10 4Z"/>',
}


def swatch(style: Style) -> str:
    """Return a small SVG for a legend: the line and the marker of a style."""
    dash = "" if isinstance(style.dash, str) else " ".join(f"{2 * n:g}" for n in style.dash[1])
    return (
        f'<svg class="swatch" viewBox="0 0 28 14" aria-hidden="true" style="color: '
        f'var(--{style.color})"><path d="M0 7H28" stroke="currentColor" stroke-width="2" '
        f'stroke-dasharray="{dash}"/><g fill="currentColor">{_SHAPES[style.marker]}</g></svg>'
    )


def spoken(values: Iterable[tuple[object, str]]) -> str:
    """Return pairs as a sentence part for an alternative text."""
    return "; ".join(f"{key}: {value}" for key, value in values)
