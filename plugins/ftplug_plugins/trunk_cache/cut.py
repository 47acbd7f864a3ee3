"""The trunk cache: frozen lower layers run once per example, not once per epoch.

What may train is known only when all methods have chosen; the trunk is what lies below the lowest
layer that any of them trains or changes. It runs in eval mode (no dropout), without gradient. What
it gives is kept under a hash of each example's content, so that shuffling and padding do not
matter; at padding stands zero. It is used in training, and in evaluation once the model has
trained (not where a causal model fills a key-value cache); never saved, and empty again in a copy,
in another process and after resuming.

Losses equal those without the cache to rounding (1e-6 in float32), not to the last bit: examples
run in other shapes there. Labels that stand on padding (a copy of the ids, with no -100) would
count zeros. A change of the frozen weights is seen, unless it is made through ``.data``. On the CPU
what is kept depended on the example alone, to the last bit, for every architecture and batch
measured, so that resuming stays exact; on a GPU nothing was.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge

from ftplug import Method, MethodError, hookimpl
from ftplug.inplace import is_wrapped
from ftplug.structure import LayerStack, pretrained, require_layer_stacks
from ftplug_plugins.shared.depth import from_the_top
from ftplug_plugins.trunk_cache.check import refuse_trainer
from ftplug_plugins.trunk_cache.forward import TRUNK, wrap
from ftplug_plugins.trunk_cache.trunk import Trunk, around_backbone
from ftplug_plugins.virtual.positions import is_causal

if TYPE_CHECKING:
    from torch import nn

    from ftplug.context import Context

Cache = Annotated[bool, "Keep what the frozen lower layers give, and run them once per example."]
CacheDtype = Annotated[
    Literal["float32", "bfloat16"] | None, "What is kept is rounded to this; None: as computed."
]
CacheBytes = Annotated[
    int | None,
    Ge(1),
    "Most bytes kept, in each process; the least recently used go first. None: 2 GiB.",
]
CacheOnDisk = Annotated[bool, "Keep it in a memory-mapped file below TMPDIR, not in memory."]
SETTINGS = ("cache", "cache_dtype", "cache_bytes", "cache_on_disk")
_DEFAULT_BYTES = 2**31
_TRUNKS = "_ftplug_trunks"  # on the model, for its steps


class CachesTrunk(Method):
    """What methods with a ``cache`` setting do with it."""

    frozen_layers: ClassVar[str]  # how to have some, for the message
    cache: bool
    cache_dtype: str | None
    cache_bytes: int | None
    cache_on_disk: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.cache:
            object.__setattr__(self, "on_step", None)  # no call in each step for nothing

    def sharding_refusal(self) -> str:
        """Under FSDP all processes must run a layer, or none."""
        return "with cache=True some processes skip layers that others run" if self.cache else ""

    @hookimpl
    def finish_model(self, model: nn.Module, may_train: frozenset[str], context: Context) -> None:
        """Cut the model below the lowest layer that trains."""
        if not self.cache:
            return
        refuse_trainer(self.name, context.args)
        trunks = []
        for cut in _cuts(self, model, may_train):
            trunk = Trunk(
                method=self.name,
                layers=cut.layers,
                depth=cut.depth,
                embeddings=cut.embeddings,
                bias=cut.bias,
                relative=_is_relative(cut.backbone),
                causal=is_causal(model),
                dtype=self.cache_dtype,
                limit=self.cache_bytes or _DEFAULT_BYTES,
                on_disk=self.cache_on_disk,
                epochs=_epochs(context.args),
            )
            wrap(cut.backbone, trunk, around_backbone)
            trunks.append(trunk)
        model.__dict__[_TRUNKS] = trunks

    @hookimpl
    def on_step(self, model: nn.Module, step: int, total_steps: int) -> None:
        """Say so where examples are hardly ever seen again, once."""
        for trunk in model.__dict__.get(_TRUNKS, ()):
            trunk.steps += 1
            second = -(-2 * total_steps // trunk.epochs) if trunk.epochs else None
            last = step == total_steps == trunk.steps and (second is None or step < second)
            if trunk.steps == second or last:
                trunk.warn_if_useless()


@dataclass(frozen=True)
class _Cut:
    """Where a backbone is cut; all but ``depth`` are names, within it or within a layer."""

    backbone: nn.Module
    layers: str
    depth: int
    embeddings: str
    bias: str | None


def _cuts(method: CachesTrunk, model: nn.Module, may_train: frozenset[str]) -> Iterator[_Cut]:
    """Yield a cut for each stack of layers that begins with a frozen one, at least one.

    Of an encoder-decoder the encoder is cut: a decoder reads what the encoder's top layers give.
    """
    stacks = require_layer_stacks(model, method.name)
    stacks = stacks[:1] if pretrained(model).config.is_encoder_decoder else stacks
    below = from_the_top(model, method.name)[-1]
    reasons, found = [], False
    for stack in stacks:
        path, backbone = _backbone(model, stack)
        embeddings = _embeddings(backbone)
        reason = _unfit(backbone, embeddings) or _trains(below, may_train)
        depth = 0 if reason else _frozen_depth(stack, may_train)
        if depth == 0:
            reasons.append(reason or f"{stack.name}.0 trains: {method.frozen_layers}")
            continue
        found = True
        named = stack.layers[0].named_modules()
        bias = next((name for name, module in named if hasattr(module, "compute_bias")), None)
        yield _Cut(backbone, stack.name.removeprefix(path), depth, str(embeddings), bias)
    if not found:
        raise MethodError(f"{method.name}: cache=True needs frozen lower layers, but {reasons[0]}")


def _backbone(model: nn.Module, stack: LayerStack) -> tuple[str, nn.Module]:
    """Return the innermost transformers model around a stack, and its name with a dot."""
    from transformers import PreTrainedModel

    named = ((f"{name}." if name else "", module) for name, module in model.named_modules())
    models = [(path, module) for path, module in named if isinstance(module, PreTrainedModel)]
    return [(path, module) for path, module in models if stack.name.startswith(path)][-1]


def _embeddings(backbone: Any) -> str | None:
    """Return the name of the backbone's own child that embeds its input."""
    try:
        inner = backbone.get_input_embeddings()
    except NotImplementedError:
        return None
    return next(
        (n for n, child in backbone.named_children() if inner in set(child.modules())), None
    )


def _unfit(backbone: Any, embeddings: str | None) -> str | None:
    """Say why what a backbone reads cannot be told apart by example."""
    kind, reads = type(backbone).__name__, set(inspect.signature(backbone.forward).parameters)
    if embeddings is None or not (
        {"input_ids", "attention_mask"} <= reads or "pixel_values" in reads
    ):
        return f"{kind} reads neither tokens nor images: leave cache out"
    if TRUNK in backbone.__dict__:
        return f"{kind} has a cache already: give cache to one method"
    if is_wrapped(backbone) or any(map(is_wrapped, backbone.get_submodule(embeddings).modules())):
        return f"another method changes what {kind} reads: leave cache out"
    rope = getattr(backbone.config, "rope_parameters", None) or {}
    if {"dynamic", "longrope"} & {rope.get("rope_type"), *(str(v) for v in rope.values())}:
        return f"the rotary embedding of {kind} depends on the longest row so far: leave cache out"
    return None


def _trains(below: list[str], may_train: frozenset[str]) -> str | None:
    return next((f"{name} trains: leave cache out" for name in below if name in may_train), None)


def _frozen_depth(stack: LayerStack, may_train: frozenset[str]) -> int:
    """Count the lowest layers that no method trains or changes."""
    for index, layer in enumerate(stack.layers):
        prefix = f"{stack.name}.{index}."
        if any(n.startswith(prefix) for n in may_train) or any(map(is_wrapped, layer.modules())):
            return index
    return len(stack.layers)


def _is_relative(backbone: nn.Module) -> bool:
    """Whether only distances between tokens count: rotary embeddings, T5's bias."""
    return any(
        hasattr(module, "relative_attention_bias") or "Rotary" in type(module).__name__
        for module in backbone.modules()
    )


def _epochs(args: Any) -> float | None:
    return float(args.num_train_epochs) if args is not None and args.max_steps <= 0 else None
