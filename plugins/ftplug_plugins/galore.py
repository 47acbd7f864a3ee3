"""GaLore: keep Adam's moments in the gradient's leading subspace (https://arxiv.org/abs/2403.03507)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from annotated_types import Ge, Gt

from ftplug import LearningRate
from ftplug_plugins.shared.low_rank_method import LowRankMethod

if TYPE_CHECKING:
    from ftplug_plugins.shared.low_rank_adamw import LowRankAdamW


@dataclass(frozen=True, eq=False)
class Galore(LowRankMethod):
    """Train every weight with Adam moments of ``rank`` rows or columns instead of full ones.

    A weight (m, n) with m >= n has moments (m, rank) and a projection (rank, n), renewed by an SVD
    of its gradient every ``update_proj_gap`` steps. Linear weights inside of the layers are
    projected, the rest has plain AdamW. Alone it fine-tunes the whole model; beside another method,
    what that one trains, with a rank below its own. Settings are named as in transformers.
    """

    rank: Annotated[int, Ge(1), "Rows or columns of the moments."] = 128
    update_proj_gap: Annotated[int, Ge(1), "Optimizer steps until the subspace is renewed."] = 200
    scale: Annotated[float, Gt(0), "Factor on the projected updates (the paper's alpha)."] = 0.25

    name: ClassVar[str] = "galore"
    paper: ClassVar[str] = "https://arxiv.org/abs/2403.03507"
    citation: ClassVar[str] = """
        @inproceedings{zhao2024galore,
          title     = {{GaLore}: Memory-Efficient {LLM} Training by Gradient Low-Rank Projection},
          author    = {Zhao, Jiawei and Zhang, Zhenyu and Chen, Beidi and Wang, Zhangyang
                       and Anandkumar, Anima and Tian, Yuandong},
          booktitle = {International Conference on Machine Learning},
          year      = {2024}
        }
    """
    learning_rate: ClassVar[LearningRate] = LearningRate(1e-6, 2e-4, 1e-2)

    def sharding_refusal(self) -> str:
        """Say why it cannot train on shards."""
        return "it decomposes whole gradients"

    def optimizer_class(self) -> type[LowRankAdamW]:
        """Return GaLore's AdamW."""
        from ftplug_plugins.shared.low_rank_adamw import GaLoreAdamW

        return GaLoreAdamW
