"""Layers that peft treats in a way of its own: experts, and torch's attention."""

import copy
import inspect

import pytest
import tiny
import torch
from contracts import built_in, contract
from runs import shake
from transformers import (
    JambaConfig,
    JambaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
    WavLMConfig,
    WavLMForSequenceClassification,
)
from transformers.models.mamba import modeling_mamba

import ftplug
from ftplug.discovery import entry
from ftplug.structure import read_past
from ftplug.testing.compare import difference, logits, weights

SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
}  # fmt: skip
TEXT = {"vocab_size": tiny.VOCAB, "num_key_value_heads": 2, "pad_token_id": 0}
EXPERTS = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")


def mixtral():
    torch.manual_seed(0)
    return MixtralForCausalLM(MixtralConfig(**SIZES, **TEXT, num_local_experts=4)).eval()


def qwen():
    torch.manual_seed(0)
    more = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "head_dim": 8}
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**SIZES, **TEXT, **more)).eval()


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ("q_proj",), "target_parameters": EXPERTS},
        {"target_modules": ("q_proj",), "target_parameters": EXPERTS[:1]},
        {"target_modules": "all-linear", "target_parameters": EXPERTS},
    ],
    ids=["both", "one", "all-linear"],
)
@pytest.mark.parametrize("model", [mixtral, qwen])
def test_experts_are_adapted_saved_and_merged(model, settings, tmp_path):
    base = model()
    adapted = shake(ftplug.apply(copy.deepcopy(base), "lora", r=4, **settings), 0.05)
    expected = logits(adapted)
    assert not expected.equal(logits(base))
    ftplug.save(adapted, tmp_path / "a")
    assert logits(ftplug.load(copy.deepcopy(base), tmp_path / "a")).equal(expected)
    twin = copy.deepcopy(adapted)
    merged = ftplug.merge(adapted)
    assert weights(merged).keys() == weights(base).keys()
    assert torch.allclose(logits(merged), expected, atol=1e-5)
    assert logits(twin).equal(expected)
    merged.eval().state_dict()  # no module holds itself


def test_a_merge_that_fails_on_a_later_layer_leaves_all_as_they_were(monkeypatch):
    from peft.tuners.lora import Linear

    model = shake(ftplug.apply(tiny.bert(), "lora", r=4), 0.3)
    before, expected = weights(model), logits(model)
    merge, calls = Linear.merge, []

    def failing(self, *args, **kwargs):
        calls.append(self)
        if len(calls) == 3:
            raise ValueError("NaNs detected in the merged weights")
        merge(self, *args, **kwargs)

    monkeypatch.setattr(Linear, "merge", failing)
    with pytest.raises(ftplug.MethodError, match="NaNs detected"):
        ftplug.merge(model)
    assert difference(before, weights(model)) is None
    assert logits(model).equal(expected)
    monkeypatch.undo()
    assert torch.allclose(logits(ftplug.merge(model)), expected, atol=1e-5)


def siglip():
    torch.manual_seed(0)
    return SiglipVisionModel(SiglipVisionConfig(**SIZES, image_size=16, patch_size=8)).eval()


LINEAR = [
    name
    for name in built_in()
    if "target_modules" in entry(name).load().defaults()
    and not entry(name).load().refused
    and name not in ("adaption-prompt", "trainable-tokens", "ln-tuning", "alora")
]


@pytest.mark.parametrize("target", ["out_proj", "head.attention"])
@pytest.mark.parametrize("name", LINEAR)
def test_torchs_attention_is_refused(name, target):
    settings = contract(name).get("settings", {}) | {"target_modules": (target,)}
    if name == "ia3":
        settings |= {"feedforward_modules": ()}
    model = siglip()
    before = weights(model)
    beside = contract(name).get("beside", ())
    with pytest.raises(ftplug.MethodError, match=r"an nn\.MultiheadAttention, which reads its"):
        ftplug.apply(model, *beside, entry(name).load().configure(settings))
    assert difference(before, weights(model)) is None


def test_all_linear_leaves_it_out_and_everything_that_trains_gets_a_gradient():
    model = ftplug.apply(siglip(), "lora", target_modules="all-linear")
    trains = {name for name, p in model.named_parameters() if p.requires_grad}
    assert not any("head.attention" in name for name in trains)
    assert any("head.mlp" in name for name in trains)
    model.train()(pixel_values=torch.randn(2, 3, 16, 16)).pooler_output.pow(2).sum().backward()
    assert all(model.get_parameter(name).grad is not None for name in trains)


@pytest.mark.parametrize("model", [mixtral, qwen])
def test_experts_that_no_update_reaches_are_said(model, caplog):
    ftplug.apply(model(), "lora")
    [line] = [r.getMessage() for r in caplog.records if "no expert of" in r.getMessage()]
    total = sum(p.numel() for p in model().parameters())
    experts = sum(p.numel() for n, p in model().named_parameters() if ".experts." in n)
    assert f"trains, {100 * experts / total:.0f} % of its weights" in line
    assert "lora's target_parameters=all-experts reaches them" in line


@pytest.mark.parametrize(
    ("method", "settings"),
    [("full", {}), ("lora", {"target_parameters": ("experts.down_proj",)}), ("bitfit", None)],
)
def test_nothing_is_said_where_experts_train_or_there_are_none(method, settings, caplog):
    model = tiny.bert() if settings is None else mixtral()
    ftplug.apply(model, method, **settings or {})
    assert not any("no expert of" in record.getMessage() for record in caplog.records)


def mamba():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "state_size": 4, "num_hidden_layers": 2, "time_step_rank": 2}
    return MambaForCausalLM(MambaConfig(vocab_size=tiny.VOCAB, **sizes))


def wavlm():
    torch.manual_seed(0)
    convolutions = {"conv_dim": (16, 16), "conv_stride": (5, 2), "conv_kernel": (10, 3)}
    more = {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "layerdrop": 0.0}
    return WavLMForSequenceClassification(WavLMConfig(**SIZES, **convolutions, **more))


def jamba():
    torch.manual_seed(0)
    more = {"mamba_d_state": 4, "mamba_dt_rank": 4, "use_mamba_kernels": False, "num_experts": 2}
    return JambaForCausalLM(JambaConfig(**SIZES, **TEXT, **more))


# transformers 5.4 calls some of a Mamba's where no kernel is installed.
READ_PAST = [
    (build, target)
    for build in (mamba, wavlm, jamba)
    for target in sorted({name.rpartition(".")[2] for name in read_past(build())})
]


def test_wavlms_projections_and_mambas_convolution_are_found():
    found = {(build.__name__, target) for build, target in READ_PAST}
    assert {("wavlm", "q_proj"), ("wavlm", "out_proj")} <= found
    assert ("mamba", "conv1d") in found or "self.conv1d(" in inspect.getsource(modeling_mamba)


@pytest.mark.parametrize("method", LINEAR)
@pytest.mark.parametrize(("build", "target"), READ_PAST)
def test_what_a_model_reads_and_never_calls_is_refused(build, target, method):
    settings = contract(method).get("settings", {}) | {"target_modules": (target,)}
    if method == "ia3":
        settings |= {"feedforward_modules": ()}
    model, beside = build(), contract(method).get("beside", ())
    before = weights(model)
    with pytest.raises(ftplug.MethodError, match=f"reads its weight .*: leave {target} out"):
        ftplug.apply(model, *beside, entry(method).load().configure(settings))
    assert weights(model).keys() == before.keys()


@pytest.mark.parametrize("model", [mamba, wavlm, jamba])
def test_all_linear_leaves_it_out(model):
    # peft itself refuses a Mamba's out_proj: a kernel reads that one.
    adapted = ftplug.apply(
        model(), "lora", target_modules="all-linear", exclude_modules=("out_proj",)
    )
    past = read_past(model())
    assert past or model is not wavlm
    trained = [n for n, p in adapted.named_parameters() if p.requires_grad and "lora_" in n]
    assert trained
    assert not any(n.startswith(tuple(f"{name}." for name in past)) for n in trained)


@pytest.mark.parametrize("build", [tiny.bert, tiny.llama, tiny.t5, tiny.vit, mixtral, qwen])
def test_a_model_that_calls_its_layers_has_nothing_of_that_kind(build):
    assert read_past(build()) == {}


@pytest.mark.filterwarnings("ignore")  # of peft's, on Conv1D and on what it leaves out
@pytest.mark.parametrize("name", built_in())
def test_what_is_saved_on_conv1d_loads_again(name, tmp_path):
    """peft sets ``fan_in_fan_out`` by the layer; the manifest keeps what was set."""
    given = contract(name)
    beside = {f"{name}.{n}": value for n, value in given.get("settings", {}).items()}
    names = (*given.get("beside", ()), name)
    try:
        model = shake(ftplug.apply(tiny.gpt2(), *names, **beside))
    except ftplug.MethodError:
        return  # refused before anything was trained
    ftplug.save(model, tmp_path)
    loaded = ftplug.load(tiny.gpt2(), tmp_path)
    assert torch.equal(logits(loaded), logits(model))
