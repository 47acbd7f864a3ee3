"""PiSSA: LoRA that starts from each weight's largest singular values (arXiv 2404.02948)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge

from ftplug_plugins.lora import Lora
from ftplug_plugins.lora_parts.from_base import StartsFromBase


@dataclass(frozen=True, eq=False)
class Pissa(StartsFromBase, Lora):
    """Start LoRA's A and B as the r largest singular values of each target, and train those.

    Of ``W = U S Vᵀ``, (out_features, in_features), A0 is ``(S_r / s)^½ V_rᵀ``, (r, in_features),
    and B0 is ``U_r (S_r / s)^½``, (out_features, r), with the scale ``s = lora_alpha / r``. peft
    then subtracts ``s B0 A0`` from the weights; here W stays and the start is subtracted from the
    update, ``W x + s (B A - B0 A0) x``. So step 0 and ``ftplug.disabled`` equal the base, and peft
    reads the artifact as plain LoRA of rank 2 r, as its own conversion.
    """

    niter: Annotated[
        int | None, Ge(0), "Subspace iterations of a fast, randomized SVD; none: the exact SVD."
    ] = None

    name: ClassVar[str] = "pissa"
    not_in_peft: ClassVar[tuple[str, ...]] = (*Lora.not_in_peft, "niter")
    paper: ClassVar[str] = "https://arxiv.org/abs/2404.02948"
    citation: ClassVar[str] = """
        @inproceedings{meng2024pissa,
          title     = {{PiSSA}: Principal Singular Values and Singular Vectors Adaptation of Large
                       Language Models},
          author    = {Meng, Fanxu and Wang, Zhaohui and Zhang, Muhan},
          booktitle = {Advances in Neural Information Processing Systems},
          year      = {2024}
        }
    """
    MIGRATIONS = ()

    def start(self) -> str:
        """Return ``pissa``, or ``pissa_niter_4``."""
        return "pissa" if self.niter is None else f"pissa_niter_{self.niter}"
