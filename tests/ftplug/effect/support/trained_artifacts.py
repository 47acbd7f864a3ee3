"""Artifacts of tiny models that were really trained for some steps, and their bases on disk."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import folders
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

MORE = {
    "full": Kind("full", "bert", rate=1e-3),
    "freeze": Kind("freeze", "bert", {"layers": 1}),
    "head alone": Kind("freeze", "bert", {"layers": 0}),
    "sentences": Kind("lora", "sentences", {"r": 4}),
}
"""Of these only honest loads are of interest."""

DTYPES = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "4 bits": "quantized",
}
"""The types of a base; of 4 bits it has the values, and computes in float32."""


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

    def new_base(
        self, dtype: torch.dtype | str = torch.float32, change: Callable[[Any], Any] | None = None
    ) -> Any:
        """Load the base from its folder, perhaps changed before it is rounded or quantized."""
        if self.kind.family == "sentences":
            return _sentences(self.base).to(dtype)
        cls, folder = type(_family(self.kind.family)), self.base
        if change or isinstance(dtype, str):
            folder = Path(tempfile.mkdtemp(dir=self.base.parent))
            base = cls.from_pretrained(self.base)
            with torch.no_grad():
                if change:
                    change(base)
                if isinstance(dtype, str):
                    _quantize(base)
            base.save_pretrained(folder)
        if not isinstance(dtype, str):
            return cls.from_pretrained(folder, dtype=dtype).eval()
        model = cls.from_pretrained(folder).eval()
        model.is_quantized = True  # as far as anybody can tell
        return model

    def loaded(self, base: nn.Module | None = None) -> nn.Module:
        """Load the artifact onto its base, or another, unchecked: what is tested is the check."""
        base = self.new_base() if base is None else base
        return ftplug.load(base, self.folder, check_effect=False, force=True)


def _quantize(model: Any) -> None:
    """Round matrices, but of vocabulary and head, to the values that 4 bits (NF4) stand for."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    inner = dict(model.base_model.named_parameters())
    vocabulary = model.get_input_embeddings().weight
    for name, value in inner.items():
        if value.ndim > 1 and value is not vocabulary and "embeddings" not in name:
            bits, state = quantize_4bit(value.detach().contiguous(), blocksize=64, quant_type="nf4")
            value.copy_(dequantize_4bit(bits, state).view(value.shape))


def _sentences(folder: Path) -> Any:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer

    words = Transformer(str(folder))
    return SentenceTransformer(modules=[words, Pooling(words.get_embedding_dimension())])


def _family(name: str) -> Any:
    return tiny.FAMILIES[name](num_hidden_layers=LAYERS)


def made(
    kind: Kind, root: Path, *, steps: int, seed: int = 0, rate: float | None = None
) -> Artifact:
    """Train a model for some steps of 16 rows and save its artifact, beside its base."""
    base = root / "base"
    if not base.exists() and kind.family == "sentences":
        folders.encoder(base)
    elif not base.exists():
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
        _loss(model, 1000 * seed + step % 4).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def _loss(model: Any, seed: int) -> Any:
    if hasattr(model, "encode"):
        ids = torch.randint(4, 12, (16, 10), generator=torch.Generator().manual_seed(seed))
        vectors = model({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
        return (vectors["sentence_embedding"] - ids[:, :1]).square().mean()
    return model(**tiny.inputs(model, rows=16, length=10, seed=seed)).loss


def nudge(model: nn.Module, relative: float, seed: int = 3) -> None:
    """Move every weight a little: another checkpoint of the same base."""
    draw = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=draw)
        parameter.add_(relative * parameter.square().mean().sqrt() * noise)
