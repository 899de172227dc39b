"""A hub in memory that stands for `huggingface_hub.HfApi`: repositories, commits, refusals."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete


@dataclass
class Repository:
    private: bool
    files: dict[str, bytes] = field(default_factory=lambda: {".gitattributes": b"*"})
    commits: int = 0

    @property
    def head(self) -> str:
        return f"{self.commits:040x}"


class Hub:
    """What `HfApi(token=...)` is replaced by; large files (weights) have LFS digests."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.asked: list[str] = []
        self.fail: Exception | None = None

    def __call__(self, token: str) -> Hub:
        assert token == "hf_stub"
        return self

    def repo_exists(self, repo_id: str) -> bool:
        self.asked.append("exists")
        return repo_id in self.repositories

    def model_info(self, repo_id: str, files_metadata: bool) -> Any:
        assert files_metadata
        found = self.repositories[repo_id]
        siblings = [
            SimpleNamespace(
                rfilename=name,
                blob_id=hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest(),
                lfs={"sha256": hashlib.sha256(data).hexdigest()}
                if name.endswith(".safetensors")
                else None,
            )
            for name, data in found.files.items()
        ]
        return SimpleNamespace(private=found.private, sha=found.head, siblings=siblings)

    def create_repo(self, repo_id: str, private: bool, exist_ok: bool) -> None:
        assert exist_ok
        self.asked.append("create")
        self.repositories.setdefault(repo_id, Repository(private))

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
