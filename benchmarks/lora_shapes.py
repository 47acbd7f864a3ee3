"""Compare the fused LoRA layer with peft's, shape by shape: forward and backward of one layer.

The measurement beside the rule of ftplug_plugins/lora_parts/fused.py, to fuse whatever the shape.
In float32 and, as on a GPU, with a bf16 weight under autocast; on a GPU timed by its events.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pairs
import peft
import torch
from devices import CUDA, DEVICE, seconds
from ftplug_plugins.lora_parts.fused import FusedLinear, fuse
from peft.tuners.lora import Linear as PeftLinear
from report import Found
from torch import Tensor, nn

R = 16
COUNT = 15  # pairs


@dataclass(frozen=True)
class Shape:
    """A linear layer and how many rows, of all sequences of a batch, it is given."""

    rows: int
    inner: int
    outer: int

    def __str__(self) -> str:
        return f"{self.rows:,} rows, {self.inner:,} to {self.outer:,}"


def _shapes(rows: tuple[int, ...], sizes: tuple[tuple[int, int], ...]) -> list[Shape]:
    return [Shape(count, *size) for size in sizes for count in rows]


# Attention and MLP of models of 22 million, of 1.2 and of 8 billion parameters.
SMALL = _shapes((16, 128, 768), ((384, 384), (384, 1536), (1536, 384)))
LARGE = _shapes(
    (256, 2048, 8192),
    ((2048, 512), (2048, 2048), (2048, 8192), (8192, 2048), (4096, 4096), (14_336, 4096)),
)


def layer(shape: Shape, dtype: torch.dtype) -> Any:
    """Return a fused layer with a LoRA of rank 16 in float32, its frozen weight in ``dtype``."""
    torch.manual_seed(0)
    config = peft.LoraConfig(r=R, lora_alpha=32, target_modules=["0"], init_lora_weights=False)
    with torch.device(DEVICE):
        model = nn.Sequential(nn.Linear(shape.inner, shape.outer, bias=False))
        wrapped: Any = peft.get_peft_model(model, config)
    fuse(wrapped)
    made = wrapped.base_model.model[0].to(DEVICE)
    made.base_layer.to(dtype)
    return made


def step(on: Any, forward: type, x: Tensor, half: bool) -> Callable[[], None]:
    """Return what runs the layer forward and backward by one of the two classes."""

    def run() -> None:
        on.__class__ = forward
        on.zero_grad()
        x.grad = None
        with torch.autocast(DEVICE, dtype=torch.bfloat16) if half else nullcontext():
            out = on(x)
        out.backward(torch.ones_like(out))

    return run


def kept_bytes(on: Any, forward: type, x: Tensor, half: bool) -> int:
    """Return how many bytes the forward keeps for the backward, beside weights and input."""
    known = {t.untyped_storage().data_ptr() for t in (x, *on.parameters())}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    on.__class__ = forward
    with (
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        torch.autocast(DEVICE, dtype=torch.bfloat16) if half else nullcontext(),
    ):
        on(x)
    return sum(size for pointer, size in kept.items() if pointer not in known)


def measure(found: Found, shape: Shape, half: bool, count: int = COUNT) -> None:
    """Add the ratio of the two forwards for a shape, and what each keeps."""
    dtype = torch.bfloat16 if half else torch.float32
    on = layer(shape, dtype)
    x = torch.randn(shape.rows, shape.inner, device=DEVICE, dtype=dtype, requires_grad=True)
    peft_step, ours = (step(on, cls, x, half) for cls in (PeftLinear, FusedLinear))
    taken: tuple[list[float], list[float]] = ([], [])
    for pair in range(count + 2):
        for which in (0, 1) if pair % 2 else (1, 0):
            taken[which].append(1000 * seconds((peft_step, ours)[which]))
    compared = pairs.compare(taken[0][2:], taken[1][2:])
    kind = "bf16 autocast" if half else "float32"
    found.ratio(f"peft's layer: {shape} ({kind})", "fused", compared, "ms")
    peft_kept, kept = (kept_bytes(on, cls, x, half) for cls in (PeftLinear, FusedLinear))
    if peft_kept and kept:
        found.figure(f"bytes kept, fused of peft's: {shape} ({kind})", kept / peft_kept, "times")


def main() -> None:
    """Compare all shapes, the large ones on a GPU alone."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="?", choices=["shapes"], help="for gpu.py")
    parser.add_argument("--rehearse", action="store_true", help="one small shape")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep what is found here")
    options = parser.parse_args()
    shapes = SMALL[:1] if options.rehearse else LARGE if CUDA else SMALL
    found = Found()
    for half in (False, True):
        for shape in shapes:
            measure(found, shape, half)
            found.keep(options.json)


if __name__ == "__main__":
    main()
