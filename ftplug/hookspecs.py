"""The hooks a method may implement, in the order a run meets them.

A method implements any subset, and an implementation may take any subset of a hook's parameters.
Every hook may take ``run`` (:class:`ftplug.context.RunView`): the seed, what may train, the base's
values, a state that is resumed.
A hook that its settings leave nothing to do is set to None in ``__post_init__``, and not called:
``object.__setattr__(self, "on_step", None)``.

Heavy libraries are imported inside the hooks: listing methods must load neither torch nor peft.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import TrainingArguments

    from ftplug.context import Context, RunView

__all__ = ["HOOK_API", "HookSpecs", "hookimpl"]

PROJECT = "ftplug"
HOOK_API = 1  # raised when a hook changes so that an older plugin would misbehave

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class HookSpecs:
    """Specifications of the hooks; a :class:`ftplug.Method` is where implementations live."""

    @hookspec
    def prepare_model(self, model: nn.Module, context: Context, run: RunView) -> None:
        """Change the model in place, once: add modules, wrap forwards.

        Called with the model on its device and before any optimizer exists. Never return a
        replacement: the Trainer, FSDP and the user's own variable keep the object they have.
        Random values are drawn under the run's seed; the user's generators are not touched.
        Raise :class:`ftplug.MethodError` when the method does not fit the architecture.
        """

    @hookspec
    def select_trainable(self, model: nn.Module, run: RunView) -> Iterable[str] | None:
        """Return the names of all parameters that may train at any time in this run.

        Called once, after every ``prepare_model``. The union over methods (and the head) goes
        into the optimizer, DDP and the saved files. The host alone sets ``requires_grad``. Where no
        method of a run implements it (an optimizer, a regulariser), every parameter trains.
        """

    @hookspec
    def finish_model(
        self, model: nn.Module, may_train: frozenset[str], context: Context, run: RunView
    ) -> None:
        """Act on the model as all methods leave it, once it is known what may train.

        Called once, after every ``select_trainable`` (of a transient method again where another
        Trainer takes the model over). Wrap forwards, or raise :class:`ftplug.MethodError` where
        what the other methods chose does not fit; add no parameters.
        """

    @hookspec
    def schedule_trainable(
        self, model: nn.Module, step: int, total_steps: int, run: RunView
    ) -> Iterable[str] | None:
        """Return the subset of this method's parameters that trains in optimizer step ``step``.

        Called at the start of each optimizer step (0-based). A pure function of its arguments and
        ``run.seed``, so that a resumed run draws what the uninterrupted one drew.
        """

    @hookspec
    def build_optimizer(
        self,
        model: nn.Module,
        args: TrainingArguments,
        named_parameters: Mapping[str, nn.Parameter],
        run: RunView,
    ) -> torch.optim.Optimizer | None:
        """Return an optimizer over exactly ``named_parameters``, or None for the Trainer's own.

        Called once per ``train()``. Two methods that both return one are an error.
        """

    @hookspec
    def on_gradients(self, model: nn.Module, step: int, run: RunView) -> None:
        """Read or change the gradients, after clipping and before the optimizer step."""

    @hookspec
    def on_step(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        step: int,
        total_steps: int,
        run: RunView,
    ) -> None:
        """Act after optimizer step ``step`` (1-based): move a rank schedule, drop state."""

    @hookspec
    def save_artifact(
        self,
        model: nn.Module,
        directory: Path,
        tensors: Mapping[str, torch.Tensor],
        run: RunView,
    ) -> Iterable[str] | None:
        """Write the export files of this method and return the names of the tensors they hold.

        Called on every save that is not a checkpoint, on the main process, with the gathered
        tensors under their in-memory names. The host writes what no method wrote to
        ``ftplug.safetensors``. No pickle, no local path.
        """

    @hookspec
    def load_artifact(
        self, model: nn.Module, directory: Path, run: RunView
    ) -> Mapping[str, torch.Tensor] | None:
        """Return the tensors that ``save_artifact`` wrote, under in-memory names.

        The exact inverse of ``save_artifact``. ``model`` is prepared already and may live on the
        meta device: read its names and shapes only. The host checks and copies the values.
        """

    @hookspec
    def disable_model(self, model: nn.Module, run: RunView) -> AbstractContextManager[None] | None:
        """Return a context within which the modules this method added do nothing.

        Needed only by methods that do not add them through :func:`ftplug.inplace.wrap_forward`.
        The host itself puts back the values of the base's own tensors.
        """

    @hookspec
    def probe_inputs(
        self, model: nn.Module, inputs: Sequence[Mapping[str, torch.Tensor]], run: RunView
    ) -> Sequence[Mapping[str, torch.Tensor]] | None:
        """Return what a probe's inputs need so that this method acts on them.

        ``inputs`` are the fixed inputs of an artifact's probe, each a batch of one by the names of
        the forward's arguments: whole numbers (ids, masks), on the CPU. Return a mapping for each,
        of the arguments to add or to put in place of those: token ids the method knows, a task's
        number. They must be int64 or bool, the same whenever it is asked, and hold nobody's data.
        """

    @hookspec
    def merge_model(self, model: nn.Module, run: RunView) -> None:
        """Fold what was trained into the base's own tensors and remove the added modules.

        Raise :class:`ftplug.MethodError` where the mathematics does not allow it.
        """
