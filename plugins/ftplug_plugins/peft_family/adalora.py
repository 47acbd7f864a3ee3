"""AdaLoRA: prune singular values while training, until a budget of ranks is left.

https://arxiv.org/abs/2303.10512. peft's own allocator decides; here it is called after every
optimizer step, which a Trainer alone never does, and what it remembers is saved in checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from ftplug import MethodError, hookimpl
from ftplug.inplace import unwrap_forward, wrap_forward
from ftplug_plugins.peft_bridge import files as peft_files
from ftplug_plugins.peft_bridge.keys import ADAPTER
from ftplug_plugins.peft_bridge.method import PeftMethod

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import TrainingArguments

    from ftplug.context import Context, RunView

_STATE = "adalora_state"
_RANKNUM = f".ranknum.{ADAPTER}"
_AVERAGES = ("exp_avg_ipt", "exp_avg_unc")
_GRADIENTS = "_adalora_gradients"  # of the step that is being taken; gone after it


@dataclass(frozen=True, eq=False)
class AdaLora(PeftMethod):
    """The rank starts at ``init_r`` everywhere and ends at ``target_r`` on average.

    Importance is averaged from step to step and ranks are pruned every ``deltaT`` steps, from
    ``tinit`` to ``tfinal`` steps before the end of training, by peft's allocator. A Trainer knows
    its number of steps; a hand-written loop sets ``total_step`` and calls the hooks itself:
    ``on_gradients`` before the optimizer step and ``on_step`` after it.

    The averages are in checkpoints, so that a resumed run prunes as the uninterrupted one, and not
    in artifacts. The orthogonality penalty is added to the loss while training alone, where peft
    adds it in evaluation as well.
    """

    total_step: ClassVar[int | None]
    tinit: ClassVar[int]
    tfinal: ClassVar[int]
    init_r: ClassVar[int]
    target_r: ClassVar[int]

    def sharding_refusal(self) -> str:
        """Say why it cannot train on shards."""
        return "its penalty and its allocator read whole matrices"

    @hookimpl
    def prepare_model(self, model: nn.Module, context: Context) -> None:
        """Build the layers and add the penalty to the loss."""
        super().prepare_model(model, context)
        wrap_forward(model, partial(_with_penalty, share=_share(context.args)))

    def config(self, model: nn.Module, context: Context) -> Any:
        """Return peft's config; the number of steps may become known later."""
        if self.target_r >= self.init_r:
            raise MethodError(
                f"{self.name}: target_r={self.target_r} must be below init_r={self.init_r}"
            )
        known = self.total_step or context.total_steps
        if known is None and context.args is None and not context.loading:
            raise MethodError(
                f"{self.name}: its schedule needs the number of optimizer steps: set total_step="
            )
        self.check_schedule(known)
        total = known or self.tinit + self.tfinal + 1
        return self.peft_config(total_step=total)

    def check_schedule(self, total: int | None) -> None:
        """Refuse a schedule that leaves no step to prune in."""
        if total is not None and self.tinit >= total - self.tfinal:
            raise MethodError(
                f"{self.name}: tinit={self.tinit} and tfinal={self.tfinal} leave none of {total} "
                "steps to prune in: lower them or train longer"
            )

    def shareable(self) -> bool:
        """Whether other methods may stand beside it: no, peft's allocator ranks every layer."""
        return False

    def inject(self, config: Any, model: nn.Module) -> None:
        """Build the layers and make room for the allocator's memory."""
        super().inject(config, model)
        for _, layer in peft_files.tuner_layers(model):
            layer.add_module(_STATE, _memory(layer))

    @hookimpl
    def on_gradients(self, model: nn.Module, step: int) -> None:
        """Keep the gradients until after the step, which a Trainer zeroes at once."""
        model.__dict__[_GRADIENTS] = {
            name: p.grad for name, p in model.named_parameters() if _is_ours(name)
        }

    @hookimpl
    def on_step(self, model: nn.Module, step: int, total_steps: int) -> None:
        """Let peft's allocator score the ranks and prune to this step's budget."""
        config = peft_files.config_of(model)
        config.total_step = self.total_step or total_steps
        self.check_schedule(config.total_step)
        allocator = _allocator(model, config)
        with _gradients(model):
            kept = _allocate(model, allocator, step, last=config.total_step - config.tfinal)
        _remember(model, allocator, kept)

    @hookimpl
    def merge_model(self, model: nn.Module) -> None:
        """Fold the updates in and take the penalty off the loss."""
        super().merge_model(model)
        unwrap_forward(model)

    @hookimpl
    def save_artifact(
        self,
        model: nn.Module,
        directory: Path,
        tensors: Mapping[str, torch.Tensor],
        run: RunView,
    ) -> Iterable[str]:
        """Write peft's two files, pruned ranks as zeros; the allocator's memory is left out."""
        adapter = {name: t for name, t in tensors.items() if not _is_left_out(name)}
        written = peft_files.save(model, directory, adapter, run=run)
        return [*written, *(set(tensors) - set(adapter))]

    @hookimpl
    def load_artifact(
        self, model: nn.Module, directory: Path, run: RunView
    ) -> Mapping[str, torch.Tensor]:
        """Read them back; a new schedule begins with an empty memory."""
        import torch

        empty: dict[str, torch.Tensor] = {}
        for name, tensor in (*model.named_buffers(), *model.named_parameters()):
            if _is_left_out(name):
                value = self.init_r if _RANKNUM in name else float(name.endswith(".kept"))
                empty[name] = torch.full(tensor.shape, value, dtype=tensor.dtype, device="cpu")
        return dict(peft_files.load(model, directory, run=run)) | empty


def ranks(tensors: Mapping[str, torch.Tensor]) -> int:
    """Return how many ranks are left: the singular values that are not zero."""
    return sum(int((t != 0).sum()) for n, t in tensors.items() if ".lora_E." in n)


def _is_ours(name: str) -> bool:
    return ".lora_" in name and name.endswith(f".{ADAPTER}")


def _is_left_out(name: str) -> bool:
    """Whether an artifact does without the tensor: the allocator's memory, and peft's constant."""
    return f".{_STATE}." in name or _RANKNUM in name


def _memory(layer: Any) -> nn.Module:
    """Return buffers for the averages of A, B and E, and for the ranks that are kept."""
    import torch
    from torch import nn

    memory = nn.Module()
    for part in ("lora_A", "lora_B", "lora_E"):
        tensor = getattr(layer, part)[ADAPTER]
        for average in _AVERAGES:
            memory.register_buffer(f"{average}_{part}", torch.zeros_like(tensor.detach()))
    memory.register_buffer("kept", torch.ones_like(layer.lora_E[ADAPTER].detach()))
    memory.register_buffer("steps", torch.zeros(1, device=layer.lora_E[ADAPTER].device))
    return memory


def _places(model: nn.Module) -> Iterator[tuple[str, str, Any]]:
    """Yield the allocator's name of each tensor, our buffer's name and the layer's memory."""
    for name, layer in peft_files.tuner_layers(model):
        for part in ("lora_A", "lora_B", "lora_E"):
            yield f"{name}.{part}.{ADAPTER}", part, getattr(layer, _STATE)


def _allocator(model: nn.Module, config: Any) -> Any:
    """Return peft's allocator, remembering what it remembered after the last step."""
    from peft.tuners.adalora.layer import RankAllocator

    allocator = cast("Any", RankAllocator)(model, config, ADAPTER)
    for name, part, memory in _places(model):
        if memory.steps.item() > 0:
            allocator.ipt[name] = None
            for average in _AVERAGES:
                getattr(allocator, average)[name] = getattr(memory, f"{average}_{part}").clone()
    return allocator


def _allocate(
    model: nn.Module, allocator: Any, step: int, *, last: int
) -> Mapping[str, list[bool]] | None:
    """Score the ranks and prune to the budget of a step, as peft's ``update_and_allocate`` does.

    Step ``last`` is the last one that decides. Returns the ranks that are kept by then, and None
    after a step that prunes nothing. peft's own version needs its tuner, and notes the ranks in its
    config, so that its files would leave out what is pruned.
    """
    if step > last:
        kept = _kept_ranks(model)
        allocator.mask_using_rank_pattern(model, kept)
        return kept
    _, pattern = allocator.update_and_allocate(model, step, force_mask=step == last)
    if step == last:
        allocator.reset_ipt()
    return cast("Mapping[str, list[bool]] | None", pattern)


def _remember(model: nn.Module, allocator: Any, pattern: Mapping[str, list[bool]] | None) -> None:
    for name, part, memory in _places(model):
        known = name in allocator.exp_avg_ipt
        for average in _AVERAGES:
            buffer = getattr(memory, f"{average}_{part}")
            buffer.copy_(getattr(allocator, average)[name]) if known else buffer.zero_()
        memory.steps.fill_(float(known))
        if pattern is not None and part == "lora_E":
            memory.kept.copy_(memory.kept.new_tensor(pattern[name])[:, None])


def _kept_ranks(model: nn.Module) -> dict[str, list[bool]]:
    return {
        name: memory.kept.view(-1).bool().tolist()
        for name, part, memory in _places(model)
        if part == "lora_E"
    }


@contextmanager
def _gradients(model: nn.Module) -> Iterator[None]:
    """Give the parameters the gradients of the step that was just taken."""
    kept = model.__dict__.pop(_GRADIENTS, None)
    live = dict(model.named_parameters())
    if kept is None:
        kept = {name: p.grad for name, p in live.items() if _is_ours(name)}
    if any(gradient is None for gradient in kept.values()):
        raise MethodError("adalora: a hand-written loop calls on_gradients before on_step")
    before = {name: live[name].grad for name in kept}
    for name, gradient in kept.items():
        live[name].grad = gradient
    yield
    for name, gradient in before.items():
        live[name].grad = gradient


def _with_penalty(model: Any, forward: Any, *args: Any, share: float, **kwargs: Any) -> Any:
    """Add the orthogonality of A and B to the loss, as peft does."""
    import torch

    output = forward(*args, **kwargs)
    if not model.training or getattr(output, "loss", None) is None:
        return output
    weight, penalties = peft_files.config_of(model).orth_reg_weight, []
    for name, p in model.named_parameters():
        if name.endswith((f".lora_A.{ADAPTER}", f".lora_B.{ADAPTER}")):
            product = p @ p.T if ".lora_A." in name else p.T @ p
            identity = torch.eye(*product.shape, dtype=product.dtype, device=product.device)
            penalties.append(torch.norm(product - identity, p="fro"))
    if kwargs.get("num_items_in_batch") is not None:
        weight *= share
    output.loss = output.loss + weight * sum(penalties) / len(penalties)
    return output


def _share(args: TrainingArguments | None) -> float:
    """Return which part of a step's penalty one forward pass adds, if the loss counts items.

    A loss that is divided by the items of the whole step is summed, over the batches that are
    accumulated and over processes: the penalty would be there as often.
    """
    if args is None:
        return 1.0
    processes = args.world_size if args.average_tokens_across_devices else 1
    return 1.0 / (args.gradient_accumulation_steps * processes)
