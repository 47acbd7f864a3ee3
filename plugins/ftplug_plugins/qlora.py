"""QLoRA: LoRA on a base in 4 or 8 bits (https://arxiv.org/abs/2305.14314)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Lt

from ftplug import LearningRate, Method, MethodError, hookimpl
from ftplug.context import Context, RunView
from ftplug.inplace import is_wrapped
from ftplug.structure import pooler, pretrained, task_head
from ftplug_plugins.lora import Lora
from ftplug_plugins.peft_bridge import files as peft_files

if TYPE_CHECKING:
    import torch
    from torch import nn

_QUANTIZED = ("Linear4bit", "Linear8bitLt")


class _Alone(Lora):
    """Stands beside no other method of peft: those do not all fit quantized layers."""

    def shareable(self) -> bool:
        """Not."""
        return False


@dataclass(frozen=True, eq=False)
class Qlora(Method):
    """Quantize the model's linear layers in place and train LoRA beside all of them.

    The base is loaded in full precision, so that it keeps its fingerprint and the artifact (a plain
    LoRA adapter) is verified like any other; then each linear layer but the output head is
    quantized by bitsandbytes. ``ftplug.disabled`` gives the quantized base's answers. A model that
    ``from_pretrained`` quantized works too: apply to it before a Trainer exists.

    Merging dequantizes the base and adds the update in full precision: the merged model answers as
    the trained one did (of 8 bits, but for the rounding of activations). Nothing is quantized a
    second time.
    """

    r: Annotated[int, Ge(1), "Rank of the update."] = 8
    lora_alpha: Annotated[int, Ge(1), "Scale: the update is multiplied by lora_alpha / r."] = 16
    target_modules: Annotated[
        tuple[str, ...], "Ends of module names, or all-linear; empty: what peft picks."
    ] = ("all-linear",)
    lora_dropout: Annotated[float, Ge(0), Lt(1), "Dropout before A."] = 0.0
    use_rslora: Annotated[bool, "Scale by lora_alpha / sqrt(r) instead."] = False
    use_dora: Annotated[bool, "Train direction and magnitude of W apart (DoRA)."] = False
    bits: Annotated[Literal[4, 8], "Bits of a base weight: 4, or 8 (LLM.int8)."] = 4
    quant_type: Annotated[Literal["nf4", "fp4"], "The 16 values of 4 bits."] = "nf4"
    double_quant: Annotated[bool, "Quantize the scales of 4 bits as well."] = True

    name: ClassVar[str] = "qlora"
    paper: ClassVar[str] = "https://arxiv.org/abs/2305.14314"
    citation: ClassVar[str] = """
        @inproceedings{dettmers2023qlora,
          title     = {{QLoRA}: Efficient Finetuning of Quantized {LLMs}},
          author    = {Dettmers, Tim and Pagnoni, Artidoro and Holtzman, Ari
                       and Zettlemoyer, Luke},
          booktitle = {Advances in Neural Information Processing Systems},
          year      = {2023}
        }
    """
    learning_rate: ClassVar[LearningRate] = LearningRate(1e-5, 2e-4, 1e-2)

    def lora(self) -> Lora:
        """Return the LoRA that trains beside the quantized layers."""
        settings = self.settings()
        own = ("bits", "quant_type", "double_quant")
        return _Alone(**{name: value for name, value in settings.items() if name not in own})

    @hookimpl
    def prepare_model(self, model: nn.Module, context: Context) -> None:
        """Quantize what is not quantized yet, then inject the adapters."""
        _require_bitsandbytes()
        if any(is_wrapped(m) for m in model.modules()) or peft_files.tuner_layers(model):
            raise MethodError("qlora: quantizes the base: name it before the other methods")
        already = any(type(module).__name__ in _QUANTIZED for module in model.modules())
        layers = [] if already else list(_linear_layers(model))
        if not layers and not already:
            raise MethodError(
                f"qlora: {type(model).__name__} has no torch.nn.Linear to quantize: use lora"
            )
        for name, layer in layers:
            if not layer.weight.is_meta:  # a rehearsal
                _replace(model, name, self._quantized(layer))
        flags = _hide_quantization(model)
        self.lora().prepare_model(model, context)
        model.__dict__.update(flags)

    @hookimpl
    def select_trainable(self, model: nn.Module) -> Iterable[str]:
        """Select A and B."""
        return self.lora().select_trainable(model)

    @hookimpl
    def save_artifact(
        self, model: nn.Module, directory: Path, tensors: Mapping[str, torch.Tensor], run: RunView
    ) -> Iterable[str]:
        """Write LoRA's files: peft reads them on a quantized base or a full one."""
        return self.lora().save_artifact(model, directory, tensors, run)

    @hookimpl
    def load_artifact(
        self, model: nn.Module, directory: Path, run: RunView
    ) -> Mapping[str, torch.Tensor]:
        """Read them back."""
        return self.lora().load_artifact(model, directory, run)

    @hookimpl
    def disable_model(self, model: nn.Module) -> AbstractContextManager[None]:
        """Switch the adapters off: what remains is the quantized base."""
        return self.lora().disable_model(model)

    @hookimpl
    def merge_model(self, model: nn.Module) -> None:
        """Put the dequantized layers in place of the quantized ones, then add the update."""
        quantized = [(n, m) for n, m in model.named_modules() if type(m).__name__ in _QUANTIZED]
        dtype = pretrained(model).dtype
        for name, layer in quantized:
            _replace(model, name, _dequantized(layer, dtype))
        try:
            self.lora().merge_model(model)
        except MethodError:
            for name, layer in quantized:
                _replace(model, name, layer)
            raise
        _forget_quantization(model)

    def _quantized(self, layer: nn.Linear) -> nn.Module:
        """Return the layer with its weight quantized, on its device; it computes in its dtype."""
        import bitsandbytes

        bnb: Any = bitsandbytes  # its types are incomplete
        weight, bias = layer.weight, layer.bias is not None
        sizes = (layer.in_features, layer.out_features, bias)
        new: Any
        if self.bits == 4:
            options = {"quant_type": self.quant_type, "compress_statistics": self.double_quant}
            new = bnb.nn.Linear4bit(*sizes, compute_dtype=weight.dtype, device="meta", **options)
            new.weight = bnb.nn.Params4bit(
                weight.detach().cpu(), requires_grad=False, module=new, **options
            )
        else:
            new = bnb.nn.Linear8bitLt(*sizes, has_fp16_weights=False, device="meta")
            new.weight = bnb.nn.Int8Params(
                weight.detach().cpu(), requires_grad=False, has_fp16_weights=False
            )
        new.bias = None
        new = new.to(weight.device)  # moving the weight quantizes it
        new.bias = layer.bias  # the base's own parameter
        return new.train(layer.training)  # type: ignore[no-any-return]


def _require_bitsandbytes() -> None:
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise MethodError(
            f"qlora: needs bitsandbytes ({error}): pip install 'ftplug[qlora]'"
        ) from error


def _linear_layers(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """Yield the layers that ``from_pretrained`` would quantize: no output head, no float32 ones.

    A pooler is spared too: it may be in no checkpoint, and then it trains.
    """
    from torch import nn

    inner = pretrained(model)
    spared = {name.rpartition(".")[0] for name in task_head(model) + pooler(model)}
    exact = set(getattr(inner, "_keep_in_fp32_modules", None) or ())  # T5 computes in wo's dtype
    for name, module in model.named_modules():
        kept = name in spared or exact & set(name.split("."))
        if type(module) is nn.Linear and not kept and module is not inner.get_output_embeddings():
            yield name, module


def _replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, layer)


def _dequantized(layer: Any, dtype: torch.dtype) -> nn.Module:
    """Return a plain linear layer with the values that the quantized weight stands for."""
    from peft.utils.integrations import dequantize_module_weight
    from torch import nn

    plain = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
    weight = dequantize_module_weight(layer).detach().to(layer.weight.device, dtype)
    plain.weight = nn.Parameter(weight, requires_grad=False)
    plain.bias = layer.bias
    return plain.train(layer.training)


def _hide_quantization(model: nn.Module) -> dict[str, Any]:
    """Make peft treat quantized layers as linear ones, whose base layer can be put in its place.

    Returns the attributes to set back. Where ``from_pretrained`` quantized, the Trainer asks
    whether there are adapters: there will be.
    """
    names = ("is_loaded_in_4bit", "is_loaded_in_8bit")
    flags = {name: model.__dict__[name] for name in names if name in model.__dict__}
    model.__dict__.update(dict.fromkeys(flags, False))
    inner = pretrained(model)
    if getattr(inner, "hf_quantizer", None) is not None:
        inner.__dict__["_hf_peft_config_loaded"] = True
    return flags


def _forget_quantization(model: nn.Module) -> None:
    """Remove what ``from_pretrained`` noted on a model that it quantized."""
    inner = pretrained(model)
    for name in ("is_loaded_in_4bit", "is_loaded_in_8bit", "is_quantized", "hf_quantizer",
                 "quantization_method", "_hf_peft_config_loaded"):  # fmt: skip
        inner.__dict__.pop(name, None)
    if hasattr(inner.config, "quantization_config"):
        del inner.config.quantization_config
