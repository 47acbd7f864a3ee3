"""The parts of a transformers model that methods ask for, found by structure, not by name."""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from ftplug.errors import MethodError
from ftplug.structure.own_layers import maps_features, read_past

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

# Model-class suffix -> the Hub's pipeline tag.
TASKS = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMultipleChoice": "multiple-choice",
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
    "ForConditionalGeneration": "text2text-generation",
    "ForMaskedLM": "fill-mask",
    "ForImageClassification": "image-classification",
    "ForAudioClassification": "audio-classification",
    "Model": "feature-extraction",
}


@dataclass(frozen=True)
class LayerStack:
    """One stack of transformer layers, lowest first; an encoder-decoder has two."""

    name: str
    layers: tuple[nn.Module, ...]

    def top(self, count: int) -> Iterator[tuple[str, nn.Module]]:
        """Yield ``(name, layer)`` of the ``count`` layers nearest the head."""
        first = max(len(self.layers) - count, 0)
        for index in range(first, len(self.layers)):
            yield f"{self.name}.{index}", self.layers[index]


# What reads more or other than text, by transformers' own tables of model classes.
OTHER_TASKS = {
    "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES": "automatic-speech-recognition",
    "MODEL_FOR_CTC_MAPPING_NAMES": "automatic-speech-recognition",
    "MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES": "audio-classification",
    "MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES": "video-classification",
    "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES": "image-text-to-text",
    "MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES": "image-segmentation",
    "MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES": "object-detection",
    "MODEL_FOR_DEPTH_ESTIMATION_MAPPING_NAMES": "depth-estimation",
}


def task_of(model: nn.Module) -> str | None:
    """Return the Hub's pipeline tag for the model's class, or None for an unknown one."""
    name = type(model).__name__
    if getattr(model, "main_input_name", "input_ids") != "input_ids" or _reads_images(model):
        if name == "VisionEncoderDecoderModel":
            return "image-to-text"
        if other := _other_tasks().get(name):
            return other
        if name.endswith(_TEXT_ONLY):
            return None
    return next((tag for suffix, tag in TASKS.items() if name.endswith(suffix)), None)


_TEXT_ONLY = ("ForConditionalGeneration", "ForCausalLM", "ForSequenceClassification")


def _reads_images(model: nn.Module) -> bool:
    """Whether a model reads images beside its text."""
    return "pixel_values" in inspect.signature(model.forward).parameters


@functools.cache
def _other_tasks() -> dict[str, str]:
    """Return the tasks of ``OTHER_TASKS`` by the name of the model's class."""
    from transformers.models.auto import modeling_auto

    found: dict[str, str] = {}
    for table, task in OTHER_TASKS.items():
        for names in getattr(modeling_auto, table, {}).values():
            for name in [names] if isinstance(names, str) else names:
                found.setdefault(name, task)
    return found


def pretrained(model: nn.Module) -> PreTrainedModel:
    """Return the transformers model in ``model``: itself, or the first one inside a wrapper."""
    from transformers import PreTrainedModel

    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            return module
    raise MethodError(
        f"{type(model).__name__} holds no transformers PreTrainedModel: "
        "ftplug needs one to know base, head and layers"
    )


def backbone(model: nn.Module) -> PreTrainedModel:
    """Return the part below the task head (``model.bert``), or the model itself without a head."""
    return cast("PreTrainedModel", pretrained(model).base_model)


def backbone_prefix(model: nn.Module) -> str:
    """Return the backbone's name in ``model`` and a dot, or ``""`` for the model itself."""
    trunk = backbone(model)
    name = next(name for name, module in model.named_modules() if module is trunk)
    return f"{name}." if name else ""


def layer_stacks(model: nn.Module) -> list[LayerStack]:
    """Return the stacks of transformer layers, encoder before decoder.

    A stack is a ModuleList of transformers' ``GradientCheckpointingLayer``; in models that predate
    it, a ModuleList of one class that is as long as the config says the model is deep.
    """
    from torch import nn
    from transformers.modeling_layers import GradientCheckpointingLayer

    depth = getattr(pretrained(model).config.get_text_config(), "num_hidden_layers", None)
    stacks: list[LayerStack] = []
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{stack.name}.") for stack in stacks)
        if not isinstance(module, nn.ModuleList) or len(module) == 0 or inside:
            continue
        same_class = len({type(layer).__name__ for layer in module}) == 1
        modern = isinstance(module[0], GradientCheckpointingLayer)
        # wav2vec2's convolutions are such layers too: a transformer layer has linear ones.
        if (modern or (same_class and len(module) == depth)) and linear_layers(module[0]):
            stacks.append(LayerStack(name, tuple(module)))
    return stacks


def require_layer_stacks(model: nn.Module, method: str) -> list[LayerStack]:
    """Return the layer stacks, or say that the method does not fit this architecture."""
    stacks = layer_stacks(model)
    if not stacks:
        raise MethodError(
            f"{method}: found no stack of transformer layers in {type(model).__name__}"
        )
    return stacks


@dataclass(frozen=True)
class OutputProjections:
    """The linear layers that end the sub-layers of one transformer layer, by name within it.

    ``attention`` has one per attention: self, then cross. Each writes the ``hidden_size`` features
    that the residual connection adds.
    """

    hidden_size: int
    attention: tuple[str, ...]
    feed_forward: str


def linear_layers(module: nn.Module) -> dict[str, tuple[int, int]]:
    """Return ``{name: (in_features, out_features)}`` of the linear layers below ``module``.

    ``Linear``, GPT-2's ``Conv1D`` and quantized ones; one that peft wraps counts as a whole.
    """
    layers: dict[str, tuple[int, int]] = {}
    for name, part in module.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in layers)
        for read, written in (("in_features", "out_features"), ("nx", "nf")):
            if name and not inside and hasattr(part, read) and hasattr(part, written):
                layers[name] = (getattr(part, read), getattr(part, written))
    return layers


def require_output_projections(layer: nn.Module, method: str) -> OutputProjections:
    """Return the output projections of a transformer layer, or say why the method does not fit.

    The layer's first linear reads the hidden states, which tells their width. The last linear of
    that width in each attention (``attention``, ``self_attn``, ``EncDecAttention``) ends it; the
    last one outside of attention ends the feed-forward, of which there must be one.
    """
    kind = type(layer).__name__
    linears = linear_layers(layer)
    hidden_size = next((read for read, _ in linears.values()), 0)
    outputs = [name for name, (_, written) in linears.items() if written == hidden_size]
    past = read_past(layer)
    for name in outputs:
        if name in past or not maps_features(layer.get_submodule(name), *linears[name]):
            raise MethodError(f"{method}: {name} of {kind} is no plain linear layer: use freeze")
    blocks = {name: re.match(r".*?att(n|ention)[^.]*", name, re.IGNORECASE) for name in outputs}
    attention = {block[0]: name for name, block in blocks.items() if block}
    feed_forward = [name for name, block in blocks.items() if not block]
    experts = [name for name, _ in layer.named_modules() if "expert" in name.lower()]
    if experts or sum(linears[name][0] != hidden_size for name in feed_forward) > 1:
        where = (experts or feed_forward)[0]
        raise MethodError(f"{method}: {kind} has several feed-forwards, one at {where}: use lora")
    if not attention or not feed_forward:
        missing = "feed-forward" if attention else "attention"
        raise MethodError(f"{method}: found no output projection of the {missing} in {kind}")
    return OutputProjections(hidden_size, tuple(attention.values()), feed_forward[-1])


def is_language_model(model: nn.Module) -> bool:
    """Whether the head predicts tokens: such a head is part of the base, not a task head."""
    return pretrained(model).get_output_embeddings() is not None


def task_head(model: nn.Module) -> list[str]:
    """Return the names of the parameters outside the backbone, e.g. ``classifier.weight``.

    A language model's own head is part of its base. In a wrapper, and in a model class of one's own
    around a transformers model, what lies outside of every transformers model is head as well (a
    value head, a pooling layer).
    """
    names = [name for name, _ in model.named_parameters()]
    inner = pretrained(model)
    if inner is not model:
        return _outside_of_models(model, names)
    if is_language_model(model):
        return []
    if prefix := backbone_prefix(model):
        return [name for name in names if not name.startswith(prefix)]
    return [] if type(model).__module__.startswith("transformers.") else _own_head(model, names)


def _outside_of_models(model: nn.Module, names: list[str]) -> list[str]:
    """Return what lies outside of the transformers models in a module, and the heads of these."""
    from transformers import PreTrainedModel

    inside = {n: m for n, m in model.named_modules() if n and isinstance(m, PreTrainedModel)}
    outermost = [n for n in inside if not any(n.startswith(f"{other}.") for other in inside)]
    head = {f"{n}.{name}" for n in outermost for name in task_head(inside[n])}
    roots = tuple(f"{name}." for name in inside)
    return [name for name in names if name in head or not name.startswith(roots)]


def _own_head(model: nn.Module, names: list[str]) -> list[str]:
    """Return the head of a model class that names no backbone.

    Of one that holds no transformers model: the linear layers that come after its stack of layers.
    """
    from transformers import PreTrainedModel

    if any(isinstance(module, PreTrainedModel) for module in list(model.modules())[1:]):
        return _outside_of_models(model, names)
    stacks = tuple(f"{stack.name}." for stack in layer_stacks(model))
    last = max((i for i, name in enumerate(names) if name.startswith(stacks)), default=len(names))
    linear = tuple(f"{name}." for name in linear_layers(model))
    return [name for name in names[last + 1 :] if stacks and name.startswith(linear)]


def pooler(model: nn.Module) -> list[str]:
    """Return the names of the backbone's pooler parameters, e.g. ``bert.pooler.dense.weight``."""
    prefix = f"{backbone_prefix(model)}pooler."
    return [name for name, _ in model.named_parameters() if name.startswith(prefix)]


def persistent_buffers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the buffers that belong to the state: BatchNorm statistics move even when frozen."""
    for prefix, module in model.named_modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                yield (f"{prefix}.{name}" if prefix else name), buffer


def named_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the live parameters by name; equal names of many models are held once."""
    return {sys.intern(name): parameter for name, parameter in model.named_parameters()}


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the live parameters and persistent buffers by name."""
    return named_parameters(model) | dict(persistent_buffers(model))
