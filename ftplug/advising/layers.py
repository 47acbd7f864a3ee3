"""Advice on parts of the model: layers that never change, logits of a large vocabulary."""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from ftplug import discovery
from ftplug.advising.advice import MIB, Advice

if TYPE_CHECKING:
    from torch import nn

    from ftplug.advising.seen import Seen

CACHE = "trunk-cache"
LIGER = "arXiv:2410.10989"
MEASURED_BY_LIGER = {"llama", "qwen2", "gemma", "mistral", "phi3"}  # model types, in that report


def frozen_trunk(seen: Seen) -> Iterator[Advice]:
    """Run the layers below everything that trains once per example."""
    if CACHE in seen.methods or CACHE not in discovery.entries() or seen.epochs < 2:
        return
    trunk = Trunk(seen.layers)
    trunk.watch(seen.step)
    if trunk.frozen == 0:
        return
    frozen = statistics.median(trunk.seconds)
    saved = frozen * (1 - 1 / seen.epochs)
    methods = " ".join(f"--method {name}" for name in (*seen.methods, CACHE))
    yield Advice(
        methods if seen.methods else f"ftplug run --method freeze … --method {CACHE}",
        seen.seconds / max(seen.seconds - saved, 1e-9),
        f"{trunk.frozen} of {len(seen.layers)} layers never change and take "
        f"{1000 * frozen:,.1f} of a step's {1000 * seen.seconds:,.1f} ms; over {seen.epochs:.0f} "
        "epochs they need to run once per example (then without dropout)",
        f"measured here in {len(trunk.seconds)} steps",
    )


class Trunk:
    """How many of the lowest layers give what needs no gradient, and how long they take."""

    STEPS = 3

    def __init__(self, layers: list[nn.Module]) -> None:
        self.layers = layers
        self.frozen = 0
        self.seconds: list[float] = []
        self._start = 0.0
        self._ends: list[tuple[float, bool]] = []

    def watch(self, step: Any) -> None:
        """Run steps, and watch the layers in them."""
        if not self.layers:
            return
        hooks = [self.layers[0].register_forward_pre_hook(self._began)]
        hooks += [layer.register_forward_hook(self._ended) for layer in self.layers]
        try:
            for _ in range(self.STEPS):
                self._ends.clear()
                step()
                self.frozen = frozen = next(
                    (i for i, (_, trains) in enumerate(self._ends) if trains), len(self._ends)
                )
                if frozen:
                    self.seconds.append(self._ends[frozen - 1][0] - self._start)
        finally:
            for hook in hooks:
                hook.remove()

    def _began(self, layer: nn.Module, inputs: Any) -> None:
        self._start = _now()

    def _ended(self, layer: nn.Module, inputs: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        self._ends.append((_now(), bool(getattr(hidden, "requires_grad", True))))


def _now() -> float:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter()


def logits(seen: Seen) -> Iterator[Advice]:
    """Compute the loss of a large vocabulary without its logits: Liger's kernels, on a GPU."""
    kind = getattr(seen.config, "model_type", "")
    if seen.device.type != "cuda" or seen.args.use_liger_kernel or kind not in MEASURED_BY_LIGER:
        return
    size = logits_bytes(seen)
    if not size:
        return
    install = "" if importlib.util.find_spec("liger_kernel") else " (pip install liger-kernel)"
    yield Advice(
        f"use_liger_kernel=True{install}",
        1.2,
        f"20 % more tokens a second and 60 % less memory on average; the logits of the largest "
        f"batch are {size / MIB:,.0f} MiB here, which its loss never holds",
        f"published: {LIGER}",
    )


def logits_bytes(seen: Seen) -> int:
    """Return the size of a language model's logits for the largest batch; 0 where it has none."""
    found: list[int] = []
    head = seen.model.get_output_embeddings()
    if head is None:
        return 0

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        found.append(output.numel() * output.element_size())

    hook = head.register_forward_hook(note)
    try:
        seen.forward(seen.largest)
    finally:
        hook.remove()
    return max(found, default=0)
