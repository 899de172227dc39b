"""Publishing: what is uploaded, the card it gets, and all that is refused; the hub is a stub."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from transformers import AutoModel

import speechft
from helpers import tiny_encoder
from publishing.hub import Hub
from speechft import cli
from speechft.cards.card import with_metadata
from speechft.encoders.load import digest_of
from speechft.errors import CheckpointError, ConfigError, DataError, RunError
from speechft.results import ResultRow, write_rows
from speechft.storage.files import file_digest

REPO = "somebody/some-model"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    stub = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", stub)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_stub")
    monkeypatch.setattr(socket, "create_connection", _no_network)
    return stub


def _no_network(*_: object, **__: object) -> Any:
    raise AssertionError("no network was asked for")


@pytest.fixture
def merged(tmp_path: Path) -> Path:
    """Return a merge of an encoder of the hub, which is Apache-2.0, and one tuned from it."""
    base = tmp_path / "hub" / "models--some--encoder" / "snapshots" / "0123abcd"
    tiny_encoder().save(base)
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n\n# Encoder\n")
    tuned = tiny_encoder()
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.add_(0.001 * torch.randn_like(parameter))
    tuned.save(tmp_path / "tuned")
    terms = {"license": "apache-2.0", "base_model": "some/encoder"}
    (tmp_path / "tuned" / "README.md").write_text(with_metadata(terms, "# Tuned\n"))
    speechft.merge(base, tmp_path / "tuned", alpha=0.25, out=tmp_path / "run" / "merged")
    return tmp_path / "run" / "merged"


def row(digest: str, **changes: Any) -> ResultRow:
    known: dict[str, Any] = {
        "encoder": "Speech-FT",
        "encoder_digest": digest,
        "task": "pr",
        "metric": "per",
        "value": 39.61234,
        "higher_is_better": False,
        "n": 120,
        "interval": (38.9, 40.25),
        "split": "test",
        "seed": 0,
        "protocol": "mini",
        "learning_rate": 1e-3,
        "evaluation": "e" * 16,
        "details": {"corpus": "librispeech"},
    }
    return ResultRow(**{**known, **changes})


def refused(kind: type[Exception], words: str, folder: Path, hub: Hub, **options: Any) -> str:
    """Publish, expect one error, and make sure that the hub was not asked for anything."""
    with pytest.raises(kind, match=words) as caught:
        speechft.publish(folder, REPO, **{"licence": "mit", **options})
    assert hub.repositories == {}
    return str(caught.value)


# what is uploaded


def test_a_merge_is_published_with_all_that_is_known(merged: Path, hub: Hub) -> None:
    write_rows(
        merged.parent / "results.jsonl",
        [
            row(digest_of(merged)),
            row("f" * 64, encoder="pre-trained", value=12.5),
            row(digest_of(merged), task="sid", metric="accuracy", layer=3),
            row(
                digest_of(merged),
                value=77.7,
                interval=None,
                split="dev",
                part="dev",
                details={"corpus": "librispeech", "dev": 77.7, "dev_n": 120},
            ),
        ],
    )
    before = {path.name: path.read_bytes() for path in merged.iterdir()}
    done = speechft.publish(merged, REPO)
    assert {path.name: path.read_bytes() for path in merged.iterdir()} == before
    repository = hub.repositories[REPO]
    assert (done.sent, repository.commits, repository.private) == (True, 1, False)
    assert set(repository.files) == {
        *(".gitattributes", "README.md", "config.json", "merge.json", "model.safetensors"),
        "preprocessor_config.json",
    }
    for name in ("config.json", "merge.json", "model.safetensors"):
        assert repository.files[name] == before[name]
    card = ModelCard(repository.files["README.md"].decode())
    assert card.data.license == "apache-2.0"
    assert card.data.base_model == "some/encoder"
    assert card.data.base_model_relation == "merge"
    (result,) = card.data.eval_results or ()
    assert (result.task_type, result.metric_type) == ("automatic-speech-recognition", "per")
    assert (result.metric_value, result.dataset_split) == (39.6123, "test")
    assert (result.dataset_type, result.dataset_name) == ("openslr/librispeech_asr", "librispeech")
    assert (
        result.metric_name == "PER % (95 % interval 38.90 to 40.25, protocol mini, frozen encoder)"
    )
    assert result.metric_args["interval_95"] == [38.9, 40.25]
    assert card.data.model_name == "some-model"
    assert (
        f"| `model.safetensors` | {(merged / 'model.safetensors').stat().st_size:,} |" in card.text
    )
    assert file_digest(merged / "model.safetensors") in card.text
    assert "| pr | librispeech, test | PER % | 39.61 | 38.90 to 40.25 | 120 | mini |" in card.text
    assert "12.5" not in card.text, "a figure of another encoder"
    assert "77.7" not in card.text, "a figure that the merge was chosen by"


def test_what_comes_back_from_the_hub_is_the_model(merged: Path, hub: Hub, tmp_path: Path) -> None:
    speechft.publish(merged, REPO)
    back = tmp_path / "back"
    for name, data in hub.repositories[REPO].files.items():
        (back / name).parent.mkdir(parents=True, exist_ok=True)
        (back / name).write_bytes(data)
    assert digest_of(back) == digest_of(merged)
    loaded, known = AutoModel.from_pretrained(back), load_file(merged / "model.safetensors")
    assert all(torch.equal(tensor, known[name]) for name, tensor in loaded.state_dict().items())


def test_any_model_of_transformers_is_taken(tmp_path: Path, hub: Hub) -> None:
    """Such as an export with a head and its vocabulary, which no card describes yet."""
    from transformers import HubertConfig, HubertForCTC

    model = HubertForCTC(HubertConfig(**tiny_encoder().model.config.to_dict()))
    model.save_pretrained(tmp_path / "export", max_shard_size="20KB")
    (tmp_path / "export" / "vocab.json").write_text(json.dumps({"<pad>": 0, "/": 1, "//": 2}))
    (tmp_path / "export" / ".speechft.json").write_text("{}")
    shards = list((tmp_path / "export").glob("model-*-of-*.safetensors"))
    assert len(shards) > 1
    done = speechft.publish(tmp_path / "export", REPO, licence="MIT", dry_run=True)
    assert {file.name for file in done.files} >= {"vocab.json", *(path.name for path in shards)}
    assert done.left_out == (".speechft.json",)
    card = ModelCard(done.card)
    assert (card.data.license, card.data.pipeline_tag) == ("mit", "automatic-speech-recognition")
    assert card.data.base_model is None, "nobody said what it was made of"
    shards[0].unlink()
    refused(CheckpointError, "names .* which is missing", tmp_path / "export", hub)


def test_an_adapter_is_taken_with_its_base(tmp_path: Path, hub: Hub) -> None:
    (tmp_path / "adapter").mkdir()
    config = {"peft_type": "LORA", "r": 2, "base_model_name_or_path": "some/encoder"}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    weights = {"base_model.model.q_proj.lora_A.weight": torch.zeros(2, 24)}
    save_file(weights, tmp_path / "adapter" / "adapter_model.safetensors")
    done = speechft.publish(tmp_path / "adapter", REPO, licence="mit", dry_run=True)
    card = ModelCard(done.card)
    assert {file.name for file in done.files} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert (card.data.library_name, card.data.base_model) == ("peft", "some/encoder")
    assert card.data.base_model_relation == "adapter"


def test_figures_of_a_pipeline_are_those_of_the_encoder_that_its_card_names(
    tmp_path: Path, hub: Hub
) -> None:
    tiny_encoder().save(tmp_path / "pipeline")
    text = with_metadata({"license": "mit", "encoder_digest": "a" * 64}, "# Pipeline\n")
    (tmp_path / "pipeline" / "README.md").write_text(text)
    write_rows(tmp_path / "rows.jsonl", [row("a" * 64, seed=n, value=40.0 + n) for n in (0, 1)])
    done = speechft.publish(
        tmp_path / "pipeline", REPO, results=tmp_path / "rows.jsonl", dry_run=True
    )
    (result,) = ModelCard(done.card).data.eval_results or ()
    assert (result.metric_value, result.metric_args["seeds"]) == (40.5, 2)


# dry runs, repeating, interruptions


def test_a_dry_run_needs_neither_token_nor_network(
    merged: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    typed = f"publish {merged} --repo-id {REPO} --dry-run --private"
    monkeypatch.setattr(sys, "argv", ["speechft", *typed.split()])
    assert _main() == 0
    out = capsys.readouterr().out
    assert hub.asked == []
    assert f"would upload to {REPO} (private)" in out
    size = (merged / "model.safetensors").stat().st_size
    assert f"{size:,} bytes" in out
    assert "base_model_relation: merge" in out
    assert f"next: speechft publish {merged} --repo-id {REPO} --private\n" in out, "as it was asked"


def _main() -> int:
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_the_same_again_sends_nothing(merged: Path, hub: Hub) -> None:
    speechft.publish(merged, REPO)
    again = speechft.publish(merged, REPO)
    assert (again.sent, hub.repositories[REPO].commits) == (False, 1)


def test_a_commit_that_fails_leaves_nothing_visible_and_the_same_command_goes_on(
    merged: Path, hub: Hub
) -> None:
    hub.fail = ConnectionError("the line is\n dead")
    with pytest.raises(RunError, match="ConnectionError: the line is dead") as caught:
        speechft.publish(merged, REPO)
    assert "the same command goes on" in str(caught.value)
    assert set(hub.repositories[REPO].files) == {".gitattributes"}
    hub.fail = None
    assert speechft.publish(merged, REPO).sent
    assert hub.repositories[REPO].commits == 1


def test_a_repository_with_something_else_is_replaced_only_where_allowed(
    merged: Path, hub: Hub
) -> None:
    speechft.publish(merged, REPO)
    repository = hub.repositories[REPO]
    repository.files |= {"old.bin": b"x", "config.json": b"{}"}
    with pytest.raises(RunError, match=r"holds something else: .*config.json") as caught:
        speechft.publish(merged, REPO)
    assert "--overwrite" in str(caught.value)
    assert repository.commits == 1
    assert speechft.publish(merged, REPO, overwrite=True).sent
    assert "old.bin" not in repository.files
    assert repository.files["config.json"] == (merged / "config.json").read_bytes()


def test_a_public_repository_is_not_taken_for_a_private_one(merged: Path, hub: Hub) -> None:
    hub.create_repo(REPO, private=False, exist_ok=True)
    with pytest.raises(RunError, match="exists and is public, and --private was asked for"):
        speechft.publish(merged, REPO, private=True)
    assert hub.repositories[REPO].commits == 0


def test_without_a_token_there_is_one_message(
    merged: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert "HF_TOKEN" in refused(RunError, "there is no access token", merged, hub)


def test_a_file_that_changes_meanwhile_stops_it(
    merged: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exists(_: str) -> bool:
        (merged / "merge.json").write_text("{}")
        return False

    monkeypatch.setattr(hub, "repo_exists", exists)
    refused(RunError, "merge.json changed while it was being published", merged, hub)


# what is refused


def test_no_licence_is_invented(merged: Path, hub: Hub) -> None:
    card = merged / "README.md"
    text = card.read_text()
    assert "license: apache-2.0" in text
    card.write_text(text.replace("license: apache-2.0\n", ""))
    told = refused(ConfigError, "no licence is known", merged, hub, licence=None)
    assert "--license" in told
    card.write_text(text.replace("license: apache-2.0", "license: unknown"))
    refused(ConfigError, "no licence is known", merged, hub, licence=None)
    refused(ConfigError, "did you mean 'apache-2.0'", merged, hub, licence="apache 2.0")
    card.write_text(text)
    given = speechft.publish(merged, REPO, licence="cc-by-4.0", dry_run=True)
    assert ModelCard(given.card).data.license == "cc-by-4.0"


Change = Callable[[Path], object]
OUTSIDE = "secret-of-the-house"


def _nan(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["encoder.layer_norm.bias"][3] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _metadata(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file(weights, folder / "model.safetensors", metadata={"from": "/home/alice/base"})


def _config(**changes: Any) -> Change:
    def change(folder: Path) -> None:
        content = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**content, **changes}))

    return change


def _link(folder: Path) -> None:
    (folder / "notes.md").symlink_to(folder.parent / OUTSIDE)


def _linked_folder(folder: Path) -> None:
    (folder / "more").symlink_to(folder.parent, target_is_directory=True)


def _append(name: str, text: str) -> Change:
    return lambda folder: (folder / name).write_text((folder / name).read_text() + text)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: (f / "config.json").unlink(), "holds no model: it lacks config.json"),
        (lambda f: (f / "model.safetensors").unlink(), "holds no model: it lacks model.saf"),
        (_config(model_type=None), "names no model_type"),
        (_config(auto_map={"AutoModel": "x--y.Z"}), r"names code that transformers would run"),
        (_config(_name_or_path="/home/alice/base"), "config.json tells a path"),
        (_config(cache_dir="../alice/base"), "config.json tells a path: ../alice/base"),
        (_config(note="see https://alice:pw@host/x"), "config.json tells a path or a secret"),
        (_config(note="hf_" + "a" * 34), "config.json holds an access token"),
        (lambda f: (f / "pytorch_model.bin").write_bytes(b"x"), "may be a pickle"),
        (lambda f: (f / "predictions.csv").write_text("a"), "is of no kind that is published"),
        (lambda f: (f / "modeling.py").write_text("a"), "is of no kind that is published"),
        (lambda f: (f / "extra.json").write_text("{"), "extra.json is not what its name says"),
        (lambda f: (f / "extra.safetensors").write_bytes(b"PK"), "extra.safetensors is not what"),
        (lambda f: (f / "LICENSE").write_bytes(b"\xff\xfe\0"), "LICENSE cannot be read as text"),
        (lambda f: os.mkfifo(f / "x.json"), "x.json is no regular file"),
        (lambda f: (f / "a\nb.json").write_text("{}"), "has a name that not every system takes"),
        (_append("README.md", "\nmade in /home/alice/work\n"), "README.md tells a path"),
        (_link, "notes.md is a link"),
        (_linked_folder, "more is a link"),
        (_nan, "holds NaN or infinite weights in encoder.layer_norm.bias"),
        (_metadata, "model.safetensors tells a path"),
    ],
)
def test_what_is_no_model_or_must_not_leave_is_refused(
    change: Change, words: str, merged: Path, hub: Hub
) -> None:
    (merged.parent / OUTSIDE).write_text(OUTSIDE)
    change(merged)
    told = refused(CheckpointError, words, merged, hub)
    assert "alice:pw" not in told
    assert OUTSIDE not in told


def test_other_bad_input_is_one_message(merged: Path, hub: Hub, tmp_path: Path) -> None:
    refused(CheckpointError, "is no folder", tmp_path / "none", hub)
    told = refused(CheckpointError, "holds no model", merged.parent, hub)
    assert "below it lie: merged" in told
    (tmp_path / "empty").mkdir()
    assert "speechft convert" in refused(CheckpointError, "no model", tmp_path / "empty", hub)
    for name in ("model", "a/b/c", "a/b c", "../b", "a/.b", "a/b.git", "a/--b"):
        with pytest.raises(ConfigError, match="not of the form user/name"):
            speechft.publish(merged, name, licence="mit")
    write_rows(tmp_path / "other.jsonl", [row("f" * 64, encoder="of another")])
    refused(
        DataError,
        "none of the 1 results is of this model",
        merged,
        hub,
        results=tmp_path / "other.jsonl",
    )
    refused(DataError, "cannot be read", merged, hub, results=tmp_path / "none.jsonl")
    (merged / "README.md").write_text("---\nlicense: [\n---\n")
    refused(CheckpointError, "are not YAML", merged, hub)
    (merged / "README.md").write_text("---\nmodel-index: 3\n---\n# x\n")
    refused(CheckpointError, "not what the hub takes", merged, hub)


def test_a_link_to_the_folder_itself_is_its_name(merged: Path, hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(merged, target_is_directory=True)
    assert speechft.publish(tmp_path / "link", REPO).sent


def test_bfloat16_is_looked_at_too(tmp_path: Path, hub: Hub) -> None:
    tiny_encoder().save(tmp_path / "half")
    weights = load_file(tmp_path / "half" / "model.safetensors")
    half = {name: tensor.to(torch.bfloat16) for name, tensor in weights.items()}
    save_file(half, tmp_path / "half" / "model.safetensors")
    assert speechft.publish(tmp_path / "half", REPO, licence="mit", dry_run=True).files
    half["encoder.layer_norm.bias"][0] = np.inf
    save_file(half, tmp_path / "half" / "model.safetensors")
    refused(CheckpointError, "NaN or infinite", tmp_path / "half", hub)


def test_a_copy_of_a_run_is_not_changed_by_looking(merged: Path, tmp_path: Path) -> None:
    shutil.copytree(merged, tmp_path / "copy")
    os.chmod(tmp_path / "copy", 0o555)
    try:
        assert speechft.publish(tmp_path / "copy", REPO, dry_run=True).url is None
    finally:
        os.chmod(tmp_path / "copy", 0o755)
