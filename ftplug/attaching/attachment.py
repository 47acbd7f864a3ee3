"""Methods on a model: ``prepare`` puts them on, ``disabled`` asks the base model again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ftplug.attaching.first_backward import FirstBackward
from ftplug.attaching.original_values import OriginalValues
from ftplug.attaching.plan import Plan, set_trainable
from ftplug.attaching.reach import say_what_is_out_of_reach
from ftplug.attaching.rehearsal import Accept, Change
from ftplug.attaching.rollback import Snapshot
from ftplug.attaching.run_view import NoTrainer, RunFacts, Surroundings
from ftplug.attaching.sharding import is_sharded
from ftplug.base.inspecting import Base, inspect_base
from ftplug.base.quantization import keep_unpacked, refuse_repacked
from ftplug.context import Context
from ftplug.errors import MethodError
from ftplug.host import Host
from ftplug.inplace import forwards_disabled, is_wrapped

if TYPE_CHECKING:
    from torch import nn

    from ftplug.method import Method

_ATTRIBUTE = "_ftplug"
ADAPTERS = ("load_adapter", "add_adapter", "set_adapter", "delete_adapter")  # transformers' own
TAKEN_OVER = ("save_pretrained", "save", *ADAPTERS)  # on the instance, while it carries a method


@dataclass(eq=False)
class Attachment:
    """What ftplug knows about a prepared model. Holds no reference to it, so copies share it."""

    host: Host
    plan: Plan
    train_head: bool
    original_values: OriginalValues = field(repr=False)
    facts: RunFacts = field(repr=False)  # the same for the methods, by way of their ``run``
    training: dict[str, Any] = field(default_factory=dict)  # facts of the last train()
    first_backward: FirstBackward | None = field(default=None, repr=False)  # of a loop by hand

    @property
    def base(self) -> Base:
        """The base model as it was given."""
        return self.facts.base

    @property
    def context(self) -> Context:
        """The seed, the task and the model's class."""
        return self.facts.context

    def __deepcopy__(self, memo: dict[int, Any]) -> Attachment:
        return self


def unwrap_model(model: nn.Module) -> nn.Module:
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
    return unwrap_model(model).__dict__.get(_ATTRIBUTE)


def require_attachment(model: nn.Module) -> Attachment:
    """Return what is attached to a model, or say that nothing is."""
    attached = attachment_of(model)
    if attached is None:
        raise MethodError(
            f"this {type(model).__name__} carries no ftplug method: use ftplug.apply(model, 'lora')"
        )
    return attached


def prepare(
    model: nn.Module,
    methods: Sequence[Method],
    context: Context,
    *,
    train_head: bool = True,
    fresh: Sequence[str] | None = None,
    accept: Accept = lambda host, plan: None,
    surroundings: Surroundings | None = None,
) -> Attachment:
    """Apply configured methods, once; a model that already carries the same ones is adopted.

    What trains nothing (a transient method) may differ then: the model goes on with those given.
    ``fresh`` names the parameters that are in no checkpoint, where a manifest knows them.
    ``accept`` may raise on the plan; ``surroundings`` is the Trainer's run, where there is one.
    What is refused leaves the model as it was: all is rehearsed on a weightless copy first, and
    what still fails is taken back.
    """
    _refuse_strangers(model)
    host = Host(methods)
    if (present := attachment_of(model)) is not None:
        return _adopted(model, present, host, context, train_head)
    if is_sharded(model):
        raise MethodError(
            f"{host.names}: the model is sharded over processes already: apply methods first, and "
            "let the Trainer shard it (fsdp=True)"
        )
    refuse_repacked(model)
    facts = RunFacts(context, inspect_base(model, fresh), surroundings or NoTrainer())
    change = Change(host, facts, train_head)
    rehearsed = change.rehearsed_on(model, accept)
    before = Snapshot(model)
    try:
        keep_unpacked(model)
        plan = change.to(model)
        if not rehearsed:
            accept(host, plan)
    except BaseException:
        before.restore()
        raise
    set_trainable(model, set(plan.may_train))
    facts.original_values = OriginalValues.of(model, facts.base, plan)
    attachment = Attachment(
        host=host,
        plan=plan,
        train_head=train_head,
        original_values=facts.original_values,
        facts=facts,
    )
    model.__dict__[_ATTRIBUTE] = attachment
    if not context.loading:
        say_what_is_out_of_reach(model, host, plan, facts.base.total)
    return attachment


def _adopted(
    model: nn.Module, present: Attachment, host: Host, context: Context, train_head: bool
) -> Attachment:
    if not host.same_methods(present.host.spec()) or present.train_head != train_head:
        raise MethodError(
            f"the model already carries {present.host.names} with other settings or methods than "
            f"{host.names}: merge it, or load a fresh base"
        )
    before = [method for method in present.host.methods if method.transient]
    now = [method for method in host.methods if method.transient]
    if before or now:
        present = _exchanged(unwrap_model(model), present, before, now, context)
    return present


def _exchanged(
    model: nn.Module,
    present: Attachment,
    before: Sequence[Method],
    now: Sequence[Method],
    context: Context,
) -> Attachment:
    """Take off the transient methods that are no longer given, and apply those that are."""
    host = Host([*(method for method in present.host.methods if not method.transient), *now])
    host.views = present.facts.views(host)
    names = {method.name for method in now}
    applied, gone = Host(now), Host([method for method in before if method.name not in names])
    facts = replace(present.facts, context=context, surroundings=NoTrainer())  # of this Trainer
    applied.views = gone.views = facts.views(host)
    may_train = frozenset(present.plan.may_train)
    # It may refuse, and then nothing was taken off.
    applied.call("finish_model", model=model, may_train=may_train, context=context)
    gone.call("merge_model", model=model)
    attachment = replace(present, host=host)  # a copy of the model shares the old one
    model.__dict__[_ATTRIBUTE] = attachment
    return attachment


def forget(model: nn.Module) -> None:
    """Forget the methods of a model that is plain again: ``save_pretrained`` means what it did."""
    model.__dict__.pop(_ATTRIBUTE, None)
    for module in model.modules():
        for name in TAKEN_OVER:
            if _is_ours(module.__dict__.get(name)):
                del module.__dict__[name]


def _is_ours(value: Any) -> bool:
    """Whether an attribute is what ftplug put there: a bound method or a partial of a function."""
    function = getattr(value, "__func__", getattr(value, "func", None))
    return str(getattr(function, "__module__", "")).startswith("ftplug.")


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
    adapted = any(type(module).__module__.startswith("peft.") for module in model.modules())
    if adapted or hasattr(model, "peft_config") or getattr(model, "_hf_peft_config_loaded", False):
        raise MethodError(
            f"{type(model).__name__} already carries a peft adapter: give ftplug the base model "
            "(model.unload(), or merge_and_unload() to keep what it learned)"
        )


@contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """Let the model give the base model's answers, exactly, within the block.

    Added modules do nothing and the base's own tensors (a trained head, unfrozen layers) hold the
    values they had when the method was applied. Useful as the reference model of DPO.
    """
    attached = require_attachment(model)
    inner = unwrap_model(model)
    training = {name for name, p in inner.named_parameters() if p.requires_grad}
    with ExitStack() as stack:
        stack.callback(set_trainable, inner, training)  # last: libraries toggle it on their way out
        stack.enter_context(attached.original_values.put_back(inner))
        stack.enter_context(forwards_disabled(inner))
        for context in attached.host.call("disable_model", model=inner):
            stack.enter_context(context)
        yield
