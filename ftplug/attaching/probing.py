"""Short random inputs to a model and its answers, without a trace in the model."""

from __future__ import annotations

import functools
import operator
import random
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from ftplug import structure
from ftplug.inplace import in_eval_mode
from ftplug.structure.shards import is_shard

if TYPE_CHECKING:
    from torch import Tensor, nn

_LENGTH, _PADDING, _NEW_TOKENS = 6, 2, 3
_MOVED_BY = 0.1  # standard deviation
_HELD = re.compile(r"_(modules|buffers|(forward|backward)(_pre)?_hooks)")
_NOTHING: dict[str, Any] = {}
_SMALL = 2**20  # numbers in a buffer that a forward may change; a quantized weight has more


def random_inputs(inner: Any, tokens: Sequence[int]) -> dict[str, Tensor]:
    """Return two rows, the second with padding on the left; ``tokens`` stand in both."""
    import torch

    draw = torch.Generator().manual_seed(0)
    config = inner.config.get_text_config()
    if inner.main_input_name == "pixel_values":
        size = inner.config.image_size
        height, width = size if isinstance(size, list | tuple) else (size, size)
        pixels = torch.randn(2, inner.config.num_channels, height, width, generator=draw)
        return {"pixel_values": pixels.to(inner.device, inner.dtype)}
    ids = torch.randint(0, config.vocab_size, (2, _LENGTH + len(tokens)), generator=draw)
    mask = torch.ones_like(ids)
    mask[1, :_PADDING] = 0
    if tokens:
        ids[:, -1 - len(tokens) : -1] = torch.tensor(tokens)
    return {"input_ids": ids.to(inner.device), "attention_mask": mask.to(inner.device)}


def answered(inner: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return the first thing that the model answers: logits, or hidden states."""
    answer: Tensor = inner(**inputs)[0]
    return answer.float()


def generated(
    inner: Any, inputs: Mapping[str, Tensor], tokens: Collection[int], *, cached: bool = False
) -> Tensor:
    """Return (steps, rows, vocabulary), the logits for given tokens: none depends on a rounding."""
    import torch
    from transformers import LogitsProcessorList

    free = [token for token in range(1000) if token not in tokens]

    def given(ids: Tensor, scores: Tensor) -> Tensor:
        chosen = torch.full_like(scores, -torch.inf)
        for row in range(len(ids)):
            choice = free[(3 + 7 * ids.shape[1] + row) % min(len(free), scores.shape[1] // 2)]
            chosen[row, choice] = 0
        return chosen

    output = inner.generate(
        **inputs,
        logits_processor=LogitsProcessorList([given]),
        max_new_tokens=_NEW_TOKENS,
        use_cache=cached,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return torch.stack(output.logits).float()


@contextmanager
def moved(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Add noise to the parameters within the block."""
    import torch

    draw = torch.Generator().manual_seed(0)
    before = [parameter.detach().clone() for parameter in parameters]
    try:
        for parameter in parameters:
            noise = _MOVED_BY * torch.randn(parameter.shape, generator=draw)
            parameter.add_(noise.to(parameter.device, parameter.dtype))
        yield
    finally:
        for parameter, value in zip(parameters, before, strict=True):
            parameter.copy_(value)


@contextmanager
def without_a_trace(model: nn.Module) -> Iterator[None]:
    """Hold the model in eval mode, without gradients; its state afterwards is what it was.

    Random numbers within the block are always the same ones; the generators are put back.
    """
    import torch

    modules = list(model.modules())  # once: that takes as long as a small model's forward
    with (
        _modules_put_back(modules),
        _generators_put_back(modules),
        torch.no_grad(),
        in_eval_mode(modules),
        _greedy(structure.pretrained(model)),
    ):
        yield


@contextmanager
def _greedy(inner: Any) -> Iterator[None]:
    """Let a model write without beams, sampling or a static cache, whatever its config says."""
    from transformers import GenerationConfig

    chosen = getattr(inner, "generation_config", None)
    had_one = "generation_config" in vars(inner)
    names = ("bos_token_id", "pad_token_id", "decoder_start_token_id")
    try:
        if chosen is not None or inner.can_generate():
            kept = {name: getattr(chosen, name, None) for name in names}
            inner.generation_config = GenerationConfig(**kept)
        yield
    finally:
        if had_one:
            inner.generation_config = chosen
        else:
            vars(inner).pop("generation_config", None)


@contextmanager
def _modules_put_back(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Give buffers, parts, hooks and attributes back that a forward has changed.

    Rotary embeddings put others in the place of their buffers; BigBird exchanges its attention for
    good where a text is short; transformers hooks what it is first asked the hidden states of.
    Engines that keep parts of a model do their own bookkeeping on its modules: that stays.
    """
    import torch

    shared = any(map(is_shard, _parameters(modules)))
    # A dictionary for each module, as others may stand in the place of its buffers.
    kept = [
        (held, dict(held) if held else _NOTHING)
        for module in modules
        for held in ((module._buffers,) if shared else _held(module))
    ]
    buffers = [b for module in modules for b in module._buffers.values()]
    small = [b for b in buffers if b is not None and b.numel() <= _SMALL]
    values = [buffer.clone() for buffer in small]
    try:
        yield
    finally:
        for held, before in kept:
            if held or before:
                _put_back(held, before)
        with torch.no_grad():
            for buffer, value in zip(small, values, strict=True):
                with torch.inference_mode() if buffer.is_inference() else nullcontext():
                    buffer.copy_(value)  # what was made in that mode cannot be written outside it


def _parameters(modules: Iterable[nn.Module]) -> Iterator[nn.Parameter]:
    return (p for module in modules for p in module._parameters.values() if p is not None)


def _held(module: nn.Module) -> list[dict[str, Any]]:
    """Return the dictionaries of what a module holds: its attributes, and those among them."""
    own = vars(module)
    held = (own.get(name) for name in _names_of_held())
    return [own, *(each for each in held if isinstance(each, dict))]


@functools.cache
def _names_of_held() -> tuple[str, ...]:
    from torch import nn

    return tuple(name for name in vars(nn.Module()) if _HELD.match(name))


def _put_back(now: MutableMapping[Any, Any], before: Mapping[Any, Any]) -> None:
    """Make a dictionary hold the very objects that it held; one that does is not touched."""
    if now.keys() == before.keys() and all(map(operator.is_, now.values(), before.values())):
        return
    now.clear()
    now.update(before)


@contextmanager
def _generators_put_back(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Seed the generators of torch, numpy and Python, and put them back afterwards."""
    import numpy as np
    import torch

    devices = {p.device.index for p in _parameters(modules) if p.device.type == "cuda"}
    python, numbers = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=sorted(devices)):
            torch.default_generator.manual_seed(0)
            for device in devices:
                torch.cuda.default_generators[device].manual_seed(0)
            random.seed(0)
            np.random.seed(0)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numbers)


@contextmanager
def trainable_as_now(model: nn.Module) -> Iterator[None]:
    """Let afterwards require gradients what does now: libraries toggle it as they are disabled."""
    trains = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield
    finally:
        for parameter, needed in trains:
            parameter.requires_grad_(needed)
