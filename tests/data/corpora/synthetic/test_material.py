"""The corpus of archives: labels for every task, true turns, and every archive's layout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from corpora import sizes, train
from speechft.data.corpora import ARCHIVES, synthetic
from speechft.data.corpora.prepare import prepare, write_layout
from speechft.data.corpora.synthetic import material_texts as texts
from speechft.data.corpora.synthetic.archives import write_archive
from speechft.data.corpora.synthetic.material import MaterialSpec
from speechft.data.labels import label_of, phones_of
from speechft.data.manifest import Corpus
from speechft.data.waveform import load_waveform
from speechft.errors import ConfigError
from speechft.evaluation import protocols
from speechft.evaluation.config import EvaluationConfig, ProbeConfig
from speechft.evaluation.encoders import evaluate
from speechft.tasks import SUPERB, find_task

pytest.importorskip("espeakng_loader")

SMALL = MaterialSpec(
    speakers=(5, 2, 3),
    commands=(10, 4, 6),
    intents=(10, 4, 6),
    same_speakers=(3, 3),
    keywords=(22, 11, 11),
    mixtures=(2, 1, 1),
    documents=12,
    queries=(4, 4),
    languages=(10, 5, 5),
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return synthetic.prepare(SMALL, tmp_path_factory.mktemp("material") / "corpus")


def test_every_task_has_its_labels(corpus: Corpus) -> None:
    needs = {
        "pr": "phones",
        "asr": "text",
        "sid": "speaker",
        "er": "emotion",
        "ic": "intent",
        "sf": "slots",
        "ks": "keyword",
        "sd": "turns",
        "label": "language",
    }
    for task, label in needs.items():
        for split in corpus.task_splits(task):
            values = corpus.statistics[split]
            assert values["labels"][label] == values["utterances"] > 0, (task, split)
    train(corpus, find_task("pr"))
    for name in SUPERB:
        find_task(name).require(corpus, [])


def test_an_evaluation_takes_it_as_it_is(
    corpus: Corpus, tiny_hubert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All tasks but IC and SF, whose labels ten commands do not hold all."""
    names = tuple(name for name in SUPERB if name not in ("ic", "sf"))
    quick = ProbeConfig(
        learning_rates=(1e-2,), extend=0, epochs=2, halve_at=(), batch=8, hidden=8, units=(8,)
    )
    linear = ProbeConfig(learning_rates=(1e-2,), extend=0, epochs=2, halve_at=(), batch=8)
    recurrent = dict.fromkeys(("asr", "sd", "asv"), quick)
    monkeypatch.setitem(
        protocols.PROTOCOLS, "quick", {"frame": linear, "utterance": linear, **recurrent}
    )
    monkeypatch.setattr("speechft.evaluation.encoders.find_corpus", lambda name, folder: corpus)
    config = EvaluationConfig(tasks=names, protocol="quick", precision="fp32", floors=())
    rows = evaluate([str(tiny_hubert)], "synthetic-archives", config, tmp_path)
    tested = {row.task: (row.split, row.n) for row in rows}
    trials = (corpus.folder / corpus.info["trials"]).read_text().splitlines()
    assert tested == {
        "pr": ("test", 6),
        "asr": ("test", 6),
        "er": ("test", 6),
        "asv": ("test", len(trials)),
        "sid": ("sid-test", 3),
        "ks": ("ks-test", 12),
        "sd": ("sd-test", 1),
        "qbe": ("test-queries", 4 * 12),
    }


def test_speakers_are_shared_for_identification_only(corpus: Corpus) -> None:
    names = {
        split: {label_of(cut, "speaker") for cut in corpus.split(split)}
        for split in corpus.statistics
    }
    assert names["sid-test"] <= names["train"]
    assert not names["train"] & names["test"]
    assert not names["train"] & names["dev"]
    assert not names["documents"] & names["test-queries"]


def test_slots_stand_beside_words_and_agree_with_the_intent(corpus: Corpus) -> None:
    for cut in (*corpus.split("train"), *corpus.split("ic-test")):
        words = (label_of(cut, "text") or "").split()
        slots = (label_of(cut, "slots") or "").split()
        assert len(words) == len(slots)
        values: dict[str, list[str]] = {}
        for word, slot in zip(words, slots, strict=True):
            if slot != "O":
                values.setdefault(slot[2:], []).append(word)
        action, thing, place = (label_of(cut, "intent") or "").split("/")
        assert " ".join(values["action"]) in texts.ACTIONS[action]
        assert values["object"] == [thing]
        assert values.get("location", ["none"]) == [place]


def test_turns_are_where_the_speech_is(corpus: Corpus) -> None:
    for cut in corpus.split("sd-train"):
        turns = json.loads(label_of(cut, "turns") or "")
        assert len({name for name, _, _ in turns}) == 2
        waveform = np.abs(load_waveform(cut))
        times = np.arange(len(waveform)) / 16_000
        spoken = np.zeros(len(waveform), bool)
        for _, start, end in turns:
            inside = (times >= start) & (times < end)
            assert waveform[inside].max() > 0.01
            spoken |= inside
        assert cut.duration >= max(end for _, _, end in turns)
        energy = waveform**2
        assert energy[spoken].sum() > 0.98 * energy.sum()


def test_trials_and_searches_are_true(corpus: Corpus) -> None:
    speakers = {cut.id: label_of(cut, "speaker") for cut in corpus.split("test")}
    trials = (corpus.folder / corpus.info["trials"]).read_text().splitlines()
    assert {line[0] for line in trials} == {"0", "1"}
    for line in trials:
        same, first, second = line.split()
        assert (speakers[first] == speakers[second]) == (same == "1")
    said = {
        cut.id: label_of(cut, "text") or ""
        for split in corpus.task_splits("qbe")
        for cut in corpus.split(split)
    }
    rows = [line.split("\t") for line in (corpus.folder / "qbe.tsv").read_text().splitlines()]
    assert len(rows) == 8 * 12
    for query, document, found in rows:
        assert (said[query] in said[document].split()) == (found == "1")
    searched = [{texts.query(part, n).text for n in range(40)} for part in ("dev", "test")]
    assert [len(nouns) for nouns in searched] == [10, 10]
    assert not searched[0] & searched[1]


def test_keywords_come_with_silence_and_other_words(corpus: Corpus) -> None:
    found = [label_of(cut, "keyword") for cut in corpus.split("ks-train")]
    assert {*found} == {*texts.KEYWORDS, "_unknown_", "_silence_"}
    levels = {"_silence_": [], "go": []}  # type: ignore[var-annotated]
    for cut in corpus.split("ks-train"):
        kind = label_of(cut, "keyword")
        if kind in levels:
            levels[kind].append(float(np.std(load_waveform(cut))))
    assert max(levels["_silence_"]) < 0.1 * min(levels["go"])


def test_languages(corpus: Corpus) -> None:
    languages = {label_of(cut, "language") for cut in corpus.split("languages-train")}
    assert languages == {"de", "es", "fr", "it", "zh"}
    chinese = [c for c in corpus.split("languages-train") if label_of(c, "language") == "zh"]
    for cut in chinese:
        characters = label_of(cut, "text") or ""
        assert (label_of(cut, "pinyin") or "").split() == [texts.PINYIN[c] for c in characters]
        assert phones_of(cut) == []


def test_the_same_spec_gives_the_same_audio(tmp_path: Path) -> None:
    """The voices of dev breathe, which espeak-ng seeds with the time unless it is told."""
    few = dict.fromkeys(("intents", "keywords", "mixtures", "languages"), (0, 0, 0))
    spec = MaterialSpec(
        speakers=(2, 2, 2),
        commands=(1, 2, 2),
        same_speakers=(1, 1),
        documents=1,
        queries=(1, 1),
        **few,  # type: ignore[arg-type]
    )
    first, second = (synthetic.prepare(spec, tmp_path / name) for name in ("1", "2"))
    assert first.digest == second.digest


@pytest.mark.parametrize("layout", ARCHIVES)
def test_every_recipe_reads_the_archive_that_is_written(
    layout: str, corpus: Corpus, tmp_path: Path
) -> None:
    write_archive(layout, lambda: corpus, tmp_path / "archive")
    prepared = prepare(layout, str(tmp_path / "archive"), tmp_path / "out")
    assert set(prepared.info["issues"]) <= {"unseen-characters"}, "few texts, few characters"
    expected = {
        "tedlium3": {"dev": 4},
        "librispeech": {"train-clean-100": 10, "dev-clean": 4, "test-clean": 6},
        "voxceleb1": {"train": 10, "dev": 3, "test": 3},
        "iemocap": {"fold1-train": None},
        "snips": {"train": 10, "dev": 4, "test": 6},
        "speech-commands": {"train": 24, "dev": 13, "test": 13},
        "fluent-speech-commands": {"train": 10, "dev": 4, "test": 6},
        "timit": {"train": 10, "dev": 4, "test": 6},
        "crema-d": {"train": None, "dev": None, "test": None},
        "aishell3": {"test": 1},
        "libri2mix": {"train": 2, "dev": 1, "test": 1},
        "quesst14": {"documents": 12, "dev-queries": 4, "test-queries": 4},
    }[layout]
    found = sizes(prepared)
    assert {split: found[split] if n is not None else None for split, n in expected.items()} == (
        expected
    )
    if layout == "crema-d":
        assert sum(found.values()) == 20
    if layout == "librispeech":
        assert not any("no lexicon" in note for note in prepared.info["notes"])
        assert prepared.statistics["dev-clean"]["labels"]["phones"] == 4


def test_the_verb_refuses_what_it_cannot_write(tmp_path: Path, corpus: Corpus) -> None:
    with pytest.raises(ConfigError, match="timit cannot be written in another layout"):
        write_layout("timit", "snips", tmp_path)
    with pytest.raises(ConfigError, match="--layout needs an output folder"):
        write_layout("synthetic-archives", "snips", None)
    with pytest.raises(ConfigError, match="did you mean 'snips'"):
        write_archive("snip", lambda: corpus, tmp_path / "new")
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty"):
        write_archive("snips", lambda: corpus, tmp_path)
