"""LoRA: train a low-rank update beside chosen linear layers (https://arxiv.org/abs/2106.09685)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Lt

from ftplug import LearningRate, MethodError, hookimpl
from ftplug.context import Context, RunView
from ftplug.method import Migration
from ftplug_plugins.lora_parts import activated as lora_activated
from ftplug_plugins.lora_parts import from_base as lora_from_base
from ftplug_plugins.peft_bridge import files as peft_files
from ftplug_plugins.peft_bridge.method import PeftMethod
from ftplug_plugins.trunk_cache.moved import cache_moved

if TYPE_CHECKING:
    import torch
    from torch import nn

_STARTS = re.compile(r"gaussian|orthogonal|mica|olora|pissa(_niter_[0-9]+)?")
_CURES = {
    "eva": "it needs a pass over the training data before the model is changed: use pissa or olora",
    "corda": "it needs covariances of the training data first: use pissa or olora",
    "lora_ga": "it needs gradients of the training data first: use pissa or olora",
    "loftq": "it replaces the base's weights by quantized ones, and an artifact would fit no other "
    "base: load the base in 4 bits (BitsAndBytesConfig) and leave this at true",
}


@dataclass(frozen=True, eq=False)
class Lora(PeftMethod):
    """Replace each target ``W x`` by ``W x + (lora_alpha / r) B A x`` and train A and B alone.

    A is (r, in_features). B is (out_features, r) and starts at zero: step 0 equals the base model.

    Variants by settings: ``use_rslora``, ``use_dora`` (DoRA), ``init_lora_weights=pissa``,
    ``pissa_niter_4``, ``olora``, ``orthogonal`` or ``mica``, ``alora_invocation_tokens`` (aLoRA:
    only what follows these tokens is adapted), ``use_bdlora``. PiSSA and OLoRA take A and B from
    the base: peft then subtracts them from its weights, here W stays and the start is subtracted
    from the update, ``W x + (lora_alpha / r) (B A - B0 A0) x``. So step 0 and ``ftplug.disabled``
    equal the base, and peft reads the artifact as plain LoRA of rank 2 r, as its own conversion.

    Plain LoRA beside a plain linear layer trains as one autograd function, equal to peft's forward
    but for rounding; ``fused=False``, any variant, and every call without gradients run peft's.
    """

    r: Annotated[int, Ge(1), "Rank of the update."] = 8
    lora_alpha: Annotated[int, Ge(1), "Scale: the update is multiplied by lora_alpha / r."] = 16
    target_modules: Annotated[
        tuple[str, ...],
        "Ends of module names, or all-linear; empty: what peft picks for the architecture.",
    ] = ()
    exclude_modules: Annotated[tuple[str, ...], "Ends of module names to leave out."] = ()
    lora_dropout: Annotated[float, Ge(0), Lt(1), "Dropout before A."] = 0.0
    bias: Annotated[Literal["none", "all", "lora_only"], "Which biases train as well."] = "none"
    use_rslora: Annotated[bool, "Scale by lora_alpha / sqrt(r) instead."] = False
    use_dora: Annotated[bool, "Train direction and magnitude of W apart (DoRA)."] = False
    init_lora_weights: Annotated[
        bool | str,
        "True (B is zero), gaussian, orthogonal, mica, olora, pissa or pissa_niter_N.",
    ] = True
    rank_pattern: Annotated[dict[str, int], "Other ranks, by name or pattern."] = field(
        default_factory=dict
    )
    alpha_pattern: Annotated[dict[str, int], "Other lora_alpha, by name or pattern."] = field(
        default_factory=dict
    )
    layers_to_transform: Annotated[
        tuple[int, ...] | int | None, "Indices of the layers to adapt; none: all of them."
    ] = None
    layers_pattern: Annotated[
        tuple[str, ...] | str | None, "Name of the list of layers, where peft does not find it."
    ] = None
    target_parameters: Annotated[
        tuple[str, ...], "Ends of parameter names to adapt, where experts are no modules."
    ] = ()
    lora_bias: Annotated[bool, "Train a bias in B."] = False
    alora_invocation_tokens: Annotated[
        tuple[int, ...], "Token ids that switch the update on for what follows (aLoRA)."
    ] = ()
    use_bdlora: Annotated[
        dict[str, Any] | None, "Settings of peft's BdLoraConfig: block-diagonal A or B."
    ] = None
    ensure_weight_tying: Annotated[bool, "Tie the adapters of tied embeddings."] = False
    fused: Annotated[
        bool, "Train layer and update as one function, where they are plain; False: peft's forward."
    ] = True

    name: ClassVar[str] = "lora"
    peft_type: ClassVar[str] = "LORA"
    MIGRATIONS: ClassVar[tuple[Migration, ...]] = (cache_moved("lora"),)
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

    def __post_init__(self) -> None:
        super().__post_init__()
        start = self.init_lora_weights
        if isinstance(start, str) and start.lower() in ("true", "false"):
            object.__setattr__(self, "init_lora_weights", start.lower() == "true")
        elif isinstance(start, str) and not _STARTS.fullmatch(start):
            known = "true, gaussian, orthogonal, mica, olora, pissa or pissa_niter_N"
            cure = _CURES.get(start, f"it is {known}")
            raise MethodError(f"lora: init_lora_weights={start}: {cure}")
        if self.from_base and self.use_dora:
            raise MethodError(
                f"lora: init_lora_weights={start} and use_dora=True do not combine: DoRA's "
                "magnitudes would be those of a changed base: use one of them"
            )
        if self.from_base and self.target_parameters:
            raise MethodError(f"lora: init_lora_weights={start} has no target_parameters in peft")

    @property
    def from_base(self) -> bool:
        """Whether A and B start from the base's weights, which peft would change."""
        return str(self.init_lora_weights).startswith(("pissa", "olora"))

    def shareable(self) -> bool:
        """Not where a variant starts from the base's values, or wraps its layers."""
        return not (self.from_base or self.alora_invocation_tokens)

    def config(self, model: nn.Module, context: Context) -> Any:
        """Return the same settings as peft's own config."""
        import peft

        chosen = {name: value for name, value in self.config_values().items() if name != "fused"}
        for name in ("target_modules", "exclude_modules", "alora_invocation_tokens",
                     "target_parameters"):  # fmt: skip
            chosen[name] = chosen[name] or None
        if chosen["target_modules"] == ["all-linear"]:
            chosen["target_modules"] = "all-linear"
        if self.use_bdlora is not None:
            chosen["use_bdlora"] = peft.tuners.lora.config.BdLoraConfig(**self.use_bdlora)
        if self.from_base and context.loading:
            chosen["init_lora_weights"] = True  # values follow: no decomposition
        if self.alora_invocation_tokens:
            lora_activated.check(model)
            chosen["task_type"] = "CAUSAL_LM"
        return peft.LoraConfig(**chosen)

    def inject(self, config: Any, model: nn.Module) -> None:
        """Build peft's layers, and what the variants add to them."""
        if self.from_base:
            with lora_from_base.base_kept(config, model):
                super().inject(config, model)
        else:
            super().inject(config, model)
        if self.fused:
            from ftplug_plugins.lora_parts.fused import fuse

            fuse(model)
        if self.alora_invocation_tokens:
            lora_activated.activate(model)

    @hookimpl
    def save_artifact(
        self, model: nn.Module, directory: Path, tensors: Mapping[str, torch.Tensor], run: RunView
    ) -> Iterable[str]:
        """Write peft's own two files; head and fresh modules go in as ``modules_to_save``."""
        if self.from_base:
            return lora_from_base.save(model, directory, tensors, run=run)
        return peft_files.save(model, directory, tensors, run=run)

    @hookimpl
    def load_artifact(
        self, model: nn.Module, directory: Path, run: RunView
    ) -> Mapping[str, torch.Tensor]:
        """Read them back under in-memory names."""
        if self.from_base:
            return lora_from_base.load(model, directory, run=run)
        return peft_files.load(model, directory, run=run)
