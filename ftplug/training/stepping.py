"""The steps of a bound Trainer: a loss or gradient that is NaN or infinite stops it in time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from transformers import Trainer

from ftplug.attaching.attachment import require_attachment, unwrap_model
from ftplug.attaching.first_backward import require_reached
from ftplug.training.compat import has_mixed_mesh_grads
from ftplug.training.numerics import require_finite_gradients
from ftplug.training.run import Run

if TYPE_CHECKING:
    from torch import nn


class StepMixin:
    """In front of the Trainer's own class: what holds however that takes its steps."""

    ftplug: Run
    model: nn.Module

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Keep the loss, and take back gradients that were computed for other processes alone."""
        loss: torch.Tensor = super().training_step(*args, **kwargs)  # type: ignore[misc]
        self.ftplug.drop_idle_gradients()
        if self.ftplug.check_finite:
            self.ftplug.losses.add(loss)
        return loss

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse a loss that depends on nothing that trains."""
        answer = super().compute_loss(*args, **kwargs)  # type: ignore[misc]
        loss = answer[0] if isinstance(answer, tuple) else answer
        if torch.is_grad_enabled() and isinstance(loss, torch.Tensor):
            model = unwrap_model(self.model)
            require_reached(loss, model, require_attachment(model).host.names)
        return answer

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> Any:
        """Stop a run whose loss or gradients are not finite, before the optimizer takes them."""
        norm = super()._get_grad_norm(*args, **kwargs)  # type: ignore[misc]
        _require_finite(self, norm)
        return norm


class SteppingTrainer(Trainer):
    """Behind the Trainer's own class: a class that clips in a way of its own keeps it."""

    ftplug: Run

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        """Clip in the two parts that clipping has: after it a NaN is in all gradients."""
        if not _computes_norm(self, model):
            return super()._clip_grad_norm(model)  # type: ignore[no-untyped-call]
        trained = _with_gradient(model)  # found once: looking through a deep model takes time
        norm = _checked_norm(self, trained)
        clip_grads_with_norm_(trained, self.args.max_grad_norm, norm)
        return norm

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Return the norm where nothing is clipped: the Trainer's would clip to infinity."""
        if grad_norm is None and _computes_norm(self, model):
            grad_norm = _checked_norm(self, _with_gradient(model))
        return super()._get_grad_norm(model, grad_norm)  # type: ignore[no-untyped-call]


def _require_finite(trainer: Any, norm: Any) -> None:
    """Raise on a loss or gradient that is not finite; a GradScaler skips such gradients itself."""
    run: Run = trainer.ftplug
    if not run.check_finite:
        return
    step, accelerator = trainer.state.global_step + 1, trainer.accelerator
    # Before anything is raised: of a norm in shards each process has a part.
    value = None if norm is None else float(getattr(norm, "full_tensor", lambda: norm)())
    run.losses.require_finite(step, partial(accelerator.reduce, reduction="sum"))
    if accelerator.scaler is None:
        model = unwrap_model(trainer.model)
        may_train = require_attachment(model).plan.may_train
        require_finite_gradients(model, may_train, value, step)


def _computes_norm(trainer: Any, model: nn.Module) -> bool:
    """Whether the norm is for us to compute: not of gradients in shards, or in an engine."""
    kind = trainer.accelerator.distributed_type.value
    plain = kind == "NO" or kind.startswith("MULTI_")
    return bool(plain and trainer.ftplug.check_finite and not has_mixed_mesh_grads(trainer, model))


def _with_gradient(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.grad is not None]


def _checked_norm(trainer: Any, trained: Sequence[nn.Parameter]) -> torch.Tensor:
    """Return the norm of all gradients, which are as the backward pass left them, or raise."""
    trainer.accelerator.unscale_gradients()
    norm = get_total_norm([p.grad for p in trained if p.grad is not None])
    _require_finite(trainer, norm)
    return norm
