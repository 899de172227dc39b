"""What started this process, by its environment: which of how many it is, on all hosts and on this.

torchrun, ``accelerate launch`` on GPUs and scripts of one's own set ``RANK``, ``WORLD_SIZE`` and
``LOCAL_RANK``; under MPI, which is how ``accelerate launch`` starts several processes on
processors, each library has names of its own (as Accelerate reads them).
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

_RANK = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
_SIZE = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_LOCAL = (
    "LOCAL_RANK",
    "MPI_LOCALRANKID",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "MV2_COMM_WORLD_LOCAL_RANK",
)
_ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
"""Where torchrun has a process leave what went wrong: ``.../attempt/local rank/error.json``."""
_ACCELERATE = "ACCELERATE_MIXED_PRECISION"
"""What ``accelerate launch`` tells every process that it starts."""


def rank() -> int:
    """Return which process this is, the only one being 0."""
    return _first(_RANK, 0)


def size() -> int:
    """Return how many processes were started."""
    return max(_first(_SIZE, 1), 1)


def local_rank() -> int | None:
    """Return which process of this host this is; nothing where nobody counted them."""
    found = _first(_LOCAL, -1)
    return None if found < 0 else found


def adopt() -> None:
    """Set the names that torch and Accelerate read, where several were started under others."""
    if size() > 1:
        os.environ.setdefault("RANK", str(rank()))
        os.environ.setdefault("WORLD_SIZE", str(size()))
        os.environ.setdefault("LOCAL_RANK", str(local_rank() or 0))


def alone_of_several() -> bool:
    """Return whether several processes were asked for and this is the only one.

    ``accelerate launch --cpu --num_processes 2`` starts one, without a word, and tells it where
    the first of them would be found.
    """
    known = any(name in os.environ for name in (*_RANK, *_SIZE))
    return not known and _ACCELERATE in os.environ and "MASTER_ADDR" in os.environ


def is_first_to_say(text: str) -> bool:
    """Return whether no other process of this host, of the same start, has said this already.

    Processes meet in the folder that torchrun and ``accelerate launch`` make for the errors of
    those that they start; where there is none, as under MPI, each speaks for itself.
    """
    place = os.environ.get(_ERROR_FILE, "")
    if not place or size() == 1:
        return True
    name = f"said-{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:16]}"
    try:
        os.close(os.open(Path(place).parents[1] / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return False
    except (OSError, IndexError):
        pass
    return True


def _first(names: tuple[str, ...], default: int) -> int:
    for name in names:
        text = os.environ.get(name, "")
        if text.isascii() and text.isdecimal():
            return int(text)
    return default
