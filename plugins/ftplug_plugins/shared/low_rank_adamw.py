"""AdamW with its moments in a low-rank projection of the gradients, as GaLore and APOLLO have it.

Written from the papers. The authors' packages agree with it step by step, but keep the projection
in the optimizer's state as an object of their own, which the Trainer's checkpoints cannot restore
(``torch.load`` reads tensors alone), and apollo-torch's licence excludes commercial use.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ftplug import MethodError
from ftplug.structure import require_layer_stacks
from ftplug_plugins.shared.optimizer_groups import require_adamw, weight_decay

if TYPE_CHECKING:
    from transformers import TrainingArguments

GROWTH = 1.01  # by how much an APOLLO update may be longer than the one before


class LowRankAdamW(torch.optim.Optimizer, ABC):
    """AdamW; in a group with a ``rank`` a matrix's moments have rank rows or columns.

    For a gradient G (m, n) they are (m, rank) where m >= n, else (rank, n). Every
    ``update_proj_gap`` steps a new projection is made. The state holds numbers and tensors alone.
    """

    def __init__(self, groups: list[dict[str, Any]], *, seed: int = 0, **defaults: Any) -> None:
        super().__init__(groups, {"weight_decay": 0.0, "seed": seed} | defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; weight decay comes after it, as in the authors' code."""
        loss = closure() if closure is not None else None
        pairs = [(group, p) for group in self.param_groups for p in group["params"]]
        for index, (group, parameter) in enumerate(pairs):
            if parameter.grad is not None:
                update = self._update(group, parameter.grad, self.state[parameter], index)
                parameter.add_(update, alpha=-group["lr"])
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
        return loss

    def _update(
        self, group: dict[str, Any], gradient: Tensor, state: dict[str, Any], index: int
    ) -> Tensor:
        """Return the direction of a step, (m, n)."""
        step = state.get("step", 0)
        low = gradient
        if "rank" in group:
            if step % group["update_proj_gap"] == 0:
                refresh = step // group["update_proj_gap"]
                state["projection"] = self.projection(group, gradient, index, refresh)
            low = project(gradient, state["projection"])
        if step == 0:
            state["exp_avg"] = torch.zeros_like(low)
            state["exp_avg_sq"] = torch.zeros_like(low)
        beta1, beta2 = group["betas"]
        state["step"] = step + 1
        state["exp_avg"].mul_(beta1).add_(low, alpha=1 - beta1)
        state["exp_avg_sq"].mul_(beta2).addcmul_(low, low, value=1 - beta2)
        direction: Tensor = state["exp_avg"] / state["exp_avg_sq"].sqrt().add_(group["eps"])
        corrected = math.sqrt(1 - beta2 ** (step + 1)) / (1 - beta1 ** (step + 1))
        if "rank" in group:
            direction = self.lifted(group, gradient, low, direction, state)
        return direction.mul(corrected)

    @abstractmethod
    def projection(
        self, group: dict[str, Any], gradient: Tensor, index: int, refresh: int
    ) -> Tensor:
        """Return a projection for a gradient (m, n): (rank, min(m, n))."""

    @abstractmethod
    def lifted(
        self,
        group: dict[str, Any],
        gradient: Tensor,
        low: Tensor,
        direction: Tensor,
        state: dict[str, Any],
    ) -> Tensor:
        """Return the (m, n) update that belongs to a direction in the low-rank space."""


class GaLoreAdamW(LowRankAdamW):
    """Project on the gradient's leading singular vectors and back (GaLore, algorithm 2)."""

    def projection(
        self, group: dict[str, Any], gradient: Tensor, index: int, refresh: int
    ) -> Tensor:
        """Return the leading right singular vectors of a tall gradient, left ones of a wide one."""
        left, _, right = torch.linalg.svd(gradient.float(), full_matrices=False)
        tall = gradient.shape[0] >= gradient.shape[1]
        vectors: Tensor = right[: group["rank"]] if tall else left[:, : group["rank"]].T
        return vectors.contiguous().to(gradient.dtype)

    def lifted(
        self,
        group: dict[str, Any],
        gradient: Tensor,
        low: Tensor,
        direction: Tensor,
        state: dict[str, Any],
    ) -> Tensor:
        """Return ``scale * P direction``."""
        tall = gradient.shape[0] >= gradient.shape[1]
        basis: Tensor = state["projection"]
        return (direction @ basis if tall else basis.T @ direction).mul(group["scale"])


class ApolloAdamW(LowRankAdamW):
    """Scale the gradient by what Adam does in a random low-rank space (APOLLO, algorithm 1)."""

    def projection(
        self, group: dict[str, Any], gradient: Tensor, index: int, refresh: int
    ) -> Tensor:
        """Draw N(0, 1 / rank) from the seed, the parameter's place and the refresh's number."""
        text = f"{group['seed']}/{index}/{refresh}"
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
        drawn = torch.randn(
            group["rank"], min(gradient.shape), generator=torch.Generator().manual_seed(seed)
        )
        return (drawn / math.sqrt(group["rank"])).to(gradient.device, gradient.dtype)

    def lifted(
        self,
        group: dict[str, Any],
        gradient: Tensor,
        low: Tensor,
        direction: Tensor,
        state: dict[str, Any],
    ) -> Tensor:
        """Return the gradient, each channel (or all of it) as much longer as direction is than low.

        Its norm may grow by one per cent a step (the limiter of Fira, https://arxiv.org/abs/2410.01623).
        """
        over: dict[str, Any] = {
            "dim": 1 if gradient.shape[0] >= gradient.shape[1] else 0,
            "keepdim": True,
        }
        if group["scale_type"] == "tensor":
            over = {}
        update: Tensor = gradient * (direction.norm(**over) / (low.norm(**over) + 1e-8))
        norm = update.norm()
        before = state.get("update_norm", torch.zeros_like(norm))
        # Beside a factor that starts at zero (LoRA's B) a first gradient is zero: no limit;
        # the authors' code would let the next ones grow from 1e-8.
        longer = (norm / (before + 1e-8) / GROWTH).clamp(min=1)
        longer = torch.where(before > 0, longer, torch.ones_like(longer))
        update, norm = update / longer, norm / longer
        state["update_norm"] = norm
        return update.mul(math.sqrt(group["scale"]))


def project(gradient: Tensor, projection: Tensor) -> Tensor:
    """Return a gradient (m, n) in its low-rank space: (m, rank) where m >= n, else (rank, n)."""
    tall = gradient.shape[0] >= gradient.shape[1]
    return gradient @ projection.T if tall else projection @ gradient


def build(
    cls: type[LowRankAdamW],
    method: str,
    model: nn.Module,
    args: TrainingArguments,
    named_parameters: Mapping[str, nn.Parameter],
    **low_rank: Any,
) -> LowRankAdamW:
    """Build the optimizer: low rank for the layers' linear weights, plain AdamW for all else.

    A weight must have more than ``rank`` rows and columns, or there is nothing to save.
    """
    require_adamw(method, args)
    names = _matrices(method, model, named_parameters, low_rank["rank"])
    decays = weight_decay(model, args)
    groups: dict[tuple[bool, float], dict[str, Any]] = {}
    for name, parameter in named_parameters.items():
        options = low_rank if name in names else {}
        group = {"params": [], "weight_decay": decays[name], **options}
        groups.setdefault((name in names, decays[name]), group)["params"].append(parameter)
    return cls(
        list(groups.values()),
        seed=args.seed,
        lr=args.learning_rate,
        betas=(args.adam_beta1, args.adam_beta2),
        eps=args.adam_epsilon,
    )


def _matrices(
    method: str, model: nn.Module, named_parameters: Mapping[str, nn.Parameter], rank: int
) -> set[str]:
    """Return the weights of linear layers inside of transformer layers that exceed the rank."""
    prefixes = tuple(f"{stack.name}." for stack in require_layer_stacks(model, method))
    matrices = set()
    for name, parameter in named_parameters.items():
        owner = model.get_submodule(name.rpartition(".")[0])
        linear = hasattr(owner, "in_features") or hasattr(owner, "nx")
        if linear and parameter.ndim == 2 and name.startswith(prefixes):
            matrices.add(name)
    if not any(min(named_parameters[name].shape) > rank for name in matrices):
        largest = max((min(named_parameters[name].shape) for name in matrices), default=0)
        raise MethodError(
            f"{method}: rank={rank}, but no weight that trains has more than {largest} rows and "
            "columns, so that nothing would be saved: set a lower rank, or leave it out"
        )
    return {name for name in matrices if min(named_parameters[name].shape) > rank}
