"""What the host asks of a layout: how another library saves its adapters, and what is in one.

An entry point of ``ftplug.layouts`` leads to a module, or an object, with the two functions of
:class:`Layout`. The built-in ones are peft's own, that of ``adapters`` and that of MLX.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from ftplug.entry_points import advertised
from ftplug.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor, nn

GROUP = "ftplug.layouts"


class Layout(Protocol):
    """How a library saves adapters."""

    def recognises(self, directory: Path, config: Mapping[str, Any]) -> bool:
        """Whether a folder with this ``adapter_config.json`` is of the library."""

    def read(
        self, directory: Path, config: Mapping[str, Any], workspace: Path, *, allow_pickle: bool
    ) -> Foreign:
        """Read a folder that the host copied: its own files, and none of them a link.

        ``workspace`` is an empty folder to write to. What ftplug cannot express is an
        :class:`ArtifactError` that names it.
        """


class Foreign(Protocol):
    """An adapter that was trained elsewhere.

    ``title`` says what it is, in words; ``named_base`` and ``named_revision`` what it was trained
    on, as it says itself; ``task`` a pipeline tag and ``model_class`` a class of transformers,
    where it says so. ``shapes`` are those of tensors by their names in the base, as far as they
    replace the base's own: its head, its embeddings. ``plain`` is a folder that peft reads, to
    compare with; ``also`` and ``unheard`` are how its inputs differ there. ``remarks`` is what the
    user should know.
    """

    @property
    def title(self) -> str:
        """What it is."""

    @property
    def named_base(self) -> str | None:
        """The base that it names."""

    @property
    def named_revision(self) -> str | None:
        """The revision of that base."""

    @property
    def task(self) -> str | None:
        """The pipeline tag."""

    @property
    def model_class(self) -> str | None:
        """The class of its model."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of what it replaces."""

    @property
    def plain(self) -> Path | None:
        """What peft reads."""

    @property
    def also(self) -> Mapping[str, list[int]]:
        """What peft must be told with every input of one row, and ftplug's method need not."""

    @property
    def unheard(self) -> Collection[str]:
        """The inputs that peft passes on to no such model: both are asked without them."""

    @property
    def remarks(self) -> Sequence[str]:
        """What is worth a line."""

    def changed(self, model: nn.Module, loaded: nn.Module | None) -> Iterable[str]:
        """Return the parameters of the base whose values it replaces.

        ``loaded`` is what peft makes of ``plain`` on another copy of the base.
        """

    def methods(
        self, model: nn.Module, loaded: nn.Module | None, replaced: Sequence[str]
    ) -> list[tuple[str, Mapping[str, Any]]]:
        """Return the methods that are this adapter, by name with their settings.

        ``replaced`` are those of the parameters it replaces that are no part of a task head.
        """

    def value(self, name: str, wanted: Tensor, loaded: nn.Module | None) -> Tensor | None:
        """Return what a prepared model's tensor ``name`` holds; None where it stays as it is."""

    def left(self, loaded: nn.Module | None, own: Collection[int]) -> list[str]:
        """Return what of ``loaded``, or of its own tensors, was asked for by no :meth:`value`.

        ``own`` are the ids of the base's parameters in ``loaded``.
        """


def layout_of(directory: Path, config: Mapping[str, Any]) -> Layout:
    """Return the layout that a folder has; none is an :class:`ArtifactError` that lists them.

    Those of other packages are asked, and imported, only where none of ours reads the folder.
    """
    offered = sorted(advertised(GROUP), key=lambda point: point.distribution != "ftplug")
    for point in offered:
        layout = cast("Layout", point.imported())
        if layout.recognises(directory, config):
            return layout
    known = ", ".join(point.name for point in offered)
    raise ArtifactError(
        f"{directory}: its adapter_config.json is in none of the layouts that are known ({known})"
    )
