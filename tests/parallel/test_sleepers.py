"""A process that stops in the middle is replaced; awake again it ends in order, bits are equal."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
import torch

from helpers import tiny_encoder
from processes import Child
from speechft.data.manifest import Corpus
from speechft.storage.locks import LOCK_NAME

_IMPATIENT = (
    "from speechft.parallel import liveness; liveness.BEAT, liveness.PATIENCE = 0.2, 5.0; "
    "from helpers import quicken_probes; quicken_probes(); from speechft.cli import main; main()"
)


_LONG = ("sweep", "extract", "analyze", "prepare", "search")


def _words(verb: str, base: str, tuned: str, tones: Corpus) -> tuple[list[str], str]:
    """Return a command without its --out, and what is there when it is in the middle of a part."""
    corpus = ["--corpus", str(tones.folder)]
    deep = f"evaluation/*/*/{LOCK_NAME}"
    return {
        "evaluate": (["evaluate", base, tuned, *corpus, "--tasks", "sid,pr"], deep),
        "sweep": (["sweep", base, tuned, *corpus, "--tasks", "sid", "--alphas", "0:1:0.5"], deep),
        "extract": (["extract", base, str(tones.folder)], ".units/*.1.json"),
        "analyze": (["analyze", base, tuned, *corpus], ".units/*.1.json"),
        "prepare": (
            ["prepare", "generic", _table(tones, Path(base).parent)],
            ".units/inspected-*/*",
        ),
        "search": (
            [
                "search",
                base,
                tuned,
                *corpus,
                "--tasks",
                "sid,ic",
                "--trials",
                "3",
                "--groups",
                "2",
                "--tuned-on",
                "sid",
            ],
            deep,
        ),
    }[verb]


def _table(tones: Corpus, folder: Path) -> str:
    rows = ["path,split,text"]
    for split in tones.statistics:
        for cut in tones.split(split):
            rows.append(f"{cut.recording.sources[0].source},{split},a word")
    (folder / "table.csv").write_text("\n".join(rows) + "\n")
    return str(folder / "table.csv")


def _bits(out: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name != LOCK_NAME and path.suffix != ".svg"
    }


@pytest.mark.integration
@pytest.mark.parametrize(
    "verb",
    [
        "evaluate",
        *(pytest.param(v, marks=pytest.mark.long) for v in _LONG),
    ],
)
def test_a_process_that_sleeps_is_replaced(verb: str, tones: Corpus, tmp_path: Path) -> None:
    places = [tmp_path / "base", tmp_path / "tuned"]
    for steps, place in enumerate(places):
        encoder = tiny_encoder()
        with torch.no_grad():
            encoder.model.encoder.layer_norm.weight += 0.1 * steps
        encoder.save(place)
    words, middle = _words(verb, *map(str, places), tones)

    def begin(out: str, name: str) -> Child:
        return Child(_IMPATIENT, [*words, "--out", str(tmp_path / out)], tmp_path, name=name)

    code, _, error = begin("alone", "alone").wait()
    assert code == 0, error
    sleeper = begin("two", "sleeper")
    until = time.monotonic() + 60
    while not list((tmp_path / "two").glob(middle)) and time.monotonic() < until:
        time.sleep(0.005)
    sleeper.send(signal.SIGSTOP)
    try:
        code, _, error = begin("two", "other").wait()
        assert code == 0, error
        assert _bits(tmp_path / "two") == _bits(tmp_path / "alone")
    finally:
        sleeper.send(signal.SIGCONT)
    code, _, error = sleeper.wait()
    assert code == 0, error
    assert _bits(tmp_path / "two") == _bits(tmp_path / "alone")
