"""Virtual tokens that are computed or shared: p-tuning, multitask prompt tuning, cartridges."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ftplug import MethodError, hookimpl
from ftplug.inplace import wrap_forward
from ftplug_plugins.peft_bridge import files as peft_files
from ftplug_plugins.peft_bridge.method import ConfigFields
from ftplug_plugins.peft_family.poly import each_its_task
from ftplug_plugins.prefix_tuning import InCache
from ftplug_plugins.prompt_tuning import BeforeInput
from ftplug_plugins.virtual.placement import placement_of
from ftplug_plugins.virtual.tokens import Prompted

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ftplug.context import RunView


@dataclass(frozen=True, eq=False)
class Computed(Prompted, ABC):
    """Virtual tokens whose vectors are computed: peft's file holds the result, ours the parts.

    So ``PeftModel.from_pretrained`` answers the same, and training can go on from the artifact.
    """

    @hookimpl
    def save_artifact(
        self,
        model: nn.Module,
        directory: Path,
        tensors: Mapping[str, torch.Tensor],
        run: RunView,
    ) -> Iterable[str]:
        """Write peft's two files where it computes the same; the host writes every part as well."""
        if self.equals_peft(model, run):
            encoder = {n: n for n in tensors if f".{self.encoder_name}." in f".{n}"}
            rest = {n: t for n, t in tensors.items() if n not in encoder}
            result = {"prompt_embeddings": self.vectors(model, tensors)}
            peft_files.save_prompt(
                model,
                directory,
                rest | result,
                {"prompt_embeddings": "prompt_embeddings"},
                placement_of(self.stack(model)).config,
                run=run,
            )
        return ()

    @hookimpl
    def load_artifact(self, model: nn.Module, directory: Path) -> Mapping[str, torch.Tensor]:
        """Leave it to the host, whose file has the parts."""
        return {}

    @abstractmethod
    def vectors(self, model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the computed vectors (virtual tokens, dimension) for these values of the parts."""

    def parts(self, model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """Return the tensors of the encoder by their name in it."""
        encoder = self.encoder(model)
        prefix = next(f"{n}." for n, m in model.named_modules() if m is encoder)
        return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


@dataclass(frozen=True, eq=False)
class PTuning(ConfigFields, Computed, BeforeInput):
    """The network is an MLP or an LSTM over an embedding; numbers equal peft's.

    As in prompt-tuning the output keeps the length of the input.
    """

    def build_encoder(self, config: Any, model: nn.Module, stack: Any, run: RunView) -> Any:
        """Return peft's prompt encoder."""
        import peft

        return peft.PromptEncoder(config)  # type: ignore[no-untyped-call]

    def vectors(self, model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Run the network over all virtual tokens, without dropout.

        Not the model's own: what an engine (DeepSpeed) hooks into that takes no other values.
        """
        import peft
        import torch

        parts = self.parts(model, tensors)
        with torch.device("meta"):
            encoder: Any = peft.PromptEncoder(placement_of(self.stack(model)).config)  # type: ignore[no-untyped-call]
        rows = torch.arange(encoder.total_virtual_tokens, device=parts["embedding.weight"].device)
        with torch.no_grad():
            computed = torch.func.functional_call(encoder.eval(), parts, (rows[None],))
        vectors: torch.Tensor = computed[0].contiguous()
        return vectors


@dataclass(frozen=True, eq=False)
class MultitaskPromptTuning(ConfigFields, BeforeInput):
    """With several tasks every batch needs ``task_ids`` (rows,): set remove_unused_columns=False.

    With one task, the default, no column is needed. In an encoder-decoder the vectors stand before
    the encoder's input alone, as in peft with ``num_transformer_submodules=1``: with two, its
    training reads more of them in the decoder, and its ``generate`` does not.
    """

    def submodules(self, model: nn.Module) -> int:
        """Return 1: the encoder."""
        return 1

    def build_encoder(self, config: Any, model: nn.Module, stack: Any, run: RunView) -> Any:
        """Return peft's embedding and let it know the task of every row."""
        from peft.tuners.multitask_prompt_tuning import MultitaskPromptEmbedding

        words = stack.get_input_embeddings()
        encoder: Any = MultitaskPromptEmbedding(config, words)
        wrap_forward(encoder, _for_tasks)
        if config.num_tasks > 1:
            wrap_forward(model, _note_tasks)
        return encoder

    @hookimpl
    def probe_inputs(
        self, inputs: Sequence[Mapping[str, torch.Tensor]]
    ) -> list[dict[str, torch.Tensor]] | None:
        """Give each input a task."""
        tasks = self.config_values()["num_tasks"]
        return each_its_task(len(inputs), tasks) if tasks > 1 else None

    def peft_keys(self, model: nn.Module) -> dict[str, str]:
        """Return ``{in-memory name: key in peft's file}`` of the encoder's three tensors."""
        keys = super().peft_keys(model)
        prefix = next(iter(keys)).removesuffix("embedding.weight")
        return keys | {f"{prefix}{part}": part for part in ("prefix_task_cols", "prefix_task_rows")}


def _for_tasks(encoder: Any, forward: Any, rows: Any) -> Any:
    """Compute (tasks' rows or 1, virtual tokens, dimension) for the rows' tasks."""
    tasks = encoder.__dict__.get("task_ids")
    if tasks is None:
        if encoder.num_tasks > 1:
            raise MethodError(
                f"multitask-prompt-tuning: num_tasks={encoder.num_tasks}: the batch lacks "
                "task_ids: add the column and set remove_unused_columns=False, or use num_tasks=1"
            )
        tasks = rows.new_zeros(1)
    return forward(rows.expand(len(tasks), -1), tasks)


def _note_tasks(model: Any, forward: Any, *args: Any, task_ids: Any = None, **kwargs: Any) -> Any:
    encoder = next(m for m in model.modules() if hasattr(m, "prefix_task_cols"))
    with _noted(encoder, task_ids):
        return forward(*args, **kwargs)


@contextmanager
def _noted(encoder: Any, task_ids: Any) -> Iterator[None]:
    encoder.__dict__["task_ids"] = task_ids
    try:
        yield
    finally:
        del encoder.__dict__["task_ids"]


@dataclass(frozen=True, eq=False)
class Cartridge(ConfigFields, Computed, InCache):
    """Numbers equal peft's; the start is random, which disturbs the model as in prefix-tuning.

    ``num_frozen_tokens`` of them keep their start, as a sink that attention can always look at.
    """

    num_frozen_tokens: ClassVar[int]

    def build_encoder(self, config: Any, model: nn.Module, stack: Any, run: RunView) -> Any:
        """Return peft's encoder, which holds the prefix in two parts."""
        from peft.tuners.cartridge import CartridgeEncoder

        if self.num_frozen_tokens >= config.num_virtual_tokens:
            raise MethodError(
                f"{self.name}: num_frozen_tokens={self.num_frozen_tokens} leaves none of "
                f"{config.num_virtual_tokens} virtual tokens to train"
            )
        encoder = CartridgeEncoder(config)  # type: ignore[no-untyped-call]
        wrap_forward(encoder, _whole)
        return encoder

    @hookimpl
    def select_trainable(self, model: nn.Module) -> Iterable[str]:
        """Select the part that is not frozen."""
        return [n for n, _ in model.named_parameters() if n.endswith(".trainable_embedding")]

    def vectors(self, model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Put the frozen part before the trained one."""
        import torch

        parts = self.parts(model, tensors)
        names = ("frozen_embedding", "trainable_embedding")
        return torch.cat([parts[name] for name in names if name in parts])


def _whole(encoder: Any, forward: Any, rows: Any) -> Any:
    """Return the prefix itself, where peft's encoder would repeat it for a batch."""
    return encoder.weight
