"""LoRA of another library, written anew as peft saves it, and then read as any of peft's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftplug import ArtifactError
from ftplug_plugins.layouts.plain_peft import SAFE, PlainPeft

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class LoraFile:
    """Pairs of A (r, in_features) and B (out_features, r) by module, whole modules by name.

    ``scale`` is what the product is multiplied by; ``magnitudes`` are DoRA's, (out_features,).
    """

    pairs: dict[str, tuple[Tensor, Tensor]]
    rank: int
    scale: float
    dropout: float = 0.0
    magnitudes: dict[str, Tensor] = field(default_factory=dict)
    whole: dict[str, Tensor] = field(default_factory=dict)

    def written(
        self,
        workspace: Path,
        *,
        title: str,
        about: Mapping[str, Any],
        remarks: Sequence[str] = (),
    ) -> PlainPeft:
        """Write peft's two files; ``about`` is what its config says of base and task."""
        from safetensors.torch import save_file

        # peft multiplies by lora_alpha / r, of which lora_alpha is a whole number.
        alpha = round(self.scale * self.rank)
        exact = alpha >= 1 and alpha / self.rank == self.scale
        factor = 1.0 if exact else self.scale
        modules = {name.rpartition(".")[0] for name in self.whole}
        config = dict(about) | {
            "peft_type": "LORA",
            "r": self.rank,
            "lora_alpha": alpha if exact else self.rank,
            "lora_dropout": self.dropout,
            "target_modules": sorted(self.pairs),
            "use_dora": bool(self.magnitudes),
            "modules_to_save": sorted(modules) or None,
        }
        tensors = dict(self._tensors(factor))
        save_file(tensors, workspace / SAFE, metadata={"format": "pt"})
        text = json.dumps(config, indent=2)
        (workspace / "adapter_config.json").write_text(text, encoding="utf-8")
        shapes = {name: tuple(tensor.shape) for name, tensor in self.whole.items()}
        return PlainPeft(config, workspace, shapes, title, tuple(remarks))

    def _tensors(self, factor: float) -> list[tuple[str, Tensor]]:
        found: list[tuple[str, Tensor]] = []
        for name, (a, b) in self.pairs.items():
            if a.ndim != 2 or b.ndim != 2 or not a.shape[0] == b.shape[1] == self.rank:
                raise ArtifactError(
                    f"{name}: A and B are {tuple(a.shape)} and {tuple(b.shape)}: no LoRA of rank "
                    f"{self.rank} on a linear layer"
                )
            found.append((f"{name}.lora_A.weight", a.contiguous()))
            found.append((f"{name}.lora_B.weight", (b * factor).contiguous()))
        found += [(f"{n}.lora_magnitude_vector", m) for n, m in self.magnitudes.items()]
        found += [(name, tensor.contiguous()) for name, tensor in self.whole.items()]
        # A copy of each: those of a pickle may lie in one storage, which safetensors refuses.
        return [(f"base_model.model.{name}", tensor.clone()) for name, tensor in found]


def whole_number(value: Any, name: str) -> int:
    """Return a count that a config holds, or raise an ArtifactError that names it."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        raise ArtifactError(f"{name}={value!a:.60}: a whole number is expected")
    if not 1 <= value <= 2**14:
        raise ArtifactError(f"{name}={value!a:.60}: at least 1 and at most 16,384 is expected")
    return int(value)


def number(value: Any, name: str) -> float:
    """Return a number that a config holds, or raise an ArtifactError that names it."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e6:
        raise ArtifactError(f"{name}={value!a:.60}: a number is expected")
    return float(value)
