"""Base of the methods with virtual tokens, trained vectors before every input.

The vectors are a child module (peft's own encoder) of the stack of layers that reads them, and the
wrapped forward of that stack finds them there. So a deepcopy has its own, and whatever calls the
stack (the task head, ``generate``, a trainer's fused loss) has them read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, MinLen

from ftplug import Method, MethodError, hookimpl, structure
from ftplug_plugins.peft_bridge import files as peft_files
from ftplug_plugins.peft_bridge import versions
from ftplug_plugins.virtual.placement import Placement, note, placement_of
from ftplug_plugins.virtual.positions import is_encoder_decoder, learned_positions

if TYPE_CHECKING:
    import peft
    import torch
    from torch import nn

    from ftplug.context import RunView

ENCODERS = ("prompt_encoder", "prefix_encoder")


@dataclass(frozen=True, eq=False)
class Prompted(Method):
    """Base of the methods with virtual tokens: where their encoder is, and its files.

    A subclass places the encoder in ``prepare_model`` with :meth:`place` and wraps the forward.
    """

    encoder_name: ClassVar[str] = ""
    relies_on_internals: ClassVar[bool] = True

    @hookimpl
    def select_trainable(self, model: nn.Module) -> Iterable[str]:
        """Select the encoder of the virtual tokens."""
        return [n for n, _ in model.named_parameters() if f".{self.encoder_name}." in f".{n}"]

    @hookimpl
    def save_artifact(
        self,
        model: nn.Module,
        directory: Path,
        tensors: Mapping[str, torch.Tensor],
        run: RunView,
    ) -> Iterable[str]:
        """Write peft's own two files where peft computes the same from them; else nothing."""
        if not self.equals_peft(model, run):
            return ()
        config = placement_of(self.stack(model)).config
        return peft_files.save_prompt(
            model, directory, tensors, self.peft_keys(model), config, run=run
        )

    @hookimpl
    def load_artifact(self, model: nn.Module, directory: Path) -> Mapping[str, torch.Tensor]:
        """Read them back under in-memory names."""
        return peft_files.load_prompt(directory, self.peft_keys(model))

    def equals_peft(self, model: nn.Module, run: RunView) -> bool:
        """Whether a PeftModel with the same tensors gives the same answers.

        Its class for the task decides: without one peft ignores the virtual tokens, and of the
        encoder-decoder models it serves only the language models.
        """
        seq2seq = run.task == "text2text-generation"
        return run.task in peft_files.TASK_TYPES and seq2seq == is_encoder_decoder(model)

    def peft_keys(self, model: nn.Module) -> dict[str, str]:
        """Return ``{in-memory name: key in peft's file}`` of the encoder's tensors."""
        embedding = self.encoder(model).embedding.weight
        name = next(n for n, p in model.named_parameters() if p is embedding)
        return {name: "prompt_embeddings"}

    def refuse_second(self, model: nn.Module) -> None:
        """Refuse a model that has virtual tokens already."""
        present = {name for m in model.modules() for name in ENCODERS if name in m._modules}
        if present:
            raise MethodError(
                f"{self.name}: the model already has virtual tokens ({present.pop()}): "
                "prefix-tuning and prompt-tuning do not combine"
            )

    def complete(self, config: peft.PromptLearningConfig, model: nn.Module, run: RunView) -> None:
        """Fill in what the config leaves open (heads, dimensions) as ``get_peft_model`` does."""
        config.task_type = peft_files.TASK_TYPES.get(run.task or "")
        try:
            base = structure.pretrained(model).config
            if config.num_attention_heads is None:  # under any of the names that configs have
                config.num_attention_heads = getattr(base, "num_attention_heads", None)
            versions.complete_prompt_config(config, base)
        except ValueError as error:
            raise MethodError(
                f"{self.name}: {type(model).__name__}: its config does not name what peft reads "
                f"there ({error}): use lora"
            ) from error

    def place(self, encoder: nn.Module, config: Any, stack: Any) -> None:
        """Make the encoder a child of the stack: float32, even beside a bf16 base, as in peft."""
        import torch

        note(stack, Placement(config, learned_positions(stack)))
        stack.add_module(self.encoder_name, encoder.to(stack.device, torch.float32))

    def stack(self, model: nn.Module) -> nn.Module:
        """Return the stack of layers that the encoder was placed in."""
        return next(m for m in model.modules() if self.encoder_name in m._modules)

    def encoder(self, model: nn.Module) -> Any:
        """Return the encoder that was placed in the model."""
        return self.stack(model)._modules[self.encoder_name]


@dataclass(frozen=True, eq=False)
class VirtualTokens(Prompted):
    """Virtual tokens whose vectors are trained as they are: their number and how they start."""

    num_virtual_tokens: Annotated[int, Ge(1), "How many virtual tokens."] = 20
    init: Annotated[
        str, MinLen(1), "random, vocab (tokens drawn from the vocabulary), or a text to start from."
    ] = "random"
    tokenizer: Annotated[
        str, "Name or path of the tokenizer that reads the text; empty: the base model's."
    ] = ""

    def settings(self) -> dict[str, Any]:
        """Return the settings; the path of a tokenizer on this machine is left out."""
        values = super().settings()
        if self.tokenizer and Path(self.tokenizer).exists():
            values["tokenizer"] = ""
        return values

    def initial_tokens(self, model: nn.Module, vocabulary: int, count: int) -> torch.Tensor:
        """Return the ``count`` token ids to start from, drawn or read from the text.

        A text is repeated or cut to fit, special tokens included, as peft does.
        """
        import torch

        if self.init == "vocab":
            return torch.randint(0, vocabulary, (count,), dtype=torch.long)
        ids = self._tokenized(model)
        if not ids or max(ids) >= vocabulary:
            raise MethodError(
                f"{self.name}: the tokenizer reads init={self.init!r} as {ids[:8]}, but the model "
                f"has tokens 0 to {vocabulary - 1}: set tokenizer= to the base model's"
            )
        return torch.tensor((ids * math.ceil(count / len(ids)))[:count], dtype=torch.long)

    def _tokenized(self, model: nn.Module) -> list[int]:
        from transformers import AutoTokenizer

        name = self.tokenizer or structure.pretrained(model).config._name_or_path
        cure = "set tokenizer= to its name or folder, or init= to random or vocab"
        if not name:
            raise MethodError(
                f"{self.name}: init={self.init!r} is text, and the model names no tokenizer: {cure}"
            )
        try:
            ids: list[int] = AutoTokenizer.from_pretrained(name)(self.init)["input_ids"]
        except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise MethodError(
                f"{self.name}: cannot load the tokenizer {name!r}: {reason} ({cure})"
            ) from error
        return ids
