"""ASR with a language model: a second figure, its items, its probe on files, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jiwer
import pytest

import speechft
from speechft.data.labels import label_of
from speechft.data.manifest import Corpus
from speechft.errors import ConfigError
from speechft.evaluation import task_evaluation
from speechft.evaluation.config import BeamSearchConfig, EvaluationConfig, ProbeConfig
from speechft.evaluation.encoders import evaluate
from speechft.evaluation.predictions import items_of
from speechft.evaluation.protocols import PROTOCOLS
from speechft.results import read_rows
from speechft.tasks import LanguageModel, find_task

pytest.importorskip("flashlight.lib.text.decoder.kenlm", reason="needs the extra lm")


def write_model(corpus: Corpus, path: Path) -> Path:
    """Write a model of the training transcripts' words, all equally likely, and one bigram."""
    texts = [label_of(cut, "text") or "" for cut in corpus.split("train")]
    words = sorted({word for text in texts for word in text.split()})
    lines = "".join(f"-1.0\t{word}\n" for word in ("<s>", "</s>", "<unk>", *words))
    counts = f"\\data\\\nngram 1={len(words) + 3}\nngram 2=1\n"
    pairs = f"\\2-grams:\n-0.5\t<s> {words[0]}\n"
    path.write_text(f"{counts}\n\\1-grams:\n{lines}\n{pairs}\n\\end\\\n")
    return path


@pytest.fixture(scope="module")
def model(miniature: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(miniature, tmp_path_factory.mktemp("model") / "words.arpa")


@pytest.fixture(scope="module")
def settings(model: Path) -> EvaluationConfig:
    quick = ProbeConfig(learning_rates=(3e-2,), extend=0, epochs=5, halve_at=(), batch=16)
    PROTOCOLS["quick-asr"] = {"frame": quick, "utterance": quick}
    return EvaluationConfig(
        tasks=("asr", "sid"),
        protocol="quick-asr",
        precision="fp32",
        floors=(),
        language_model=str(model),
        beam_search=BeamSearchConfig(weight=0.5, beam=20),
    )


@pytest.fixture(scope="module")
def evaluated(
    tiny_hubert: Path,
    miniature: Corpus,
    settings: EvaluationConfig,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    out = tmp_path_factory.mktemp("lm")
    evaluate([str(tiny_hubert)], str(miniature.folder), settings, out)
    return out


def test_a_second_rate_is_that_of_the_searched_words(evaluated: Path) -> None:
    rows = {(row.task, row.metric): row for row in read_rows(evaluated / "results.jsonl")}
    assert set(rows) == {("asr", "wer"), ("asr", "wer_with_lm"), ("sid", "accuracy")}
    items = items_of(rows["asr", "wer"], evaluated)
    references = [item.reference for item in items]
    for metric, texts in (
        ("wer", [item.prediction for item in items]),
        ("wer_with_lm", [item.searched for item in items]),
    ):
        row = rows["asr", metric]
        assert row.value == pytest.approx(100 * jiwer.wer(references, texts))
        assert row.interval is not None
        assert row.details["dev"] > 0
    assert rows["asr", "wer"].value != rows["asr", "wer_with_lm"].value
    assert all(
        "searched" not in line
        for line in (evaluated / str(rows["sid", "accuracy"].predictions)).read_text().splitlines()
    )
    assert find_task("asr").measure("wer_with_lm") is not None  # `compare` knows it
    assert [m.name for m in find_task("asr").measures] == ["wer"]


def test_the_probe_predicts_with_the_model(evaluated: Path, miniature: Corpus, model: Path) -> None:
    rows = {row.task: row for row in read_rows(evaluated / "results.jsonl")}
    places = {task: (evaluated / str(row.predictions)).parent for task, row in rows.items()}
    items = {item.id: item for item in items_of(rows["asr"], evaluated)}
    search = LanguageModel(model, weight=0.5, beam=20)
    pipeline = speechft.load_pipeline(places["asr"], language_model=search)
    for cut in list(miniature.split("test"))[:4]:
        assert pipeline.predict(cut.recording.sources[0].source) == items[cut.id].searched
    assert pipeline.answer(cut.recording.sources[0].source).values["words"] == []
    with pytest.raises(ConfigError, match=f"decoded with the language model {model.name}"):
        speechft.load_pipeline(places["asr"])
    kept = speechft.load_pipeline(places["asr"], language_model=model)
    assert kept.task.language_model == search, "settings are kept with the probe"
    greedy = speechft.load_pipeline(places["asr"], language_model="none")
    assert greedy.predict(cut.recording.sources[0].source) == items[cut.id].prediction
    with pytest.raises(ConfigError, match="this is a probe of sid"):
        speechft.load_pipeline(places["sid"], language_model=model)


def test_another_model_is_another_evaluation(
    evaluated: Path,
    tiny_hubert: Path,
    miniature: Corpus,
    settings: EvaluationConfig,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def trained(*_: Any, **__: Any) -> Any:
        raise AssertionError("it was trained again")

    monkeypatch.setattr(task_evaluation, "probe_seeds", trained)
    evaluate([str(tiny_hubert)], str(miniature.folder), settings, evaluated)
    other = tmp_path / "other.arpa"
    other.write_text(model.read_text().replace("-1.0", "-0.9"))
    changed = settings.model_copy(update={"language_model": str(other)})
    with pytest.raises(AssertionError, match="trained again"):
        evaluate([str(tiny_hubert)], str(miniature.folder), changed, evaluated)


def test_a_model_that_nothing_takes_is_refused(
    tiny_hubert: Path, miniature: Corpus, settings: EvaluationConfig, tmp_path: Path
) -> None:
    changed = settings.model_copy(update={"tasks": ("sid",)})
    with pytest.raises(ConfigError, match="is for task asr"):
        evaluate([str(tiny_hubert)], str(miniature.folder), changed, tmp_path)
