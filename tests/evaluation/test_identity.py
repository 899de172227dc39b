"""What makes an evaluation the same: results of one folder never take each other's items."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import speechft
from helpers import tiny_encoder
from speechft.data.manifest import Corpus, open_corpus, write_corpus
from speechft.data.utterances import Utterance
from speechft.encoders.load import load_encoder
from speechft.errors import CheckpointError, ConfigError, DataError
from speechft.evaluation.candidates import Candidate, save_candidate
from speechft.evaluation.compare import compare
from speechft.evaluation.config import EvaluationConfig, ProbeConfig
from speechft.evaluation.encoders import evaluate
from speechft.evaluation.identity import Identity, encoder_folder, slug
from speechft.evaluation.predictions import items_of
from speechft.evaluation.protocols import PROTOCOLS
from speechft.evaluation.suite import evaluate_encoder
from speechft.evaluation.task_evaluation import APART
from speechft.results import ResultRow, Role, mean_over_seeds, read_rows, write_rows
from speechft.storage.files import read_json
from speechft.storage.outputs import RECORD_NAME
from speechft.tasks import TASKS, find_task

QUICK = {
    "frame": ProbeConfig(learning_rates=(3e-2,), extend=0, batch=16, epochs=3),
    "utterance": ProbeConfig(learning_rates=(1e-1,), extend=0, epochs=4),
}
SLOW = {name: probe.model_copy(update={"epochs": 1}) for name, probe in QUICK.items()}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROTOCOLS, "quick", QUICK)
    monkeypatch.setitem(PROTOCOLS, "slow", SLOW)


def run(encoders: list[str], corpus: Corpus, out: Path, task: str, **options: Any) -> Any:
    seed = options.pop("seed", 0)
    settings = {"tasks": (task,), "protocol": "quick", "precision": "fp32", "floors": (), **options}
    return evaluate(encoders, str(corpus.folder), EvaluationConfig(**settings), out, seed=seed)


def holds(rows: list[ResultRow], out: Path) -> None:
    """Check that the items of every row give its figure."""
    for row in rows:
        measure = TASKS[row.task].measure(row.metric)
        assert measure is not None
        assert row.value == pytest.approx(measure.value(items_of(row, out)))


def test_two_protocols_in_one_folder_keep_their_own_items(
    tiny_hubert: Path, tones: Corpus, tmp_path: Path
) -> None:
    both = [str(tiny_hubert), "mfcc"]
    for protocol in ("quick", "slow"):
        run(both, tones, tmp_path, "sid", protocol=protocol)
    rows = read_rows(tmp_path / "results.jsonl")
    assert [row.protocol for row in rows] == ["quick", "slow", "quick", "slow"]
    assert len({row.evaluation for row in rows}) == 2
    holds(rows, tmp_path)
    found = compare([tmp_path / "results.jsonl"])
    values = {(row.encoder, row.protocol): row.value for row in rows}
    expected = [values["mfcc", p] - values[tiny_hubert.name, p] for p in ("quick", "slow")]
    assert [d.difference for d in found] == expected
    for difference in found:
        assert difference.interval is not None
        assert difference.interval[0] <= difference.difference <= difference.interval[1]


def test_another_first_seed_for_another_task_keeps_the_intervals(
    tiny_hubert: Path, tones: Corpus, tmp_path: Path
) -> None:
    both = [str(tiny_hubert), "mfcc"]
    run(both, tones, tmp_path, "sid", seed=0)
    run(both, tones, tmp_path, "pr", seed=7)
    found = {d.task: d for d in compare([tmp_path / "results.jsonl"])}
    assert found.keys() == {"sid", "pr"}
    assert all(d.interval is not None for d in found.values())


def test_seeds_of_two_commands_add_up_without_an_interval_over_seeds(
    tones: Corpus, tmp_path: Path
) -> None:
    run(["mfcc"], tones, tmp_path, "sid", seed=0)
    run(["mfcc"], tones, tmp_path, "sid", seed=1, seeds=2)
    rows = read_rows(tmp_path / "results.jsonl")
    assert [row.seed for row in rows] == [0, 1, 2]
    holds(rows, tmp_path)
    [mean] = mean_over_seeds(rows)
    assert (mean.details["seeds"], mean.interval) == (3, None)
    [pair] = mean_over_seeds(rows[1:])
    assert pair.interval is not None


def test_only_what_decides_a_figure_is_part_of_it(
    tiny_hubert: Path, tones: Corpus, tmp_path: Path
) -> None:
    [first] = run([str(tiny_hubert)], tones, tmp_path, "style")
    [same] = run([str(tiny_hubert)], tones, tmp_path, "style", frame_memory_gb=1.0, seeds=1)
    assert same == first
    moved = tmp_path / "elsewhere" / tiny_hubert.name
    shutil.copytree(tiny_hubert, moved)
    [same] = run([str(moved)], tones, tmp_path, "style")
    assert same == first
    [other] = run([str(tiny_hubert)], tones, tmp_path, "style", precision="bf16")
    assert other.evaluation != first.evaluation


def test_single_layers_get_probes_of_their_own_beside_the_weighted_sum(
    tiny_hubert: Path, tones: Corpus, tmp_path: Path
) -> None:
    [alone] = run([str(tiny_hubert)], tones, tmp_path, "pr")
    for layers, numbers in (("all", [0, 1, 2]), ("last", [2]), ("0,2", [0, 2]), ((1,), [1])):
        rows = run([str(tiny_hubert)], tones, tmp_path, "pr", layers=layers)
        assert [row.layer for row in rows] == [None, *numbers]
        assert rows[0].value == alone.value, "who is trained beside it does not matter"
        assert len(rows[0].details["layer_weights"]) == 3
        assert rows[0].evaluation != alone.evaluation
        assert len({row.predictions for row in rows}) == len(rows)
        assert all(len(items_of(row, tmp_path)) == row.n for row in rows)
        single = {row.layer: row for row in rows}
        if layers == "all":
            every = single
        assert all(single[n].value == every[n].value for n in numbers)
    assert len({row.value for row in every.values()}) > 1
    pipeline = speechft.load_pipeline((tmp_path / str(rows[0].predictions)).parent)
    items = {item.id: item for item in items_of(rows[0], tmp_path)}
    cut = next(iter(tones.split("test")))
    said = pipeline.predict(cut.recording.sources[0].source)
    assert said == items[cut.id].prediction
    with pytest.raises(ConfigError, match="layer 3: the encoder has the hidden states 0"):
        run([str(tiny_hubert)], tones, tmp_path, "style", layers="3")


def test_a_probe_on_a_layer_is_one_on_an_encoder_that_has_no_other(
    tiny_hubert: Path, tones: Corpus, tmp_path: Path
) -> None:
    """Independent of masks and grids: the hidden state is all that an own encoder gives."""
    inner = load_encoder(tiny_hubert)

    class Single(torch.nn.Module):
        sampling_rate, output_dim, hop_size_in_ms = 16_000, inner.dim, 20.0
        receptive_field_in_ms = 25.0

        def frame_lengths(self, lengths: torch.Tensor) -> torch.Tensor:
            return inner.frame_lengths(lengths)

        def forward(self, waveforms: torch.Tensor, lengths: torch.Tensor) -> Any:
            return [inner(waveforms, lengths).layers[1]]

    for task in ("sid", "pr"):
        rows = run([str(tiny_hubert)], tones, tmp_path, task, layers="1")
        [only] = run([Single()], tones, tmp_path, task)
        assert (rows[1].layer, only.layer) == (1, None)
        assert (rows[1].value, rows[1].learning_rate) == (only.value, only.learning_rate)


def test_layers_are_compared_with_the_same_layer(
    tiny_hubert: Path, tones: Corpus, tmp_path: Path
) -> None:
    tiny_encoder(5).save(tmp_path / "other")
    run([str(tiny_hubert), str(tmp_path / "other")], tones, tmp_path, "sid", layers="0,2")
    found = speechft.compare(tmp_path)
    assert [one.layer for one in found] == [None, 0, 2]
    assert all(one.interval is not None for one in found)


def test_the_mode_of_the_encoder_is_part_of_it(
    tiny_hubert: Path, tones: Corpus, tmp_path: Path
) -> None:
    cache = str(tmp_path / "cache")
    rows = [
        run([str(tiny_hubert)], tones, tmp_path, "style", mode=mode, cache=cache)[0]
        for mode in ("exact", "s3prl")
    ]
    assert rows[0].evaluation != rows[1].evaluation
    probe = (tmp_path / str(rows[1].predictions)).parent / "probe"
    assert read_json(probe / "pipeline.json")["mode"] == "s3prl"
    assert speechft.load_pipeline(probe).encoder.depends_on_batch


def test_every_key_that_is_set_apart_exists() -> None:
    assert set(EvaluationConfig.model_fields) > APART
    assert {"layers", "mode", "limit"} == set(EvaluationConfig.model_fields) - APART


def test_the_name_of_an_encoder_is_only_a_label(
    tiny_hubert: Path, tones: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = EvaluationConfig(tasks=("style",), protocol="quick", precision="fp32")
    task = [find_task("style")]
    one = Candidate("My model", str(tiny_hubert))
    two = Candidate("my-model", str(tiny_hubert), role=Role.MERGED, strategy="stable", alpha=0.5)
    [first] = evaluate_encoder(one, task, tones, config, tmp_path, seed=0)
    [second] = evaluate_encoder(two, task, tones, config, tmp_path, seed=0)
    assert (first.encoder, first.role, first.alpha) == ("My model", Role.FURTHER, None)
    assert (second.encoder, second.role, second.strategy) == ("my-model", Role.MERGED, "stable")
    assert (second.value, second.predictions) == (first.value, first.predictions)


def test_a_moved_encoder_is_found_again(tiny_hubert: Path, tones: Corpus, tmp_path: Path) -> None:
    here, there = tmp_path / "here" / "enc", tmp_path / "there" / "enc"
    shutil.copytree(tiny_hubert, here)
    [row] = run([str(here)], tones, tmp_path / "out", "style")
    audio = next(iter(tones.split("test"))).recording.sources[0].source
    folder = (tmp_path / "out" / str(row.predictions)).parent
    said = speechft.load_pipeline(folder).predict(audio)
    there.parent.mkdir()
    here.rename(there)
    with pytest.raises(CheckpointError, match=r"no encoder at .*here") as caught:
        speechft.load_pipeline(folder)
    assert "encoder=..." in str(caught.value.hint)
    assert speechft.load_pipeline(folder, encoder=there).predict(audio) == said
    with pytest.raises(CheckpointError, match="has changed since the probe was trained"):
        speechft.load_pipeline(folder, encoder="tiny-hubert")
    assert run([str(there)], tones, tmp_path / "out", "style") == [row], "it is the same encoder"
    assert speechft.load_pipeline(folder).predict(audio) == said


def test_a_probe_is_chosen_by_names(tiny_hubert: Path, tones: Corpus, tmp_path: Path) -> None:
    run([str(tiny_hubert), "mfcc"], tones, tmp_path, "style")
    run(["mfcc"], tones, tmp_path, "sid")
    chosen = speechft.load_pipeline(tmp_path, name="mfcc", task="sid")
    assert chosen.task.name == "sid"
    assert speechft.load_pipeline(tmp_path, name=tiny_hubert.name).task.name == "style"
    for wrong, count in (({}, "3"), ({"name": "mfcc"}, "2"), ({"task": "pr"}, "no")):
        with pytest.raises(CheckpointError, match=f"holds {count} head") as caught:
            speechft.load_pipeline(tmp_path, **wrong)
        assert "--name mfcc --task sid" in str(caught.value.hint)


def test_a_run_that_was_moved_as_a_whole_finds_its_encoders(
    tiny_hubert: Path, tones: Corpus, tmp_path: Path
) -> None:
    before, after = tmp_path / "run", tmp_path / "moved"
    shutil.copytree(tiny_hubert, before / "tuned")
    [row] = run([str(before / "tuned")], tones, before, "style")
    before.rename(after)
    audio = next(iter(tones.split("test"))).recording.sources[0].source
    assert speechft.load_pipeline((after / str(row.predictions)).parent).predict(audio)


def test_probes_on_random_weights_load(tiny_hubert: Path, tones: Corpus, tmp_path: Path) -> None:
    config = EvaluationConfig(tasks=("style",), protocol="quick", precision="fp32")
    drawn = Candidate("random", "random", like=str(tiny_hubert), seed=3, role=Role.FLOOR)
    [row] = evaluate_encoder(drawn, [find_task("style")], tones, config, tmp_path, seed=0)
    items = items_of(row, tmp_path)
    cut = next(iter(tones.split("test")))
    pipeline = speechft.load_pipeline((tmp_path / str(row.predictions)).parent)
    said = pipeline.predict(cut.recording.sources[0].source)
    assert said == next(item.prediction for item in items if item.id == cut.id)


def test_probes_of_older_versions_say_their_encoder_as_text(
    tiny_hubert: Path, tones: Corpus, tmp_path: Path
) -> None:
    [row] = run([str(tiny_hubert)], tones, tmp_path, "style")
    old = tmp_path / "old" / "probe"
    shutil.copytree((tmp_path / str(row.predictions)).parent / "probe", old)
    content = {**read_json(old / "pipeline.json"), "encoder": str(tiny_hubert)}
    (old / "pipeline.json").write_text(json.dumps(content))
    assert speechft.load_pipeline(old.parent).task.name == "style"


def test_results_of_older_versions_are_read(tones: Corpus, tmp_path: Path) -> None:
    [row] = run(["mfcc"], tones, tmp_path, "style")
    old = json.loads(json.dumps(row.as_dict()))
    for key in ("role", "strategy", "evaluation", "predictions"):
        del old[key]
    lines = [{**old, "encoder": name, "encoder_digest": name} for name in ("a", "b")]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / RECORD_NAME).unlink()
    [found] = compare([tmp_path / "results.jsonl"])
    assert (found.difference, found.interval) == (0.0, None)
    assert "older version kept no predictions" in found.note
    run(["mfcc"], tones, tmp_path, "style")
    assert [r.encoder for r in read_rows(tmp_path / "results.jsonl")] == ["a", "b", "mfcc"]
    with pytest.raises(DataError, match="row of a on style names no predictions"):
        items_of(read_rows(tmp_path / "results.jsonl")[0], tmp_path)


def test_one_name_for_two_encoders_is_refused(tones: Corpus, tmp_path: Path) -> None:
    [row] = run(["mfcc"], tones, tmp_path, "style")
    other = row.model_copy(update={"encoder_digest": "other", "task": "label"})
    write_rows(tmp_path / "results.jsonl", [row, other])
    with pytest.raises(DataError, match="'mfcc' was evaluated on label in two places"):
        compare([tmp_path / "results.jsonl"])


def test_a_split_that_nothing_reads_changes_nothing(tmp_path: Path) -> None:
    def corpus(name: str, **further: list[Utterance]) -> Corpus:
        known = {"sha256": "0" * 64, "speaker": "a"}
        splits = {s: [Utterance(s, f"{s}.wav", 16_000, **known)] for s in ("train", "test")}
        (tmp_path / name).mkdir()
        write_corpus(tmp_path / name, "c", name, {**splits, **further}, {})
        return open_corpus(tmp_path / name)

    one = corpus("one")
    two = corpus("two", extra=[Utterance("x", "x.wav", 16_000)])
    three = corpus("three", test=[Utterance("test", "test.wav", 16_000, speaker="b")])
    assert one.digest != two.digest
    assert one.split_digest("test") == two.split_digest("test") != three.split_digest("test")
    unknown = two.split_digest("extra"), corpus("four", extra=[Utterance("x", "x.wav", 16_000)])
    assert unknown[0] != unknown[1].split_digest("extra"), "audio of unknown digest: by its source"


def test_folders_are_told_apart_by_digests() -> None:
    def folder(**changes: Any) -> str:
        fields = {"encoder": "0" * 64, "task": "pr", "manifests": {}, "config": {}, "seeds": (0,)}
        return str(Identity(**{**fields, **changes}).folder(Path("out"), "Name / x"))

    assert folder().startswith("out/evaluation/name---x-00000000/pr-")
    changes = [
        {"encoder": "1" * 64},
        {"encoder": "random:0:" + "0" * 64},
        {"task": "asr"},
        {"manifests": {"test": "1"}},
        {"config": {"protocol": "mini"}},
        {"seeds": (1,)},
        {"seeds": (0, 1)},
    ]
    assert len({folder(), *(folder(**change) for change in changes)}) == 1 + len(changes)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("label:language", "label-language"),
        ("../..", "encoder-e5ab1c21"),
        ("é/ß", "é-ß"),
        ("x" * 300, "x" * 80),
    ],
)
def test_slugs_are_names_of_folders(name: str, expected: str) -> None:
    assert slug(name) == expected


def test_the_place_of_an_encoder_is_written_only_when_it_changes(
    tiny_hubert: Path, tmp_path: Path
) -> None:
    candidate = Candidate("x", str(tiny_hubert))
    folder = encoder_folder(tmp_path, "x", "0" * 64)
    save_candidate(folder, candidate, "0" * 64)
    before = (folder / "encoder.json").stat().st_mtime_ns
    save_candidate(folder, candidate, "0" * 64)
    assert (folder / "encoder.json").stat().st_mtime_ns == before


def test_layers_that_are_not_there_are_refused_before_anything_is_encoded(
    tiny_hubert: Path, tones: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **named: Any) -> None:
        raise AssertionError("encoded")

    monkeypatch.setattr("speechft.evaluation.jobs.extract", refuse)
    with pytest.raises(ConfigError, match="layer 9: the encoder has the hidden states 0"):
        run([str(tiny_hubert)], tones, tmp_path, "style", layers="9")
