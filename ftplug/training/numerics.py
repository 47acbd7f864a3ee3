"""Checks for silent failures: a loss or gradient that is not finite, a tensor that does not move.

Both looks are cheap. The first reads the gradient norm that the Trainer computes anyway. The second
looks at a few elements of each tensor, until it has moved, in the first steps alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ftplug.context import logger
from ftplug.errors import NonFiniteError

if TYPE_CHECKING:
    from torch import Tensor, nn

WATCHED_STEPS = 10
PATIENCE = 3  # beside a factor that starts at zero, the other gets its first gradient in step 2
_ELEMENTS = 8
_NEGLIGIBLE = 1e-6  # of the largest gradient: what rounding leaves where mathematics says zero
_CURE = "lower the learning rate, look at this step's data, or go on with check_finite=False"


class Losses:
    """The sum of the losses of one optimizer step, on their device: looked at once per step."""

    def __init__(self) -> None:
        self.total: Tensor | None = None

    def add(self, loss: Tensor) -> None:
        """Note the loss of one forward pass."""
        loss = loss.detach()
        self.total = loss if self.total is None else self.total + loss

    def require_finite(self, step: int, reduced: Callable[[Tensor], Tensor]) -> None:
        """Raise if a loss of this optimizer step was NaN or infinite; forget them.

        ``reduced`` sums over processes: one of them must not stop alone.
        """
        total, self.total = self.total, None
        total = None if total is None else reduced(total)
        if total is not None and not math.isfinite(value := float(total)):
            raise NonFiniteError(f"the loss is {value} in step {step}: {_CURE}")


def require_finite_gradients(
    model: nn.Module, names: Sequence[str], norm: float | None, step: int
) -> None:
    """Raise if the norm of all gradients is NaN or infinite, naming the first tensor at fault."""
    if norm is None or math.isfinite(norm):
        return
    live = dict(model.named_parameters())
    bad = [name for name in names if _is_bad(live[name].grad)]
    which = f"the gradient of {bad[0]} is not finite" if bad else f"the gradient norm is {norm}"
    if len(bad) > 1:
        which += f" (and of {len(bad) - 1} more of {len(names)} tensors)"
    raise NonFiniteError(f"{which} in step {step}: {_CURE}")


def _is_bad(gradient: Tensor | None) -> bool:
    return gradient is not None and not bool(gradient.isfinite().all())


class Movement:
    """Which of the tensors that may train have not moved yet, over the first few steps.

    A tensor has moved when one of the elements with its largest gradients has another value after
    the optimizer step. Steps at a learning rate of zero (a warm-up's first) do not count, nor do
    steps in which a schedule leaves the tensor alone.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.still = dict.fromkeys(names, 0)  # in how many steps it could have moved
        self.negligible: set[str] = set()
        self.with_gradient: set[str] = set()
        self.steps = 0
        self._before: dict[str, tuple[Tensor, Tensor]] = {}

    @property
    def watching(self) -> bool:
        """Whether there is anything left to find out."""
        return bool(self.still) and self.steps < WATCHED_STEPS

    def before_step(self, live: Mapping[str, nn.Parameter]) -> None:
        """Note the elements with the largest gradients of each tensor that has not moved."""
        import torch

        self._before = {}
        given = {n: g for n in self.still if (g := live[n].grad) is not None}
        for name in [n for n, g in given.items() if g.is_sparse]:
            del self.still[name], given[name]
        if not given:
            return
        largest = torch.stack([g.abs().max().float() for g in given.values()]).tolist()
        limit = _NEGLIGIBLE * max(largest)
        for (name, gradient), size in zip(given.items(), largest, strict=True):
            if size == 0:
                continue
            self.with_gradient.add(name)
            (self.negligible.add if size < limit else self.negligible.discard)(name)
            places = gradient.abs().flatten().topk(min(_ELEMENTS, gradient.numel())).indices
            self._before[name] = places, live[name].detach().flatten()[places]

    def after_step(
        self, live: Mapping[str, nn.Parameter], rate: float, active: Collection[str] | None = None
    ) -> None:
        """Strike what has moved off the list; ``rate`` is the largest learning rate.

        ``active`` is what a schedule trained in this step, where that is not in requires_grad.
        """
        import torch

        if rate > 0:
            self.steps += 1
            for name in self.still:
                scheduled = active is None or name in active
                self.still[name] += live[name].requires_grad and scheduled
        if self._before:
            changed = torch.stack(
                [(live[n].detach().flatten()[at] != v).any() for n, (at, v) in self._before.items()]
            )
            for name, moved in zip(self._before, changed.tolist(), strict=True):
                if moved:
                    del self.still[name]
        self._before = {}

    def warn(self, methods: str, dtypes: Mapping[str, Any]) -> None:
        """Say once which tensors have not moved, and why that may be; then stop watching."""
        still = [n for n, steps in self.still.items() if steps >= PATIENCE]
        idle = [n for n in still if n not in self.with_gradient]
        stuck = [n for n in still if n in self.with_gradient and n not in self.negligible]
        if idle:
            logger.warning(
                "%s: %s got no gradient in the first %d steps: not trained so far",
                methods, _listed(idle, self.names), self.steps,
            )  # fmt: skip
        if stuck:
            logger.warning(
                "%s: %s did not move in the first %d steps, whatever the gradient: the learning "
                "rate is 0 there or too small for %s",
                methods, _listed(stuck, self.names), self.steps, dtypes[stuck[0]],
            )  # fmt: skip
        self.still = {}


def _listed(names: Sequence[str], among: Sequence[str]) -> str:
    more = f", … ({len(names)} of {len(among)} tensors)" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
