"""Putting methods on a model: ``apply``, and ``disabled`` to ask the base model again."""

from __future__ import annotations

import copy
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ftplug import structure
from ftplug.base import Base, inspect_base
from ftplug.context import Context, logger
from ftplug.errors import FtplugError, MethodError
from ftplug.host import Host, MethodLike, resolve
from ftplug.inplace import forwards_disabled, is_wrapped
from ftplug.original_values import OriginalValues
from ftplug.plan import Plan, make_plan, set_trainable
from ftplug.quantization import keep_unpacked, refuse_repacked
from ftplug.sharding import is_sharded

if TYPE_CHECKING:
    from torch import nn

    from ftplug.method import Method

_ATTRIBUTE = "_ftplug"


@dataclass(eq=False)
class Attachment:
    """What ftplug knows about a prepared model. Holds no reference to it, so copies share it."""

    host: Host
    base: Base
    plan: Plan
    context: Context
    train_head: bool
    original_values: OriginalValues = field(repr=False)
    training: dict[str, Any] = field(default_factory=dict)  # facts of the last train()

    def __deepcopy__(self, memo: dict[int, Any]) -> Attachment:
        return self


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside DDP, DataParallel and torch.compile wrappers."""
    from accelerate.utils import extract_model_from_parallel
    from torch import nn

    if not isinstance(model, nn.Module):
        raise MethodError(f"a model is expected, not {model!r}")
    # Asked several times a step, and accelerate walks through all modules for compiled ones.
    if _ATTRIBUTE in model.__dict__ and "_orig_mod" not in model.__dict__:
        return model
    inner: nn.Module = extract_model_from_parallel(model, keep_torch_compile=False)
    return inner


def attachment_of(model: nn.Module) -> Attachment | None:
    """Return what is attached to a model, seen through DDP, DataParallel and torch.compile."""
    return unwrapped(model).__dict__.get(_ATTRIBUTE)


def require_attachment(model: nn.Module) -> Attachment:
    """Return what is attached to a model, or say that nothing is."""
    found = attachment_of(model)
    if found is None:
        raise MethodError(
            f"this {type(model).__name__} carries no ftplug method: use ftplug.apply(model, 'lora')"
        )
    return found


def apply(
    model: nn.Module,
    *methods: MethodLike,
    train_head: bool = True,
    seed: int = 42,
    **settings: Any,
) -> nn.Module:
    """Put one or several methods on a model, in place, for a hand-written training loop.

    ``apply(model, "lora", r=8)``, ``apply(model, Lora(r=8))``, ``apply(model, "lora", "bitfit")``.
    Afterwards exactly the parameters that train require gradients. Random initialisation is drawn
    under ``seed`` (the Trainer's default); torch's own generators are left as they were.

    Returns the same object. Raises :class:`MethodError` where a method or setting does not fit.
    """
    chosen = resolve(methods, settings)
    inner = unwrapped(model)
    context = Context(seed=seed, task=structure.task_of(inner), model_class=type(inner).__name__)
    prepare(inner, chosen, context, train_head=train_head)
    return model


def prepare(
    model: nn.Module,
    methods: Sequence[Method],
    context: Context,
    *,
    train_head: bool = True,
    fresh: Sequence[str] | None = None,
    accept: Callable[[Host, Plan], None] = lambda host, plan: None,
) -> Attachment:
    """Apply configured methods, once; a model that already carries the same ones is adopted.

    ``fresh`` names the parameters that are in no checkpoint, where a manifest knows them.
    ``accept`` may raise on the plan. What is refused leaves the model as it was: all is rehearsed
    on a weightless copy first.
    """
    _refuse_strangers(model)
    host = Host(methods)
    if (found := attachment_of(model)) is not None:
        if not host.same_methods(found.host.spec()) or found.train_head != train_head:
            raise MethodError(
                f"the model already carries {found.host.names} with other settings or methods than "
                f"{host.names}: merge it, or load a fresh base"
            )
        return found
    if is_sharded(model):
        raise MethodError(
            f"{host.names}: the model is sharded over processes already: apply methods first, and "
            "let the Trainer shard it (fsdp=True)"
        )
    refuse_repacked(model)
    base = inspect_base(model, fresh)
    rehearsed = _rehearse(model, host, base, context, train_head, accept)
    keep_unpacked(model)
    plan = _changed(model, host, base, context, train_head)
    if not rehearsed:
        accept(host, plan)
    set_trainable(model, set(plan.may_train))
    attachment = Attachment(
        host=host,
        base=base,
        plan=plan,
        context=context,
        train_head=train_head,
        original_values=OriginalValues.of(model, base, plan),
    )
    model.__dict__[_ATTRIBUTE] = attachment
    if hasattr(model, "save_pretrained"):
        model.__dict__["save_pretrained"] = types.MethodType(_save_pretrained, model)
    return attachment


def detach(model: nn.Module) -> None:
    """Forget the methods of a model that is plain again: ``save_pretrained`` means what it did."""
    model.__dict__.pop(_ATTRIBUTE, None)
    model.__dict__.pop("save_pretrained", None)


def _changed(model: nn.Module, host: Host, base: Base, context: Context, train_head: bool) -> Plan:
    """Let the methods change the model and return the plan."""
    original = dict(model.named_parameters())
    with _drawn_under(context.seed, model):
        host.call("prepare_model", model=model, context=context)
    plan = make_plan(model, host, base, original, train_head=train_head)
    host.call("finish_model", model=model, may_train=frozenset(plan.may_train), context=context)
    return plan


def _rehearse(
    model: nn.Module,
    host: Host,
    base: Base,
    context: Context,
    train_head: bool,
    accept: Callable[[Host, Plan], None],
) -> bool:
    """Go through it on a copy without weights, so that a refusal comes before any change.

    Returns whether that could be done. What is not a refusal (a model that cannot be copied, an
    initialisation that computes with the weights) is left to the real thing.
    """
    import torch

    try:
        copied = weightless_copy(model)
        with torch.device("meta"):
            plan = _changed(copied, host, base, replace(context, loading=True), train_head)
    except FtplugError:
        raise
    except Exception as error:  # whatever a stranger's module does when copied
        logger.debug("not rehearsed: %r", error)
        return False
    accept(host, plan)
    return True


def weightless_copy(model: nn.Module) -> nn.Module:
    """Return a deep copy whose parameters and buffers live on the meta device."""
    import torch
    from torch import nn

    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        meta = torch.empty_like(parameter, device="meta")
        memo[id(parameter)] = nn.Parameter(meta, requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(model, memo)


def _save_pretrained(self: nn.Module, save_directory: str, **kwargs: Any) -> None:
    """Write the artifact: what ``save_pretrained`` means for a model with a method attached."""
    from ftplug.artifact import save
    from ftplug.tensors import gathered_tensors

    if not kwargs.get("is_main_process", True):
        if kwargs.get("state_dict") is None and is_sharded(self):
            gathered_tensors(self)  # the main process waits for these
        return
    save(self, save_directory, state_dict=kwargs.get("state_dict"))
    if kwargs.get("push_to_hub"):
        raise MethodError("save_pretrained(push_to_hub=True): save, then push the folder")


def _refuse_strangers(model: nn.Module) -> None:
    """Refuse a model that carries peft adapters which ftplug did not put there."""
    if attachment_of(model) is not None:
        return
    for name, module in model.named_modules():
        if (name and _ATTRIBUTE in module.__dict__) or is_wrapped(module):
            raise MethodError(
                f"{name or type(model).__name__} already carries a method: apply all methods at "
                "once, to the outermost model"
            )
    adapted = any(
        hasattr(m, "base_layer") and hasattr(m, "adapter_layer_names") for m in model.modules()
    )
    if adapted or hasattr(model, "peft_config") or getattr(model, "_hf_peft_config_loaded", False):
        raise MethodError(
            f"{type(model).__name__} already carries a peft adapter: give ftplug the base model "
            "(model.unload(), or merge_and_unload() to keep what it learned)"
        )


@contextmanager
def _drawn_under(seed: int, model: nn.Module) -> Iterator[None]:
    """Seed torch's generators for the block and put them back afterwards."""
    import torch

    devices = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(devices)):
        torch.manual_seed(seed)
        yield


@contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """Let the model give the base model's answers, exactly, within the block.

    Added modules do nothing and the base's own tensors (a trained head, unfrozen layers) hold the
    values they had when the method was applied. Useful as the reference model of DPO.
    """
    attached = require_attachment(model)
    inner = unwrapped(model)
    training = {name for name, p in inner.named_parameters() if p.requires_grad}
    with ExitStack() as stack:
        stack.callback(set_trainable, inner, training)  # last: libraries toggle it on their way out
        stack.enter_context(attached.original_values.put_back(inner))
        stack.enter_context(forwards_disabled(inner))
        for context in attached.host.call("disable_model", model=inner):
            stack.enter_context(context)
        yield
