"""Prefix tuning: train keys and values that all layers attend to (https://arxiv.org/abs/2101.00190)."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge

from ftplug import LearningRate, MethodError, hookimpl, structure
from ftplug.context import one_line
from ftplug.inplace import wrap_forward
from ftplug.structure import gathered, shape_of
from ftplug_plugins.peft_bridge import versions
from ftplug_plugins.virtual.placement import placement_of
from ftplug_plugins.virtual.positions import (
    accepts,
    changed_output,
    check_length,
    continues,
    is_encoder_decoder,
    lengthen_mask,
    named,
    refuse_packing,
)
from ftplug_plugins.virtual.prefix_cache import (
    activations,
    cached_shapes,
    fill,
    new_cache,
    only_attention,
)
from ftplug_plugins.virtual.tokens import Prompted, VirtualTokens

if TYPE_CHECKING:
    from torch import nn

    from ftplug.context import RunView

_CHECKPOINTING = (
    "activation checkpointing drops the cache that holds the prefix: "
    "switch activation_checkpointing off, or use prompt-tuning or lora"
)


@dataclass(frozen=True, eq=False)
class InCache(Prompted, ABC):
    """Base of the methods whose virtual tokens are keys and values in every layer's cache."""

    encoder_name: ClassVar[str] = "prefix_encoder"

    @hookimpl
    def prepare_model(self, model: nn.Module, run: RunView) -> None:
        """Place the prefix in the stack whose layers attend to it and wrap its forward."""
        self.refuse_second(model)
        stack: Any = structure.backbone(model).get_decoder()  # itself, if it has no such part
        shapes = self._cached_shapes(model, stack)
        asking = (run.args, structure.pretrained(model))
        if any(map(structure.activation_checkpointing, asking)):
            raise MethodError(f"{self.name}: {_CHECKPOINTING}")
        config = self.prompt_config()
        config.num_transformer_submodules = 2 if is_encoder_decoder(model) else 1
        config.num_layers = len(new_cache(stack))
        for heads, head_dim in shapes:
            config.num_attention_heads, config.token_dim = heads, heads * head_dim
        self.complete(config, model, run)
        self.place(self.build_encoder(config, model, stack, run), config, stack)
        wrap_forward(stack, begin_with_prefix)

    @abstractmethod
    def prompt_config(self) -> Any:
        """Return peft's config with this method's settings."""

    @abstractmethod
    def build_encoder(self, config: Any, model: nn.Module, stack: Any, run: RunView) -> Any:
        """Return peft's encoder of the prefix."""

    def _cached_shapes(self, model: nn.Module, stack: Any) -> set[tuple[int, int]]:
        """Return heads and head_dim of what the layers cache, if a prefix fits there."""
        kind, shapes = type(stack).__name__, set[tuple[int, int]]()
        config = getattr(stack, "config", None)
        several = config is not None and config.get_text_config() is not config
        if structure.cache_argument(stack) is None:
            reason = f"{kind} takes no cache, where the prefix goes"
        elif config is None:
            reason = f"{kind} is no model by itself, of which its cache could be asked"
        elif not accepts(stack, "input_ids"):
            reason = f"{kind} reads no tokens"
        elif several and not is_encoder_decoder(model):
            reason = "it reads more than text"
        elif not only_attention(new_cache(stack)):
            reason = "not all of its layers attend to a cache of keys and values"
        elif len(shapes := self._asked_for_shapes(stack)) > 1:
            reason = "its layers' keys and values differ in shape"
        else:
            return shapes
        raise MethodError(f"{self.name}: {type(model).__name__}: {reason}: use lora")

    def _asked_for_shapes(self, stack: Any) -> set[tuple[int, int]]:
        """Return what the layers cache; a stack that cannot be asked is refused."""
        try:
            return cached_shapes(stack)
        except Exception as error:  # whatever a forward may raise
            raise MethodError(
                f"{self.name}: {type(stack).__name__} does not go on from its cache "
                f"({one_line(error)[:200]}): use lora"
            ) from error


@dataclass(frozen=True, eq=False)
class PrefixTuning(InCache, VirtualTokens):
    """Fill each layer's cache with trained keys and values; the model itself stays frozen.

    Numbers equal peft's, whose encoder this is. A random prefix disturbs the model (the first loss
    of a language model about doubles). ``init=vocab`` or a text starts from *real activations*, as
    the paper recommends: the keys and values that the frozen model computes on those tokens, so
    that a decoder begins exactly as if it had read them before the input.

    ``prefix_projection`` trains a smaller matrix and an MLP instead. peft's file format drops the
    MLP, so the artifact is then ftplug's own. An encoder-decoder's prefix stands in its decoder, in
    peft's layout: two layers share one (layers i and i + half), and half of the tensor is unused.
    ``generate(use_cache=False)`` gives what the cache gives (peft fails there or differs).
    """

    prefix_projection: Annotated[bool, "Compute it by an MLP from a smaller matrix."] = False
    encoder_hidden_size: Annotated[int, Ge(0), "Hidden size of the MLP; 0: the keys' size."] = 0

    name: ClassVar[str] = "prefix-tuning"
    paper: ClassVar[str] = "https://arxiv.org/abs/2101.00190"
    citation: ClassVar[str] = """
        @inproceedings{li2021prefix,
          title     = {Prefix-Tuning: Optimizing Continuous Prompts for Generation},
          author    = {Li, Xiang Lisa and Liang, Percy},
          booktitle = {Annual Meeting of the Association for Computational Linguistics},
          year      = {2021}
        }
    """
    learning_rate: ClassVar[LearningRate] = LearningRate(1e-3, 3e-2, 1e-1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prefix_projection and self.init != "random":
            raise MethodError(
                f"{self.name}: prefix_projection=True computes the prefix, so init={self.init!r} "
                "cannot set it: use init=random, or no projection"
            )

    def equals_peft(self, model: nn.Module, run: RunView) -> bool:
        """Whether peft gives the same answers: its files lack the MLP of a projection."""
        return super().equals_peft(model, run) and not self.prefix_projection

    def prompt_config(self) -> Any:
        """Return peft's config with this method's settings."""
        import peft

        values = {
            "num_virtual_tokens": self.num_virtual_tokens,
            "prefix_projection": self.prefix_projection,
            "encoder_hidden_size": self.encoder_hidden_size or None,
        }
        return versions.build_config(self.name, peft.PrefixTuningConfig, values, {})

    def build_encoder(self, config: Any, model: nn.Module, stack: Any, run: RunView) -> Any:
        """Return peft's encoder, drawn or started from what the frozen model computes."""
        import peft
        import torch

        encoder = peft.PrefixEncoder(config)  # type: ignore[no-untyped-call]
        if self.init != "random" and not run.loading:
            if is_encoder_decoder(model):
                raise MethodError(
                    f"{self.name}: init={self.init!r}: two layers of an encoder-decoder share a "
                    "prefix, which cannot hold the activations of both: use init=random"
                )
            vocabulary = shape_of(stack.get_input_embeddings().weight)[0]
            tokens = self.initial_tokens(model, vocabulary, self.num_virtual_tokens)
            with torch.no_grad(), gathered(*stack.parameters()):
                encoder.embedding.weight.copy_(activations(stack, tokens.to(stack.device)))
        return encoder


def begin_with_prefix(stack: Any, forward: Any, *args: Any, **kwargs: Any) -> Any:
    """Run a stack with the prefix as its first past keys and values.

    A call that goes on from a filled cache only has mask and positions shifted.
    """
    if stack.training and getattr(stack, "gradient_checkpointing", False):
        raise MethodError(f"a prefix: {_CHECKPOINTING}")
    arguments = named(forward, args, kwargs)
    placement = placement_of(stack)
    goes_on = continues(arguments)
    refuse_packing(arguments)
    lengthen_mask(arguments, "attention_mask", placement.count)
    if (positions := arguments.get("position_ids")) is not None:
        arguments["position_ids"] = positions + placement.count
    if goes_on:
        return forward(**arguments)

    tokens = arguments.get("input_ids")
    tokens = arguments["inputs_embeds"] if tokens is None else tokens
    check_length(stack, tokens.shape[1])
    given, wanted = structure.given_cache(arguments), arguments.get("use_cache")
    cache = new_cache(stack) if given is None else given
    fill(cache, stack.prefix_encoder, placement.config, tokens.shape[0], stack.dtype)
    structure.set_cache(arguments, cache, forward)
    if wanted is None:
        wanted = getattr(stack.config, "use_cache", False)
    if given is not None or wanted:
        return forward(**arguments)
    # The caller asked for none: it only carries the prefix, which some stacks then ignore.
    if "use_cache" in arguments or "use_cache" in inspect.signature(forward).parameters:
        arguments["use_cache"] = True
    return changed_output(stack, forward, arguments, structure.without_cache)
