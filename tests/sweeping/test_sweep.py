"""Merges that are measured without being written: the same figures, and what is chosen of them."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

import speechft
from speechft import cli
from speechft.data.manifest import Corpus
from speechft.errors import CheckpointError, ConfigError, DataError, LineageError, RunError
from speechft.evaluation.predictions import items_of
from speechft.features import extract
from speechft.merging.config import MergeSettings
from speechft.merging.repeated import Merger
from speechft.reporting.folder import read_report
from speechft.results import ResultRow, Role, read_rows
from speechft.storage.files import read_json
from speechft.sweeping import sweep as sweeping
from speechft.sweeping.merged import merge_command


def run(base: Path, tuned: Any, corpus: Corpus, out: Path, **more: Any) -> Any:
    given = {"tasks": "sid,ic", "protocol": "quick", "precision": "fp32", **more}
    return speechft.sweep(base, tuned, out=out, corpus=corpus.folder, **given)


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


def test_figures_are_those_of_merging_to_disk_and_evaluating(
    base: Path, tuned: Path, tuned_too: Path, tones: Corpus, tmp_path: Path
) -> None:
    several = [tuned, tuned_too]
    ways: list[tuple[Any, dict[str, Any]]] = [
        (tuned, {"weight_norm": "fused", "dtype": "bfloat16"}),
        (several, {"method": "ties", "options": {"density": 0.5}}),
    ]
    for number, (models, how) in enumerate(ways):
        out = tmp_path / f"sweep-{number}"
        found = run(base, models, tones, out, alphas="0.3,1", tasks="sid,pr", test=True, **how)
        assert read_rows(out / "results.jsonl") == found.rows
        assert {row.alpha for row in found.rows} == {0.0, 0.3, 1.0}
        assert {row.role for row in found.rows} == {Role.MERGED}
        assert not {name for name in files(out) if "model" in name}, "no checkpoint on disk"
        options = how.pop("options", {})
        for alpha in (0.3, 1.0)[number:]:
            place = tmp_path / f"merged-{number}-{alpha}"
            speechft.merge(base, models, alpha, place, **how, **options)
            told = {"tasks": "sid,pr", "protocol": "quick", "precision": "fp32"}
            rows = speechft.evaluate(place, out=place / "eval", corpus=tones.folder, **told)
            mine = [row for row in found.rows if row.alpha == alpha]
            assert [same(row) for row in mine] == [same(row) for row in rows]
            for one, other in zip(mine, rows, strict=True):
                assert items_of(one, out) == items_of(other, place / "eval")


def same(row: ResultRow) -> dict[str, Any]:
    """Return all of a row but what it is called and where it lies."""
    apart = {"encoder", "alpha", "role", "predictions"}
    return {key: value for key, value in row.as_dict().items() if key not in apart}


def test_test_stays_unread_unless_it_is_asked_for(
    base: Path, tuned: Path, tones: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    original = Corpus._read
    monkeypatch.setattr(Corpus, "_read", lambda s, name: (read.append(name), original(s, name))[1])
    found = run(base, tuned, tones, tmp_path / "dev", alphas="0.5")
    assert {(row.split, row.part) for row in found.rows} == {("dev", "dev")}
    assert "test" not in read
    tested = run(base, tuned, tones, tmp_path / "test", alphas="0.5", test=True)
    assert {(row.split, row.part) for row in tested.rows} == {("test", "test")}
    assert "test" in read
    assert [one.changes for one in tested.judged] == [one.changes for one in found.judged]
    assert tested.judged[0].further.keys() == {"sid", "ic"}
    assert not found.judged[0].further


def test_the_downsampler_runs_once_where_it_is_shared_and_a_killed_sweep_goes_on(
    base: Path,
    tuned: Path,
    tuned_too: Path,
    tones: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran: list[int] = []
    original = extract._downsample

    def counted(encoder: Any, group: list[Any], *rest: Any) -> Any:
        ran.append(len(group))
        return original(encoder, group, *rest)

    monkeypatch.setattr(extract, "_downsample", counted)
    merge, merges = Merger._merge, []
    with monkeypatch.context() as patch:
        patch.setattr(Merger, "_merge", lambda *a: merges.append(1) or merge(*a))
        whole = run(base, tuned, tones, tmp_path / "whole", alphas="0:1:0.5")
    assert sum(ran) == 36, "train and dev, once"
    assert len(merges) == 4, "a look at the downsampler, and each merge once"

    evaluate, done = sweeping.evaluate_all, []

    def killed(jobs: Any, *rest: Any, **more: Any) -> Any:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(jobs)
        return evaluate(jobs, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(sweeping, "evaluate_all", killed)
        with pytest.raises(KeyboardInterrupt):
            run(base, tuned, tones, tmp_path / "killed", alphas="0:1:0.5")
    ran.clear()
    again = run(base, tuned, tones, tmp_path / "killed", alphas="0:1:0.5")
    assert sum(ran) == 36, "only alpha 1 was left to do"
    assert again == whole
    names = ("results.jsonl", "sweep.json")
    for name in names:
        pair = [tmp_path / place / name for place in ("whole", "killed")]
        assert pair[0].read_bytes() == pair[1].read_bytes()

    ran.clear()
    run(base, tuned_too, tones, tmp_path / "moved", alphas="0.5", tasks="sid")
    assert not ran, "nothing is kept of a downsampler that has moved"


def test_parts_move_alone_and_are_merges_that_can_be_written(
    base: Path, tuned: Path, tones: Corpus, tmp_path: Path
) -> None:
    found = run(base, tuned, tones, tmp_path / "l", alphas="0.5", by="layers", tasks="sid")
    parts = ["cnn", "projection", "position", "layers.0", "layers.1"]
    names = [f"{part} at 0.5" for part in parts]
    assert [one.point.name for one in found.judged] == ["alpha 0", *names]
    rows = {row.encoder: row for row in found.rows}
    assert rows["cnn at 0.5"].encoder_digest == rows["alpha 0"].encoder_digest, "it did not move"
    one = found.judged[names.index("layers.1 at 0.5") + 1]
    written = speechft.merge(base, tuned, 0.0, tmp_path / "m", rules={"layers.1": 0.5})
    assert written.out_digest == one.digest == rows["layers.1 at 0.5"].encoder_digest
    kinds = run(base, tuned, tones, tmp_path / "k", alphas="1", by="module", tasks="sid")
    moved = ["cnn", "projection", "position", "attention", "feed-forward", "layer-norm"]
    assert [one.point.part for one in kinds.judged] == [None, *moved]


def test_what_was_tuned_on_is_told_by_the_folder_or_said(
    base: Path, tuned: Path, tones: Corpus, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first = run(base, tuned, tones, tmp_path / "a", alphas="1")
    assert first.tuned_on == ("sid",)
    assert "sid is taken (--tuned-on says otherwise)" in capfd.readouterr().err
    assert run(base, tuned, tones, tmp_path / "a", alphas="1", tuned_on="ic").tuned_on == ("ic",)
    away = run(base, tuned, tones, tmp_path / "a", alphas="1", tuned_on="asr")
    assert away.choice is None
    assert "asr, which is not among the tasks" in capfd.readouterr().err
    told = read_json(tmp_path / "a" / "sweep.json")
    assert (told["choice"], told["base"], told["tuned"]) == (None, "base", ["tuned"])


def test_rows_of_other_encoders_in_the_folder_stay(
    base: Path, tuned: Path, tones: Corpus, tmp_path: Path
) -> None:
    told = {"tasks": "sid", "protocol": "quick"}
    before = speechft.evaluate("mfcc", out=tmp_path, corpus=tones.folder, **told)
    found = run(base, tuned, tones, tmp_path, alphas="1", tasks="sid")
    assert read_rows(tmp_path / "results.jsonl") == [*before, *found.rows]
    [compared] = [d for d in speechft.compare(tmp_path, baseline="alpha 0") if d.interval]
    assert (compared.encoder, compared.difference) == (
        "alpha 1",
        found.judged[1].changes["sid"].gain,
    )


def test_a_sweep_that_is_extended_is_still_compared_with_its_base(
    base: Path, tuned: Path, tones: Corpus, tmp_path: Path
) -> None:
    for alphas in ("0.5", "0.3"):
        run(base, tuned, tones, tmp_path, alphas=alphas, tasks="sid")
    assert {d.baseline for d in speechft.compare(tmp_path)} == {"alpha 0"}
    shown = [row.encoder for row in read_report(tmp_path).rows]
    assert shown == ["alpha 0", "alpha 0.3", "alpha 0.5"]


def test_a_probe_of_a_merge_says_how_to_write_its_encoder(
    base: Path, tuned: Path, tones: Corpus, tmp_path: Path
) -> None:
    found = run(base, tuned, tones, tmp_path / "s", alphas="0.5", tasks="sid")
    probe = (tmp_path / "s" / str(found.rows[-1].predictions)).parent
    with pytest.raises(CheckpointError, match="merged in memory and lies nowhere") as caught:
        speechft.load_pipeline(probe)
    assert "speechft merge base tuned --alpha 0.5 --out merged" in str(caught.value), "by name"
    merged = speechft.merge(base, tuned, 0.5, tmp_path / "merged")
    assert speechft.load_pipeline(probe, encoder=merged.out).task.name == "sid"


def test_what_cannot_be_swept_is_refused_before_anything_is_made(
    base: Path, tuned: Path, tones: Corpus, tmp_path: Path
) -> None:
    from helpers import tiny_encoder

    tiny_encoder(num_hidden_layers=3).save(tmp_path / "deep")
    tiny_encoder(hidden_size=16).save(tmp_path / "narrow")
    wrong: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
        (tmp_path / "deep", {}, LineageError, "number of layers"),
        (tmp_path / "narrow", {}, LineageError, "dimension"),
        (base, {}, LineageError, "equals the base"),
        ([], {}, CheckpointError, "no tuned model"),
        (tuned, {"method": "model-stock"}, ConfigError, "finds the alpha of every tensor itself"),
        (tuned, {"method": "lines", "by": "layers"}, ConfigError, "takes no parts"),
        (tuned, {"by": "heads"}, ConfigError, "unknown by"),
        (tuned, {"by": "layers", "rules": ["cnn: 0"]}, ConfigError, "give one of them"),
        (tuned, {"method": "slerp", "options": ["x"]}, ConfigError, "form key=value"),
        ([tuned, tuned], {"method": "slerp"}, ConfigError, "one tuned model"),
        (tuned, {"alphas": "0:2:0.5"}, ConfigError, "lies outside 0"),
        (tuned, {"keep_within": -1}, ConfigError, "keep_within"),
        (tuned, {"rules": ["layers.7: 0.1"]}, ConfigError, "matches no tensor"),
    ]
    for models, how, kind, message in wrong:
        with pytest.raises(kind, match=message):
            run(base, models, tones, tmp_path / "out", **how)
        assert not (tmp_path / "out").exists(), how
    with pytest.raises(ConfigError, match="layer 9: the encoder has the hidden states 0"):
        run(base, tuned, tones, tmp_path / "out", alphas="1", layers=(9,))


def test_a_check_that_merge_lets_fail_is_let_fail_here_too(
    base: Path, tuned: Path, tones: Corpus, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(LineageError, match="equals the base") as caught:
        run(base, base, tones, tmp_path / "out", alphas="0.5", tasks="sid")
    assert "force=True (or allow='equal')" in str(caught.value)
    for how in ({"allow": "equal"}, {"force": True}):
        out = tmp_path / next(iter(how))
        found = run(base, base, tones, out, alphas="0.5", tasks="sid", **how)
        assert "merged nevertheless" in capfd.readouterr().err
        [said] = read_json(out / "sweep.json")["forced"]
        assert "equals the base" in said
        assert found.judged[1].changes["sid"].interval == (0.0, 0.0)
        assert found.choice is not None
        assert found.choice.point.alpha == 0, "of equal ones the base"
    assert found.command is read_json(out / "sweep.json")["command"] is None, "the base is there"
    command = merge_command("base", ["base"], found.judged[1].point.settings)
    assert command.startswith("speechft merge base base --alpha 0.5 --allow family,base,equal,")
    run(base, tuned, tones, tmp_path / "t", alphas="1", tasks="sid")
    assert read_json(tmp_path / "t" / "sweep.json")["forced"] == []


def test_outside_the_ends_when_asked(
    base: Path, tuned: Path, tones: Corpus, tmp_path: Path
) -> None:
    found = run(base, tuned, tones, tmp_path, alphas=[1.5, -0.5], extrapolate=True, tasks="sid")
    assert [row.alpha for row in found.rows] == [0.0, -0.5, 1.5]
    assert found.judged[2].point.settings == MergeSettings(alpha=1.5)
    text = json.loads((tmp_path / "sweep.json").read_text())
    assert [one["alpha"] for one in text["points"]] == [0.0, -0.5, 1.5]


def test_the_verb_says_which_alpha_and_how_to_merge_with_it(
    base: Path,
    tuned: Path,
    tones: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def typed(arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["speechft", *shlex.split(arguments)])
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    told = f"--tasks sid --manifest {tones.folder} --protocol quick --out {tmp_path / 'out'}"
    start = f"sweep {base} {tuned} {told}"
    code, out, err = typed(f"{start} --alphas 0.5 --tuned-on sid --keep-within 2")
    assert (code, "choice: alpha 0\n" in out, "next:" in out) == (0, True, False), "it is there"
    assert "sid (tuned)" in out
    code, out, err = typed(f"sweep {tuned} {base} {told} --alphas 0.5 --overwrite")
    assert (code, "choice: alpha 0.5" in out) == (0, True)
    command = next(line for line in out.splitlines() if line.startswith("next: "))
    assert command.startswith(f"next: speechft merge {tuned} {base} --alpha 0.5")
    code, out, err = typed(f"{start} --alphas 0.5 --json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["alpha"] for row in rows] == [0.0, 0.5]
    for wrong, message in (
        ("--alphas 0:1", "error: alphas '0:1' cannot be read: it has 2 parts"),
        ("--alphas 1.2", "--extrapolate takes it nevertheless"),
        ("--suggest", "error: --suggest takes no --tasks, --protocol: it looks at the tuned task"),
        ("--tasks none", "unknown task"),
    ):
        code, out, err = typed(f"{start} {wrong}")
        assert code == 1
        assert message in err


def test_files_of_somebody_else_stay(
    base: Path, tuned: Path, tones: Corpus, tmp_path: Path
) -> None:
    for name in ("sweep.json", "curve.svg", "results.jsonl"):
        out = tmp_path / name.replace(".", "-")
        out.mkdir()
        (out / name).write_text("mine\n")
        with pytest.raises((RunError, DataError), match=name):
            run(base, tuned, tones, out, alphas="1")
        assert (out / name).read_text() == "mine\n"
        assert not (out / "evaluation").exists(), "refused before any work"
        run(base, tuned, tones, out, alphas="1", overwrite=True)
        assert (out / "sweep.json").read_text() != "mine\n"
        assert len(read_rows(out / "results.jsonl")) == 4
