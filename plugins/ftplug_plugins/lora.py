"""LoRA: train a low-rank update beside chosen linear layers (https://arxiv.org/abs/2106.09685)."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Lt

from ftplug import LearningRate, Method, MethodError, hookimpl
from ftplug.structure import linear_layers, pretrained, task_head
from ftplug_plugins import peft_files

if TYPE_CHECKING:
    import peft
    import torch
    from torch import nn


@dataclass(frozen=True, eq=False)
class Lora(Method):
    """Replace each target ``W x`` by ``W x + (lora_alpha / r) B A x`` and train A and B alone.

    A is (r, in_features). B is (out_features, r) and starts at zero: step 0 equals the base model.
    """

    r: Annotated[int, Ge(1), "Rank of the update."] = 8
    lora_alpha: Annotated[int, Ge(1), "Scale: the update is multiplied by lora_alpha / r."] = 16
    target_modules: Annotated[
        tuple[str, ...],
        "Ends of module names, or all-linear; empty: what peft picks for the architecture.",
    ] = ()
    lora_dropout: Annotated[float, Ge(0), Lt(1), "Dropout before A."] = 0.0
    bias: Annotated[Literal["none", "all", "lora_only"], "Which biases train as well."] = "none"
    use_rslora: Annotated[bool, "Scale by lora_alpha / sqrt(r) instead."] = False
    use_dora: Annotated[bool, "Train direction and magnitude of W apart (DoRA)."] = False

    name: ClassVar[str] = "lora"
    paper: ClassVar[str] = "https://arxiv.org/abs/2106.09685"
    citation: ClassVar[str] = """
        @inproceedings{hu2022lora,
          title     = {{LoRA}: Low-Rank Adaptation of Large Language Models},
          author    = {Hu, Edward J. and Shen, Yelong and Wallis, Phillip and Allen-Zhu, Zeyuan
                       and Li, Yuanzhi and Wang, Shean and Wang, Lu and Chen, Weizhu},
          booktitle = {International Conference on Learning Representations},
          year      = {2022}
        }
    """
    learning_rate: ClassVar[LearningRate] = LearningRate(1e-4, 1e-3, 1e-2)

    def config(self) -> peft.LoraConfig:
        """Return the same settings as peft's own config."""
        import peft

        targets: Any = list(self.target_modules) or None
        return peft.LoraConfig(
            r=self.r,
            lora_alpha=self.lora_alpha,
            target_modules="all-linear" if targets == ["all-linear"] else targets,
            lora_dropout=self.lora_dropout,
            bias=self.bias,
            use_rslora=self.use_rslora,
            use_dora=self.use_dora,
        )

    @hookimpl
    def prepare_model(self, model: nn.Module) -> None:
        """Inject the adapters beside the target layers."""
        import peft
        from peft.tuners.tuners_utils import cast_adapter_dtype

        config = self.config()
        if config.target_modules is None:
            config.target_modules = default_targets(model)
        elif config.target_modules == "all-linear":
            config.exclude_modules = _no_targets(model) or None
        try:
            with warnings.catch_warnings():  # GPT-2's Conv1D holds W transposed: peft copes
                warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False")
                peft.inject_adapter_in_model(config, model)
        except ValueError as error:
            raise MethodError(
                f"lora: {' '.join(str(error).split())} (e.g. target_modules=all-linear)"
            ) from error
        cast_adapter_dtype(model, "default")  # float32 even beside a bf16 base, as get_peft_model

    @hookimpl
    def select_trainable(self, model: nn.Module) -> Iterable[str]:
        """Select A, B (DoRA's magnitudes) and the biases asked for."""
        names = [name for name, _ in model.named_parameters()]
        adapted = {name.partition(".lora_")[0] for name in names if ".lora_" in name}
        for name in names:
            of_target = name.removesuffix(".base_layer.bias") in adapted
            asked_for = self.bias == "all" or (self.bias == "lora_only" and of_target)
            if ".lora_" in name or (asked_for and name.endswith("bias")):
                yield name

    @hookimpl
    def save_artifact(
        self, model: nn.Module, directory: Path, tensors: Mapping[str, torch.Tensor]
    ) -> Iterable[str]:
        """Write peft's own two files; head and fresh modules go in as ``modules_to_save``."""
        return peft_files.save(model, directory, tensors)

    @hookimpl
    def load_artifact(self, model: nn.Module, directory: Path) -> Mapping[str, torch.Tensor]:
        """Read them back under in-memory names."""
        return peft_files.load(model, directory)

    @hookimpl
    def disable_model(self, model: nn.Module) -> AbstractContextManager[None]:
        """Switch the adapters off in every layer."""
        return peft_files.adapters_off(model)

    @hookimpl
    def merge_model(self, model: nn.Module) -> None:
        """Add the update into W: exact up to rounding, since both are linear."""
        peft_files.merge(model)


# How architectures name the attention's query and value projection; fused ones have one name.
_QUERY_VALUE = (
    {"query", "value"},
    {"q_proj", "v_proj"},
    {"q_lin", "v_lin"},
    {"q", "v"},
    {"query_key_value"},
    {"qkv_proj"},
    {"qkv"},
)


def _no_targets(model: nn.Module) -> list[str]:
    """Return what all-linear leaves out: the head, and what a method put inside a linear layer."""
    head = {name.rpartition(".")[0] for name in task_head(model)}
    inside = tuple(f"{name}." for name in linear_layers(model))
    return sorted(head) + [name for name, _ in model.named_modules() if name.startswith(inside)]


def default_targets(model: nn.Module) -> list[str] | None:
    """Return query and value where peft has no default for the architecture (ViT, DistilBERT).

    None leaves the choice to peft, which knows the architecture by the model's own config.
    """
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN

    inner = pretrained(model)
    if (known := KNOWN.get(inner.config.model_type)) is not None:
        return None if inner is model or isinstance(known, str) else list(known)
    ends = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    return next((sorted(names) for names in _QUERY_VALUE if names <= ends), None)
