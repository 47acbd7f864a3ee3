"""Artifacts of tiny models that were really trained for some steps, and their bases on disk."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

import ftplug
from ftplug.effect.probe import FILE, Probe
from ftplug.testing import tiny

LAYERS = 4


@dataclass(frozen=True)
class Kind:
    """A method with settings, on a family of models."""

    method: str
    family: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    rate: float = 1e-2


KINDS = {
    "lora": Kind("lora", "bert", {"r": 4}),
    "ia3": Kind("ia3", "llama"),
    "prefix-tuning": Kind("prefix-tuning", "llama", {"num_virtual_tokens": 6}),
    "bottleneck": Kind("bottleneck", "bert", {"reduction_factor": 4}),
    "bitfit": Kind("bitfit", "roberta"),
    "lora on experts": Kind("lora", "qwen3-moe", {"r": 4, "target_parameters": ("all-experts",)}),
}
"""Six methods; of the last the experts train as well."""


@dataclass(frozen=True, eq=False)
class Artifact:
    """Where the base and the artifact lie, and the probe."""

    kind: Kind
    base: Path
    folder: Path

    @property
    def probe(self) -> Probe:
        """The artifact's probe."""
        return Probe.read(self.folder / FILE)

    def new_base(self, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
        """Load the base from its folder."""
        cls = type(_family(self.kind.family))
        return cls.from_pretrained(self.base, dtype=dtype, **options).eval()

    def loaded(self, base: nn.Module | None = None) -> nn.Module:
        """Load the artifact onto its base, or another, unchecked: what is tested is the check."""
        base = self.new_base() if base is None else base
        return ftplug.load(base, self.folder, check_effect=False, force=True)


def _family(name: str) -> Any:
    return tiny.FAMILIES[name](num_hidden_layers=LAYERS)


def made(
    kind: Kind, root: Path, *, steps: int, seed: int = 0, rate: float | None = None
) -> Artifact:
    """Train a model for some steps of 16 rows and save its artifact, beside its base."""
    base = root / "base"
    if not base.exists():
        _pretrained(_family(kind.family)).save_pretrained(base)
    found = Artifact(kind, base, root / f"artifact-{steps}-{seed}-{rate or kind.rate:g}")
    model = found.new_base()
    torch.manual_seed(seed)
    ftplug.apply(model, kind.method, **kind.settings)
    _train(model, steps, rate or kind.rate, seed)
    ftplug.save(model, found.folder)
    return found


def _pretrained(model: Any) -> Any:
    """Let the base be no fresh model: biases, norms and attention that do something."""
    draw = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.1 if parameter.ndim == 1 else 0.05
            parameter.add_(scale * torch.randn(parameter.shape, generator=draw))
    return model


def _train(model: Any, steps: int, rate: float, seed: int) -> None:
    trains = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trains, lr=rate, weight_decay=0.0)
    model.train()
    for step in range(steps):
        batch = tiny.inputs(model, rows=16, length=10, seed=1000 * seed + step % 4)
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def nudged(model: nn.Module, relative: float, seed: int = 3) -> nn.Module:
    """Return a copy whose every weight is a little off: another checkpoint of the same base."""
    other = copy.deepcopy(model)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in other.parameters():
            noise = torch.randn(parameter.shape, generator=draw).to(parameter)
            size = parameter.float().square().mean().sqrt().to(parameter)
            parameter.add_(relative * size * noise)
    return other
