"""Cards: what is known goes in, nothing else does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard, ModelCardData

import speechft
from helpers import tiny_encoder
from speechft.cards.card import Card, Origin, encoder_origin, read_card, with_metadata
from speechft.cards.licences import LICENCES, derived, identifier, is_free
from speechft.commands import running, typed_command
from speechft.data.corpora import cards as corpus_cards
from speechft.data.corpora import hub_dataset
from speechft.data.corpora.synthetic import LICENCE
from speechft.data.manifest import Corpus
from speechft.encoders.families import FAMILIES
from speechft.encoders.load import digest_of
from speechft.finetuning.cards import pretrained_card, tuned_card
from speechft.finetuning.config import FinetuningConfig, PretrainingConfig
from speechft.finetuning.state import History
from speechft.naming import hub_id


@pytest.mark.parametrize(
    ("encoders", "speech", "expected"),
    [
        (["apache-2.0"], [], "apache-2.0"),
        (["apache-2.0"], ["Apache 2.0"], "apache-2.0"),
        (["apache-2.0", "apache-2.0"], [LICENCE], "apache-2.0"),
        (["apache-2.0"], ["CC0 1.0"], "apache-2.0"),
        ([], ["CC BY-NC-ND 3.0: not for commercial use"], "cc-by-nc-nd-3.0"),
        # several, or a part that nobody knows: somebody has to decide
        (["apache-2.0"], ["CC BY 4.0"], None),
        (["apache-2.0", None], [LICENCE], None),
        (["apache-2.0"], [None], None),
        (["apache-2.0"], ["yours"], None),
        (["other"], [], None),
        ([], [LICENCE], None),
        ([], [], None),
    ],
)
def test_a_licence_follows_only_where_all_parts_have_the_same(
    encoders: list[str | None], speech: list[str | None], expected: str | None
) -> None:
    assert derived(encoders, speech) == expected


def test_terms_of_corpora_are_read_as_they_are_meant() -> None:
    told = {name: identifier(card.licence) for name, card in corpus_cards().items()}
    assert told["librispeech"] == told["speech-commands"] == "cc-by-4.0"
    assert told["tedlium3"] == "cc-by-nc-nd-3.0"
    for name in ("libri2mix", "voxceleb1", "snips", "timit", "iemocap", "generic"):
        assert told[name] is None, "says more than one licence"
    assert {name for name, card in corpus_cards().items() if is_free(card.licence)} == {
        name for name in corpus_cards() if name.startswith("synthetic")
    }
    assert "unknown" not in LICENCES


def test_names_of_the_hub_are_told_from_places(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "encoder").mkdir(parents=True)
    known = {
        "facebook/hubert-base-ls960": "facebook/hubert-base-ls960",
        "facebook/hubert-base-ls960@main": "facebook/hubert-base-ls960",
        "/x/hub/models--some--encoder/snapshots/ab": "some/encoder",
        "runs/encoder": None,
        "tiny-hubert": None,
        "/home/alice/base": None,
        "a/b/c": None,
        "a--b/c": None,
        "https://host/x": None,
    }
    assert {place: hub_id(place) for place in known} == known


def test_an_encoder_that_is_not_on_the_hub_stands_for_what_it_was_made_of(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(
        "---\nlicense: mit\nbase_model: [some/encoder, ../../etc, 3]\n---\n"
    )
    origin = encoder_origin("base", tmp_path, "d" * 64, tmp_path)
    assert origin == Origin("base", tmp_path.name, "d" * 64, "mit", ("some/encoder",))
    (tmp_path / "README.md").write_text("---\n[\n---\n")
    assert encoder_origin("base", tmp_path, None, tmp_path).licence is None


def test_a_card_says_who_loads_it() -> None:
    for name, family in FAMILIES.items():
        text = Card(title="x", summary="y", auto_model=family.auto_model).text()
        ours = name in ("decoar2", "whisper")
        assert ("speechft.load_encoder" in text) == ours
        assert ("library_name: transformers" in text) != ours


def test_signs_in_names_do_not_leave_their_cell() -> None:
    odd = Origin("base", "a|b`c\nd", None, "x | y /home/alice/z")
    (line,) = [x for x in Card("t", "s", (odd,)).text().splitlines() if x.startswith("| base")]
    assert line == "| base | `a\\|b'c\\nd` | x \\| y z | `not known` |"


def test_pretraining_says_where_it_started_and_invents_no_licence(
    tones: Corpus, tmp_path: Path
) -> None:
    encoder, history = tiny_encoder(), History(losses=[1.0], seconds_of_audio=3600.0)
    fresh = PretrainingConfig(title="mine", corpus="tones", split="train")
    card = ModelCard(pretrained_card(fresh, tones, history, encoder))
    assert card.data.license is None
    assert card.data.datasets == ["tones"]
    assert "| started from | fresh weights |" in card.text
    encoder.save(tmp_path / "start")
    (tmp_path / "start" / "README.md").write_text(
        "---\nlicense: cc-by-nc-4.0\nbase_model: some/encoder\n---\n"
    )
    further = fresh.model_copy(update={"start_from": str(tmp_path / "start")})
    card = ModelCard(pretrained_card(further, tones, history, encoder))
    assert card.data.license is None, "the terms of the speech are not known"
    assert "| started from | `start` | cc-by-nc-4.0 |" in card.text
    assert (card.data.base_model, card.data.base_model_relation) == ("some/encoder", "finetune")


def test_a_tuned_encoder_has_a_card(tones: Corpus, tmp_path: Path) -> None:
    with running("speechft finetune demo --out sid"):
        speechft.finetune(
            "demo",
            out=tmp_path / "out",
            encoder="tiny-hubert",
            corpus=tones.folder,
            finetuning__task="sid",
            finetuning__steps=2,
        )
    metadata, body = read_card(tmp_path / "out" / "encoder")
    assert metadata["base_model_relation"] == "finetune"
    assert metadata["datasets"] == ["tones"]
    assert "base_model" not in metadata, "tiny-hubert is not on the hub"
    assert "license" not in metadata, "the corpus tells no licence"
    digest = digest_of("tiny-hubert")
    assert f"| started from | `tiny-hubert` | apache-2.0 | `{digest}` |" in body
    assert f"| speech | `tones` | none | `{tones.digest}` |" in body
    assert "speechft finetune demo --out sid" in body
    assert typed_command() is None


def test_tasks_on_corpora_of_their_own_name_all_of_them(tones: Corpus) -> None:
    from dataclasses import replace

    other = replace(tones, name="librispeech", digest="b" * 64, info={"licence": "CC BY 4.0"})
    config = FinetuningConfig(
        task="sid", tasks={"sid": 1.0, "asr": 1.0}, steps=2, learning_rate=1e-3
    )
    text = tuned_card(config, "tiny-hubert", {"sid": tones, "asr": other}, tiny_encoder(), 0.5)
    assert ModelCard(text).data.datasets == ["tones", "openslr/librispeech_asr"]
    own = replace(tones, info={"hub": {"dataset": "owner/name"}})
    assert hub_dataset(own) == "owner/name"


def test_a_converted_encoder_keeps_the_licence_and_says_what_it_was(tmp_path: Path) -> None:
    speechft.convert("tiny-hubert", tmp_path / "encoder")
    metadata, body = read_card(tmp_path / "encoder")
    assert metadata["license"] == "apache-2.0"
    assert "base_model_relation" not in metadata
    assert f"| source | `tiny-hubert` | apache-2.0 | `{digest_of('tiny-hubert')}` |" in body


def test_metadata_stand_as_the_client_of_the_hub_writes_them() -> None:
    bases = tuple(
        Origin("base", name, licence="apache-2.0", on_hub=(f"owner/{name}",)) for name in "ab"
    )
    for encoders in ((), bases[:1], bases):
        found = Card("t", "s", encoders, tags=("é", "yes", "1.0"), relation="merge").metadata()
        written = with_metadata(found, "body")
        assert written.split("\n---\n")[0].removeprefix("---\n") == ModelCardData(**found).to_yaml()
