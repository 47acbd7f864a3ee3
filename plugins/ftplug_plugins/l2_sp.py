"""L2-SP: pull what is fine-tuned towards its pretrained values (https://arxiv.org/abs/1802.01483)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from annotated_types import Ge

from ftplug import Method, hookimpl

if TYPE_CHECKING:
    from torch import nn

    from ftplug.context import RunView


@dataclass(frozen=True, eq=False)
class L2Sp(Method):
    """Add ``alpha / 2 * |w - w0|² + beta / 2 * |v|²`` to the loss, through its gradient.

    w are the trained tensors that the base's checkpoint holds and w0 their values there; v is what
    is new (the head, added modules). The gradients ``alpha * (w - w0)`` and ``beta * v`` are added
    after clipping, so that a large loss does not weaken the pull; the logged loss and gradient norm
    are without them. As in the paper the penalty is part of the gradient: an adaptive optimizer
    rescales it. Alone it regularises full fine-tuning. w0 is the base's also in a resumed run; it
    takes the memory of one more copy of w. Leave ``weight_decay`` at 0: it pulls w to zero.
    """

    alpha: Annotated[float, Ge(0), "Pull of pretrained tensors towards their start."] = 0.01
    beta: Annotated[float, Ge(0), "Pull of new tensors towards zero."] = 0.01

    name: ClassVar[str] = "l2-sp"
    kind: ClassVar = "regularizer"
    paper: ClassVar[str] = "https://arxiv.org/abs/1802.01483"
    citation: ClassVar[str] = """
        @inproceedings{li2018explicit,
          title     = {Explicit Inductive Bias for Transfer Learning with Convolutional Networks},
          author    = {Li, Xuhong and Grandvalet, Yves and Davoine, Franck},
          booktitle = {International Conference on Machine Learning},
          year      = {2018}
        }
    """

    @hookimpl
    def on_gradients(self, model: nn.Module, run: RunView) -> None:
        """Add the penalty's gradient to what trains in this step."""
        pretrained = run.may_train - run.added - run.base.fresh
        start = run.base_values(pretrained) if self.alpha else {}
        for name, parameter in model.named_parameters():
            if parameter.grad is None:
                continue
            value = parameter.detach()
            if name not in pretrained:
                parameter.grad.add_(value, alpha=self.beta)
            elif self.alpha:
                parameter.grad.add_(value - start[name].to(value.dtype), alpha=self.alpha)
