"""Names of tensors in files: which encoder they are of, and what they are called elsewhere.

Inside this package every tensor goes by its Hugging Face name without a model prefix, with weight
norm spelt as a parametrisation (``original0`` = g, ``original1`` = v), whatever file it came from.
The tables are those of the families, see `speechft.encoders.families`.
"""

from __future__ import annotations

from collections.abc import Iterable

from speechft.encoders.families import FAMILIES, Family, find_family, in_s3prl
from speechft.errors import CheckpointError


def is_pretraining_head(name: str) -> bool:
    """Tell whether a Hugging Face or s3prl name belongs to a pre-training head."""
    return any(family.is_pretraining_head(name) for family in FAMILIES.values())


def is_s3prl(names: Iterable[str]) -> bool:
    """Tell whether unprefixed names follow s3prl and fairseq."""
    markers = {family.s3prl_markers[0] for family in FAMILIES.values() if family.s3prl_markers}
    return any(name in markers for name in names)


def encoder_prefix(names: Iterable[str]) -> str | None:
    """Return what stands before every name of the encoder, such as ``"hubert."``; None if unknown.

    Raises:
        CheckpointError: The file holds several encoders.
    """
    held = set(names)
    found = next((p for f in FAMILIES.values() if (p := _prefixes(f, held))), set())
    if len(found) > 1:
        # SPIN and teacher-student checkpoints hold copies; the one being trained comes first.
        preferred = [p for p in ("", "encoder.model.", "model.", "student.") if p in found]
        if not preferred:
            raise CheckpointError(
                f"the file holds several encoders, under {', '.join(sorted(found))}",
                hint="save the one that is meant as its own file",
            )
        return preferred[0]
    return found.pop() if found else None


def _prefixes(family: Family, names: set[str]) -> set[str]:
    """Return what stands before a family's markers, in either spelling."""
    found = set()
    for markers in filter(None, (family.markers, family.s3prl_markers)):
        first, *others = markers
        ends = {n[: -len(first)] for n in names if n == first or n.endswith("." + first)}
        found |= {prefix for prefix in ends if all(prefix + other in names for other in others)}
    return found


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
