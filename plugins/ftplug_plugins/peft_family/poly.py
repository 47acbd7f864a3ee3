"""Poly: several low-rank updates, mixed for each task (https://arxiv.org/abs/2202.13914)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftplug import MethodError, hookimpl
from ftplug.inplace import wrap_forward
from ftplug_plugins.peft_bridge import files as peft_files
from ftplug_plugins.peft_bridge.keys import ADAPTER
from ftplug_plugins.peft_bridge.method import PeftMethod

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True, eq=False)
class Poly(PeftMethod):
    """With several tasks every batch needs ``task_ids`` (rows,): set remove_unused_columns=False.

    With one task, the default, there is nothing to route and no column is needed.
    """

    def shareable(self) -> bool:
        """Whether other methods may stand beside it: no, every layer of peft is handed the task."""
        return False

    def inject(self, config: Any, model: nn.Module) -> None:
        """Build the layers and hand them the task of every row."""
        super().inject(config, model)
        for _, layer in peft_files.tuner_layers(model):
            wrap_forward(layer, _routed)
        if config.n_tasks > 1:
            wrap_forward(model, with_task_ids)

    @hookimpl
    def probe_inputs(
        self, inputs: Sequence[Mapping[str, torch.Tensor]]
    ) -> list[dict[str, torch.Tensor]] | None:
        """Give each input a task."""
        tasks = self.config_values()["n_tasks"]
        return each_its_task(len(inputs), tasks) if tasks > 1 else None


def each_its_task(count: int, tasks: int) -> list[dict[str, torch.Tensor]]:
    """Return ``task_ids`` for so many inputs of a probe, one task after the other."""
    import torch

    return [{"task_ids": torch.tensor([index % tasks])} for index in range(count)]


def _routed(layer: Any, forward: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    if kwargs.get("task_ids") is None:
        if layer.n_tasks[ADAPTER] > 1:
            raise MethodError(
                f"poly: n_tasks={layer.n_tasks[ADAPTER]}: the batch lacks task_ids: add the column "
                "and set remove_unused_columns=False, or use n_tasks=1"
            )
        kwargs["task_ids"] = x.new_zeros(x.shape[0]).long()
    return forward(x, *args, **kwargs)


def with_task_ids(model: Any, forward: Any, *args: Any, task_ids: Any = None, **kwargs: Any) -> Any:
    """Run a model whose layers read the task of every row."""
    handles = []
    if task_ids is not None:

        def add(_: Any, given: Any, named: dict[str, Any]) -> Any:
            return given, named | {"task_ids": task_ids}

        for _, layer in peft_files.tuner_layers(model):
            handles.append(layer.register_forward_pre_hook(add, with_kwargs=True))
    try:
        return forward(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
