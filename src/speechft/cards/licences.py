"""Licences: identifiers of the hub, terms of corpora as identifiers, and what follows from both."""

from __future__ import annotations

import re
from collections.abc import Iterable

from speechft.errors import unknown_choice

LICENCES = frozenset(
    "afl-3.0 agpl-3.0 apache-2.0 artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0 "
    "bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc "
    "cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 "
    "cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 "
    "cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0 cdla-sharing-1.0 "
    "creativeml-openrail-m ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 fair-noncommercial-"
    "research-license gfdl gpl gpl-2.0 gpl-3.0 intel-research isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr "
    "lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 openmdw-1.0 openrail openrail++ osl-3.0 "
    "other pddl postgresql unlicense wtfpl zlib".split()
)
"""Identifiers that the hub knows (hf.co/docs/hub/repositories-licenses), without ``unknown``, which
says nothing, and without those of single families of language models."""

_FREE = ("cc0-1.0", "pddl", "unlicense")
_NO_RIGHTS = re.compile(r"\bno rights reserved\b", re.IGNORECASE)


def check_licence(name: str) -> str:
    """Return a licence as the hub spells it.

    Raises:
        ConfigError: The hub knows no such licence.
    """
    found = name.strip().lower()
    if found not in LICENCES:
        raise unknown_choice("licence", name, LICENCES)
    return found


def identifier(terms: str) -> str | None:
    """Return the hub's identifier of terms in words, such as ``CC BY 4.0``; None without one.

    Terms that say more than a licence and, behind a colon, what it means have none; nor has
    ``other``, which stands for a text.
    """
    plain = re.sub(r"\s+", "-", terms.partition(":")[0].strip().lower())
    return plain if plain in LICENCES and plain != "other" else None


def is_free(terms: str) -> bool:
    """Return whether terms ask for nothing: no rights reserved, CC0 and the like."""
    return identifier(terms) in _FREE or _NO_RIGHTS.search(terms) is not None


def derived(encoders: Iterable[str | None], corpora: Iterable[str | None]) -> str | None:
    """Return the licence of an encoder that was made of others on some speech.

    That is the one licence of all that ask for something; where they are several, or where the
    terms of a part are not known, somebody has to decide, and this is None.

    Args:
        encoders: Identifiers of the encoders that it was made of.
        corpora: Terms of the speech, in words or identifiers.
    """
    known = {None if licence is None else identifier(licence) for licence in encoders}
    for terms in corpora:
        if terms is None or not is_free(terms):
            known.add(None if terms is None else identifier(terms))
    return known.pop() if len(known) == 1 else None
