"""Names of tensors in files: which encoder they are of, and what they are called elsewhere.

Inside this package every tensor goes by its Hugging Face name without a model prefix, with weight
norm spelt as a parametrisation (``original0`` = g, ``original1`` = v), whatever file it came from.
The tables are those of the families, see `speechft.encoders.families`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from speechft.encoders.families import FAMILIES, Family, find_family, in_s3prl
from speechft.errors import CheckpointError


def is_pretraining_head(name: str) -> bool:
    """Tell whether a Hugging Face or s3prl name belongs to a pre-training head."""
    return any(family.is_pretraining_head(name) for family in FAMILIES.values())


def is_s3prl(names: Iterable[str]) -> bool:
    """Tell whether unprefixed names follow s3prl and fairseq."""
    markers = {family.s3prl_markers[0] for family in FAMILIES.values() if family.s3prl_markers}
    return any(name in markers for name in names)


def encoder_prefixes(names: Iterable[str]) -> list[str]:
    """Return what stands before every name of each encoder, ``["hubert."]``; [] if unknown.

    A file of teacher and student holds several.
    """
    held = set(names)
    found: set[str] = set()
    for family in FAMILIES.values():
        found |= _prefixes(family, held)
    return sorted(found, key=lambda prefix: (prefix not in _TRAINED, prefix))


def encoder_prefix(names: Iterable[str]) -> str | None:
    """Return what stands before every name of the encoder that is meant; None if unknown.

    Raises:
        CheckpointError: As `choose_encoder`.
    """
    return choose_encoder(encoder_prefixes(names), "the file")[0]


def choose_encoder(prefixes: Sequence[str], source: str) -> tuple[str | None, list[str]]:
    """Return what stands before the encoder that is meant, and before the others.

    Args:
        prefixes: Of `encoder_prefixes`.
        source: Where they come from, for messages.

    Raises:
        CheckpointError: It cannot be told which is meant, or the only one is a teacher.
    """
    own = [p for p in prefixes if not _COPIES & set(p.split("."))]
    if prefixes and not own:
        raise CheckpointError(
            f"{source} holds no encoder but a teacher or a running average, under "
            f"{', '.join(prefixes)}",
            hint="if that is the one that is meant, save it as its own file",
        )
    known = [p for p in _TRAINED if p in own]
    if len(own) > 1 and not known:
        raise CheckpointError(
            f"{source} holds several encoders, under {', '.join(own)}",
            hint="save the one that is meant as its own file",
        )
    chosen = known[0] if known else own[0] if own else None
    return chosen, [p for p in prefixes if p != chosen]


_TRAINED = ("", "encoder.model.", "model.", "student.")
"""Names of the encoder that is being trained, in files that hold copies of it, SPIN's among them;
the first comes first."""

_COPIES = frozenset(
    "teacher teacher_model teacher_encoder ema _ema ema_model model_ema target target_encoder "
    "target_model momentum momentum_encoder shadow averaged_model reference frozen".split()
)
"""Parts of names of what is not trained itself: teachers, running averages, references."""


def is_head(name: str) -> bool:
    """Tell whether a name outside an encoder is one that heads of tasks have."""
    return bool(_HEAD.search(name))


_HEAD = re.compile(
    r"(^|[._])(lm_head|\w*head\w*|classif\w*|\w*projector\w*|projection|proj|proj_out|layer_weights"
    r"|weighted_sum|weights|tdnn|objective|featuri[sz]er|ctc\w*|decoder|downstream|probe\w*|criterion"
    r"|loss\w*|quanti[sz]er|codebook\w*|codevectors|label_emb\w*|logit\w*|aux|output\w*|linear"
    r"|pool\w*|predict\w*|dropout|mask_emb|masked_spec_embed|mask_generator|final_proj|project_\w+"
    r"|embed_out|lstm|rnn|metric\w*|fc\d*)([._]|$)",
    re.IGNORECASE,
)


def _prefixes(family: Family, names: set[str]) -> set[str]:
    """Return what stands before a family's markers, in either spelling."""
    found = set()
    for markers in filter(None, (family.markers, family.s3prl_markers)):
        first, *others = markers
        ends = {n[: -len(first)] for n in names if n == first or n.endswith("." + first)}
        found |= {prefix for prefix in ends if all(prefix + other in names for other in others)}
    return found


_TORCHAUDIO = (
    ("encoder.feature_projection.", "feature_projection."),
    ("encoder.transformer.", "encoder."),
)


def is_torchaudio(names: Iterable[str]) -> bool:
    """Tell whether unprefixed names follow torchaudio's pipelines."""
    return any(name.startswith("encoder.transformer.") for name in names)


def from_torchaudio(name: str) -> str:
    """Return the Hugging Face name of an unprefixed name of torchaudio."""
    for theirs, ours in _TORCHAUDIO:
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def to_hugging_face(name: str, family: str | None = None) -> str | None:
    """Return the Hugging Face name of an unprefixed s3prl name, or None when the tables lack it.

    Args:
        name: As s3prl and fairseq have it.
        family: Whose it is; None where HuBERT cannot be told from wav2vec 2.0, of the same names.
    """
    return _with_files(family).to_hugging_face(name)


def to_s3prl(names: Iterable[str], family: str | None = None) -> dict[str, str]:
    """Return the s3prl name of each unprefixed Hugging Face name.

    Args:
        names: Of one encoder.
        family: See `to_hugging_face`.

    Raises:
        CheckpointError: A name is not in the tables, or s3prl has no such encoder.
    """
    known = find_family(family)
    if known is not None and not known.in_s3prl:
        raise no_upstream(known.name)
    result: dict[str, str] = {}
    for name, new in _with_files(family).to_s3prl(names).items():
        if new is None:
            raise CheckpointError(f"tensor {name!r} has no place in an s3prl checkpoint")
        result[name] = new
    return result


def no_upstream(family: str) -> CheckpointError:
    """Build the error for a family that s3prl does not know."""
    return CheckpointError(
        f"s3prl has no upstream for the family {family!r}",
        hint=f"supported are: {', '.join(in_s3prl())}",
    )


def _with_files(name: str | None) -> Family:
    """Return the family that translates names; one of fairseq's stands for all others."""
    family = find_family(name)
    if family is not None and family.in_s3prl:
        return family
    return next(f for f in FAMILIES.values() if f.is_fairseq)
