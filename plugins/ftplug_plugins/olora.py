"""OLoRA: LoRA that starts from an orthonormal basis of each weight (arXiv 2406.01775)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ftplug import MethodError
from ftplug_plugins.lora import Lora
from ftplug_plugins.lora_parts.from_base import StartsFromBase

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, eq=False)
class Olora(StartsFromBase, Lora):
    """Start LoRA's B as r orthonormal columns of each target's QR decomposition, and A as its rows.

    Of ``W = Q R``, (out_features, in_features), B0 is the first r columns of Q, (out_features, r),
    and A0 the first r rows of R, (r, in_features). peft then subtracts ``s B0 A0`` from the
    weights, ``s = lora_alpha / r``; here W stays and the start is subtracted from the update,
    ``W x + s (B A - B0 A0) x``. So step 0 and ``ftplug.disabled`` equal the base, and peft reads
    the artifact as plain LoRA of rank 2 r, as its own conversion.
    """

    name: ClassVar[str] = "olora"
    paper: ClassVar[str] = "https://arxiv.org/abs/2406.01775"
    citation: ClassVar[str] = """
        @misc{buyukakyuz2024olora,
          title         = {{OLoRA}: Orthonormal Low-Rank Adaptation of Large Language Models},
          author        = {B{\\"u}y{\\"u}kaky{\\"u}z, Kerim},
          year          = {2024},
          eprint        = {2406.01775},
          archivePrefix = {arXiv}
        }
    """
    MIGRATIONS = ()

    def start(self) -> str:
        """Return peft's name of it."""
        return "olora"

    def require_fit(self, name: str, layer: nn.Module) -> None:
        """Refuse a weight that peft would decompose transposed."""
        super().require_fit(name, layer)
        if (kind := type(layer).__name__) == "Conv1D":
            raise MethodError(f"olora: peft's olora does not fit the {kind} at {name}: use pissa")
