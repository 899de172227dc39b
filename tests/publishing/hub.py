"""A hub in memory that stands for `huggingface_hub.HfApi`: repositories, commits, refusals."""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.hf_api import BlobLfsInfo, RepoSibling


@dataclass
class Repository:
    private: bool
    files: dict[str, bytes] = field(default_factory=lambda: {".gitattributes": b"*"})
    commits: int = 0

    @property
    def head(self) -> str:
        return f"{self.commits:040x}"


def _sibling(name: str, data: bytes) -> RepoSibling:
    """Return what the hub tells of a file; weights are large files of git."""
    large = None
    if name.endswith(".safetensors"):
        digest = hashlib.sha256(data).hexdigest()
        large = BlobLfsInfo(size=len(data), sha256=digest, pointer_size=134)
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    return RepoSibling(rfilename=name, size=len(data), blob_id=blob, lfs=large)


def as_called(method: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse a call that the method of that name of the true `HfApi` would not take."""

    @functools.wraps(method)
    def called(self: Hub, *args: Any, **named: Any) -> Any:
        inspect.signature(getattr(HfApi, method.__name__)).bind(self, *args, **named)
        return method(self, *args, **named)

    return called


class Hub:
    """What `HfApi(token=...)` is replaced by; large files (weights) have LFS digests."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.asked: list[str] = []
        self.fail: Exception | None = None

    def __call__(self, token: str) -> Hub:
        assert token == "hf_stub"
        return self

    @as_called
    def repo_exists(self, repo_id: str) -> bool:
        self.asked.append("exists")
        return repo_id in self.repositories

    @as_called
    def model_info(self, repo_id: str, files_metadata: bool) -> Any:
        assert files_metadata
        found = self.repositories[repo_id]
        siblings = [_sibling(name, data) for name, data in found.files.items()]
        return SimpleNamespace(private=found.private, sha=found.head, siblings=siblings)

    @as_called
    def create_repo(self, repo_id: str, private: bool, exist_ok: bool) -> None:
        assert exist_ok
        self.asked.append("create")
        self.repositories.setdefault(repo_id, Repository(private))

    @as_called
    def create_commit(
        self, repo_id: str, operations: list[Any], commit_message: str, parent_commit: str | None
    ) -> None:
        self.asked.append("commit")
        repository = self.repositories[repo_id]
        assert parent_commit in (None, repository.head)
        if self.fail is not None:
            raise self.fail
        for operation in operations:
            if isinstance(operation, CommitOperationDelete):
                del repository.files[operation.path_in_repo]
            else:
                assert isinstance(operation, CommitOperationAdd)
                with operation.as_file() as file:
                    repository.files[operation.path_in_repo] = file.read()
        repository.commits += 1
