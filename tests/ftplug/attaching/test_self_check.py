"""The check before a run with a transformers that nobody tested: what it sees, and leaves."""

from __future__ import annotations

import inspect
import logging
import random
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import tiny
import torch
from contracts import contract, relying
from ftplug_plugins.freeze import Freeze
from runs import trainer
from torch import nn

import ftplug
from ftplug import Method, MethodError, discovery, hookimpl, structure
from ftplug.attaching.self_check import Untested, self_check
from ftplug.inplace import wrap_forward
from ftplug.training import compat

NEWER = Untested("5.99", "5.4 to 5.24")
ALLOWED = Untested("5.99", "5.4 to 5.24", allowed=True)
# What goes on beside the cache, or says so itself where there is none.
UNTOUCHED = {"adaption-prompt", "trunk-cache"}
LOUD = {"prefix-tuning", "cartridge"}


NEW = "kv"


def rename_cache(model: Any) -> Any:
    """Let the backbone of a Llama and its layers call their cache ``kv``."""
    for module in (model.model, *model.model.layers):
        module.__class__ = _renamed(type(module), str(structure.cache_argument(module)))
    return model


def _renamed(cls: Any, old: str) -> Any:
    class Renamed(cls):  # type: ignore[misc]
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return super().__call__(*args, **_moved(kwargs, old, NEW))

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return super().forward(*args, **_moved(kwargs, NEW, old))

    takes = inspect.signature(cls.forward)
    names = [p.replace(name=NEW) if p.name == old else p for p in takes.parameters.values()]
    Renamed.forward.__signature__ = takes.replace(parameters=names)  # type: ignore[attr-defined]
    Renamed.__name__, Renamed.__module__ = cls.__name__, cls.__module__
    return Renamed


def _moved(kwargs: dict[str, Any], before: str, after: str) -> dict[str, Any]:
    return {after if name == before else name: value for name, value in kwargs.items()}


def applied(model: Any, name: str) -> Any:
    if name == "trunk-cache":
        return ftplug.apply(model, Freeze(layers=1), name)
    settings = dict(contract(name).get("settings", {}))
    if name == "alora":
        settings["alora_invocation_tokens"] = (53, 54)  # which no random row has
    return ftplug.apply(model, name, **settings)


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", relying())
def test_what_is_in_order_passes_silently_and_fast(name, dtype, caplog):
    model = applied(tiny.llama().to(dtype), name)
    self_check(model, NEWER)  # compiles and loads what the next call has
    begin = time.process_time()
    self_check(model, NEWER)
    assert time.process_time() - begin < 1
    assert warnings_in(caplog) == []


@pytest.mark.parametrize("name", ["reft", "prompt-tuning", "p-tuning"])
@pytest.mark.parametrize("make", [tiny.bert, tiny.vit, tiny.t5, tiny.gpt2])
def test_other_models_pass_as_well(name, make, caplog):
    if make is tiny.vit and name != "reft":
        pytest.skip("reads no tokens")
    self_check(applied(make(), name), NEWER)
    assert warnings_in(caplog) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", sorted(set(relying()) - LOUD))
def test_a_cache_of_another_name_is_seen(name, dtype, caplog):
    model = applied(rename_cache(tiny.llama().to(dtype)), name)
    if name in UNTOUCHED:
        self_check(model, NEWER)
        return
    with pytest.raises(MethodError, match="generation with a cache is") as caught:
        self_check(model, NEWER)
    said = str(caught.value)
    assert "\n" not in said
    assert said.startswith(f"{name}: LlamaForCausalLM: ")
    assert said.endswith(
        "transformers 5.99 is newer than those tested (5.4 to 5.24): install one of those, use "
        "lora, or set FTPLUG_UNTESTED=allow to train all the same"
    )
    assert warnings_in(caplog) == []
    self_check(model, ALLOWED)
    [warned] = warnings_in(caplog)
    assert warned.startswith(f"{name}: LlamaForCausalLM: generation with a cache is")


@pytest.mark.parametrize("name", sorted(LOUD))
def test_a_prefix_refuses_it_itself(name):
    with pytest.raises(MethodError, match="takes no cache, where the prefix goes"):
        applied(rename_cache(tiny.llama()), name)


def state(model: Any) -> dict[str, Any]:
    """Return all that a check may touch, copied."""
    buffers = {name: (id(b), b.clone()) for name, b in model.named_buffers()}
    return {
        "parameters": {n: (p.detach().clone(), p.requires_grad, p.grad) for n, p in
                       model.named_parameters()},
        "buffers": buffers,
        "modes": {name: module.training for name, module in model.named_modules()},
        "generation": (id(model.generation_config), model.generation_config.to_dict()),
        "config": model.config.to_dict(),
        "random": (torch.get_rng_state(), random.getstate()),
    }  # fmt: skip


def same(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    if isinstance(first, tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


@pytest.mark.parametrize("name", relying())
@pytest.mark.parametrize("renamed", [False, True])
def test_it_leaves_no_trace(name, renamed, caplog):
    if renamed and name in LOUD:
        pytest.skip("refused before")
    model = tiny.llama(dropout=0.5)
    model.generation_config.update(num_beams=3, do_sample=True, temperature=0.5)
    model = applied(rename_cache(model) if renamed else model, name).train()
    model.model.layers[0].eval()
    if name != "trunk-cache":
        model(**tiny.inputs(model) | {"use_cache": False}).loss.backward()
    before = state(model)
    self_check(model, ALLOWED)
    assert bool(warnings_in(caplog)) == (renamed and name not in UNTOUCHED)
    after = state(model)
    assert {part for part in before if not same(before[part], after[part])} == set()


def test_what_the_model_itself_moves_is_put_back():
    class Busy(type(tiny.llama().model)):  # type: ignore[misc]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            self.seen.add_(1)
            self.last = torch.rand(1)
            return super().forward(*args, **kwargs)

    model = tiny.llama()
    model.model.__class__ = Busy
    model.model.register_buffer("seen", torch.zeros(1))
    model.model.register_buffer("last", torch.zeros(1), persistent=False)
    model = ftplug.apply(model, AtBase())
    before = state(model)
    self_check(model, NEWER)
    after = state(model)
    assert {part for part in before if not same(before[part], after[part])} == set()


@dataclass(frozen=True, eq=False)
class Added(Method):
    """Adds a vector to what the backbone gives."""

    name: ClassVar[str] = "added"
    relies_on_internals: ClassVar[bool] = True
    does: str = "add"

    @hookimpl
    def prepare_model(self, model: Any) -> None:
        model.model.added = nn.Parameter(torch.zeros(tiny.HIDDEN))
        if self.does != "nothing":
            wrap_forward(model.model, _DOES[self.does])

    @hookimpl
    def select_trainable(self, model: Any) -> Iterable[str]:
        return ["model.added"]

    @hookimpl
    @contextmanager
    def disable_model(self, model: Any) -> Iterator[None]:
        yield
        model.requires_grad_(True)  # as a library may, on its way out


@dataclass(frozen=True, eq=False)
class AtBase(Added):
    """The same, with a promise."""

    starts_at_base: ClassVar[bool] = True


def _add(stack: Any, forward: Any, *args: Any, **kwargs: Any) -> Any:
    output = forward(*args, **kwargs)
    output["last_hidden_state"] = output["last_hidden_state"] + stack.added
    return output


def _offset(stack: Any, forward: Any, *args: Any, **kwargs: Any) -> Any:
    output = _add(stack, forward, *args, **kwargs)
    output["last_hidden_state"] = output["last_hidden_state"] + 0.5
    return output


def _round(stack: Any, forward: Any, *args: Any, **kwargs: Any) -> Any:
    output = _add(stack, forward, *args, **kwargs)
    output["last_hidden_state"] = output["last_hidden_state"] * (1 + 1e-6)
    return output


def _fail(stack: Any, forward: Any, *args: Any, **kwargs: Any) -> Any:
    raise TypeError("forward() got an unexpected keyword argument 'kv'\n at line 3")


_DOES = {"add": _add, "offset": _offset, "round": _round, "fail": _fail}


@pytest.mark.parametrize(
    ("method", "said"),
    [
        (Added(does="nothing"), "its tensors change no answer"),
        (Added(does="fail"), "it fails where the base does not: .*argument 'kv' at line 3: "),
        (AtBase(does="offset"), "it starts 0.* from the base's answers"),
        (Added(), None),
        (Added(does="offset"), None),
        (AtBase(), None),
        (AtBase(does="round"), None),
    ],
)
def test_a_method_of_a_third_party_is_held_to_the_same(method, said):
    model = ftplug.apply(tiny.llama(), method)
    if said is None:
        self_check(model, NEWER)
        return
    with pytest.raises(MethodError, match=f"added: LlamaForCausalLM: {said}") as caught:
        self_check(model, NEWER)
    assert "\n" not in str(caught.value)


def test_a_trained_model_need_not_start_at_the_base():
    model = ftplug.apply(tiny.llama(), AtBase(does="offset"))
    self_check(model, NEWER, untrained=False)


def test_beside_what_promises_nothing_the_start_is_not_asked_for():
    self_check(ftplug.apply(tiny.llama(), "reft", "lora"), NEWER)
    self_check(ftplug.apply(tiny.llama(), "reft", "prompt-tuning"), NEWER)


def test_methods_that_rely_on_nothing_are_not_asked(monkeypatch):
    model = ftplug.apply(tiny.llama(), "lora")
    monkeypatch.setattr(model, "generate", None)
    self_check(model, NEWER)


def test_a_base_that_is_no_more_exact_itself_refuses_nothing():
    class Rough(type(tiny.llama().model)):  # type: ignore[misc]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            output = super().forward(*args, **kwargs)
            if kwargs.get("use_cache"):
                output["last_hidden_state"] = output["last_hidden_state"] * 1.01
            return output

    model = tiny.llama()
    model.model.__class__ = Rough
    self_check(applied(model, "reft"), NEWER)


def test_a_base_without_a_working_cache_cannot_be_compared_with(caplog):
    class NoCache(type(tiny.llama().model)):  # type: ignore[misc]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            if structure.given_cache(kwargs) is not None:
                raise ValueError("no cache here")
            return super().forward(*args, **kwargs)

    model = tiny.llama()
    model.model.__class__ = NoCache
    self_check(applied(model, "reft"), NEWER)
    assert ["not checked" in warned for warned in warnings_in(caplog)] == [True]


def no_embeddings(model: Any) -> None:
    model.bert.embeddings.forward = None


def no_vocabulary(model: Any) -> None:
    del model.config.vocab_size


@pytest.mark.parametrize("spoil", [no_embeddings, no_vocabulary])
def test_what_the_base_cannot_answer_is_warned_of(spoil, caplog):
    model = applied(tiny.bert(), "reft")
    spoil(model)
    self_check(model, NEWER)
    [warned] = warnings_in(caplog)
    assert warned.startswith("reft: BertForSequenceClassification: not checked, and transformers")


def test_the_binding_asks_where_the_version_is_newer(tmp_path, monkeypatch, caplog):
    monkeypatch.delenv("FTPLUG_UNTESTED", raising=False)
    ftplug.attach(trainer(rename_cache(tiny.llama()), tmp_path), "reft")  # it is a tested one
    monkeypatch.setattr(compat, "untested_version", lambda: "5.99")
    ftplug.attach(trainer(tiny.llama(), tmp_path), "reft")
    with pytest.raises(MethodError, match=r"reft: .* 5\.99 is newer than those tested \(5\.4 to"):
        ftplug.attach(trainer(rename_cache(tiny.llama()), tmp_path), "reft")
    monkeypatch.setenv("FTPLUG_UNTESTED", "allow")
    ftplug.attach(trainer(rename_cache(tiny.llama()), tmp_path), "reft")
    assert [w for w in warnings_in(caplog) if "generation with a cache is" in w]


def test_a_model_that_trained_before_is_asked_for_its_generation_alone(tmp_path, monkeypatch):
    model = ftplug.apply(tiny.llama(), "reft")
    with torch.no_grad():
        model.model.layers[0].reft.learned_source.bias.add_(1)
    with pytest.raises(MethodError, match="from the base's answers"):
        self_check(model, NEWER)
    monkeypatch.setattr(compat, "untested_version", lambda: "5.99")
    ftplug.attach(trainer(model, tmp_path), "reft")


def test_the_built_in_methods_promise_what_their_contract_tests():
    for name in relying():
        [entry] = discovery.entries()[name]
        cls = entry.load()
        if cls.starts_at_base:
            assert contract(name).get("starts_at_base", True), name
    assert {"reft", "alora", "prefix-tuning", "trunk-cache"} <= set(relying())
