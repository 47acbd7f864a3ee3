"""The files of an artifact, each read once: what fits the manifest is what is used.

A name that is opened a second time may lead to another file by then. Configs are kept from the one
reading, tensors are hashed while they are read. What a method's own library opens by its name is
seen to afterwards: it is still the file that was hashed.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from ftplug.artifacts.digests import FileEntry, checked_file, sized_file
from ftplug.artifacts.file_names import is_config
from ftplug.artifacts.json_values import LARGEST_CONFIG
from ftplug.errors import ArtifactError
from ftplug.files.hashed import Identity
from ftplug.files.tensor_file import TensorFile, read_tensor_file, verified


class Contents:
    """What a manifest lists, checked against it.

    With ``tensors_later`` the digests of safetensors files are left for :meth:`tensor_file` and
    :meth:`finish`, which have to follow. Every failure is an ArtifactError.
    """

    def __init__(
        self, directory: Path, files: Mapping[str, FileEntry], *, tensors_later: bool = False
    ) -> None:
        self.directory = directory
        self._files = files
        self._identities: dict[str, Identity] = {}
        self._configs: dict[str, bytes] = {}
        self._later = {n for n in files if tensors_later and n.endswith(".safetensors")}
        for name in files:
            opened = sized_file if name in self._later else checked_file
            with opened(directory, name, files[name]) as file:
                self._identities[name] = file.identity
                kept = sum(map(len, self._configs.values()))
                if is_config(name) and kept + file.size <= LARGEST_CONFIG:
                    self._configs[name] = file.read(file.size)

    @property
    def names(self) -> Collection[str]:
        """The names of the files."""
        return self._files.keys()

    def config(self, name: str) -> bytes:
        """Return the bytes of a config: a file that :func:`is_config` knows as one."""
        if name not in self._configs:
            raise ArtifactError(
                f"{self.directory / name}: {self._files[name]['size']:,} bytes are too many for a "
                "JSON object"
            )
        return self._configs[name]

    def tensor_file(self, name: str) -> TensorFile:
        """Read a safetensors file, which is hashed on the way."""
        with checked_file(self.directory, name, self._files[name]) as file:
            found = read_tensor_file(file)
        self._later.discard(name)
        return found

    @contextmanager
    def given_as(self, folder: Path) -> Iterator[None]:
        """Let :func:`ftplug.context.read_tensors` read these files by their names in a folder."""
        readers = {folder / name: partial(self.tensor_file, name) for name in self._files}
        token = verified.set(readers)
        try:
            yield
        finally:
            verified.reset(token)

    def finish(self) -> None:
        """Check what nobody has read by :meth:`tensor_file`, and that no file was exchanged."""
        for name in sorted(self._later):
            with checked_file(self.directory, name, self._files[name]) as file:
                self._require_same(name, file.identity)
        for name in self._files.keys() - self._later:
            try:
                status = os.stat(self.directory / name)
            except OSError as error:
                raise ArtifactError(f"{self.directory}: {name} went while it was read") from error
            self._require_same(name, Identity.of(status))

    def _require_same(self, name: str, identity: Identity) -> None:
        if identity != self._identities[name]:
            raise ArtifactError(f"{self.directory / name}: changed while it was read: try again")
