"""Python and the command line do the same: one configuration, the same options, paths alike."""

from __future__ import annotations

import inspect
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import typer

import speechft
from speechft import api, cli, devices, pipeline
from speechft.data.manifest import Corpus
from speechft.encoders.load import resolve_encoder
from speechft.errors import ConfigError
from speechft.evaluation import encoders
from speechft.evaluation.config import EvaluationConfig
from speechft.features.sources import find_sources
from speechft.finetuning import pretraining
from speechft.merging import load_delta, make_delta
from speechft.recipe import Recipe

VERBS = {
    "run": speechft.run,
    "finetune": speechft.finetune,
    "pretrain": speechft.pretrain,
    "evaluate": speechft.evaluate,
    "analyze": speechft.analyze,
    "report": speechft.report,
    "compare": speechft.compare,
    "sweep": speechft.sweep,
    "search": speechft.search,
    "status": speechft.status,
    "prepare": speechft.prepare,
    "convert": speechft.convert,
    "inspect": speechft.inspect,
    "doctor": speechft.doctor,
    "extract": speechft.extract,
    "publish": speechft.publish,
    "predict": speechft.predict,
    "export": speechft.export,
}
ONLY_PYTHON = {"settings", "command"}
ONLY_TYPED = {"as_json", "as_format", "no_cache", "layout"}
"""How results are printed, what ``cache=False`` says in Python, and a verb within a verb."""
OTHER_NAMES = {
    "set_": "overrides",
    "format_": "format",
    "from_": "source_format",
    "to": "target",
}


def call(arguments: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["speechft", *shlex.split(arguments)])
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_has_the_arguments_of_its_function(verb: str) -> None:
    callbacks = {c.callback.__name__: c.callback for c in cli.app.registered_commands if c.callback}
    typed = set(inspect.signature(callbacks[verb]).parameters) - ONLY_TYPED
    named = [OTHER_NAMES.get(name, name) for name in typed]
    python = set(inspect.signature(VERBS[verb]).parameters) - ONLY_PYTHON
    assert len(named) == len(python), (sorted(named), sorted(python))
    first = {"path", "name"}  # what inspect takes
    assert set(named) - first == python - first


def test_one_text_stands_for_a_list_of_one() -> None:
    """Else a text would be read letter by letter: ``extract(encoder, "a/b.wav")`` as a, /, b."""
    functions = [getattr(speechft, name) for name in dir(speechft) if not name.startswith("_")]
    for function in filter(inspect.isfunction, functions):
        for parameter in inspect.signature(function).parameters.values():
            kinds = str(parameter.annotation).replace("str | Path", "PathLike")
            rest, lists = re.subn(r"Sequence\[(str|PathLike)\]", "", kinds)
            assert not lists or re.search(r"\b(str|PathLike)\b", rest), (function, parameter)


def test_one_recording_is_not_read_letter_by_letter(tmp_path: Path, tones: Corpus) -> None:
    cut = next(iter(tones.split("train")))
    audio = Path(cut.recording.sources[0].source)
    place = tmp_path / "a name.wav"
    place.write_bytes(audio.read_bytes())
    for given in (str(place), place, [place]):
        assert list(find_sources(given).cuts) == ["a name"]
    missing = str(tmp_path / "nothing.wav")
    assert list(find_sources(missing).problems) == [missing]


def test_the_corpus_is_one_option_in_every_verb() -> None:
    group = typer.main.get_command(cli.app)
    commands = group.commands  # type: ignore[attr-defined]
    options = {
        verb: tuple(option.opts)
        for verb, command in commands.items()
        for option in command.params
        if {"--corpus", "--manifest", "--manifests"} & set(option.opts)
    }
    assert {"demo", "run", "finetune", "pretrain", "evaluate", "analyze"} <= set(options)
    assert set(options.values()) == {("--corpus", "--manifest", "--manifests")}


def test_every_field_of_an_evaluation_can_be_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given: list[tuple[Any, ...]] = []

    def evaluate(*arguments: Any, **named: Any) -> list[Any]:
        given.append((*arguments, named))
        raise ConfigError("far enough")

    monkeypatch.setattr(encoders, "evaluate", evaluate)
    values: dict[str, tuple[str, Any]] = {
        "tasks": ("pr,sid", ("pr", "sid")),
        "protocol": ("s3prl", "s3prl"),
        "seeds": ("3", 3),
        "layers": ("6,1-2", (1, 2, 6)),
        "mode": ("s3prl", "s3prl"),
        "limit": ("7", 7),
        "max_left_out": ("0.5", 0.5),
        "cache": ("features", "features"),
        "frame_cache_gb": ("2.5", 2.5),
        "frame_codec": ("int8", "int8"),
        "frame_memory_gb": ("1.5", 1.5),
        "precision": ("fp32", "fp32"),
        "language_model": ("lm.arpa", "lm.arpa"),
        "beam_search.weight": ("1.5", 1.5),
    }
    fields = {key.partition(".")[0] for key in values}
    assert fields == set(EvaluationConfig.model_fields) - {"floors"}
    options = inspect.signature(api.evaluate).parameters
    command, python = "", {}
    for key, (text, value) in values.items():
        option = f"--{key.replace('_', '-')}" if key in options else f"--set {key}="
        command += f" {option}{' ' if key in options else ''}{text}"
        python[key.replace(".", "__")] = value
    start = f"evaluate a b --seed 5 --corpus x --manifests y --out {tmp_path}"
    assert call(start + command, monkeypatch) == 1
    texts = {key: values[key][0] for key in ("tasks", "layers")}
    for named in (python, {**python, **texts}):
        with pytest.raises(ConfigError, match="far enough"):
            speechft.evaluate(["a", Path("b")], out=tmp_path, corpus=["x", "y"], seed=5, **named)
    assert given[0] == given[1] == given[2]
    config = given[0][2]
    assert isinstance(config, EvaluationConfig)
    assert (config.tasks, config.layers, config.floors) == (("pr", "sid"), (1, 2, 6), ())
    assert config.beam_search.weight == 1.5


def test_defaults_of_an_evaluation_are_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given: list[tuple[Any, ...]] = []
    monkeypatch.setattr(encoders, "evaluate", lambda *a, **named: given.append((*a, named)) or [])
    assert call(f"evaluate a --json --out {tmp_path}", monkeypatch) == 0
    speechft.evaluate("a", out=tmp_path)
    assert call(f"evaluate a --json --no-cache --out {tmp_path}", monkeypatch) == 0
    speechft.evaluate("a", out=tmp_path, cache=False)
    assert given[0] == given[1]
    assert given[2] == given[3]
    assert given[0][2].cache == str(tmp_path / "cache")
    assert given[2][2].cache is None
    assert given[0][2].tasks == "available"


def record(function: str, returned: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    given: list[tuple[Any, ...]] = []

    def recorded(recipe: Recipe, folder: Path, **_: Any) -> Any:
        given.append((recipe, folder, devices.pick_device().type))
        return returned

    monkeypatch.setattr(pipeline, function, recorded)
    return given


@pytest.mark.parametrize(
    ("verb", "function", "stage"),
    [("run", api.run, "run"), ("finetune", api.finetune, "finetune_recipe")],
)
def test_recipes_are_changed_alike(
    verb: str,
    function: Callable[..., Any],
    stage: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    summary = pipeline.Summary([], [], (), tmp_path / "report.html")
    given = record(stage, summary if verb == "run" else tmp_path / "encoder", monkeypatch)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    settings = "--set finetuning.steps=3 --set data.corpus=lost --device cpu"
    start = f"{verb} demo --out {tmp_path} {settings}"
    for name in ("--corpus", "--manifests"):
        assert call(f"{start} {name} mine.csv", monkeypatch) == 0
    function("demo", out=str(tmp_path), corpus=Path("mine.csv"), device="cpu", finetuning__steps=3)
    assert given[0] == given[1] == given[2]
    recipe, folder, device = given[0]
    assert (recipe.finetuning.steps, recipe.data.corpus, folder) == (3, "mine.csv", tmp_path)
    assert device == "cpu", "the device holds within"
    assert devices.pick_device().type == "cuda", "and ends with it"


def test_a_strategy_beats_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = record("finetune_recipe", tmp_path, monkeypatch)
    speechft.finetune(out=tmp_path, strategy="l2sp", finetuning__strategy="plain")
    assert (
        call(
            f"finetune demo --out {tmp_path} --strategy l2sp --set finetuning.strategy=plain",
            monkeypatch,
        )
        == 0
    )
    assert [recipe.finetuning.strategy for recipe, *_ in given] == ["l2sp", "l2sp"]


def test_pretraining_is_changed_alike(
    tmp_path: Path, tones: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []
    monkeypatch.setattr(
        pretraining, "pretrain", lambda config, corpus, folder: given.append((config, corpus))
    )
    settings = f"--corpus {tones.folder} --set seed=4"
    assert call(f"pretrain pretrain-tiny --out {tmp_path / 'a'} {settings}", monkeypatch) == 0
    encoder = speechft.pretrain(out=tmp_path / "b", corpus=tones.folder, seed=4)
    assert encoder == tmp_path / "b" / "encoder"
    (config, corpus), (other, same) = given
    assert config == other
    assert (config.seed, corpus.digest, same.digest) == (4, tones.digest, tones.digest)


def test_a_recipe_for_another_verb_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for command, hint in (
        ("run pretrain-tiny", "hint: speechft pretrain pretrain-tiny --out DIR"),
        ("finetune pretrain-tiny-2", "hint: speechft pretrain pretrain-tiny-2 --out DIR"),
        ("pretrain demo", "hint: speechft run demo --out DIR"),
    ):
        assert call(f"{command} --out {tmp_path}", monkeypatch) == 1
        assert hint in capsys.readouterr().err


def test_home_is_expanded(
    tmp_path: Path, tiny_hubert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "encoder").symlink_to(tiny_hubert)
    assert resolve_encoder("~/encoder") == tmp_path / "encoder"
    soundfile.write(tmp_path / "a.wav", np.full(8000, 0.1), 16_000)
    (tmp_path / "my.csv").write_text("path,split,speaker\na.wav,train,anna\n")
    prepared = speechft.prepare("generic", "~/my.csv", out="~/corpus", headers_only=True)
    assert prepared.folder == tmp_path / "corpus"
    speechft.extract("~/encoder", ["~/a.wav"], "~/features", layer=[0, 1])
    assert (tmp_path / "features" / "a.safetensors").is_file()
    assert speechft.inspect("~/encoder").path == str(tmp_path / "encoder")
    converted = speechft.convert("~/encoder", "~/converted.pt", config="~/encoder/config.json")
    assert converted.out == str(tmp_path / "converted.pt")
    delta = make_delta(tiny_hubert, "~/encoder", "~/delta.safetensors", force=True)
    assert set(load_delta("~/delta.safetensors"))
    merged = speechft.merge("~/encoder", str(delta.out), out="~/merged", force=True)
    assert (delta.out.parent, merged.out) == (tmp_path, tmp_path / "merged")
    given = record("run", None, monkeypatch)
    speechft.run("demo", out="~/run")
    assert given[0][1] == tmp_path / "run"
    with pytest.raises(speechft.SpeechftError, match=f"{tmp_path}/none"):
        speechft.compare("~/none")
    assert not Path("~").exists()


def test_public_names_are_there_and_typed() -> None:
    for name in speechft.__all__:
        thing = getattr(speechft, name)
        if callable(thing) and not isinstance(thing, type):
            assert "return" in thing.__annotations__, name
            assert thing.__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        speechft.nothing  # noqa: B018


def test_completion_knows_verbs_recipes_and_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    from speechft.cli import complete

    assert complete.recipes("pretrain-tiny") == ["pretrain-tiny", "pretrain-tiny-2"]
    assert complete.corpora("tedl") == ["tedlium3"]
    assert complete.tasks("si") == ["sid"]
    assert "pr,sid" in complete.tasks("pr,s")
    assert "pr,pr" not in complete.tasks("pr,p")
    group = typer.main.get_command(cli.app)
    context = group.make_context("speechft", [], resilient_parsing=True)
    assert [item.value for item in group.shell_complete(context, "fin")] == ["finetune"]
