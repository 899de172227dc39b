"""Which head a folder means, whoever wrote it, and what is wrong with a head that is damaged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import speechft
from helpers import tiny_encoder
from pipelines import save_head
from speechft.errors import CheckpointError, ConfigError, DataError
from speechft.prediction.finding import find_pipeline
from speechft.results import ResultRow, Role, write_rows


def row(encoder: str, task: str, place: str, role: Role = Role.FURTHER) -> ResultRow:
    return ResultRow(
        encoder=encoder,
        encoder_digest="0" * 64,
        task=task,
        metric="m",
        value=0.0,
        higher_is_better=True,
        n=1,
        interval=None,
        split="test",
        seed=0,
        protocol="mini",
        learning_rate=None,
        role=role,
        predictions=f"{place}/predictions-seed0.jsonl",
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder as `run` leaves it: evaluations of two encoders, and a tuned head."""
    folder = tmp_path_factory.mktemp("run")
    encoder = tiny_encoder()
    rows = []
    for name, role in (("pre-trained", Role.PRE_TRAINED), ("Speech-FT (0.25)", Role.MERGED)):
        for task in ("pr", "sid"):
            place = f"evaluation/{role}/{task}"
            save_head(folder / place / "probe", task, encoder)
            rows.append(row(name, task, place, role))
    rows.append(row("pre-trained", "qbe", "evaluation/pre-trained/qbe", Role.PRE_TRAINED))
    save_head(folder / "finetuning" / "stable", "asr", encoder, tuned=True)
    save_head(folder / "finetuning" / "stable" / ".partial", "asr", encoder, tuned=True)
    write_rows(folder / "results.jsonl", rows)
    return folder


def test_a_run_holds_probes_and_tuned_heads(run: Path) -> None:
    def found(name: str | None, task: str | None) -> str:
        return str(find_pipeline(run, name, task).parent.relative_to(run))

    assert found(None, "asr") == found("finetuning/stable", None) == "finetuning/stable"
    assert found(None, "pr") == "evaluation/merged/pr/probe", (
        "the merged encoder is what a run is for"
    )
    assert found("pre-trained", "pr") == "evaluation/pre-trained/pr/probe"
    with pytest.raises(CheckpointError, match="holds 3 heads that fit") as caught:
        found(None, None)
    assert caught.value.hint == (
        "choose from: --name 'Speech-FT (0.25)' --task pr; --name 'Speech-FT (0.25)' --task sid; "
        "--name finetuning/stable --task asr"
    ), "no probes of other encoders, which nobody means without naming them"
    with pytest.raises(CheckpointError, match="holds no head that fits"):
        found("nobody", "pr")
    for name in (None, "pre-trained"):
        with pytest.raises(DataError, match="qbe does not predict on a file"):
            found(name, "qbe")
    with pytest.raises(ConfigError, match="unknown task 'pe'"):
        found(None, "pe")
    assert find_pipeline(run / "evaluation/merged/pr", None, None).parent.name == "probe"


@pytest.mark.parametrize("role", [Role.FURTHER, Role.MERGED])
def test_of_several_evaluations_the_newest_head_is_taken_and_said(
    role: Role, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder, rows = tiny_encoder(), []
    for place in ("old", "new"):
        save_head(tmp_path / place / "probe", "sid", encoder)
        rows.append(row("a", "sid", place, role))
    write_rows(tmp_path / "results.jsonl", rows)
    for name in (None, "a"):
        assert find_pipeline(tmp_path, name, None) == tmp_path / "new" / "probe" / "pipeline.json"
        assert f"a, sid: of 2 heads the newest, {tmp_path / 'new'}" in capsys.readouterr().err


def test_heads_of_several_tasks_lie_side_by_side(tmp_path: Path) -> None:
    encoder = tiny_encoder()
    for task in ("pr", "sid"):
        save_head(tmp_path, task, encoder, tuned=True, weights=f"head-{task}.safetensors")
        (tmp_path / "pipeline.json").rename(tmp_path / f"pipeline-{task}.json")
    with pytest.raises(CheckpointError, match="holds 2 heads that fit"):
        speechft.load_pipeline(tmp_path)
    assert speechft.load_pipeline(tmp_path, task="sid").task.name == "sid"
    assert speechft.load_pipeline(tmp_path, task="pr").layers == "last"


def test_nothing_and_earlier_versions_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no trained head"):
        find_pipeline(tmp_path, None, None)
    (tmp_path / "stage.json").write_text("{}")
    (tmp_path / "head.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="an earlier version wrote"):
        find_pipeline(tmp_path, None, None)
    with pytest.raises(CheckpointError, match="holds no trained head"):
        find_pipeline(tmp_path / "absent", None, None)


def test_a_moved_folder_keeps_its_encoder(tmp_path: Path) -> None:
    before = save_head(tmp_path / "before", "sid", tiny_encoder(), tuned=True)
    waveform = 0.1 * torch.randn(8_000, generator=torch.Generator().manual_seed(0))
    expected = speechft.load_pipeline(before).logits(waveform)[0]
    after = tmp_path / "after"
    before.rename(after)
    assert torch.equal(speechft.load_pipeline(after).logits(waveform)[0], expected)
    shutil.move(after / "encoder", tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="no encoder at"):
        speechft.load_pipeline(after)
    moved = speechft.load_pipeline(after, encoder=tmp_path / "elsewhere")
    assert torch.equal(moved.logits(waveform)[0], expected)


def test_a_tuned_head_is_what_it_was_in_training(tmp_path: Path) -> None:
    """The head of fine-tuning reads the last hidden state, weighted by nothing."""
    encoder = tiny_encoder()
    folder = save_head(tmp_path, "asr", encoder, tuned=True, recurrent=[6, 6], hidden=5)
    pipeline = speechft.load_pipeline(folder)
    waveform = 0.1 * torch.randn(1, 12_000, generator=torch.Generator().manual_seed(0))
    output = encoder(waveform, torch.tensor([12_000]))
    expected = pipeline.probe.head(output.last_hidden_state, output.lengths)
    assert torch.allclose(pipeline.logits(waveform[0])[0], expected, atol=1e-5)


def test_damaged_heads_are_refused(tmp_path: Path) -> None:
    folder = save_head(tmp_path, "sid", tiny_encoder())
    description, weights = folder / "pipeline.json", folder / "probe.safetensors"
    good, tensors = json.loads(description.read_text()), load_file(weights)
    for change, message in (
        ({"dim": 12}, "holds another head than is described"),
        ({"states": 2}, "holds another head"),
        ({"recurrent": [4]}, "holds another head"),
        ({"task": "sib"}, "unknown task"),
        ({"weights": "../probe.safetensors"}, "weights"),
        ({"weights": "gone.safetensors"}, "does not exist"),
        ({"surplus": 1}, "unknown key 'surplus'"),
        ({"layers": [9]}, "has the hidden states 0"),
        ({"layers": [0, 1]}, "the head takes"),
        ({"encoder_digest": "0"}, "has changed since"),
        ({"encoder": {"source": "x", "relative": "a" * 5000}}, "File name too long"),
        ({"encoder": 3}, "does not say which encoder"),
    ):
        description.write_text(json.dumps({**good, **change}))
        with pytest.raises((CheckpointError, ConfigError), match=message):
            speechft.load_pipeline(folder)
    description.write_text(json.dumps(good))
    tensors["head.linear.bias"][0] = float("nan")
    save_file(tensors, weights)
    with pytest.raises(CheckpointError, match="no finite numbers"):
        speechft.load_pipeline(folder)
    description.write_text("no json")
    with pytest.raises(CheckpointError, match="is not readable JSON"):
        speechft.load_pipeline(folder)
