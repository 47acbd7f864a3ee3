"""LoRA: train a low-rank update beside chosen linear layers (https://arxiv.org/abs/2106.09685)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Lt

from ftplug import LearningRate, MethodError, hookimpl
from ftplug.context import RunView
from ftplug.method import Migration
from ftplug_plugins.lora_parts import migration, settings
from ftplug_plugins.peft_bridge import files as peft_files
from ftplug_plugins.peft_bridge import versions
from ftplug_plugins.peft_bridge.method import PeftMethod
from ftplug_plugins.trunk_cache.moved import cache_moved

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True, eq=False)
class Lora(PeftMethod):
    """Replace each target ``W x`` by ``W x + (lora_alpha / r) B A x`` and train A and B alone.

    A is (r, in_features). B is (out_features, r) and starts at zero: step 0 equals the base model.
    ``use_rslora``, ``use_dora`` (DoRA) and ``use_bdlora`` vary it. Plain LoRA beside a plain linear
    layer trains as one autograd function, equal to peft's forward but for rounding;
    ``fused=False``, any variant, and every call without gradients run peft's.
    """

    r: Annotated[int, Ge(1), "Rank of the update."] = 8
    lora_alpha: Annotated[int, Ge(1), "Scale: the update is multiplied by lora_alpha / r."] = 16
    target_modules: settings.TargetModules = ()
    exclude_modules: Annotated[tuple[str, ...], "Ends of module names to leave out."] = ()
    lora_dropout: Annotated[float, Ge(0), Lt(1), "Dropout before A."] = 0.0
    bias: Annotated[Literal["none", "all", "lora_only"], "Which biases train as well."] = "none"
    use_rslora: Annotated[bool, "Scale by lora_alpha / sqrt(r) instead."] = False
    use_dora: Annotated[bool, "Train direction and magnitude of W apart (DoRA)."] = False
    init_lora_weights: settings.Start = True
    rank_pattern: settings.RankPattern = field(default_factory=dict)
    alpha_pattern: settings.AlphaPattern = field(default_factory=dict)
    layers_to_transform: settings.LayersToTransform = None
    layers_pattern: settings.LayersPattern = None
    target_parameters: settings.TargetParameters = ()
    lora_bias: Annotated[bool, "Train a bias in B."] = False
    use_bdlora: settings.BlockDiagonal = None
    ensure_weight_tying: Annotated[bool, "Tie the adapters of tied embeddings."] = False
    fused: settings.Fused = True

    name: ClassVar[str] = "lora"
    peft_type: ClassVar[str] = "LORA"
    not_in_peft: ClassVar[tuple[str, ...]] = ("fused",)
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
    MIGRATIONS: ClassVar[tuple[Migration, ...]] = (cache_moved("lora"), migration.variants)

    def __post_init__(self) -> None:
        super().__post_init__()
        start = settings.checked_start(self.name, self.init_lora_weights)
        object.__setattr__(self, "init_lora_weights", start)
        if self.target_modules == (settings.NO_MODULES,) and not self.target_parameters:
            raise MethodError(
                f"{self.name}: target_modules={settings.NO_MODULES} leaves nothing to adapt: it "
                "goes with target_parameters"
            )

    @classmethod
    def as_meant(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings; an empty list of modules beside ``target_parameters`` is none."""
        return settings.meant(given)

    def config_values(self) -> dict[str, Any]:
        """Return the settings as arguments of peft's config."""
        ours = self.not_in_peft
        values = {name: v for name, v in super().config_values().items() if name not in ours}
        for name in ("target_modules", "exclude_modules", "target_parameters"):
            values[name] = values[name] or None
        if self.target_modules == ("all-linear",):
            values["target_modules"] = "all-linear"
        if self.target_modules == (settings.NO_MODULES,):
            values["target_modules"] = []
        if self.use_bdlora is not None:
            values["use_bdlora"] = versions.block_diagonal(self.use_bdlora)
        return values

    def inject(self, config: Any, model: nn.Module) -> None:
        """Build peft's layers, and let those on plain linear ones train as one function."""
        super().inject(config, model)
        if self.fused:
            from ftplug_plugins.lora_parts.fused import fuse

            fuse(model)

    @hookimpl
    def save_artifact(
        self, model: nn.Module, directory: Path, tensors: Mapping[str, torch.Tensor], run: RunView
    ) -> Iterable[str]:
        """Write peft's own two files; head and fresh modules go in as ``modules_to_save``."""
        return peft_files.save(model, directory, tensors, run=run)

    @hookimpl
    def load_artifact(
        self, model: nn.Module, directory: Path, run: RunView
    ) -> Mapping[str, torch.Tensor]:
        """Read them back under in-memory names."""
        return peft_files.load(model, directory, run=run)
