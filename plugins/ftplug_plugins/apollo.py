"""APOLLO: plain gradients, scaled as Adam would in a random subspace.

Zhu et al. 2024, https://arxiv.org/abs/2412.05270.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Ge, Gt

from ftplug import LearningRate
from ftplug_plugins.shared.low_rank_method import LowRankMethod

if TYPE_CHECKING:
    from ftplug_plugins.shared.low_rank_adamw import LowRankAdamW


@dataclass(frozen=True, eq=False)
class Apollo(LowRankMethod):
    """Train every weight with SGD's memory and nearly AdamW's steps.

    Adam's moments are kept for a random projection of the gradient, (m, rank) for a weight (m, n)
    with m >= n. How much longer Adam's step is than the projected gradient scales each channel of
    the gradient itself. APOLLO-Mini is ``rank=1, scale_type="tensor", scale=128``. Linear weights
    inside of the layers are projected, the rest has plain AdamW. Alone it fine-tunes the whole
    model; beside another method, what that one trains. Settings are named as in transformers.
    """

    rank: Annotated[int, Ge(1), "Rows or columns of the moments."] = 128
    update_proj_gap: Annotated[int, Ge(1), "Optimizer steps until the subspace is redrawn."] = 200
    scale: Annotated[float, Gt(0), "The updates are multiplied by its square root."] = 1.0
    scale_type: Annotated[
        Literal["channel", "tensor"], "One factor for each channel, or for the whole weight."
    ] = "channel"

    name: ClassVar[str] = "apollo"
    paper: ClassVar[str] = "https://arxiv.org/abs/2412.05270"
    citation: ClassVar[str] = """
        @inproceedings{zhu2025apollo,
          title     = {{APOLLO}: {SGD}-like Memory, {AdamW}-level Performance},
          author    = {Zhu, Hanqing and Zhang, Zhenyu and Cong, Wenyan and Liu, Xi and Park, Sem
                       and Chandra, Vikas and Long, Bo and Pan, David Z. and Wang, Zhangyang
                       and Lee, Jinwon},
          booktitle = {Proceedings of Machine Learning and Systems},
          year      = {2025}
        }
    """
    learning_rate: ClassVar[LearningRate] = LearningRate(1e-6, 5e-5, 1e-2)

    def sharding_refusal(self) -> str:
        """Say why it cannot train on shards."""
        return "it projects whole gradients"

    def optimizer_class(self) -> type[LowRankAdamW]:
        """Return APOLLO's AdamW."""
        from ftplug_plugins.shared.low_rank_adamw import ApolloAdamW

        return ApolloAdamW
