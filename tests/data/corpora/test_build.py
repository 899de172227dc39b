"""Every damage gives its line in issues.tsv: fatal ones stop, the others are left out or kept."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from speechft.console import progress_bar
from speechft.data import inspection
from speechft.data.corpora import build as building
from speechft.data.corpora import inspecting
from speechft.data.corpora.base import ENGLISH, Card, Draft, Pairs, Scan
from speechft.data.corpora.build import Options, build
from speechft.data.issues import COLUMNS, HINTS, ISSUES_FILE, KINDS, Issue
from speechft.data.manifest import Corpus
from speechft.errors import DataError
from speechft.parallel.claims import FOLDER

CARD = Card("mine", "title", "a folder", "CC0", "1 h", "train, test", ("asr",), "here")
RNG = np.random.default_rng(0)


def record(path: Path, seconds: float = 1.0, rate: int = 16_000, channels: int = 1) -> None:
    shape = (round(seconds * rate), channels)
    soundfile.write(path, 0.1 * RNG.standard_normal(shape), rate)


def scan_of(folder: Path, **changes: object) -> Scan:
    """Return three utterances in train and two in test, all sound."""
    drafts = {}
    for split, count in (("train", 3), ("test", 2)):
        drafts[split] = []
        for number in range(count):
            path = folder / f"{split}{number}.wav"
            if not path.exists():
                record(path)
            name = f"{split}-{number}"
            drafts[split].append(Draft(name, path, "HELLO", f"{split}-speaker"))
    return Scan(drafts, alphabet=ENGLISH, disjoint=(("train", "test"),), **changes)  # type: ignore[arg-type]


def run(folder: Path, scan: Scan, options: Options | None = None) -> Corpus:
    return build(CARD, folder, scan, folder / "out", options)


def lines(folder: Path) -> list[list[str]]:
    text = (folder / "out" / ISSUES_FILE).read_text().splitlines()
    assert text[0].split("\t") == list(COLUMNS)
    return [line.split("\t") for line in text[1:]]


def _silent(path: Path, draft: Draft) -> None:
    soundfile.write(path, np.zeros(16_000), 16_000)


def _nan(path: Path, draft: Draft) -> None:
    soundfile.write(path, np.full(16_000, np.nan), 16_000, subtype="FLOAT")


def _clipped(path: Path, draft: Draft) -> None:
    wave = 2.0 * np.sin(np.arange(16_000) * 0.05)
    soundfile.write(path, np.clip(wave, -1.0, 1.0), 16_000)


def _strange(path: Path, draft: Draft) -> None:
    draft.text = "HELLO 42?"


def _long_text(path: Path, draft: Draft) -> None:
    draft.text = " ".join(["WORDS"] * 20)


def _many_phones(path: Path, draft: Draft) -> None:
    draft.phones = [("AH", 0.0, 0.0)] * 26  # repeats need a blank between them


def _outside(path: Path, draft: Draft) -> None:
    draft.start, draft.end = 0.5, 1.5


def _same_id(path: Path, draft: Draft) -> None:
    draft.id = "train-0"


def _shared_speaker(path: Path, draft: Draft) -> None:
    draft.speaker = "test-speaker"


def _cut_off(path: Path, draft: Draft) -> None:
    path.write_bytes(path.read_bytes()[:20_044])


def _joined(path: Path, draft: Draft) -> None:
    soundfile.write(
        path, 0.1 * np.random.default_rng(0).standard_normal(16_000), 16_000, format="MP3"
    )
    path.write_bytes(path.read_bytes() * 2)


def _other_channel(path: Path, draft: Draft) -> None:
    draft.channel = 2


def _cancelling(path: Path, draft: Draft) -> None:
    wave = 0.1 * np.random.default_rng(0).standard_normal(16_000)
    soundfile.write(path, np.stack([wave, -wave], 1), 16_000)


DAMAGES: list[tuple[str, Callable[[Path, Draft], object], str]] = [
    ("missing-audio", lambda path, _: path.unlink(), "does not exist"),
    ("unreadable-audio", lambda path, _: path.write_text("no"), "not readable as audio"),
    ("cut-off", _cut_off, "is cut off: 0.38 s are missing at its end"),
    ("length-differs", _joined, "its header says"),
    ("no-channel", _other_channel, "there is no channel 2"),
    ("channels-cancel", _cancelling, "its channels cancel when they are averaged"),
    ("zero-length", lambda path, _: record(path, 0.0), "holds no samples"),
    ("too-short", lambda path, _: record(path, 0.01), "160 samples at 16000 Hz are too short"),
    ("segment-outside", _outside, "seconds 0.5 to 1.5 of a recording of 1.00 s"),
    ("not-a-number", _nan, "holds NaN"),
    ("silence", _silent, "is silent"),
    ("clipping", _clipped, "% of the samples are at full scale"),
    ("rate-mismatch", lambda path, _: record(path, rate=8_000), "8000 Hz instead of 16000 Hz"),
    ("channel-mismatch", lambda path, _: record(path, channels=2), "2 channels instead of 1"),
    ("characters", _strange, "the text holds '2' '4' '?'"),
    ("text-too-long", _long_text, "119 characters need 119 frames, the audio has 49"),
    ("text-too-long", _many_phones, "26 phones need 51 frames, the audio has 49"),
    ("duplicate-id", _same_id, "the id was used before, by train0.wav of split train"),
    ("speaker-overlap", _shared_speaker, "speaker test-speaker is in train (1 utterances) and"),
]


@pytest.mark.parametrize(
    ("kind", "damage", "problem"), DAMAGES, ids=[f"{d[0]}-{n}" for n, d in enumerate(DAMAGES)]
)
def test_every_damage_gives_its_line(
    kind: str, damage: Callable[[Path, Draft], object], problem: str, tmp_path: Path
) -> None:
    scan = scan_of(tmp_path)
    draft = scan.splits["train"][1]
    damage(draft.path, draft)
    if KINDS[kind] == "fatal":
        with pytest.raises(DataError, match=f"corpus mine cannot be prepared: 1 {kind}") as caught:
            run(tmp_path, scan)
        assert caught.value.hint == HINTS[kind]
        visible = [p.name for p in (tmp_path / "out").iterdir() if p.name[0] != "."]
        assert visible == [ISSUES_FILE], "no manifest is left"
    else:
        corpus = run(tmp_path, scan)
        kept = KINDS[kind] == "kept"
        assert corpus.statistics["train"]["utterances"] == (3 if kept else 2)
        assert corpus.info["issues"] == {kind: 1}
    (line,) = lines(tmp_path)
    assert line[:2] == [kind, KINDS[kind]]
    assert line[2] == ("train+test" if kind == "speaker-overlap" else "train")
    if kind != "speaker-overlap":
        assert line[3:5] == [draft.id, "train1.wav"]
    assert problem in line[5]


def test_the_kinds_are_all_tried() -> None:
    elsewhere = {"bad-label", "no-label", "listed-twice", "unseen-characters", "bracketed-text"}
    elsewhere |= {"no-words"}  # tests/cli/test_tables.py
    elsewhere |= {"spelt-twice", "looks-missing"}  # test_generic.py
    assert {kind for kind, _, _ in DAMAGES} | elsewhere == set(KINDS)


def test_characters_that_training_lacks_are_named_and_kept(tmp_path: Path) -> None:
    scan = scan_of(tmp_path)
    scan.alphabet = None
    scan.splits["test"][0].text = "HELLO ŻÓŁW"
    assert run(tmp_path, scan).statistics["test"]["utterances"] == 2
    ((kind, outcome, split, name, _, problem),) = lines(tmp_path)
    assert (kind, outcome, split, name) == ("unseen-characters", "kept", "test", "test-0")
    assert problem == "'W' 'Ó' 'Ł' 'Ż' do not occur in train"


def test_missing_files_are_left_out_on_request(tmp_path: Path) -> None:
    scan = scan_of(tmp_path)
    scan.splits["train"][0].path.unlink()
    with pytest.raises(DataError, match="1 missing-audio"):
        run(tmp_path, scan)
    corpus = run(tmp_path, scan, Options(allow_missing=True))
    assert corpus.statistics["train"]["utterances"] == 2
    assert lines(tmp_path)[0][:2] == ["missing-audio", "left out"]


def test_after_a_fatal_stop_the_folder_is_prepared_anew(tmp_path: Path) -> None:
    first = run(tmp_path, scan_of(tmp_path))
    broken = scan_of(tmp_path)
    broken.splits["train"][0].speaker = "test-speaker"
    broken.sources = [tmp_path / "train0.wav"]  # any change of the inputs
    with pytest.raises(DataError, match="1 speaker-overlap"):
        run(tmp_path, broken)
    assert len(lines(tmp_path)) == 1
    assert run(tmp_path, scan_of(tmp_path)).digest == first.digest
    assert lines(tmp_path) == []


def test_headers_only_does_not_look_at_samples(tmp_path: Path) -> None:
    scan = scan_of(tmp_path)
    _silent(scan.splits["train"][0].path, scan.splits["train"][0])
    corpus = run(tmp_path, scan, Options(samples=False))
    assert corpus.statistics["train"]["utterances"] == 3
    assert run(tmp_path, scan).statistics["train"]["utterances"] == 2


def test_silence_may_belong_to_a_corpus(tmp_path: Path) -> None:
    scan = scan_of(tmp_path, silence_allowed=True)
    _silent(scan.splits["train"][0].path, scan.splits["train"][0])
    assert run(tmp_path, scan).statistics["train"]["utterances"] == 3
    assert lines(tmp_path) == []


def test_fatal_issues_come_first_and_all_are_written(tmp_path: Path) -> None:
    scan = scan_of(tmp_path)
    scan.issues.append(Issue("bad-label", "line 3\tis\nodd", str(tmp_path / "labels.txt")))
    _silent(scan.splits["train"][0].path, scan.splits["train"][0])
    scan.splits["test"][1].path.unlink()
    with pytest.raises(DataError, match="1 missing-audio"):
        run(tmp_path, scan)
    assert [line[0] for line in lines(tmp_path)] == ["missing-audio", "bad-label", "silence"]
    assert lines(tmp_path)[1][4:] == ["labels.txt", "line 3 is odd"]


def test_nothing_usable_is_one_error(tmp_path: Path) -> None:
    scan = scan_of(tmp_path)
    for drafts in scan.splits.values():
        for draft in drafts:
            draft.path.write_text("no")
    with pytest.raises(DataError, match=r"none of the 5 recordings .*train0\.wav: not readable"):
        run(tmp_path, scan)


def test_lines_of_pairs_without_audio_are_dropped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = scan_of(tmp_path)
    scan.splits["test"][1].path.write_text("no")
    rows = [("1", "test-0", "test-0"), ("0", "test-0", "test-1")]
    scan.pairs["trials.txt"] = Pairs(list(rows), ids=(1, 2), separator=" ")
    corpus = run(tmp_path, scan)
    assert (corpus.folder / "trials.txt").read_text() == "1 test-0 test-0\n"
    assert "trials.txt: 1 of 2 lines lack audio" in capsys.readouterr().err


def test_prepared_once_unless_something_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    label = tmp_path / "labels.txt"
    label.write_text("a")
    looks: list[int] = []
    plain = building._inspect_all
    monkeypatch.setattr(building, "_inspect_all", lambda *a: (looks.append(1), plain(*a))[1])
    first = run(tmp_path, scan_of(tmp_path, sources=[label]))
    again = run(tmp_path, scan_of(tmp_path, sources=[label]))
    assert (len(looks), first.digest) == (1, again.digest)
    label.write_text("b")
    assert run(tmp_path, scan_of(tmp_path, sources=[label])).digest != first.digest
    record(tmp_path / "train0.wav", 1.5)
    assert run(tmp_path, scan_of(tmp_path, sources=[label])).statistics["train"]["hours"] > 0.0008
    assert len(looks) == 3


def test_what_was_inspected_before_a_kill_is_not_inspected_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Path] = []
    plain = inspection.inspect

    def look(path: Path, *rest: object, **options: object) -> object:
        if len(looks) == 3:
            raise KeyboardInterrupt
        looks.append(path)
        return plain(path, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(inspecting, "_PART", (1, 1))
    monkeypatch.setattr(inspecting, "inspect", look)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, scan_of(tmp_path))
    assert not (tmp_path / "out" / "corpus.json").exists()
    monkeypatch.setattr(
        inspecting, "inspect", lambda *a, **b: (looks.append(a[0]), plain(*a, **b))[1]
    )
    stopped = run(tmp_path, scan_of(tmp_path))
    assert len(looks) == 5
    assert not (tmp_path / "out" / FOLDER).exists()
    (tmp_path / "whole").mkdir()
    whole = build(CARD, tmp_path, scan_of(tmp_path), tmp_path / "whole")
    assert stopped.digest == whole.digest


def test_recordings_are_inspected_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two chunks have to be in work at once, and the order stays that of the drafts."""
    both = threading.Barrier(2, timeout=20)
    plain = inspection.inspect

    def wait(*arguments: object, **options: object) -> object:
        both.wait()
        return plain(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(inspecting, "inspect", wait)
    scan = scan_of(tmp_path)
    scan.splits["train"].pop()
    corpus = run(tmp_path, scan, Options(jobs=2))
    assert [cut.id for cut in corpus.split("train")] == ["train-0", "train-1"]


def test_durations_and_card_are_kept(tmp_path: Path) -> None:
    record(tmp_path / "train0.wav", 3.0)
    corpus = run(tmp_path, scan_of(tmp_path))
    assert corpus.info["licence"] == "CC0"
    assert corpus.info["seconds"]["train"] == {"min": 1.0, "median": 1.0, "p95": 2.8, "max": 3.0}


def test_recordings_are_stamped_in_the_order_of_their_paths(tmp_path: Path) -> None:
    names = ["b/x.wav", "a b/x.wav", "a/x.wav", "a/x y.wav", "a-b/x.wav", "a.wav", "a/é.wav"]
    drafts = [Draft(f"u{n}", tmp_path / name) for n, name in enumerate([*names, *names[:2]])]
    found = [stamp[0] for stamp in building._stamps(tmp_path, Scan({"train": drafts}))]
    wanted = sorted({draft.path for draft in drafts})
    assert found == [str(path.relative_to(tmp_path)) for path in wanted]


def test_what_is_listed_again_is_decoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(tmp_path / "a.wav")
    parts = [(0.0, 0.5, None), (0.0, 0.5, None), (0.0, 0.7, None), (0.0, 0.5, 0)]
    drafts = [
        Draft(f"u{number}", tmp_path / "a.wav", start=start, end=end, channel=channel)
        for number, (start, end, channel) in enumerate(parts)
    ]
    decoded: list[tuple[float | None, float | None, int | None]] = []

    def counted(path: Path, start: float | None, end: float | None, **more: Any) -> Any:
        decoded.append((start, end, more["channel"]))
        return inspection.inspect(path, start, end, **more)

    monkeypatch.setattr(inspecting, "inspect", counted)
    again = [draft for draft in drafts for _ in range(20)]
    place = inspecting.Inspection([again, drafts], tmp_path / "found", samples=True, jobs=2)
    with progress_bar("looking", len(place)) as bar:
        *first, last = place.units(bar, lambda: False)
        for unit in first:
            unit.run(None)
        assert set(decoded) == set(parts)
        known = len(decoded)
        last.run(None)
    assert len(decoded) == known
    found = list(place.found())
    assert found[::20][:4] == found[-4:]
    assert found[-4:] == [
        inspection.inspect(d.path, d.start, d.end, channel=d.channel, samples=True) for d in drafts
    ]
