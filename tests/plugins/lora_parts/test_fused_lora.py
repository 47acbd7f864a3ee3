"""The fused forward of LoRA: peft's values and gradients, and peft's own forward elsewhere."""

import copy
import functools
import itertools
import json
import shutil
from inspect import signature

import peft
import pytest
import tiny
import torch
from ftplug_plugins.lora_parts import fused as fused_lora
from ftplug_plugins.lora_parts.fused import FusedLinear, LinearWithUpdate
from ftplug_plugins.peft_bridge.files import tuner_layers
from peft.tuners.lora import Linear as LoraLinear
from runs import logits, losses, trainer, weights
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.pytorch_utils import Conv1D

import ftplug
from ftplug import MethodError

R, IN, OUT = 3, 5, 4
EVERYWHERE = {"target_modules": ["all-linear"]}


@pytest.fixture
def calls(monkeypatch):
    """Count the calls of the fused function."""
    found = []

    class Counted(LinearWithUpdate):
        @staticmethod
        def forward(*arguments):
            found.append(arguments)
            return LinearWithUpdate.forward(*arguments)

    monkeypatch.setattr(fused_lora, "LinearWithUpdate", Counted)
    return found


def layers(base=None, **settings):
    """Return the same layer, its B away from zero, with a fused forward and with peft's."""
    base = base or nn.Linear(IN, OUT)
    config = peft.LoraConfig(r=R, target_modules=["0"], **settings)
    theirs = peft.inject_adapter_in_model(config, nn.Sequential(base))
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(len(name)))
    ours = copy.deepcopy(theirs)
    fused_lora.fuse(ours)
    return ours[0], theirs[0]


def values(layer, x, *, autocast=False):
    """Return the output, the gradient of the input and all gradients of parameters, seeded."""
    x = x.detach().requires_grad_()
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        out = layer(x)
    out.backward(torch.sin(torch.arange(out.numel())).view(out.shape).to(out.dtype))
    gradients = {n: p.grad for n, p in layer.named_parameters() if p.grad is not None}
    return {"out": out, "x": x.grad} | gradients


def assert_close(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, **tolerance)


@pytest.mark.parametrize("trained", list(itertools.product([True, False], repeat=3)))
@pytest.mark.parametrize("dropped", [True, False])
def test_gradients_once_and_twice(trained, dropped):
    draw = torch.Generator().manual_seed(0)

    def tensor(*shape, grad=True):
        return torch.randn(*shape, generator=draw, dtype=torch.float64, requires_grad=grad)

    to_x, to_base, to_lora = trained
    arguments = (
        tensor(2, 3, IN, grad=to_x), tensor(2, 3, IN, grad=to_x) if dropped else None,
        tensor(OUT, IN, grad=to_base), tensor(OUT, grad=to_base),
        tensor(R, IN, grad=to_lora), tensor(OUT, R, grad=to_lora),
    )  # fmt: skip
    function = functools.partial(_applied, 1.7)
    if any(trained):
        assert torch.autograd.gradcheck(function, arguments)
        assert torch.autograd.gradgradcheck(function, arguments)
    else:
        assert not function(*arguments).requires_grad


def _applied(scaling, *arguments):
    return LinearWithUpdate.apply(*arguments, scaling)


BASES = {
    "linear": lambda: nn.Linear(IN, OUT),
    "no bias": lambda: nn.Linear(IN, OUT, bias=False),
    "conv1d": lambda: Conv1D(OUT, IN),
}
INPUTS = {
    "batch": torch.randn(2, 3, IN),
    "one row": torch.randn(IN),
    "no rows": torch.randn(0, 3, IN),
    "transposed": torch.randn(IN, 3, 2).permute(2, 1, 0),
    "expanded": torch.randn(1, 3, IN).expand(4, 3, IN),
    "strided": torch.randn(2, 6, 2 * IN)[:, ::2, ::2],
}


@pytest.mark.filterwarnings("ignore:fan_in_fan_out")  # peft's note on Conv1D
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("trains_base", [False, True])
@pytest.mark.parametrize("settings", [{}, {"lora_dropout": 0.5}, {"use_rslora": True}], ids=str)
def test_a_layer_gives_pefts_values_and_gradients(base, trains_base, settings, calls):
    ours, theirs = (layer.double() for layer in layers(BASES[base](), **settings))
    for layer in (ours, theirs):
        layer.base_layer.requires_grad_(trains_base)
    inputs = [INPUTS["batch"]] if base == "conv1d" else INPUTS.values()  # it takes no strides
    for x in inputs:
        for layer in (ours, theirs):
            layer.zero_grad(set_to_none=True)
        assert_close(values(ours, x.double()), values(theirs, x.double()), rtol=1e-12, atol=1e-12)
    assert len(calls) == len(inputs)


@pytest.mark.parametrize("settings", [{}, {"lora_dropout": 0.5}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_gives_pefts_dtypes_and_values(settings, dtype, calls):
    ours, theirs = layers(nn.Linear(64, 48).to(dtype), **settings)
    for layer in (ours, theirs):
        layer.base_layer.bias.requires_grad_(True)
    x = torch.randn(2, 7, 64, dtype=dtype)
    found, expected = (values(layer, x, autocast=True) for layer in (ours, theirs))
    assert len(calls) == 1
    assert {n: v.dtype for n, v in found.items()} == {n: v.dtype for n, v in expected.items()}
    errors = {n: (found[n] - v).abs().max() / v.abs().max() for n, v in expected.items()}
    assert max(errors.values()) < 0.02  # bf16 has 8 bits


def test_a_backward_under_autocast_is_of_the_forwards_dtype():
    ours, theirs = layers()
    for layer in (ours, theirs):
        out = layer(torch.ones(2, IN, requires_grad=True))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out.sum().backward()
    gradient = ours.lora_A.default.weight.grad
    torch.testing.assert_close(gradient, theirs.lora_A.default.weight.grad, rtol=0.02, atol=0.02)


def test_an_in_place_operation_may_follow():
    ours, theirs = layers()
    x = torch.randn(2, 3, IN)
    for layer in (ours, theirs):
        layer(x).mul_(2).relu_().sum().backward()
    gradients = [layer.lora_A.default.weight.grad for layer in (ours, theirs)]
    torch.testing.assert_close(*gradients)


class Kept:
    """Counts the bytes of what autograd keeps for backward, each storage once."""

    def __init__(self):
        self.storages = {}

    def pack(self, tensor):
        self.storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    def bytes_of(self, layer, x):
        with torch.autograd.graph.saved_tensors_hooks(self.pack, lambda tensor: tensor):
            self.out = layer(x)
        return sum(self.storages.values())


@pytest.mark.parametrize("settings", [{}, {"lora_dropout": 0.5}], ids=str)
def test_no_more_is_kept_than_by_peft(settings):
    ours, theirs = layers(nn.Linear(64, 48), **settings)
    x = torch.randn(16, 64, requires_grad=True)
    assert Kept().bytes_of(ours, x) <= Kept().bytes_of(theirs, x)
    if not settings:  # x, z Aᵀ and the three matrices
        assert Kept().bytes_of(ours, x) == 4 * (16 * 64 + 16 * R + 64 * 48 + R * (64 + 48))


def test_the_first_layer_computes_no_gradient_of_its_input():
    ours, _ = layers()
    out = ours(torch.randn(2, IN))
    assert out.grad_fn.needs_input_grad[0] is False
    assert LinearWithUpdate.backward(out.grad_fn, torch.ones(2, OUT))[0] is None


def disable(layer):
    layer.enable_adapters(False)


def merge(layer):
    layer.merge()


def second_adapter(layer):
    config = peft.LoraConfig(r=R, init_lora_weights=False)
    settings = {name: getattr(config, name) for name in signature(layer.update_layer).parameters
                if hasattr(config, name)}  # fmt: skip
    layer.update_layer("other", **settings | {"r": R, "lora_alpha": R, "config": config})
    layer.set_adapter(["default", "other"])


def no_adapter(layer):
    layer.set_adapter([])


def unknown_adapter(layer):
    layer._active_adapter = ["elsewhere"]


def hook(layer):
    layer.lora_A.default.register_forward_hook(lambda module, arguments, out: 2 * out)


def hooked_by_accelerate(layer):
    base = layer.base_layer
    base.forward = lambda x: nn.functional.linear(x, base.weight)


def half_base(layer):
    layer.base_layer.to(torch.bfloat16)


def parametrized(layer):
    torch.nn.utils.parametrizations.orthogonal(layer.lora_A.default)


def another_class(layer):
    class Louder(nn.Linear):
        def forward(self, x):
            return 3 * super().forward(x)

    layer.base_layer.__class__ = Louder


NOT_FUSED = [disable, merge, second_adapter, no_adapter, unknown_adapter, hook,
             hooked_by_accelerate, half_base, parametrized, another_class]  # fmt: skip


@pytest.mark.parametrize("change", NOT_FUSED)
def test_pefts_own_forward_runs_where_a_layer_does_more(change, calls):
    ours, theirs = layers()
    x = torch.randn(2, IN)
    fused = ours(x)
    assert len(calls) == 1
    for layer in (ours, theirs):
        torch.manual_seed(1)
        change(layer)
    x = x.to(ours.base_layer.weight.dtype)
    assert torch.equal(ours(x), theirs(x))
    assert len(calls) == 1
    assert change is merge or not torch.equal(ours(x), fused)


def test_a_global_hook_sees_every_module(calls):
    seen = []
    with torch.nn.modules.module.register_module_forward_hook(lambda m, *_: seen.append(m)):
        ours, _ = layers()
        ours(torch.randn(2, IN))
    assert {ours.base_layer, ours.lora_A.default, ours.lora_B.default} <= set(seen)
    assert not calls


def test_a_mixed_batch_goes_to_peft(calls):
    ours, theirs = layers()
    x = torch.randn(2, IN)
    for layer in (ours, theirs):
        layer.eval()
    names = ["default", "__base__"]
    assert torch.equal(ours(x, adapter_names=names), theirs(x, adapter_names=names))
    assert not calls


def test_without_gradients_the_answers_are_pefts_bit_by_bit(calls):
    ours, theirs = layers(nn.Linear(64, 48))
    x = torch.randn(9, 64)
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))
    assert not calls


@pytest.mark.parametrize("settings", [{"lora_bias": True}, {"use_dora": True}], ids=str)
def test_variants_of_lora_go_to_peft(settings, calls):
    ours, theirs = layers(**settings)
    x = torch.randn(2, IN)
    assert torch.equal(ours(x), theirs(x))
    assert not calls


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_compilers_and_transforms_see_pefts_operations(calls):
    ours, theirs = layers()
    x = torch.randn(2, IN)
    compiled = torch.compile(ours, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), theirs(x))
    torch.testing.assert_close(torch.export.export(ours, (x,)).module()(x), theirs(x))
    torch.testing.assert_close(torch.jit.trace(ours, x)(x), theirs(x))
    parameters = dict(ours.named_parameters())

    def total(parameters, row):
        return torch.func.functional_call(ours, parameters, row).sum()

    each_row = torch.func.vmap(torch.func.grad(total), in_dims=(None, 0))(parameters, x)
    theirs(x).sum().backward()
    gradient = theirs.lora_A.default.weight.grad
    torch.testing.assert_close(each_row["lora_A.default.weight"].sum(0), gradient)
    assert not calls


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing_gives_the_same_gradients(reentrant, calls):
    for settings in ({}, {"lora_dropout": 0.5}):
        ours, _ = layers(**settings)
        x = torch.randn(2, 3, IN)
        plain = values(ours, x)
        ours.zero_grad(set_to_none=True)
        checkpointed = functools.partial(checkpoint, ours, use_reentrant=reentrant)
        checkpointed.named_parameters = ours.named_parameters
        assert_close(values(checkpointed, x), plain)
    assert len(calls) == 2 * (2 if reentrant else 3)


# Whole models.


def test_the_layers_stay_pefts():
    model, plain = (
        ftplug.apply(tiny.bert(), "lora", fused=fused, **EVERYWHERE) for fused in (True, False)
    )
    fused = [layer for _, layer in tuner_layers(model)]
    assert {type(layer) for layer in fused} == {FusedLinear}
    assert all(isinstance(layer, LoraLinear) for layer in fused)
    assert {type(layer) for _, layer in tuner_layers(plain)} == {LoraLinear}
    assert list(model.state_dict()) == list(plain.state_dict())


RUNS = {
    "query and value": (tiny.bert, ("lora",), {}),
    "all-linear": (tiny.bert, ("lora",), EVERYWHERE),
    "dropout": (tiny.bert, ("lora",), EVERYWHERE | {"lora_dropout": 0.1}),
    "llama": (tiny.llama, ("lora",), EVERYWHERE),
    "t5": (tiny.t5, ("lora",), EVERYWHERE),
    "conv1d": (tiny.gpt2, ("lora",), EVERYWHERE),
    "bitfit": (tiny.bert, ("lora", "bitfit"), EVERYWHERE),
    "full": (tiny.bert, ("lora", "full"), EVERYWHERE),
    "lora-plus": (tiny.bert, ("lora", "lora-plus"), EVERYWHERE),
    "adapters inside": (tiny.bert, ("bottleneck", "lora"), {"target_modules": ["dense"]}),
    "trained tokens": (tiny.llama, ("lora",), {"bias": "all"}),
}


@pytest.mark.parametrize("run", RUNS)
def test_twenty_steps_equal_those_of_pefts_forward(run, tmp_path, calls):
    make, methods, settings = RUNS[run]
    found = []
    for fused in (True, False):
        bound = trainer(make(dropout=0.1), tmp_path / str(fused), save_strategy="no")
        own = {f"lora.{name}": value for name, value in (settings | {"fused": fused}).items()}
        ftplug.attach(bound, *methods, **own).train()
        found.append((losses(bound), weights(bound.model), len(calls)))
    (ours, ours_after, first), (theirs, theirs_after, both) = found
    assert 0 < first == both
    assert ours == pytest.approx(theirs, abs=1e-6)
    assert ours[0] != pytest.approx(ours[-1], abs=1e-4)
    assert_close(ours_after, theirs_after, rtol=1e-4, atol=1e-5)


def test_the_setting_is_ours_alone_and_older_files_lack_it(tmp_path):
    def bound(**settings):
        made = trainer(tiny.bert(), tmp_path / "run", max_steps=4, save_steps=2)
        return ftplug.attach(made, "lora", **settings)

    bound().train()
    forget_fused(tmp_path / "run" / "checkpoint-2" / "ftplug_state.json")
    (tmp_path / "run" / "checkpoint-2" / "ftplug_files.json").unlink()  # older ones have none
    shutil.rmtree(tmp_path / "run" / "checkpoint-4")
    bound().train(resume_from_checkpoint=True)
    with pytest.raises(MethodError, match="use the same method and settings to resume"):
        bound(fused=False).train(resume_from_checkpoint=True)

    ftplug.save(model := ftplug.apply(tiny.bert(), "lora"), tmp_path / "artifact")
    assert "fused" not in json.loads((tmp_path / "artifact" / "adapter_config.json").read_text())
    forget_fused(tmp_path / "artifact" / "ftplug.json")
    assert torch.equal(logits(ftplug.load(tiny.bert(), tmp_path / "artifact")), logits(model))


def forget_fused(file):
    written = json.loads(file.read_text())
    assert written["methods"][0]["settings"].pop("fused") is True
    file.write_text(json.dumps(written))
