"""What a run says about itself, from constructed items."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from speechft.evaluation.identity import slug
from speechft.evaluation.score import RATIO
from speechft.recipe import VerdictConfig
from speechft.results import ResultRow, Role
from speechft.tasks.base import Item
from speechft.verdict import Finding, colours, judge, verdict

PRE_TRAINED, TUNED, MERGED = "pre-trained", "stable fine-tuning", "Speech-FT (0.25)"
ROLES = {PRE_TRAINED: Role.PRE_TRAINED, TUNED: Role.TUNED, MERGED: Role.MERGED}
CONFIG = VerdictConfig(margins={"*": 3.0})


class Run:
    """A folder of constructed evaluations."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[ResultRow] = []

    def add(
        self,
        encoder: str,
        task: str,
        hits: Sequence[float],
        place: int = 0,
        speakers: int = 0,
        **fields: object,
    ) -> None:
        each = len(hits) // max(speakers, 1)
        items = [
            Item(f"item-{n:04d}", "", "", hit, 1.0, group=f"{n // each}" if speakers else "")
            for n, hit in enumerate(hits)
        ]
        name = f"{task}.{place}.jsonl" if place else f"{task}.jsonl"
        path = self.folder / slug(encoder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(asdict(item)) + "\n" for item in items))
        settings: dict[str, object] = {
            "encoder": encoder,
            "encoder_digest": "",
            "task": task,
            "metric": "accuracy",
            "value": RATIO.value(items),
            "higher_is_better": True,
            "n": len(items),
            "interval": None,
            "split": "test",
            "seed": place,
            "protocol": "mini",
            "learning_rate": None,
            "details": {"converged": True},
            "role": ROLES[encoder],
            "strategy": None if encoder == PRE_TRAINED else "stable",
            "alpha": 0.25 if encoder == MERGED else None,
            "predictions": str(path.relative_to(self.folder)),
        }
        self.rows.append(ResultRow.model_validate({**settings, **fields}))

    def compare(
        self,
        base: Sequence[float],
        other: Sequence[float],
        *,
        task: str = "sid",
        converged: bool = True,
        **fields: Any,
    ) -> None:
        first: dict[str, Any] = {"details": {"converged": converged}, **fields}
        self.add(PRE_TRAINED, task, base, **first)
        for name in (TUNED, MERGED):
            self.add(name, task, other, **fields)

    def say(self, config: VerdictConfig = CONFIG, *tuned_on: str) -> tuple[str, ...]:
        return verdict(self.rows, judge(self.rows, self.folder, config), tuned_on or ("sid",))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def hits(share: float, count: int = 1000) -> list[float]:
    return [float(n < share * count) for n in range(count)]


@pytest.mark.parametrize(
    ("other", "phrase", "beside"),
    [
        (0.70, "keeps", ""),
        (0.71, "keeps", ", significantly higher, +1.0 with 90 % interval +0.5 to +1.6"),
        (0.69, "keeps", ", significantly lower, -1.0 with 90 % interval -1.6 to -0.5"),
        (0.80, "gains on", ""),
        (0.60, "loses on", ""),
    ],
)
def test_phrase_follows_the_paired_interval(
    run: Run, other: float, phrase: str, beside: str
) -> None:
    """What is kept within the margin may be significantly lower: both are said."""
    run.compare(hits(0.7), hits(other))
    first, second, *_ = run.say()
    value = f"accuracy 70.0 to {100 * other:.1f}{beside}"
    assert first == f"Stable fine-tuning {phrase} sid ({value})."
    assert second.startswith(f"Speech-FT (0.25) {phrase} sid ({value}). ")


def test_intervals_are_over_speakers_where_there_are_some(run: Run) -> None:
    """The gain is one speaker's: significant over 1,000 items, but not over 20 speakers."""
    base, other = hits(0.5), [1.0] * 50 + hits(0.5)[50:]
    one = [0.0] * 50 + base[50:]
    run.compare(one, other, speakers=20)
    run.compare(hits(0.7), hits(0.7), task="ic")
    found = judge(run.rows, run.folder, VerdictConfig(margins={"*": 0.5}))
    assert found[TUNED, "sid", "accuracy"].drawn == "20 groups"
    assert found[TUNED, "sid", "accuracy"].finding is Finding.OPEN
    assert found[TUNED, "ic", "accuracy"].drawn == "1000 items"
    assert run.say()[1].endswith(
        "intervals cover the test speakers or other groups (on ic single items) only."
    )


@pytest.mark.parametrize(
    ("other", "phrase"), [(0.80, "loses on"), (0.60, "gains on"), (0.71, "keeps")]
)
def test_error_rates_turn_the_direction(run: Run, other: float, phrase: str) -> None:
    run.compare(hits(0.7), hits(other), metric="per", higher_is_better=False, task="pr")
    assert run.say()[0].startswith(f"Stable fine-tuning {phrase} pr (per 70.0 to")


def test_wide_interval_leaves_it_open_and_shows_it(run: Run) -> None:
    rng = np.random.default_rng(0)
    base, other = ([float(x) for x in rng.permutation(hits(s, 60))] for s in (0.5, 0.55))
    run.compare(base, other)
    first = run.say()[0]
    assert first.startswith("Stable fine-tuning leaves open sid (accuracy 50.0 to 55.0, +5.0 with ")
    assert "90 % interval -" in first


def test_significant_but_small_is_kept_and_large_margin_keeps_more(run: Run) -> None:
    run.compare(hits(0.7), hits(0.71))  # every draw is above zero, none above the margin
    assert "keeps sid" in run.say()[0]
    assert "gains on sid" in run.say(VerdictConfig(margins={"*": 0.1}))[0]


def test_margins_go_by_task(run: Run) -> None:
    run.compare(hits(0.7), hits(0.72), task="sid")
    run.compare(hits(0.7), hits(0.72), task="ic")
    first = run.say(VerdictConfig(margins={"ic": 0.5, "*": 5.0}))[0]
    assert "gains on ic (accuracy 70.0 to 72.0)" in first
    assert "keeps sid" in first


def test_no_verdict_where_the_pre_trained_probe_had_not_converged(run: Run) -> None:
    run.compare(hits(0.7), hits(0.2), converged=False)
    first = run.say()[0]
    assert "gets no verdict on sid" in first
    assert "had not converged" in first
    assert "loses" not in first


def test_few_test_items_get_no_verdict(run: Run) -> None:
    run.compare(hits(0.7, 20), hits(0.2, 20))
    assert run.say()[0] == (
        "Stable fine-tuning gets no verdict on sid (accuracy 70.0 to 20.0), which has too few test "
        "items."
    )


def test_missing_word_about_convergence_counts_as_no(run: Run) -> None:
    run.compare(hits(0.7), hits(0.2), details={})
    assert "gets no verdict on sid" in run.say()[0]


def test_tasks_of_the_same_judgement_stand_together(run: Run) -> None:
    run.compare(hits(0.7), hits(0.5), task="pr")
    run.compare(hits(0.7), hits(0.9), task="sid")
    run.compare(hits(0.7), hits(0.4), task="ic")
    assert run.say()[0] == (
        "Stable fine-tuning gains on sid (accuracy 70.0 to 90.0); "
        "loses on pr (accuracy 70.0 to 50.0) and ic (accuracy 70.0 to 40.0)."
    )


def test_probe_seeds_are_judged_together(run: Run) -> None:
    for place, (base, other) in enumerate([(0.5, 0.9), (0.9, 0.5), (0.7, 0.7)]):
        run.compare(hits(base), hits(other), place=place)
    first, second, *_ = run.say()
    assert "leaves open sid (accuracy 70.0 to 70.0, +0.0 with 90 % interval -" in first
    assert second.endswith("intervals cover the test items and probe seeds only.")


def test_margins_of_a_figure_between_0_and_1_are_hundredths(run: Run) -> None:
    for encoder, hit in ((PRE_TRAINED, 0.9), (TUNED, 0.1), (MERGED, 0.9)):
        items = [
            Item(f"{query} {n}", "", "", score, float(n < 2), group=query)
            for query in "abcdefghijkl"
            for n, score in enumerate((hit, hit, 0.5, 0.5))
        ]
        run.add(encoder, "qbe", [0.0] * 48, metric="mtwv", value=float(hit > 0.5))
        path = run.folder / slug(encoder) / "qbe.jsonl"
        path.write_text("".join(json.dumps(asdict(item)) + "\n" for item in items))
    first, second, _ = run.say(CONFIG, "qbe")
    assert first == "Stable fine-tuning loses on qbe (mtwv 1.000 to 0.000)."
    assert second.startswith("Speech-FT (0.25) keeps qbe (mtwv 1.000 to 1.000).")


def test_a_fixed_number_of_steps_is_judged(run: Run) -> None:
    run.compare(hits(0.7), hits(0.2), details={"converged": None})
    assert "loses on sid" in run.say()[0]


def test_task_tuned_on_comes_first(run: Run) -> None:
    for task in ("pr", "sid"):
        run.compare(hits(0.7), hits(0.7), task=task)
    assert "keeps pr (accuracy 70.0 to 70.0) and sid" in run.say(CONFIG, "pr")[0]
    assert "keeps sid (accuracy 70.0 to 70.0) and pr" in run.say(CONFIG, "sid")[0]


def test_colours_follow_the_verdict_not_the_interval_of_one_encoder(run: Run) -> None:
    """The unpaired interval of the pre-trained figure, 65 to 75, would call both of these near."""
    run.compare(hits(0.70), hits(0.74), interval=(65.0, 75.0))
    strict = VerdictConfig(margins={"*": 1.0})
    found = judge(run.rows, run.folder, strict)
    assert {key[0] for key in found} == {TUNED, MERGED}
    assert {j.finding for j in found.values()} == {Finding.GAINS}
    assert set(colours(found).values()) == {"better"}
    assert set(colours(judge(run.rows, run.folder, CONFIG)).values()) <= {"better", "near"}


def test_every_further_encoder_is_judged_and_floors_are_not(run: Run) -> None:
    run.compare(hits(0.7), hits(0.7))
    for name, role, share in (("lora", Role.TUNED, 0.4), ("other", Role.FURTHER, 0.9)):
        ROLES[name] = role
        run.add(name, "sid", hits(share), strategy=name)
    ROLES["MFCC"] = Role.FLOOR
    run.add("MFCC", "sid", hits(0.1), strategy=None)
    found = colours(judge(run.rows, run.folder, CONFIG))
    assert {encoder: word for (encoder, _, _), word in found.items()} == {
        TUNED: "near",
        MERGED: "near",
        "lora": "worse",
        "other": "better",
    }


@pytest.mark.parametrize("other", [0.0, 0.5, 0.7, 0.9, 1.0])
def test_one_seed_never_wins(run: Run, other: float) -> None:
    run.compare(hits(0.7), hits(other))
    said = run.say()
    assert len(said) == 3
    assert "win" not in " ".join(said).lower()
    assert said[1].endswith("One fine-tuning seed; intervals cover the test items only.")


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("pre-trained", "pre-trained"),
        ("Speech-FT (0.25)", "speech-ft--0.25"),
        ("stable fine-tuning", "stable-fine-tuning"),
        ("MFCC", "mfcc"),
    ],
)
def test_slug_is_a_folder_name(name: str, folder: str) -> None:
    assert slug(name) == folder


def test_equal_figures_on_few_items_are_not_called_kept(run: Run) -> None:
    rng = np.random.default_rng(1)
    base, other = ([float(x) for x in rng.permutation(hits(0.5, 60))] for _ in range(2))
    run.compare(base, other)
    assert "leaves open sid (accuracy 50.0 to 50.0, +0.0 with 90 % interval" in run.say()[0]


def test_every_figure_of_a_task_gets_its_own_judgement(run: Run) -> None:
    for encoder, f1, edits in ((PRE_TRAINED, 0.7, 4.0), (TUNED, 0.9, 6.0)):
        counts = {"value_edits": edits, "value_length": 10.0}
        items = [Item(f"item-{n}", "", "", f1, 1.0, counts) for n in range(40)]
        for metric, value, higher in (
            ("slot_type_f1", 100 * f1, True),
            ("slot_value_cer", 10 * edits, False),
        ):
            run.add(encoder, "sf", [f1] * 40, metric=metric, value=value, higher_is_better=higher)
        path = run.folder / slug(encoder) / "sf.jsonl"
        path.write_text("".join(json.dumps(asdict(item)) + "\n" for item in items))
    merged = {"encoder": MERGED, "role": Role.MERGED}
    run.rows += [row.model_copy(update=merged) for row in run.rows[2:]]
    assert run.say(CONFIG, "sf")[0] == (
        "Stable fine-tuning gains on sf (slot_type_f1 70.0 to 90.0); "
        "loses on sf (slot_value_cer 40.0 to 60.0)."
    )


def test_trials_are_judged_by_their_error_rate(run: Run) -> None:
    """The sum of scores says nothing about trials; their order decides."""
    rng = np.random.default_rng(0)
    truth = np.arange(400) % 2
    for encoder, noise in ((PRE_TRAINED, 2.0), (TUNED, 0.1), (MERGED, 0.1)):
        scores = truth + noise * rng.standard_normal(400)
        run.add(encoder, "asv", [0.0], metric="eer", value=1.0, higher_is_better=False, n=400)
        items = [Item(f"{n:03d}", "", "", float(scores[n]), float(truth[n])) for n in range(400)]
        path = run.folder / slug(encoder) / "asv.jsonl"
        path.write_text("".join(json.dumps(asdict(item)) + "\n" for item in items))
    assert "gains on asv" in run.say(CONFIG, "asv")[0]


@pytest.mark.parametrize(
    ("sid", "pr", "advice"),
    [
        ((0.9, 0.8), (0.6, 0.6), "A smaller alpha than the merge's should lose less on pr."),
        ((0.9, 0.8), (0.6, 0.7), "The merge gives back what fine-tuning loses on pr; a larger"),
        ((0.9, 0.8), (0.7, 0.7), "Fine-tuning loses nothing: a larger alpha, or the tuned"),
        ((0.9, 0.8), (0.8, 0.7), "Fine-tuning loses nothing: a larger alpha, or the tuned"),
        ((0.7, 0.7), (0.6, 0.6), "Fine-tuning gains nothing on sid that an alpha could"),
        ((0.7, 0.8), (0.6, 0.6), "A smaller alpha than the merge's should lose less on pr."),
        ((0.7, 0.8), (0.6, 0.7), "The merge gives back what fine-tuning loses on pr; a larger"),
        ((0.6, 0.7), (0.7, 0.7), "Fine-tuning gains nothing on sid that an alpha could"),
        ((0.6, 0.6), (0.7, 0.7), "Fine-tuning gains nothing on sid that an alpha could"),
        ((0.9, 0.8), None, "Nothing beside sid is judged: evaluate tasks"),
    ],
)
def test_where_a_better_alpha_lies(
    run: Run, sid: tuple[float, float], pr: tuple[float, float] | None, advice: str
) -> None:
    for task, shares in (("sid", sid), ("pr", pr)):
        for encoder, share in zip(
            (PRE_TRAINED, TUNED, MERGED), (0.7, *(shares or ())), strict=False
        ):
            if shares is not None:
                run.add(encoder, task, hits(share))
    assert run.say()[2].startswith(advice)


def test_what_is_not_known_is_not_advised_on(run: Run) -> None:
    """Few items or wide intervals are no reason to keep a tuned encoder, nor to drop one."""
    rng = np.random.default_rng(1)
    base, other = ([float(x) for x in rng.permutation(hits(0.5, 60))] for _ in range(2))
    run.compare(hits(0.7), hits(0.9))
    run.compare(base, other, task="pr")
    advice = run.say()[2]
    assert advice.startswith("A loss on pr is neither shown nor ruled out: test on more items.")
    assert "keeps more of the gain on sid" in advice
    assert run.say(CONFIG, "pr")[2].startswith("A gain on pr is not shown: tune for longer")
    few = VerdictConfig(min_items=61)
    run.rows = [row for row in run.rows if row.task == "pr"]
    run.compare(hits(0.7), hits(0.9))
    assert run.say(few)[2].startswith("What is lost on pr cannot be told: test on more items")


def test_advice_on_several_tuned_tasks_is_about_all_of_them(run: Run) -> None:
    for task, tuned, merged in (("sid", 0.7, 0.7), ("pr", 0.9, 0.8), ("ic", 0.6, 0.6)):
        for encoder, share in ((PRE_TRAINED, 0.7), (TUNED, tuned), (MERGED, merged)):
            run.add(encoder, task, hits(share))
    first, _, advice = run.say(CONFIG, "sid", "pr")
    assert max(first.index("sid"), first.index("pr")) < first.index("ic")
    assert advice.startswith("A smaller alpha than the merge's should lose less on ic.")
    assert run.say(CONFIG, "sid", "ic")[2].startswith("Fine-tuning gains nothing on sid and ic")
    assert run.say(CONFIG, "sid", "pr", "ic")[2].startswith(
        "Nothing beside sid and pr and ic is judged"
    )
    run.rows = [row for row in run.rows if row.task != "ic"]
    run.compare(hits(0.7), hits(0.7), task="ic")
    assert "keeps more of the gain on pr." in run.say(CONFIG, "sid", "pr")[2], "sid gained nothing"


def test_a_method_without_alpha_gets_no_advice_about_it(run: Run) -> None:
    run.compare(hits(0.7), hits(0.8))
    run.compare(hits(0.7), hits(0.6), task="pr")
    run.rows = [row.model_copy(update={"alpha": None}) for row in run.rows]
    assert len(run.say()) == 2
