"""The ten tasks in miniature on the embedded corpus: what is derived from text and phones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechft.data.labels import label_of, phones_of
from speechft.data.manifest import Corpus, Utterance, load_waveform, open_corpus, write_corpus
from speechft.evaluation import embedded
from speechft.evaluation.embedded import open_evaluation_corpus
from speechft.tasks import SUPERB, find_task
from speechft.tasks.diarization import turns_of_cut

WORDS = ("lamp", "music", "radio")
PLACES = ("kitchen", "garden", "office")


def base_corpus(folder: Path) -> Corpus:
    """Write commands whose phones are those of their words, a tenth of a second each."""
    splits: dict[str, list[Utterance]] = {}
    for split in ("train", "dev", "dev-unseen", "test", "test-unseen"):
        splits[split] = []
        for number in range(20):
            thing, place = WORDS[number % 3], PLACES[number // 3 % 3]
            symbols = ["SIL"]
            for word in (thing, place):
                symbols += [*embedded._PRONUNCIATIONS[word].split(), "AH"]
            phones = [(p, round(n / 10, 2), round((n + 1) / 10, 2)) for n, p in enumerate(symbols)]
            name = f"{split}-{number:02d}"
            wave = np.full(len(symbols) * 1600, 0.1 + 0.01 * number)
            soundfile.write(folder / f"{name}.wav", wave, 16_000)
            splits[split].append(
                Utterance(
                    id=name,
                    path=f"{name}.wav",
                    samples=len(wave),
                    text=f"Start the {thing}, in the {place}.",
                    speaker=f"{split}-speaker-{number % 10}",
                    phones=phones,
                    labels={"style": "ab"[number % 2], "intent": f"start/{thing}/{place}"},
                )
            )
    info = {"task_splits": {"*": ["train", "dev-unseen", "test-unseen"]}, "licence": "none"}
    write_corpus(folder, "synthetic", "1", splits, info)
    return open_corpus(folder)


@pytest.fixture(scope="module")
def derived(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    base = base_corpus(tmp_path_factory.mktemp("base"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPEECHFT_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(embedded, "find_corpus", lambda name, folder: base)
        first = open_evaluation_corpus("synthetic-superb", Path("unused"))
        assert open_evaluation_corpus("synthetic-superb", Path("unused")).digest == first.digest
        assert open_evaluation_corpus("other", Path("unused")) is base
    return first


def test_all_ten_tasks_are_supported(derived: Corpus) -> None:
    for name in SUPERB:
        find_task(name).require(derived, [])


def test_slots_are_the_parts_of_the_intent(derived: Corpus) -> None:
    cut = next(iter(derived.split("train")))
    assert label_of(cut, "text") == "START THE LAMP IN THE KITCHEN"
    assert label_of(cut, "slots") == "O O object O O location"


def test_keywords_are_cut_out_where_they_are_spoken(derived: Corpus) -> None:
    cuts = list(derived.split("ks-train"))
    assert len(cuts) == 40
    assert {label_of(cut, "keyword") for cut in cuts} == {*WORDS, *PLACES}
    assert all(0.4 < cut.duration <= 1.0 for cut in cuts)


def test_mixtures_hold_both_speakers_where_their_turns_say(derived: Corpus) -> None:
    for cut in list(derived.split("sd-test"))[:10]:
        turns = turns_of_cut(cut)
        assert len({name for name, _, _ in turns}) == 2
        wave = load_waveform(cut)
        for _, start, end in turns:
            assert 0 < start < end <= cut.duration
            assert np.abs(wave[int(start * 16_000) + 10 : int(end * 16_000) - 10]).min() > 0.05


def test_queries_are_paired_with_every_document(derived: Corpus) -> None:
    task = find_task("qbe")
    names = task.rounds(derived)[0]
    for split in names[1:]:
        queries = list(derived.split(split))
        truth = task.context(derived, split, queries)
        documents = {cut.id: cut for cut in derived.split(names[0])}
        for query, pairs in truth.items():
            assert pairs.keys() == documents.keys()
            word = query.rpartition("-")[2]
            for document, holds in pairs.items():
                said = str(label_of(documents[document], "text")).lower().split()
                assert holds == (word in said)


def test_folds_part_speakers(derived: Corpus) -> None:
    tested: list[str] = []
    for names in find_task("er").rounds(derived):
        speakers = [{c.supervisions[0].speaker for c in derived.split(name)} for name in names]
        assert not (speakers[0] & speakers[1])
        assert not (speakers[0] & speakers[2])
        tested += [cut.id for cut in derived.split(names[2])]
    assert len(tested) == len(set(tested)) == 60
    assert phones_of(next(iter(derived.split("test"))))
