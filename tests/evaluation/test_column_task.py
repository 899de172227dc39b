"""A column of any name as a task: evaluated, compared, loaded back, fine-tuned on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import f1_score, recall_score

import speechft
from helpers import tiny_encoder, tone_corpus
from speechft.config import build
from speechft.data.labels import label_of
from speechft.data.manifest import Corpus, open_corpus, write_corpus
from speechft.data.utterances import Utterance
from speechft.evaluation import suite
from speechft.evaluation.compare import compare
from speechft.evaluation.config import EvaluationConfig, ProbeConfig
from speechft.evaluation.encoders import evaluate
from speechft.evaluation.predictions import items_of
from speechft.evaluation.suite import assign_tasks
from speechft.finetuning.config import FinetuningConfig
from speechft.finetuning.finetune import finetune_encoder
from speechft.results import ResultRow, read_rows
from speechft.tasks import SUPERB

COLUMN = "spoken style.v1"
NAME = f"label:{COLUMN}"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Return tones whose style is in a column with a name that no folder should have."""
    folder = tmp_path_factory.mktemp("columns")
    tones = tone_corpus(folder)
    splits = {
        split: [
            Utterance(
                id=cut.id,
                path=f"{cut.id}.wav",
                samples=cut.num_samples,
                speaker=cut.supervisions[0].speaker,
                labels={kind: str(label_of(cut, "style")) for kind in (COLUMN, "style")},
            )
            for cut in tones.split(split)
        ]
        for split in ("train", "dev", "test")
    }
    write_corpus(folder, "columns", "tones", splits, {})
    return open_corpus(folder)


@pytest.fixture(scope="module")
def evaluated(
    corpus: Corpus, tiny_hubert: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[ResultRow]]:
    quick = ProbeConfig(learning_rates=(1e-2,), extend=0, epochs=4)
    out = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(suite.PROTOCOLS, "quick", {"frame": quick, "utterance": quick})
        config = EvaluationConfig(
            tasks=(NAME, "style"), protocol="quick", precision="fp32", floors=()
        )
        evaluate([str(tiny_hubert), "mfcc"], str(corpus.folder), config, out)
    return out, read_rows(out / "results.jsonl")


def test_its_rows_are_those_of_a_task_of_the_same_labels(
    evaluated: tuple[Path, list[ResultRow]],
) -> None:
    out, rows = evaluated
    mine = {row.metric: row for row in rows if row.task == NAME and row.encoder != "mfcc"}
    assert list(mine) == ["accuracy", "uar", "macro_f1"]
    [named] = [row for row in rows if row.task == "style" and row.encoder != "mfcc"]
    assert mine["accuracy"].value == named.value
    assert mine["accuracy"].interval == named.interval
    items = items_of(mine["uar"], out)
    truth, guess = [i.reference for i in items], [i.prediction for i in items]
    expected: dict[str, Any] = {
        "uar": recall_score(truth, guess, average="macro", labels=sorted(set(truth))),
        "macro_f1": f1_score(truth, guess, average="macro", labels=sorted(set(truth))),
    }
    for metric, figure in expected.items():
        assert mine[metric].value == pytest.approx(100 * figure)
        assert named.details[metric] == pytest.approx(100 * figure, abs=1e-4)
        assert mine[metric].interval is not None
        low, high = mine[metric].interval
        assert low <= mine[metric].value <= high


def test_encoders_are_compared_on_it(evaluated: tuple[Path, list[ResultRow]]) -> None:
    found = {d.metric: d for d in compare([evaluated[0] / "results.jsonl"]) if d.task == NAME}
    assert set(found) == {"accuracy", "uar", "macro_f1"}
    assert all(difference.interval is not None for difference in found.values())


def test_its_probe_predicts_on_a_file(
    evaluated: tuple[Path, list[ResultRow]], corpus: Corpus
) -> None:
    out, rows = evaluated
    row = next(row for row in rows if row.task == NAME and row.encoder != "mfcc")
    folder = (out / str(row.predictions)).parent
    pipeline = speechft.load_pipeline(folder)
    items = {item.id: item for item in items_of(row, out)}
    for cut in list(corpus.split("test"))[:3]:
        assert pipeline.predict(cut.recording.sources[0].source) == items[cut.id].prediction


def test_it_goes_to_the_corpus_that_has_the_column(corpus: Corpus, tones: Corpus) -> None:
    config = EvaluationConfig(tasks=(NAME, "pr"))
    tasks, by_name = assign_tasks(config, [tones, corpus])
    assert [task.name for task in tasks] == [NAME, "pr"]
    assert by_name[NAME] is corpus
    assert by_name["pr"] is tones


def test_an_encoder_is_fine_tuned_on_it(corpus: Corpus, tones: Corpus, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"steps": 2, "learning_rate": 1e-4, "evaluate_every": 1}
    settings |= {"trackers": (), "workers": 0, "precision": "fp32", "batch_seconds": 8.0}
    alone = build(FinetuningConfig, {**settings, "task": NAME}, "test")
    tuned = finetune_encoder(tiny_encoder(), alone, corpus, tmp_path / "alone", seed=0)
    assert "accuracy" in tuned.history.evaluations[0]
    assert (tmp_path / "alone" / "head.safetensors").exists()
    both = build(FinetuningConfig, {**settings, "tasks": {NAME: 1.0, "pr": 1.0}}, "test")
    finetune_encoder(tiny_encoder(), both, {NAME: corpus, "pr": tones}, tmp_path / "both", seed=0)
    names = {file.name for file in (tmp_path / "both").glob("head-*")}
    assert "head-pr.safetensors" in names
    assert len(names) == 2
    assert all(" " not in name and ":" not in name for name in names)


def test_it_is_named_beside_all_others() -> None:
    chosen = EvaluationConfig.model_validate({"tasks": f"all, {NAME},sid"}).tasks
    assert chosen == (*SUPERB, NAME)
    assert EvaluationConfig.model_validate({"tasks": "all"}).tasks == SUPERB
