"""The verbs ``merge`` and ``delta`` as a user meets them, and what they import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from speechft import cli
from speechft.merging import merge
from speechft.merging.methods import METHODS
from speechft.storage.files import encoder_digest, file_digest


@pytest.fixture
def speechft(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command in this process; return exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["speechft", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def refused(result: tuple[int, str, str], message: str) -> None:
    code, out, err = result
    assert (code, out) == (1, "")
    assert message in err
    assert "Traceback" not in err


def test_merge_says_what_it_read_and_wrote(pair: Any, tmp_path: Path, speechft: Any) -> None:
    base, tuned = pair
    code, out, _ = speechft("merge", base, tuned, "--alpha", 0.5, "--out", tmp_path / "out")
    assert code == 0
    assert f"base {base} (hf hubert, SHA-256 {encoder_digest(base)[:12]})" in out
    assert f"tuned {tuned} (hf hubert, SHA-256 {encoder_digest(tuned)[:12]})" in out
    assert f"wrote {tmp_path / 'out'}" in out
    report = json.loads((tmp_path / "out" / "merge.json").read_text())
    found = report["evidence"][0]
    assert f"lineage score {found['score']:.3f}" in out
    assert f"median change {found['median_relative_change']:.2g}" in out
    assert "CNN bit-equal to the base" in out
    assert 0 < report["seconds"] < 600
    merge(base, tuned, alpha=0.5, out=tmp_path / "same")
    assert encoder_digest(tmp_path / "out") == encoder_digest(tmp_path / "same")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "speechft merge base tuned --alpha 0.5 --out out" in card


def test_dry_run_prints_the_plan_and_writes_nothing(
    pair: Any, tmp_path: Path, speechft: Any
) -> None:
    base, tuned = pair
    before = sorted(tmp_path.rglob("*"))
    rule = ("--alpha-rule", "*layers.0.*: 0.1")
    code, out, _ = speechft("merge", base, tuned, "--dry-run", *rule)
    assert code == 0
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert lines["masked_spec_embed"].split(maxsplit=1)[1].split() == (
        "16 F32 + F32 -> F32 merge, alpha 0.25".split()
    )
    assert lines["encoder.layers.0.layer_norm.bias"].endswith("merge, alpha 0.1")
    assert "would merge 67 tensors" in out
    assert sorted(tmp_path.rglob("*")) == before
    plan = json.loads(speechft("merge", base, tuned, "--dry-run", "--json")[1])["plan"]
    assert len(plan) == 67


def test_extrapolation_is_said(pair: Any, tmp_path: Path, speechft: Any) -> None:
    assert "goes beyond" in speechft("merge", *pair, "--alpha", 1.5, "--out", tmp_path / "o")[1]
    assert "goes beyond" not in speechft("merge", *pair, "--alpha", 1, "--out", tmp_path / "o")[1]


def test_official_configuration_and_what_overrides_it(
    oracle: Path, tmp_path: Path, speechft: Any
) -> None:
    base, tuned = oracle / "hubert_base.pt", oracle / "hubert_ft1_downstream.ckpt"
    config = tmp_path / "official.yaml"
    config.write_text(
        f"merge_method: linear\nalpha: 0.5\nbase_model_name: hubert\n"
        f"base_model_ckpt_path: {base}\nfinetune_model_paths: [{tuned}]\n"
        f"output_dir: {tmp_path / 'official'}\n"
    )
    assert speechft("merge", "--config", config)[0] == 0
    merge(base, tuned, alpha=0.5, out=tmp_path / "direct.pt")
    assert file_digest(tmp_path / "official" / "merged_model.pt") == file_digest(
        tmp_path / "direct.pt"
    )
    out = tmp_path / "folder"
    assert speechft("merge", "--config", config, "--out", out, "--alpha", 0.1)[0] == 0
    assert json.loads((out / "merge.json").read_text())["alpha"] == 0.1
    assert (out / "model.safetensors").is_file()


def test_our_configuration_can_force(
    base_model: Any, save: Any, tmp_path: Path, speechft: Any
) -> None:
    base, same = save(base_model, "base"), save(base_model, "same")
    config = tmp_path / "merge.yaml"
    config.write_text(f"base: {base}\ntuned: {same}\nout: {tmp_path / 'out'}\n")
    refused(speechft("merge", "--config", config), "equals the base")
    config.write_text(config.read_text() + "force: true\n")
    code, out, _ = speechft("merge", "--config", config)
    assert code == 0
    assert "forced:" in out
    assert "equals the base" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "ties", "--option", "density=much"], "density is 'much', expected a number"),
        (["--method", "ties", "--option", "weights=1,2"], "2 weights were given for 1 tuned"),
        (["--method", "ties", "--option", "divisor=sum"], "unknown divisor 'sum'"),
        (["--method", "dare-ties", "--option", "seed=-1"], "expected a whole number"),
        (["--option", "density"], "not of the form key=value"),
        (["--option", "densty=0.1"], "has no option 'densty'"),
        (["--alpha-rule", "layers.0"], "not of the form SELECTOR: VALUE"),
        (["--alpha-rule", "layer.0: 1"], "cannot be read"),
        (["--alpha", "nan"], "finite"),
        (["--alpha", "0.3", "--method", "model-stock"], "finds the alpha of every tensor itself"),
        (["--config", "nowhere.yaml"], "nowhere.yaml does not exist"),
        (["--config", "CONFIG.JSON"], "config.json is the configuration of an encoder (hubert);"),
        (["--option", "dry_run=true"], "dry_run is no option of method 'linear' but a setting"),
        (["--option", "force=true"], "give it as --force on the command line"),
        (["--alpha", "0.3", "--option", "alpha=0.9"], "give it as --alpha on the command line"),
        (["--method", "ties", "--option", "density=1", "--option", "density=0.1"], "given twice"),
        (["--method", "lines", "--alpha-rule", "cnn: 0"], "sets alpha per tensor itself"),
        (["--method", "teis"], "\n  ties             trim, elect signs"),
    ],
)
def test_mistakes_in_options(
    arguments: list[str], message: str, pair: Any, tmp_path: Path, speechft: Any
) -> None:
    config = str(pair[0] / "config.json")
    arguments = [config if argument == "CONFIG.JSON" else argument for argument in arguments]
    refused(speechft("merge", *pair, "--out", tmp_path / "out", *arguments), message)
    assert not (tmp_path / "out").exists()


def test_methods_are_listed_with_their_options(speechft: Any) -> None:
    code, out, _ = speechft("merge", "--method", "help")
    assert code == 0
    for kind in METHODS.values():
        assert "\n".join(kind.describe()) in out
    shown = "".join(speechft("merge", "--help")[1].split())  # lines break at hyphens too
    assert ",".join(METHODS) in shown


def test_delta_and_back(pair: Any, tmp_path: Path, speechft: Any) -> None:
    base, tuned = pair
    path = tmp_path / "delta.safetensors"
    code, out, _ = speechft("delta", base, tuned, "--out", path, "--dtype", "float16")
    assert code == 0
    assert f"wrote {path}: 67 tensors" in out
    report = json.loads(speechft("delta", base, tuned, "--out", path, "--json")[1])
    assert report["base_digest"] == encoder_digest(base)
    assert speechft("merge", base, path, "--out", tmp_path / "out")[0] == 0
    merge(base, tuned, out=tmp_path / "direct")
    assert encoder_digest(tmp_path / "out") == encoder_digest(tmp_path / "direct")


def test_delta_refuses_strangers_unless_forced(
    base_model: Any, hubert_config: Any, save: Any, tmp_path: Path, speechft: Any
) -> None:
    base, other = save(base_model, "base"), save(type(base_model)(hubert_config), "other")
    path = tmp_path / "delta.safetensors"
    refused(speechft("delta", base, other, "--out", path), "does not look tuned from")
    assert not path.exists()
    code, out, _ = speechft("delta", base, other, "--out", path, "--force")
    assert code == 0
    assert "forced:" in out


def test_delta_spares_its_inputs(pair: Any, tmp_path: Path, speechft: Any) -> None:
    base, tuned = pair
    weights = tuned / "model.safetensors"
    before = file_digest(weights)
    refused(speechft("delta", base, tuned, "--out", weights), "is an input")
    refused(speechft("delta", base, tuned, "--out", tmp_path / "d.pt"), "end in .safetensors")
    path = tmp_path / "d.safetensors"
    assert speechft("delta", base, tuned, "--out", path)[0] == 0
    refused(
        speechft("delta", base, path, "--out", tmp_path / "e.safetensors"), "delta file already"
    )
    refused(speechft("delta", path, tuned, "--out", tmp_path / "e.safetensors"), "not a base")
    assert file_digest(weights) == before


@pytest.mark.integration
def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['speechft', 'merge', '--help']\nfrom speechft.cli import main\n"
        "try: main()\nexcept SystemExit as stop: assert not stop.code, stop.code\n"
        "bad = {'torch', 'numpy', 'yaml', 'speechft.config'} & set(sys.modules)\n"
        "sys.exit(str(bad) if bad else 0)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.integration
def test_the_verbs_do_not_import_torch(pair: Any, tmp_path: Path) -> None:
    base, tuned = map(str, pair)
    commands = [
        ["merge", base, tuned, "--out", str(tmp_path / "out"), "--alpha-rule", "layers.0: 0.1"],
        ["delta", base, tuned, "--out", str(tmp_path / "d.safetensors")],
    ]
    code = (
        "import sys\nfrom speechft.cli import main\n"
        "try: main()\nexcept SystemExit as stop: assert not stop.code, stop.code\n"
        "bad = {'torch', 'transformers'} & set(sys.modules)\n"
        "sys.exit(str(bad) if bad else 0)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    for command in commands:
        done = subprocess.run(
            [sys.executable, "-c", code, *command], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
