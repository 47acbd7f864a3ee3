"""What peft itself saves: ``adapter_config.json`` with a ``peft_type``, and the tensors beside it.

Unsloth's and axolotl's output folders are this too, with other files around it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftplug import ArtifactError
from ftplug_plugins.layouts import values
from ftplug_plugins.layouts.files import tensors_in
from ftplug_plugins.layouts.settings import method_for
from ftplug_plugins.virtual.positions import is_encoder_decoder
from ftplug_plugins.virtual.tokens import ENCODERS

if TYPE_CHECKING:
    import torch
    from torch import nn

# peft's task types by the pipeline tag.
TASKS = {
    "SEQ_CLS": "text-classification",
    "TOKEN_CLS": "token-classification",
    "QUESTION_ANS": "question-answering",
    "CAUSAL_LM": "text-generation",
    "SEQ_2_SEQ_LM": "text2text-generation",
    "FEATURE_EXTRACTION": "feature-extraction",
}
SAFE, PICKLED = "adapter_model.safetensors", "adapter_model.bin"
_PREFIX = "base_model.model."
_NO_TOKEN_TYPES = (
    "peft hands token_type_ids on to no question-answering model, neither in training: leave them "
    "out (tokenizer(…, return_token_type_ids=False)) to get the answers that it gives"
)


@dataclass(frozen=True)
class PlainPeft:
    """An adapter that peft reads: in ``plain``, by this ``config``."""

    config: Mapping[str, Any]
    plain: Path
    shapes: Mapping[str, tuple[int, ...]]
    title: str
    remarks: tuple[str, ...] = ()
    taken: set[int] = field(default_factory=set)  # ids of the tensors that were asked for

    @property
    def named_base(self) -> str | None:
        """The base that the adapter says it was trained on."""
        return self.config.get("base_model_name_or_path") or None

    @property
    def named_revision(self) -> str | None:
        """The commit or branch of that base."""
        return self.config.get("revision") or None

    @property
    def task(self) -> str | None:
        """The pipeline tag of the task, if it says one."""
        return TASKS.get(str(self.config.get("task_type")))

    @property
    def model_class(self) -> str | None:
        """The class of the model it was trained on, which peft records where no task is given."""
        mapping = self.config.get("auto_mapping")
        name = mapping.get("base_model_class") if isinstance(mapping, Mapping) else None
        return name if isinstance(name, str) else None

    @property
    def also(self) -> Mapping[str, list[int]]:
        """The task of a row, which peft wants to be told where there is only one, too."""
        of_tasks = self.config.get("peft_type") in ("POLY", "MULTITASK_PROMPT_TUNING")
        return {"task_ids": [0]} if of_tasks else {}

    @property
    def unheard(self) -> tuple[str, ...]:
        """What PeftModelForQuestionAnswering.forward takes and leaves out."""
        asks = self.config.get("task_type") == "QUESTION_ANS"
        return ("token_type_ids", "position_ids") if asks else ()

    def changed(self, model: nn.Module, loaded: nn.Module | None) -> Iterable[str]:
        """Return the parameters of the base that the adapter replaces."""
        self._method(loaded)  # refused by a setting's name, rather than by what follows from it
        if pair := next(values.untied(loaded, model), None):
            raise ArtifactError(
                f"{self.plain}: {' and '.join(pair)} are one tensor in this base, and two in the "
                "adapter (modules_to_save): an artifact keeps them one: train it with "
                "ensure_weight_tying=True, or merge it where it is (merge_and_unload)"
            )
        self.taken.update(map(id, values.as_in_base(loaded, model)))
        return values.changed(loaded, model, self.shapes)

    def methods(
        self, model: nn.Module, loaded: nn.Module | None, replaced: Sequence[str]
    ) -> list[tuple[str, Mapping[str, Any]]]:
        """Return the method with its settings; and ``freeze``, for what it replaces of the base."""
        self._refuse_other_prefixes(model)
        found = self._method(loaded)
        layers = () if hasattr(loaded, "prompt_encoder") else values.tuner_layers(loaded)
        biases = self.config.get("bias") not in (None, "none")
        train = [n for n in replaced if not (biases and n.endswith(".bias"))]
        # The method's layers are there before freeze: what they stand on is below them.
        train = [_below(name, layers) for name in train]
        return [found, *([("freeze", {"train": train})] if train else [])]

    def _refuse_other_prefixes(self, model: nn.Module) -> None:
        """Refuse a prefix that gives an encoder-decoder half of the usual one, or twice."""
        asked, usual = self.config.get("num_transformer_submodules"), 1 + is_encoder_decoder(model)
        if self.config["peft_type"] == "PREFIX_TUNING" and asked not in (None, usual):
            raise ArtifactError(
                f"{self.plain}: num_transformer_submodules={asked!s:.40} of peft's PREFIX_TUNING: "
                f"ftplug has {usual} on this base: use it by PeftModel.from_pretrained"
            )

    def _method(self, loaded: nn.Module | None) -> tuple[str, dict[str, Any]]:
        targets = [] if hasattr(loaded, "prompt_encoder") else values.tuner_targets(loaded)
        return method_for(self.config, targets)

    def value(
        self, name: str, wanted: torch.Tensor, loaded: nn.Module | None
    ) -> torch.Tensor | None:
        """Return the value of a tensor that ftplug calls ``name``, in the shape of ``wanted``."""
        found = values.value_of(loaded, name)
        self.taken.add(id(found))
        if found is None or found.shape == wanted.shape:
            return found
        if ".lora_" in name:
            return self._with_pruned_ranks(name, found, wanted)
        if any(part in ENCODERS for part in name.split(".")):
            return self._before_the_encoder(found, wanted)
        return found

    def left(self, loaded: nn.Module | None, own: Collection[int]) -> list[str]:
        """Return the parameters that peft added and nobody asked for, apart from the base's own."""
        there = loaded.named_parameters() if loaded is not None else ()
        return [n for n, p in there if id(p) not in own and id(p) not in self.taken]

    def _before_the_encoder(self, found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """Add the vectors that peft has for a decoder and never reads; refuse where it does."""
        import torch

        asked, kind = self.config.get("num_transformer_submodules"), self.config["peft_type"]
        unread = asked == 1 and kind in ("PROMPT_TUNING", "P_TUNING")
        if unread and wanted.shape == (2 * found.shape[0], *found.shape[1:]):
            return torch.cat([found, torch.zeros_like(found)])
        given = "None, which is 2 here" if asked is None else asked
        raise ArtifactError(
            f"{self.plain}: num_transformer_submodules={given!s:.40} of peft's {kind}: ftplug has "
            f"no such vectors ({tuple(found.shape)} for {tuple(wanted.shape)}): use it by "
            "PeftModel.from_pretrained"
        )

    def _with_pruned_ranks(
        self, name: str, found: torch.Tensor, wanted: torch.Tensor
    ) -> torch.Tensor:
        """Put AdaLoRA's ranks where they were before peft left out those that it had pruned."""
        module, _, _ = name.rpartition(".lora_")
        pattern = self.config.get("rank_pattern") or {}
        kept = next((v for k, v in pattern.items() if k.startswith(f"{module}.")), None)
        dim = 1 if ".lora_B." in name else 0
        fits = isinstance(kept, list) and len(kept) == wanted.shape[dim]
        if not fits or sum(map(bool, kept or ())) != found.shape[dim]:
            return found
        whole, at = wanted.detach().clone().zero_(), [i for i, k in enumerate(kept or ()) if k]
        if dim:
            whole[:, at] = found.detach().to(whole.dtype)
        else:
            whole[at] = found.detach().to(whole.dtype)
        return whole


def _below(name: str, targets: Collection[str]) -> str:
    module, _, kind = name.rpartition(".")
    return f"{module}.base_layer.{kind}" if module in targets else name


def recognises(directory: Path, config: Mapping[str, Any]) -> bool:
    """Whether a folder holds what peft saves."""
    return "peft_type" in config


def read(
    directory: Path, config: Mapping[str, Any], workspace: Path, *, allow_pickle: bool
) -> PlainPeft:
    """Read the config and the shapes; the values are left to peft. ``workspace`` is not used."""
    path = directory / SAFE
    if not path.is_file():
        path = directory / PICKLED
    if not path.is_file():
        raise ArtifactError(f"{directory}: an adapter_config.json, but no {SAFE} and no {PICKLED}")
    if config.get("save_only_topk_weights"):
        raise ArtifactError(
            f"{directory}: save_only_topk_weights: the file has no logits, so nothing can be "
            "trained from it on: save it with save_only_topk_weights=False where it was trained, "
            "or use it by PeftModel.from_pretrained"
        )
    held = tensors_in(path, allow_pickle=allow_pickle)
    shapes = {
        _in_base(key): tuple(tensor.shape)
        for key, tensor in held.items()
        if ".original_module." not in key
    }
    version = config.get("peft_version")
    by = f"peft {version:.20}" if isinstance(version, str) else "peft"
    title = f"a {config['peft_type']!s:.40} adapter of {by}"
    asks = config.get("task_type") == "QUESTION_ANS"
    remarks = (_NO_TOKEN_TYPES,) if asks else ()
    return PlainPeft(config, directory, shapes, title, remarks)


def _in_base(key: str) -> str:
    """Return the name in the base of what peft saved whole."""
    name = key.removeprefix(_PREFIX)
    name = name.replace(".modules_to_save.default.", ".").replace(".modules_to_save.", ".")
    return name.replace(".base_layer.", ".")
