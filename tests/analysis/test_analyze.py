"""An analysis as a whole: rows by layer, the ends of a line, bad input, the verb and its page."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import speechft
from helpers import TINY, tiny_encoder
from speechft import cli
from speechft.analysis.analyze import analysis_rows, interpolated
from speechft.analysis.rows import AnalysisRow
from speechft.analysis.sentences import layers_text, sentences
from speechft.analysis.settings import read_settings
from speechft.data.labels import label_of
from speechft.data.manifest import Corpus, open_corpus, write_corpus
from speechft.data.utterances import Utterance
from speechft.encoders.load import load_encoder
from speechft.errors import SpeechftError


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, tiny_hubert: Path) -> list[Path]:
    """Return two encoders a little away from the base, in their layers alone."""
    folders = []
    for seed in (1, 2):
        encoder = load_encoder(tiny_hubert)
        torch.manual_seed(seed)
        with torch.no_grad():
            for name, parameter in encoder.named_parameters():
                if "encoder.layers" in name:
                    parameter.add_(0.1 * torch.randn_like(parameter))
        folders.append(tmp_path_factory.mktemp(f"tuned-{seed}"))
        encoder.save(folders[-1])
    return folders


@pytest.fixture(scope="module")
def rows(
    tmp_path_factory: pytest.TempPathFactory, tiny_hubert: Path, tuned: list[Path], tones: Corpus
) -> list[AnalysisRow]:
    out = tmp_path_factory.mktemp("analysis")
    found = analysed(tiny_hubert, tuned, out=out, corpus=tones.folder)
    written = (out / "analysis.jsonl").read_text().splitlines()
    assert [AnalysisRow.model_validate_json(line) for line in written] == found
    assert not [path for path in out.iterdir() if path.name.startswith(".states")]
    return found


def analysed(
    base: Any, encoders: Any, *, out: Path, corpus: Path, **given: Any
) -> list[AnalysisRow]:
    """Analyse without drawing figures."""
    listed = encoders if isinstance(encoders, list) else [encoders]
    out.mkdir(exist_ok=True)
    return analysis_rows(str(base), listed, str(corpus), out, read_settings(**given))


def pick(rows: list[AnalysisRow], measure: str, encoder: str | None = None) -> list[AnalysisRow]:
    return [r for r in rows if r.measure == measure and encoder in (None, r.encoder)]


def test_a_row_for_each_measure_layer_and_encoder(
    rows: list[AnalysisRow], tuned: list[Path], tiny_hubert: Path
) -> None:
    base, names = tiny_hubert.name, [folder.name for folder in tuned]
    for measure in ("abx_within", "abx_across", "cca_phone", "speaker_eer", "knn_style"):
        found = pick(rows, measure)
        assert [(r.encoder, r.layer) for r in found] == [
            (name, layer) for name in (base, *names) for layer in range(3)
        ]
        assert all(("change" in r.details) == (r.encoder != base) for r in found)
    for measure in ("cka", "cosine", "cosine_centred", "llfc_cosine", "llfc_ratio"):
        found = pick(rows, measure)
        assert [(r.encoder, r.layer) for r in found] == [(n, x) for n in names for x in range(3)]
        assert {r.against for r in found} == {base}
    for measure in ("ctl_cosine", "task_vector_cosine"):
        assert {(r.encoder, r.against) for r in pick(rows, measure)} == {tuple(names)}
    keys = [(r.encoder, r.measure, r.layer, r.module, r.against) for r in rows]
    assert len(set(keys)) == len(keys)
    assert all(r.n > 0 for r in rows if r.question != "weights" and r.value is not None)


def test_what_did_not_change_is_equal(rows: list[AnalysisRow], tuned: list[Path]) -> None:
    """Nothing below the first layer was touched."""
    for row in rows:
        if row.layer != 0 or row.against is None:
            continue
        if row.measure in ("cka", "cosine", "cosine_centred", "llfc_cosine", "ctl_coefficient"):
            assert row.value == pytest.approx(1, abs=1e-5), row.measure
        elif row.measure == "llfc_ratio":
            assert row.value is None
            assert "0.02 apart" in row.details["reason"]
        elif row.measure == "weight_move" and row.module in (None, "cnn", "attention"):
            assert row.value == 0
        elif row.measure in ("abx_across", "cca_phone", "speaker_eer"):
            assert row.details["change"]["value"] == 0
    assert all((r.value or 2) < 0.9999 for r in pick(rows, "cka") if r.layer)


def test_figures_are_those_of_a_second_look(
    rows: list[AnalysisRow], tiny_hubert: Path, tuned: list[Path], tones: Corpus
) -> None:
    """Raw cosine and linear connectivity again, utterance by utterance with plain torch."""
    base, other = load_encoder(tiny_hubert), load_encoder(tuned[0])
    middle = interpolated(base, other, 0.5)
    cosines, lines = [], []
    for cut in tones.split("dev"):
        waveform = torch.from_numpy(cut.load_audio())
        with torch.inference_mode():
            states = [
                encoder(waveform, torch.tensor([waveform.shape[1]])).hidden_states[:, 0].double()
                for encoder in (base, other, middle)
            ]
        cosines.append(torch.cosine_similarity(states[0], states[1], dim=-1).mean(1))
        between = (states[0] + states[1]) / 2
        lines.append(torch.cosine_similarity(states[2].flatten(1), between.flatten(1), dim=1))
    for measure, expected in (("cosine", cosines), ("llfc_cosine", lines)):
        found = [r.value for r in pick(rows, measure, tuned[0].name)]
        np.testing.assert_allclose(found, torch.stack(expected).mean(0), atol=1e-5)


@pytest.mark.parametrize("alpha", [0, 1])
def test_at_its_ends_a_line_is_its_ends(
    alpha: int, tiny_hubert: Path, tuned: list[Path], tones: Corpus, tmp_path: Path
) -> None:
    base, other = load_encoder(tiny_hubert), load_encoder(tuned[0])
    end = interpolated(base, other, alpha).state_dict()
    for name, value in (other if alpha else base).state_dict().items():
        assert torch.equal(value, end[name])
    found = analysed(
        tiny_hubert,
        tuned[0],
        out=tmp_path,
        corpus=tones.folder,
        measures="linearity",
        alpha=alpha,
        limit=4,
    )
    for measure in ("llfc_cosine", "llfc_coefficient"):
        assert all(r.value == pytest.approx(1, abs=1e-5) for r in pick(found, measure))


def test_an_encoder_with_itself(tiny_hubert: Path, tones: Corpus, tmp_path: Path) -> None:
    found = analysed(tiny_hubert, tiny_hubert, out=tmp_path, corpus=tones.folder)
    assert {r.encoder for r in found} == {tiny_hubert.name, f"{tiny_hubert.name} (again)"}
    for row in pick(found, "cka") + pick(found, "cosine"):
        assert row.value == pytest.approx(1)
    assert all(r.value in (0, None) for r in pick(found, "weight_move"))
    assert all(r.value is None for r in pick(found, "llfc_ratio"))
    said = [text for texts in sentences(found).values() for text in texts]
    assert any("no weight moved" in text for text in said)
    assert any("no verdict" in text for text in said)
    assert any("much the same" in text for text in said)


def test_encoders_of_one_name_are_told_apart_by_their_folders(
    tiny_hubert: Path, tones: Corpus, tmp_path: Path
) -> None:
    places = [tmp_path / name / "encoder" for name in ("a", "b", "c")]
    for place in places:
        place.parent.mkdir()
        place.symlink_to(tiny_hubert)
    found = analysed(
        places[0], places[1:], out=tmp_path / "o", corpus=tones.folder, measures="weights"
    )
    assert {(r.encoder, r.against) for r in pick(found, "weight_move")} == {
        ("b/encoder", "a/encoder"),
        ("c/encoder", "a/encoder"),
    }


def test_other_shapes_are_compared_when_asked(
    tiny_hubert: Path, tones: Corpus, tmp_path: Path
) -> None:
    shapes: dict[str, dict[str, Any]] = {
        "deep": {"num_hidden_layers": 4},
        "wide": {"hidden_size": 32},
    }
    for name, changes in shapes.items():
        tiny_encoder(**changes).save(tmp_path / name)
        options: dict[str, Any] = {"out": tmp_path / "out", "corpus": tones.folder, "limit": 9}
        with pytest.raises(SpeechftError, match=f"{name} has .* the base has 2 layers of") as error:
            analysed(tiny_hubert, tmp_path / name, **options)
        assert "--relative-depth" in str(error.value)
        found = analysed(tiny_hubert, tmp_path / name, relative_depth=True, **options)
        measures = {r.measure for r in found if r.encoder == name}
        assert {"cka", "abx_across", "speaker_eer"} <= measures
        assert not {"cosine", "llfc_cosine", "weight_move"} & measures
        matched = [r.details.get("matched_layer", r.layer) for r in pick(found, "cka")]
        assert matched == ([0, 2, 4] if name == "deep" else [0, 1, 2])
        with pytest.raises(SpeechftError, match="no encoder has the base's weights"):
            analysed(
                tiny_hubert, tmp_path / name, relative_depth=True, measures="weights", **options
            )
    found = analysed(tiny_hubert, "mfcc", relative_depth=True, **options)
    assert len(pick(found, "cka")) == TINY["num_hidden_layers"] + 1


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"layers": "2-3"}, "layer 3: the encoder has the hidden states 0"),
        ({"layers": "first"}, "not all, last, or numbers"),
        ({"alpha": 1.5}, "not between 0"),
        ({"measures": "cka"}, "unknown measure 'cka'; choices are: abx"),
        ({"limit": 0}, "no utterance"),
        ({"precision": "fp8"}, "unknown precision"),
        ({"split": "none"}, "no split 'none'; it has: train, dev, test"),
        ({"corpus": "nowhere"}, "no corpus 'nowhere'"),
        ({"encoders": []}, "no encoder was given"),
        ({"encoders": "./lost"}, "no encoder at"),
    ],
)
def test_what_cannot_be_is_said(
    options: dict[str, Any], problem: str, tiny_hubert: Path, tones: Corpus, tmp_path: Path
) -> None:
    given = {"encoders": tiny_hubert, "corpus": tones.folder, "out": tmp_path / "out", **options}
    with pytest.raises(SpeechftError, match=problem):
        analysed(tiny_hubert, **given)


def corpus_of(folder: Path, *waves: np.ndarray, **known: Any) -> Corpus:
    """Write recordings as the dev split of a corpus."""
    folder.mkdir()
    utterances = []
    for number, wave in enumerate(waves):
        soundfile.write(folder / f"{number}.wav", wave, 16_000)
        utterances.append(Utterance(f"u{number}", f"{number}.wav", len(wave), **known))
    write_corpus(folder, "few", "", {"train": [], "dev": utterances, "test": []}, {})
    return open_corpus(folder)


def test_one_utterance_silence_and_no_labels(
    tiny_hubert: Path, tuned: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0).normal(size=16_000) * 0.1
    silence, click = np.zeros(16_000), np.zeros(100)
    for name, waves in {
        "one": [noise],
        "silent": [silence],
        "both": [noise, silence, click],
    }.items():
        corpus = corpus_of(tmp_path / name, *waves)
        found = analysed(tiny_hubert, tuned, out=tmp_path / f"{name}-out", corpus=corpus.folder)
        assert {r.question for r in found} == {"similarity", "linearity", "weights"}
        assert all(r.value is None or np.isfinite(r.value) for r in found)
        assert all((r.value is None) == (name == "silent") for r in pick(found, "cosine"))
        assert all(r.interval is None for r in pick(found, "cosine"))
        assert sentences(found)
    said = capsys.readouterr().err
    assert "left out: 1 utterances shorter than one frame" in said
    assert "not measured: abx; " in said
    assert "not measured: speaker; " in said
    corpus = corpus_of(tmp_path / "clicks", click)
    with pytest.raises(SpeechftError, match="as long as one frame"):
        analysed(tiny_hubert, tuned, out=tmp_path / "out", corpus=corpus.folder)
    with pytest.raises(SpeechftError, match="abx cannot be measured: the corpus"):
        analysed(tiny_hubert, tuned, out=tmp_path / "out", corpus=tmp_path / "one", measures="abx")
    alone = corpus_of(tmp_path / "alone", noise, noise[:9000], speaker="x")
    found = analysed(tiny_hubert, tuned[0], out=tmp_path / "out", corpus=alone.folder)
    assert "speakers" not in {r.question for r in found}


def test_a_limit_takes_speakers_in_turn(tiny_hubert: Path, tones: Corpus, tmp_path: Path) -> None:
    found = analysed(
        tiny_hubert, tiny_hubert, out=tmp_path, corpus=tones.folder, measures="similarity", limit=3
    )
    assert {r.n for r in pick(found, "cosine")} == {3}
    speakers = {label_of(cut, "speaker") for cut in tones.split("dev")}
    assert len(speakers) == 3
    assert all(r.interval is not None for r in pick(found, "cosine"))


def test_the_verb_and_its_page(
    tiny_hubert: Path,
    tuned: list[Path],
    tones: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def call(*further: str) -> str:
        typed = ["speechft", "analyze", str(tiny_hubert), str(tuned[0]), "--out", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", [*typed, *further])
        _run()
        return capsys.readouterr().out

    text = call("--manifest", str(tones.folder))
    page = (tmp_path / "analysis.md").read_text()
    for question in ("similarity", "linearity", "weights", "phones", "speakers", "labels"):
        assert f"{question}.svg" in page
        svg = (tmp_path / f"{question}.svg").read_text()
        assert svg.startswith("<svg")
        assert tuned[0].name in svg
        assert f"{question:10}  {tuned[0].name}: " in text
    lines = call("--corpus", str(tones.folder), "--measures", "weights", "--json").splitlines()
    assert {json.loads(line)["question"] for line in lines} == {"weights"}


def _run() -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code


def test_files_of_somebody_else_stay_unless_told(
    tiny_hubert: Path, tuned: list[Path], tones: Corpus, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"out": tmp_path, "corpus": tones.folder, "measures": "weights"}
    page = tmp_path / "analysis.md"
    page.write_text("mine\n")
    with pytest.raises(SpeechftError, match=r"analysis\.md.*was not written by"):
        speechft.analyze(tiny_hubert, tuned, **given)
    assert page.read_text() == "mine\n"
    assert not (tmp_path / "analysis.jsonl").exists()
    speechft.analyze(tiny_hubert, tuned, overwrite=True, **given)
    assert "What fine-tuning did" in page.read_text()
    speechft.analyze(tiny_hubert, tuned, **given)  # its own it knows
    (tmp_path / ".speechft.json").unlink()  # as an earlier version left it
    speechft.analyze(tiny_hubert, tuned, **given)


def test_sentences_say_what_turned() -> None:
    def row(measure: str, question: Any, layer: int, change: list[float]) -> AnalysisRow:
        return AnalysisRow(
            encoder="tuned",
            encoder_digest="",
            question=question,
            measure=measure,
            layer=layer,
            value=20.0,
            unit="%",
            against="base",
            details={"change": {"value": sum(change) / 2, "interval": change}},
        )

    found = sentences(
        [row("abx_across", "phones", n, [1, 3] if n > 4 else [-1, 1]) for n in range(7)]
        + [row("speaker_eer", "speakers", n, [-5, -1] if n > 3 else [-1, 1]) for n in range(7)]
    )
    move = row("weight_move", "weights", 3, [0, 0])
    moves = {3: 0.1, 4: 0.2, None: 0.15}.items()
    moved = [move.model_copy(update={"layer": n, "value": value}) for n, value in moves]
    [said] = sentences(moved)["weights"]
    assert "most at layer 4 (20.0 %; in a merge rule layers.3)" in said
    assert "tuned: layers 5 and 6 turned from phones to speakers." in found["phones"]
    assert "worse at layers 5 and 6 than the base's" in found["phones"][0]
    assert "better at layers 4 to 6 than the base's" in found["speakers"][0]
    assert layers_text([3]) == "layer 3"
    assert layers_text([0, 1, 2, 4, 7, 8]) == "layers 0 to 2, 4, 7 and 8"
