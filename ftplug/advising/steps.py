"""Advice on what a step computes: precision, attention, activation checkpointing, the optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from ftplug import structure
from ftplug.advising.advice import MIB, Advice
from ftplug.errors import MethodError

if TYPE_CHECKING:
    from ftplug.advising.measuring import Paired
    from ftplug.advising.seen import Seen

ROOM = 0.85  # of a device's memory: above it is full


def precision(seen: Seen) -> Iterator[Advice]:
    """Compute in bf16 where the weights are float32."""
    dtypes = {p.dtype for p in seen.model.parameters() if p.is_floating_point()}
    if seen.args.bf16 or seen.args.fp16 or dtypes != {torch.float32}:
        return
    if seen.device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return
    found = seen.compared(lambda: torch.autocast(seen.device.type, dtype=torch.bfloat16))
    yield _of_a_step("bf16=True", found)


def attention(seen: Seen) -> Iterator[Advice]:
    """Use torch's scaled_dot_product_attention where attention is written out."""
    model = seen.model
    if getattr(seen.config, "_attn_implementation", None) != "eager":
        return
    if not getattr(model, "_supports_sdpa", False):
        return

    @contextmanager
    def with_sdpa() -> Iterator[None]:
        model.set_attn_implementation("sdpa")
        try:
            yield
        finally:
            model.set_attn_implementation("eager")

    found = seen.compared(with_sdpa)
    yield _of_a_step('attn_implementation="sdpa" where the model is loaded', found)


def checkpointing(seen: Seen) -> Iterator[Advice]:
    """Keep activations where there is room for them; compute them again where there is none."""
    on = structure.activation_checkpointing(seen.model)
    if not getattr(seen.model, "supports_gradient_checkpointing", False) or not seen.layers:
        return
    switched = structure.switched_activation_checkpointing
    try:
        with switched(seen.model, not on):
            other = seen.kept_with(checkpointing=not on)
    except MethodError:  # the method is one that cannot train so
        return
    more = other - seen.kept
    name = "activation_checkpointing" if hasattr(seen.args, "activation_checkpointing") else (
        "gradient_checkpointing"
    )  # fmt: skip
    kept = f"the largest batch keeps {other / MIB:,.1f} MiB of activations, not "
    kept += f"{seen.kept / MIB:,.1f}"
    free = room(seen)
    if on and more < free:
        found = seen.compared(lambda: switched(seen.model, False))
        yield _of_a_step(f"{name}=False", found, f"; {kept}, and there is room")
    elif not on and free < 0 and more < 0:
        found = seen.compared(lambda: switched(seen.model, True))
        cost = f"; a step takes {1 / found.ratio:.2f} times as long ({found})"
        yield Advice(
            f"{name}=True",
            seen.kept / max(other, 1),
            f"memory is nearly full: {kept}{cost}",
            "counted in a forward of each",
        )


def room(seen: Seen) -> float:
    """Return how many more bytes a step may take on its device; negative where it is full."""
    if seen.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(seen.device)
        seen.step(seen.largest)
        whole = torch.cuda.get_device_properties(seen.device).total_memory
        return ROOM * whole - torch.cuda.max_memory_allocated(seen.device)
    import psutil

    return float(psutil.virtual_memory().available) / 2


def optimizer(seen: Seen) -> Iterator[Advice]:
    """Take AdamW's fused step."""
    held = getattr(seen.trainer.optimizer, "optimizer", seen.trainer.optimizer)
    if type(held) is not torch.optim.AdamW or held.defaults.get("fused"):
        return
    groups = [{"params": group["params"], "lr": group["lr"]} for group in held.param_groups]
    fused = torch.optim.AdamW(groups, fused=True)
    seen.backward(seen.middle)
    found = seen.compared(before=held.step, after=fused.step)
    whole = seen.seconds + found.before
    yield Advice(
        'optim="adamw_torch_fused"',
        whole / (whole - found.before + found.after),
        f"the optimizer takes {1000 * found.after:,.2f} ms, not {1000 * found.before:,.2f}, of "
        f"{1000 * whole:,.1f} ms",
        str(found),
        found.agree,
    )


def _of_a_step(setting: str, found: Paired, more: str = "") -> Advice:
    faster = f"a step takes {1000 * found.after:,.1f} ms, not {1000 * found.before:,.1f}"
    return Advice(setting, found.ratio, f"{faster}{more}", str(found), found.agree)
