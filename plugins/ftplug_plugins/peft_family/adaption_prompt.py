"""LLaMA-Adapter: the top attentions also look at trained prompts (https://arxiv.org/abs/2303.16199)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ftplug import MethodError, hookimpl, structure
from ftplug_plugins.peft_bridge import files as peft_files
from ftplug_plugins.peft_bridge.beside import refuse_second
from ftplug_plugins.peft_bridge.injected import Injection, record
from ftplug_plugins.peft_bridge.keys import ADAPTER
from ftplug_plugins.peft_bridge.method import ConfigFields, translated
from ftplug_plugins.peft_bridge.names import Names

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ftplug.context import RunView


@dataclass(frozen=True, eq=False)
class AdaptionPrompt(ConfigFields):
    """The gate is zero at the start, so step 0 equals the base. For Llama, Mistral and GPT-2.

    ``adapter_layers`` counts from the top; none: every layer.
    """

    adapter_layers: ClassVar[int | None]
    relies_on_internals: ClassVar[bool] = True
    starts_at_base: ClassVar[bool] = True

    @hookimpl
    def prepare_model(self, model: nn.Module) -> None:
        """Let peft wrap the attentions of the top layers."""
        from peft.tuners.adaption_prompt import AdaptionPromptModel
        from peft.tuners.adaption_prompt.config import TRANSFORMERS_MODEL_CONFIG

        refuse_second(self.name, model)
        inner = structure.pretrained(model)
        if inner.config.model_type not in TRANSFORMERS_MODEL_CONFIG:
            raise MethodError(
                f"{self.name}: {type(model).__name__}: peft has it for "
                f"{', '.join(TRANSFORMERS_MODEL_CONFIG)} alone: use prefix-tuning or lora"
            )
        config = self.prompt_config()
        if config.target_modules is not None:
            names = Names(self.name, inner)
            if not any(name.endswith(f".{config.target_modules}") for name in names.modules):
                names.refuse("target_modules", config.target_modules, names.modules, "module")
        config.adapter_layers = self.adapter_layers or inner.config.num_hidden_layers
        with translated(self.name, model):
            AdaptionPromptModel(inner, {ADAPTER: config}, ADAPTER)
        model.peft_config = {ADAPTER: config}  # type: ignore[assignment]
        trainable = tuple(self.select_trainable(model))
        record(model, Injection(self.name, config, shareable=False, trainable=trainable))

    @hookimpl
    def select_trainable(self, model: nn.Module) -> Iterable[str]:
        """Select prompts and gates."""
        parts = (".adaption_prompt", ".adaption_gate")
        return [name for name, _ in model.named_parameters() if name.endswith(parts)]

    @hookimpl
    def save_artifact(
        self,
        model: nn.Module,
        directory: Path,
        tensors: Mapping[str, torch.Tensor],
        run: RunView,
    ) -> Iterable[str]:
        """Write peft's own two files."""
        return peft_files.save(model, directory, tensors, run=run)

    @hookimpl
    def load_artifact(
        self, model: nn.Module, directory: Path, run: RunView
    ) -> Mapping[str, torch.Tensor]:
        """Read them back under in-memory names."""
        return peft_files.load(model, directory, run=run)

    @hookimpl
    @contextmanager
    def disable_model(self, model: nn.Module) -> Iterator[None]:
        """Put the plain attentions back within the block."""
        adapted = [(n, m) for n, m in model.named_modules() if hasattr(m, "adaption_gate")]
        for name, module in adapted:
            model.set_submodule(name, module.model)
        try:
            yield
        finally:
            for name, module in adapted:
                model.set_submodule(name, module)
