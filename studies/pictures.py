"""Pictures of the concept pages, from the rows of ``studies/demo`` and a measurement.

    python studies/pictures.py [--out docs/concepts]

Equal rows give equal bytes. `exact.svg` runs the packaged encoder; the others read files only.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
from demo_table import MARGIN, Study, curve_of, judged, read

HERE = Path(__file__).with_name("demo")
OUT = Path(__file__).parents[1] / "docs" / "concepts"
WIDTH, HEIGHT = 640, 300
INK, FAINT, PAPER = "#24292f", "#d0d7de", "#ffffff"
BLUE, ORANGE, GREEN, GREY = "#0969da", "#bc4c00", "#1a7f37", "#6e7781"


class Picture:
    """An SVG on a white card, so that it can be read on dark pages too.

    Args:
        title: Its heading, and what those who cannot see it are told.
        height: In the units of its 640 wide frame.
    """

    def __init__(self, title: str, height: int = HEIGHT) -> None:
        self.height = height
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
            'font-family="system-ui, sans-serif" font-size="13">',
            f"<title>{escape(title)}</title>",
            f'<rect width="{WIDTH}" height="{height}" rx="8" fill="{PAPER}"/>',
        ]
        self.text(16, 26, title, bold=True)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        color: str = INK,
        anchor: str = "start",
        bold: bool = False,
    ) -> None:
        """Write a text at its baseline."""
        weight = ' font-weight="600"' if bold else ""
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" fill="{color}" text-anchor="{anchor}"{weight}>'
            f"{escape(text)}</text>"
        )

    def line(
        self,
        points: Iterable[tuple[float, float]],
        color: str = FAINT,
        width: float = 1,
        dash: str = "",
    ) -> None:
        """Draw a line through points."""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(
            f'<polyline points="{path}" fill="none" stroke="{color}" '
            f'stroke-width="{width}"{dashes}/>'
        )

    def dot(self, x: float, y: float, color: str, radius: float = 4, opacity: float = 1) -> None:
        """Draw a dot."""
        self.parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" '
            f'fill="{color}" fill-opacity="{opacity}"/>'
        )

    def box(self, x: float, y: float, w: float, h: float, color: str, opacity: float = 1) -> None:
        """Draw a filled box."""
        self.parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" rx="4" '
            f'fill="{color}" fill-opacity="{opacity}"/>'
        )

    def save(self, path: Path) -> None:
        """Write the file."""
        path.write_text("\n".join([*self.parts, "</svg>"]) + "\n")


def scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """Return the map of values to places."""
    return lambda value: start + (value - low) / (high - low) * (end - start)


def rows() -> list[dict[str, Any]]:
    """Return every row of the study."""
    files = sorted(HERE.glob("lineage-*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def figures(
    table: list[dict[str, Any]], encoder: str, task: str, tuned: str | None, split: str = "test"
) -> dict[tuple[int, int], float]:
    """Return one figure a fine-tuning, the mean over probe seeds, by lineage and tuning seed."""
    held: dict[tuple[int, int], list[float]] = {}
    for row in table:
        what = (row["encoder"], row["task"], row.get("tuned_on"))
        if what == (encoder, task, tuned) and split in row:
            held.setdefault((row["lineage"], row.get("tuning_seed", 0)), []).append(row[split])
    return {key: statistics.fmean(values) for key, values in held.items()}


def losses(table: list[dict[str, Any]], encoder: str, task: str = "pr") -> list[float]:
    """Return what fine-tunings on speakers changed on a task, against each lineage's own base."""
    base = figures(table, "pre-trained", task, None)
    tuned = figures(table, encoder, task, "sid")
    return [value - base[lineage, 0] for (lineage, _), value in sorted(tuned.items())]


def strip(
    picture: Picture, y: float, values: Sequence[float], at: Callable[[float], float], color: str
) -> None:
    """Draw a dot a value, and their mean as a bar with its figure."""
    for index, value in enumerate(values):
        picture.dot(at(value), y + (index % 3 - 1) * 6, color, 4, 0.45)
    mean = statistics.fmean(values)
    picture.line([(at(mean), y - 16), (at(mean), y + 16)], color, 3)
    picture.text(at(mean), y - 22, f"{mean:+.1f}", color, "middle", bold=True)


def why_stable(table: list[dict[str, Any]]) -> Picture:
    """Draw what tuning on speakers costs on phones, everything trained or stably."""
    picture = Picture("Tuned on speakers: points of phone error added (15 fine-tunings each)")
    at = scale(-2, 16, 190, 610)
    for tick in range(0, 17, 4):
        picture.line([(at(tick), 50), (at(tick), 250)], INK if tick == 0 else FAINT)
        picture.text(at(tick), 268, f"{tick}", GREY, "middle")
    named = (("train everything", "plain-cnn", ORANGE), ("stable fine-tuning", "stable", BLUE))
    for index, (name, encoder, color) in enumerate(named):
        y = 105 + 90 * index
        picture.text(16, y + 4, name, color)
        strip(picture, y, losses(table, encoder), at, color)
    picture.text(at(0), 288, "0 = the pre-trained encoder", GREY, "middle")
    return picture


def why_interpolate(study: Study) -> Picture:
    """Draw gain on speakers and loss on phones over alpha, on dev."""
    picture = Picture("From pre-trained (0) to stably tuned (1): 3 lineages, dev", 320)
    alphas = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
    across = scale(0, 1, 70, 470)
    up = scale(-4, 9, 270, 50)
    for tick in (-4, -2, 0, 2, 4, 6, 8):
        picture.line([(70, up(tick)), (470, up(tick))], INK if tick == 0 else FAINT)
        picture.text(60, up(tick) + 4, f"{tick:+d}" if tick else "0", GREY, "end")
    for alpha in alphas:
        picture.text(across(alpha), 290, f"{alpha:g}", GREY, "middle")
    picture.text(270, 310, "alpha", GREY, "middle")
    curves = (("sid", 1, BLUE, "speakers (tuned on)"), ("pr", -1, ORANGE, "phones (not tuned on)"))
    for task, sign, color, label in curves:
        values = curve_of(study, "sid")[task]
        points = []
        for alpha in alphas:
            gains = [sign * (v - b) for v, b in zip(values[alpha], values[0.0], strict=True)]
            points.append((across(alpha), up(statistics.fmean(gains))))
        picture.line(points, color, 2.5)
        for x, y in points:
            picture.dot(x, y, color)
        picture.text(482, points[-1][1] + 4, label, color)
    picture.line([(across(0.25), 46), (across(0.25), 272)], GREEN, 1.5, "4 4")
    picture.text(across(0.25) + 6, 58, "the paper's 0.25", GREEN)
    return picture


def superb(table: list[dict[str, Any]]) -> Picture:
    """Draw the frozen encoder, and the weights that probes of two tasks give its layers."""
    picture = Picture("What a probe sees: all layers of a frozen encoder, weighted", 330)
    named = (("phones", "pr", ORANGE, 330), ("speakers", "sid", BLUE, 490))
    means = {}
    for _, task, _, _ in named:
        own = [row for row in table if (row["encoder"], row["task"]) == ("pre-trained", task)]
        weights = [row["layer_weights"] for row in own]
        means[task] = [statistics.fmean(column) for column in zip(*weights, strict=True)]
    count = len(means["pr"])
    for layer in range(count):
        y = 250 - 30 * layer
        picture.box(120, y - 16, 150, 22, GREY, 0.25)
        picture.text(195, y, f"layer {layer}" if layer else "input of layer 1", INK, "middle")
        for _, task, color, x in named:
            picture.box(x, y - 14, 180 * means[task][layer], 18, color, 0.8)
            picture.text(x + 180 * means[task][layer] + 6, y, f"{means[task][layer]:.2f}", color)
    picture.text(16, 160, "frozen:", INK, bold=True)
    picture.text(16, 178, "never trained", GREY)
    picture.text(16, 290, "waveform", INK)
    picture.line([(80, 286), (195, 286), (195, 262)], INK, 1.5)
    for name, _, color, x in named:
        picture.text(x, 290, f"probe: {name}", color, bold=True)
        picture.text(x, 308, "small head, trained", GREY)
    return picture


def padding_errors() -> dict[str, list[float]]:
    """Measure how an utterance of 0.9 s changes beside one of 3 s, by layer, relative."""
    import torch
    from transformers import AutoModel

    import speechft
    from speechft.encoders.opening import resolve_encoder

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    long, short = (0.1 * torch.randn(count, generator=generator) for count in (48_000, 14_400))
    both = torch.zeros(2, 48_000)
    both[0], both[1, :14_400] = long, short
    lengths = torch.tensor([48_000, 14_400])
    encoder = speechft.load_encoder("tiny-hubert")
    place = resolve_encoder("tiny-hubert")
    model = AutoModel.from_pretrained(place, dtype=torch.float32).eval()
    mask = torch.arange(48_000)[None] < lengths[:, None]
    with torch.inference_mode():
        alone, batched = encoder(short[None], lengths[1:]), encoder(both, lengths)
        usual = model(short[None], output_hidden_states=True).hidden_states
        padded = model(both, attention_mask=mask.long(), output_hidden_states=True).hidden_states
    frames = int(alone.lengths)

    def worst(one: Any, other: Any) -> list[float]:
        return [
            float((a[-1, :frames] - b[0, :frames]).norm() / b[0, :frames].norm())
            for a, b in zip(other, one, strict=True)
        ]

    return {
        "ours": worst(alone.hidden_states, batched.hidden_states),
        "usual": worst(usual, padded),
    }


def exact(errors: dict[str, list[float]]) -> Picture:
    """Draw the change by padding, on a logarithmic scale."""
    picture = Picture("0.9 s of audio, alone and beside 3 s: relative change of its hidden states")
    count = len(errors["ours"])
    across, up = scale(0, count - 1, 90, 430), scale(-8, 0, 250, 50)
    for power in (-8, -6, -4, -2, 0):
        picture.line([(80, up(power)), (440, up(power))])
        picture.text(72, up(power) + 4, "1" if power == 0 else f"1e{power}", GREY, "end")
    for layer in range(count):
        picture.text(across(layer), 270, str(layer), GREY, "middle")
    picture.text(260, 288, "hidden state", GREY, "middle")
    named = (("usual", ORANGE, "transformers, with its mask"), ("ours", BLUE, 'mode="exact"'))
    for name, color, label in named:
        points = [
            (across(i), up(max(-8.0, math.log10(max(v, 1e-8))))) for i, v in enumerate(errors[name])
        ]
        picture.line(points, color, 2.5)
        for x, y in points:
            picture.dot(x, y, color)
        picture.text(448, points[-1][1] + 4, label, color)
    return picture


def difference(study: Study, encoder: str) -> tuple[float, float, float, str]:
    """Return PER of an encoder less that of the base, with its 90 % interval and the verdict."""
    base = study.figures("sid", "pre-trained")["pr"]
    found = study.figures("sid", encoder)["pr"] - base
    low, high = (float(value) for value in np.quantile(found[1:], [0.05, 0.95]))
    return float(found[0]), low, high, judged(found)


def report(study: Study) -> Picture:
    """Draw three verdicts as the report words them: the interval decides, not the point."""
    picture = Picture("Phones after tuning on speakers: difference to the base, points of PER")
    at = scale(-4, 15, 130, 600)
    picture.box(at(-MARGIN), 50, at(MARGIN) - at(-MARGIN), 200, GREEN, 0.12)
    picture.text(at(0), 272, "margin: within it, kept", GREEN, "middle")
    picture.line([(at(0), 50), (at(0), 250)], INK)
    named = (("Speech-FT 0.25", GREEN), ("stable", BLUE), ("plain-cnn", ORANGE))
    for index, (encoder, color) in enumerate(named):
        mean, low, high, said = difference(study, encoder)
        y = 85 + 60 * index
        picture.text(16, y + 4, encoder, color)
        picture.line([(at(low), y), (at(high), y)], color, 4)
        picture.dot(at(mean), y, color, 6)
        text = f"{mean:+.1f} ({low:.1f} to {high:.1f}): {said}"
        right = at(mean) > WIDTH / 2 + 50
        place, anchor = (at(high), "end") if right else (at(low), "start")
        picture.text(place, y - 12, text, color, anchor)
    picture.text(at(0), 290, "0 = as the pre-trained encoder", GREY, "middle")
    return picture


def trust(table: list[dict[str, Any]], study: Study) -> Picture:
    """Draw what single runs would have said beside what fifteen say."""
    picture = Picture("Speech-FT 0.25, phones: every run of the same recipe says something else")
    at = scale(-2, 4, 150, 610)
    for tick in range(-2, 5):
        picture.line([(at(tick), 50), (at(tick), 250)], INK if tick == 0 else FAINT)
        picture.text(at(tick), 268, f"{tick:+d}" if tick else "0", GREY, "middle")
    base = figures(table, "pre-trained", "pr", None)
    tuned = figures(table, "Speech-FT 0.25", "pr", "sid")
    for lineage, color in ((1, BLUE), (2, ORANGE), (3, GREEN)):
        values = [v - base[lineage, 0] for (own, _), v in sorted(tuned.items()) if own == lineage]
        y = 75 + 45 * (lineage - 1)
        picture.text(16, y + 4, f"encoder {lineage}, 5 seeds", color)
        for value in values:
            picture.dot(at(value), y, color, 5, 0.6)
    mean, low, high, _ = difference(study, "Speech-FT 0.25")
    picture.text(16, 224, "all 15 together", INK, bold=True)
    picture.line([(at(low), 220), (at(high), 220)], INK, 4)
    picture.dot(at(mean), 220, INK, 6)
    picture.text(at(0), 290, "points of PER against the base, below 0 is better", GREY, "middle")
    return picture


def main() -> None:
    """Write the six pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT)
    out = parser.parse_args().out
    table, study = rows(), Study(*read())
    drawn = {
        "why-stable": why_stable(table),
        "why-interpolate": why_interpolate(study),
        "superb": superb(table),
        "exact": exact(padding_errors()),
        "report": report(study),
        "trust": trust(table, study),
    }
    for name, picture in drawn.items():
        picture.save(out / f"{name}.svg")


if __name__ == "__main__":
    main()
