"""A branch of a repository, and committing on top of it without losing what others push."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ftplug.artifacts.manifest import MANIFEST, read_manifest
from ftplug.artifacts.signatures import SIGNATURES
from ftplug.context import logger
from ftplug.errors import ArtifactError, RegistryError
from ftplug_registry.bom.document import BOM
from ftplug_registry.hub import Hub, refuse_beside, status_of
from ftplug_registry.inspection import Content

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, CommitOperationAdd, ModelInfo

_XET = threading.Lock()
PATIENCE = 120.0  # seconds of trying while others push to the same branch


@dataclass(frozen=True)
class Committed:
    """A commit on a branch; ``changed`` is False where its parent held all of it already."""

    info: CommitInfo
    files: Mapping[str, Content]
    removed: tuple[str, ...]
    changed: bool


@dataclass(frozen=True)
class Branch:
    """Where commits go."""

    hub: Hub
    repo_id: str
    name: str

    def open(self, *, private: bool | None, tag: str | None) -> ModelInfo:
        """Return the head; repository and branch are created where they are missing."""
        from huggingface_hub import errors

        api = self.hub.api
        try:
            repository = api.model_info(self.repo_id)
        except errors.RepositoryNotFoundError:
            api.create_repo(self.repo_id, private=private, exist_ok=True)
            repository = api.model_info(self.repo_id)
        if private and not repository.private:
            raise RegistryError(
                f"{self.repo_id} is public, and stays so: make it private in its settings, or push "
                "elsewhere"
            )
        if tag:
            self._check_tag(tag)
        if self.name == "main":
            return repository
        api.create_branch(self.repo_id, branch=self.name, exist_ok=True)
        return self.head()

    def head(self) -> ModelInfo:
        """Return the commit that the branch points to now, with its files."""
        return self.hub.api.model_info(self.repo_id, revision=self.name)

    def commit(
        self, head: ModelInfo, files_on: Callable[[ModelInfo], Mapping[str, Content]], title: str
    ) -> Committed:
        """Commit on top of the head; where it moved meanwhile, read it again and try again.

        ``files_on`` returns what goes on top of a head; it may refuse.
        """
        deadline, longest = time.monotonic() + PATIENCE, 0.05
        while True:
            files = files_on(head)
            removed = self._obsolete(head, files)
            try:
                info = self._send(head.sha, files, removed, title)
            except Exception as error:
                # 412: the branch moved; 409: it moves right now.
                if status_of(error) not in (409, 412) or time.monotonic() > deadline:
                    raise
            else:
                return Committed(info, files, removed, info.oid != head.sha)
            time.sleep(random.uniform(0.02, longest))  # apart from the others
            longest = min(2 * longest, 1.6)
            head = self.head()

    def tag(self, tag: str, sha: str) -> None:
        """Name a commit, which stands whatever becomes of the name; the message says so."""
        try:
            with self.hub.stated_errors("tag", self.repo_id):
                self.hub.api.create_tag(self.repo_id, tag=tag, revision=sha)
        except RegistryError as error:
            raise RegistryError(f"published at {sha}, but not tagged {tag}: {error}") from error

    def _check_tag(self, tag: str) -> None:
        refs = self.hub.api.list_repo_refs(self.repo_id)
        if tag in {ref.name for ref in refs.tags}:
            raise RegistryError(f"{self.repo_id} has a tag {tag} already: choose another version")
        refuse_beside(self.repo_id, tag, (ref.name for ref in refs.tags))
        if tag in {self.name, *(ref.name for ref in refs.branches)}:
            raise RegistryError(f"{self.repo_id}: {tag} is a branch, and cannot be a tag as well")

    def _send(
        self,
        parent: str | None,
        files: Mapping[str, Content],
        removed: tuple[str, ...],
        title: str,
    ) -> CommitInfo:
        """Send one commit; without Xet where the server does not offer it."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete
        from huggingface_hub.errors import OfflineModeIsEnabled

        def create() -> CommitInfo:
            operations = [CommitOperationAdd(name, content) for name, content in files.items()]
            _require_listed(operations, files)
            return self.hub.api.create_commit(
                self.repo_id,
                [*operations, *map(CommitOperationDelete, removed)],
                commit_message=title,
                revision=self.name,
                parent_commit=parent,
            )

        try:
            return create()
        except OfflineModeIsEnabled:
            raise
        except ConnectionError as error:
            # The client's Xet does not fall back by itself where a server has no Xet storage.
            logger.debug("no Xet at %s (%s): uploading by LFS", self.hub.api_endpoint, error)
            with _without_xet():
                return create()

    def _obsolete(self, head: ModelInfo, files: Mapping[str, Content]) -> tuple[str, ...]:
        """Return the files of the artifact at the head that the new one does not have."""
        there = {file.rfilename for file in head.siblings or ()} - {".gitattributes"}
        if MANIFEST not in there or not there - set(files):
            return ()
        path = self.hub.api.hf_hub_download(
            self.repo_id, MANIFEST, revision=head.sha, cache_dir=self.hub.cache_dir
        )
        try:
            listed = {*read_manifest(Path(path).parent, plugins=False).files, *SIGNATURES, BOM}
        except ArtifactError as error:
            logger.warning("%s: published there is no readable artifact: %s", self.repo_id, error)
            return ()
        return tuple(sorted(there & listed - set(files)))


def _require_listed(operations: Iterable[CommitOperationAdd], files: Mapping[str, Content]) -> None:
    """Refuse a file that is no longer what the manifest beside it lists.

    The client has hashed each; the server takes no large file that differs from its digest.
    """
    manifest = files.get(MANIFEST)
    listed = json.loads(manifest)["files"] if isinstance(manifest, bytes) else {}
    for operation in operations:
        name = operation.path_in_repo
        if name in listed and operation.upload_info.sha256.hex() != listed[name]["sha256"]:
            raise RegistryError(f"{name}: changed since it was verified: push again")


@contextmanager
def _without_xet() -> Iterator[None]:
    """Let the client upload by LFS within the block; one thread at a time, as it is a global."""
    from huggingface_hub import constants

    with _XET:
        before, constants.HF_HUB_DISABLE_XET = constants.HF_HUB_DISABLE_XET, True
        try:
            yield
        finally:
            constants.HF_HUB_DISABLE_XET = before
