"""Prompt tuning: train vectors that are read before the input (https://arxiv.org/abs/2104.08691)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from ftplug import LearningRate, MethodError, hookimpl, structure
from ftplug.context import one_line
from ftplug.inplace import wrap_forward
from ftplug.structure import embeds_tokens, gathered, shape_of
from ftplug_plugins.peft_bridge import versions
from ftplug_plugins.virtual.placement import in_output, placement_of
from ftplug_plugins.virtual.positions import (
    accepts,
    changed_output,
    check_length,
    continues,
    is_causal,
    is_encoder_decoder,
    lengthen_mask,
    named,
    refuse_packing,
)
from ftplug_plugins.virtual.tokens import Prompted, VirtualTokens
from ftplug_plugins.virtual.trying import refuses_embeddings

if TYPE_CHECKING:
    from torch import nn

    from ftplug.context import RunView


@dataclass(frozen=True, eq=False)
class BeforeInput(Prompted, ABC):
    """Base of the methods that read virtual tokens before the input: where, and with what loss."""

    encoder_name: ClassVar[str] = "prompt_encoder"

    @hookimpl
    def prepare_model(self, model: nn.Module, run: RunView) -> None:
        """Place the encoder in the input stack and wrap its forward."""
        self.refuse_second(model)
        stack = self._input_stack(model)
        config = self.prompt_config()
        words = stack.get_input_embeddings().weight
        config.token_dim = shape_of(words)[1]  # may differ from the hidden size
        config.num_transformer_submodules = self.submodules(model)
        self.complete(config, model, run)
        self.place(self.build_encoder(config, model, stack, run), config, stack)
        wrap_forward(stack, prepend if _reads_whole(model) else prepend_and_cut)
        if is_encoder_decoder(model):
            wrap_forward(structure.backbone(model).get_decoder(), attend_to_all)
        elif is_causal(model) and structure.is_language_model(model):
            wrap_forward(structure.pretrained(model), label_virtual_tokens)

    def submodules(self, model: nn.Module) -> int:
        """Return 2 for an encoder-decoder: peft has twice the vectors and never reads the rest."""
        return 2 if is_encoder_decoder(model) else 1

    @abstractmethod
    def prompt_config(self) -> Any:
        """Return peft's config with this method's settings."""

    @abstractmethod
    def build_encoder(self, config: Any, model: nn.Module, stack: Any, run: RunView) -> Any:
        """Return peft's encoder of the virtual tokens."""

    def equals_peft(self, model: nn.Module, run: RunView) -> bool:
        """Whether peft gives the same answers: not where it pools the last position."""
        return super().equals_peft(model, run) and not (is_causal(model) and _classifies(model))

    def _input_stack(self, model: nn.Module) -> Any:
        """Return the encoder of an encoder-decoder, else the backbone."""
        trunk = structure.backbone(model)
        stack = trunk.get_encoder() if is_encoder_decoder(model) else trunk.get_decoder()
        several = trunk.config.get_text_config() is not trunk.config
        if not _embeds(stack) or not accepts(stack, "input_ids", "inputs_embeds"):
            reason = "it reads no token embeddings, before which the prompt would stand"
        elif several and not is_encoder_decoder(model):
            reason = "it reads more than text"
        elif further := _further_inputs(stack):
            reason = f"it reads {further} of each token, which virtual tokens do not have"
        elif getattr(trunk.config, "output_router_logits", False):
            reason = "its loss over experts cannot mask virtual tokens (output_router_logits)"
        elif error := refuses_embeddings(stack):
            reason = f"it does not read embeddings token by token ({one_line(error)[:200]})"
        else:
            return stack
        raise MethodError(f"{self.name}: {type(model).__name__}: {reason}: use lora")


def _embeds(stack: Any) -> bool:
    """Whether a stack has an embedding of tokens, (vocabulary, token_dim), and looks them up."""
    try:
        embedding = stack.get_input_embeddings()
    except (NotImplementedError, AttributeError):
        return False
    weight = getattr(embedding, "weight", None)
    if weight is None or len(shape_of(weight)) != 2:
        return False
    return embeds_tokens(embedding, shape_of(weight)[1])


def _further_inputs(stack: Any) -> str | None:
    """Return what a stack reads of each token beside its id, type and position, if anything."""
    if hasattr(stack.config, "type_vocab_sizes"):  # TAPAS: seven types a token
        return "several token types"
    if getattr(stack.config, "use_task_id", False):  # Ernie
        return "task_type_ids"
    return next((name for name in _FURTHER if accepts(stack, name)), None)


_FURTHER = ("bbox", "xpath_tags_seq")  # LayoutLM and kin, MarkupLM


@dataclass(frozen=True, eq=False)
class PromptTuning(BeforeInput, VirtualTokens):
    """Put trained vectors before the embedded tokens and train them alone; the model stays frozen.

    Numbers equal peft's, whose encoder this is, but the model's output keeps the length of its
    input: hidden states and logits at the virtual positions are cut off. What differs from peft:

    - token classification, question answering: labels and spans fit the cut output (peft's loss
      fails there, and its spans are off by ``num_virtual_tokens``);
    - decoder-only sequence classification: the last token that is no padding is pooled. peft pools
      the last position, which under right padding is padding, so its files are not written.

    An encoder's first position is a virtual token, and that is what BERT's pooler or RoBERTa's head
    pools, here and in peft. Left padding shifts absolute positions, as in peft.
    """

    name: ClassVar[str] = "prompt-tuning"
    paper: ClassVar[str] = "https://arxiv.org/abs/2104.08691"
    citation: ClassVar[str] = """
        @inproceedings{lester2021power,
          title     = {The Power of Scale for Parameter-Efficient Prompt Tuning},
          author    = {Lester, Brian and Al-Rfou, Rami and Constant, Noah},
          booktitle = {Conference on Empirical Methods in Natural Language Processing},
          year      = {2021}
        }
    """
    learning_rate: ClassVar[LearningRate] = LearningRate(3e-3, 1e-1, 5e-1)

    def prompt_config(self) -> Any:
        """Return peft's config with this method's settings."""
        import peft

        values = {"num_virtual_tokens": self.num_virtual_tokens}
        return versions.build_config(self.name, peft.PromptTuningConfig, values, {})

    def build_encoder(self, config: Any, model: nn.Module, stack: Any, run: RunView) -> Any:
        """Return peft's embedding of the virtual tokens, drawn or read from the vocabulary."""
        import peft
        import torch

        words = stack.get_input_embeddings()
        encoder = peft.PromptEmbedding(config, words)  # type: ignore[no-untyped-call]
        if self.init != "random" and not run.loading:
            rows = encoder.embedding.num_embeddings
            tokens = self.initial_tokens(model, shape_of(words.weight)[0], rows)
            with torch.no_grad(), gathered(words.weight):
                encoder.embedding.weight.copy_(words(tokens.to(words.weight.device)))
        return encoder


def prepend(stack: Any, forward: Any, *args: Any, **kwargs: Any) -> Any:
    """Run a stack on the virtual tokens followed by the input; its output has both.

    A call that goes on from a filled cache only has its mask lengthened.
    """
    import torch

    arguments = named(forward, args, kwargs)
    encoder, count = stack.prompt_encoder, placement_of(stack).count
    goes_on = continues(arguments)
    refuse_packing(arguments)
    lengthen_mask(arguments, "attention_mask", count)
    lengthen_mask(arguments, "global_attention_mask", count)  # Longformer, LED
    if "position_ids" in arguments:
        arguments["position_ids"] = None  # counted anew from the first virtual token, as in peft
    if goes_on:
        return forward(**arguments)

    embeds = arguments.get("inputs_embeds")
    if embeds is None:
        embeds = stack.get_input_embeddings()(arguments.get("input_ids"))
    check_length(stack, embeds.shape[1])
    rows = torch.arange(encoder.embedding.num_embeddings, device=encoder.embedding.weight.device)
    prompt = encoder(rows[None])[:, :count].to(embeds)  # (1, count, token_dim)
    prompt = prompt.expand(embeds.shape[0], -1, -1)
    if (segments := arguments.get("token_type_ids")) is not None:
        zeros = segments.new_zeros(segments.shape[0], count)
        arguments["token_type_ids"] = torch.cat([zeros, segments], dim=1)
    arguments["input_ids"] = None
    return forward(**{**arguments, "inputs_embeds": torch.cat([prompt, embeds], dim=1)})


def prepend_and_cut(stack: Any, forward: Any, *args: Any, **kwargs: Any) -> Any:
    """Run a stack as :func:`prepend` does and cut the virtual positions off its output."""
    arguments = named(forward, args, kwargs)
    prepended, placement = partial(prepend, stack, forward), placement_of(stack)
    if continues(arguments) or placement.in_output:
        return prepended(**arguments)
    return changed_output(stack, prepended, arguments, partial(_cut, count=placement.count))


def attend_to_all(decoder: Any, forward: Any, *args: Any, **kwargs: Any) -> Any:
    """Let cross-attention see the virtual tokens, which the input's own mask does not count."""
    arguments = named(forward, args, kwargs)
    states, mask = arguments.get("encoder_hidden_states"), arguments.get("encoder_attention_mask")
    if states is not None and mask is not None:
        lengthen_mask(arguments, "encoder_attention_mask", states.shape[1] - mask.shape[1])
    return forward(**arguments)


def label_virtual_tokens(model: Any, forward: Any, *args: Any, **kwargs: Any) -> Any:
    """Compute a language model's loss as peft does: the last virtual token predicts the first one.

    Virtual positions are labelled -100 within the call, and cut off its output afterwards. Labels
    of some positions alone (``logits_to_keep``) are the input's own, and stay as they are.
    """
    from torch.nn.functional import pad

    arguments = named(forward, args, kwargs)
    labels, shifted = arguments.get("labels"), arguments.get("shift_labels")
    if labels is None or shifted is not None or continues(arguments) or _keeps_some(arguments):
        return forward(**arguments)
    stack = model.base_model.get_decoder()
    count = placement_of(stack).count
    arguments["labels"] = pad(labels, (count, 0), value=-100)
    with in_output(stack):
        return changed_output(model, forward, arguments, partial(_cut, count=count))


def _keeps_some(arguments: Mapping[str, Any]) -> bool:
    kept = arguments.get("logits_to_keep")  # a number, of which 0 is all, or positions
    return kept is not None and not (isinstance(kept, int) and kept == 0)


def _cut(output: Any, count: int) -> None:
    """Cut ``count`` positions off the front of hidden states and logits."""
    for key in ("last_hidden_state", "logits"):
        if output.get(key) is not None:
            output[key] = output[key][:, count:]
    if output.get("hidden_states") is not None:
        states = output["hidden_states"]
        output["hidden_states"] = tuple(None if s is None else s[:, count:] for s in states)


def _classifies(model: nn.Module) -> bool:
    return type(structure.pretrained(model)).__name__.endswith("ForSequenceClassification")


def _reads_whole(model: nn.Module) -> bool:
    """Whether what follows the stack reads the virtual positions as well.

    A decoder does, by cross-attention; so does a classification head that takes the first position.
    """
    pooling = getattr(structure.backbone(model).config, "classifier_pooling", "cls")
    averages = pooling in ("mean", "late")  # late: EuroBERT averages logits
    takes_first = _classifies(model) and not is_causal(model) and not averages
    return is_encoder_decoder(model) or takes_first
