"""The repository on the hub: what it holds, and one commit that makes it hold something else."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechft.cards.card import CARD_NAME
from speechft.errors import ConfigError, RunError
from speechft.naming import is_hub_id
from speechft.publishing.contents import File
from speechft.storage.disk import reading

_ITS_OWN = ".gitattributes"
_NAMED = 4


@dataclass(frozen=True)
class Upload:
    """What is uploaded."""

    repo_id: str
    private: bool
    files: Sequence[File]
    """Without the card."""
    card: str

    @property
    def size(self) -> int:
        """Return the bytes of all."""
        return sum(file.size for file in self.files) + len(self.card.encode())


def check_repo_id(repo_id: str) -> str:
    """Return the id of a repository.

    Raises:
        ConfigError: It is none that the hub takes.
    """
    if not is_hub_id(repo_id) or repo_id.endswith((".git", ".", "-")):
        raise ConfigError(
            f"--repo-id {repo_id!r} is not of the form user/name, in letters, digits, '-', '_', "
            "'.', each part of at most 96"
        )
    return repo_id


def upload(asked: Upload, *, overwrite: bool = False) -> tuple[str, bool]:
    """Put a model on the hub in one commit: all of it is there afterwards, or nothing changed.

    Files that an interrupted call has sent already are known to the hub by their SHA-256 and are
    not sent again.

    Args:
        asked: What, and where to.
        overwrite: Replace what a repository holds; what is not in ``asked`` goes from its head.

    Returns:
        The address of the repository, and whether anything had to be sent.

    Raises:
        RunError: There is no token, the repository holds something else or is public where a
            private one is asked for, a file changed meanwhile, or the hub refuses.
    """
    import huggingface_hub as hub

    from speechft.storage.hub_files import bars_like_ours

    token = hub.get_token()
    if token is None:
        raise RunError(
            "the hub wants to know who publishes: there is no access token",
            hint="hf auth login, or set HF_TOKEN to a token that may write (hf.co/settings/tokens);"
            " --dry-run needs none",
        )
    api = hub.HfApi(token=token)
    with _refusals(asked.repo_id):
        exists = api.repo_exists(asked.repo_id)
        found = api.model_info(asked.repo_id, files_metadata=True) if exists else None
    stale: list[str] = []
    if found is not None:
        if asked.private and not found.private:
            raise RunError(
                f"{asked.repo_id} exists and is public, and --private was asked for",
                hint="make it private in its settings first, or choose another --repo-id",
            )
        held = [s for s in found.siblings or () if s.rfilename != _ITS_OWN]
        if held and _is_equal(held, asked):
            return _address(hub, asked), False
        _refuse_other(held, asked.repo_id, overwrite)
        own = {CARD_NAME, *(file.name for file in asked.files)}
        stale = [sibling.rfilename for sibling in held if sibling.rfilename not in own]
    operations: list[Any] = list(_additions(hub, asked))
    operations += [hub.CommitOperationDelete(path_in_repo=name) for name in stale]
    with _refusals(asked.repo_id), bars_like_ours():
        if found is None:
            api.create_repo(asked.repo_id, private=asked.private, exist_ok=True)
        api.create_commit(
            asked.repo_id,
            operations,
            commit_message="Upload by speechft publish",
            parent_commit=None if found is None else found.sha,
        )
    return _address(hub, asked), True


def _address(hub: Any, asked: Upload) -> str:
    return f"{hub.constants.ENDPOINT}/{asked.repo_id}"


def _additions(hub: Any, asked: Upload) -> Iterator[Any]:
    """Yield what a commit adds; it reads the files, which must be those that were looked at.

    Raises:
        RunError: A file changed.
    """
    yield hub.CommitOperationAdd(CARD_NAME, asked.card.encode())
    for file in asked.files:
        if file.path.is_symlink() or not file.path.is_file():
            raise _changed(file.path)
        operation = hub.CommitOperationAdd(file.name, str(file.path))
        if operation.upload_info.sha256.hex() != file.sha256:
            raise _changed(file.path)
        yield operation


def _changed(path: Path) -> RunError:
    return RunError(
        f"{path} changed while it was being published; nothing was",
        hint="wait until nothing writes there, and run it again",
    )


def _is_equal(held: Sequence[Any], asked: Upload) -> bool:
    """Return whether a repository holds exactly what would be uploaded."""
    remote = {sibling.rfilename: sibling for sibling in held}
    local = {file.name: file for file in asked.files}
    if set(remote) != {CARD_NAME, *local}:
        return False
    card = asked.card.encode()
    if not _is_same(remote[CARD_NAME], hashlib.sha256(card).hexdigest(), lambda: _blob(card)):
        return False
    return all(_is_same(remote[n], f.sha256, _blob_of(f.path)) for n, f in local.items())


def _is_same(sibling: Any, sha256: str, blob: Any) -> bool:
    """Return whether a file of a repository, large or not, is one of ours."""
    large = getattr(sibling, "lfs", None)
    if large is not None:
        told = large.get("sha256") if isinstance(large, Mapping) else large.sha256
        return bool(told == sha256)
    return bool(sibling.blob_id == blob())


def _blob_of(path: Path) -> Any:
    def blob() -> str:
        with reading(path) as file:
            return _blob(file.read())

    return blob


def _blob(content: bytes) -> str:
    """Return git's name of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _refuse_other(held: Sequence[Any], repo_id: str, overwrite: bool) -> None:
    if held and not overwrite:
        names = sorted(sibling.rfilename for sibling in held)
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        raise RunError(
            f"{repo_id} exists and holds something else: {', '.join(names[:_NAMED])}{more}",
            hint="choose another --repo-id, or replace what it holds with --overwrite (its history "
            "keeps the old files)",
        )


@contextmanager
def _refusals(repo_id: str) -> Iterator[None]:
    """Turn what the hub or the network refuses into one message."""
    try:
        yield
    except RunError:
        raise
    except Exception as error:  # the client raises many kinds, most of them of the network
        told = " ".join(str(getattr(error, "server_message", None) or error).split())[:200]
        raise RunError(
            f"{repo_id} could not be published: {type(error).__name__}: {told}",
            hint="check the network, and that the token may write there; the same command goes on: "
            "what was sent is not sent again, and nothing is visible before all of it is there",
        ) from None
