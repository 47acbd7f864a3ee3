from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
from ftplug_plugins.bottleneck import Bottleneck
from runs import checkpoint
from torch import nn
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertLMHeadModel,
    MambaConfig,
    MambaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    MobileBertConfig,
    MobileBertForSequenceClassification,
    PreTrainedModel,
    RobertaPreLayerNormConfig,
    RobertaPreLayerNormForSequenceClassification,
)

import ftplug
from ftplug import MethodError
from ftplug.structure import layer_stacks, linear_layers, require_output_projections

FAMILIES = {
    "bert": tiny.bert,
    "roberta": tiny.roberta,
    "distilbert": tiny.distilbert,
    "gpt2": tiny.gpt2,
    "llama": tiny.llama,
    "qwen2": tiny.qwen2,
    "t5": tiny.t5,
    "vit": tiny.vit,
}
PLACEMENTS = ("houlsby", "pfeiffer", "parallel")
HEADS = {
    "bert": lambda: tiny.bert("TokenClassification"),
    "roberta": lambda: tiny.roberta("MaskedLM"),
    "distilbert": lambda: tiny.distilbert("TokenClassification"),
    "gpt2": lambda: tiny.gpt2("SequenceClassification"),
    "llama": lambda: tiny.llama("SequenceClassification"),
    "t5": lambda: tiny.t5("TokenClassification"),
}
D, M = tiny.HIDDEN, 4  # hidden size; adapter width at reduction_factor=8

each_family = pytest.mark.parametrize("family", FAMILIES)
each_placement = pytest.mark.parametrize("placement", PLACEMENTS)


def applied(model: PreTrainedModel, placement: str = "houlsby", **settings: Any) -> PreTrainedModel:
    settings = {"reduction_factor": 8, "placement": placement} | settings
    ftplug.apply(model, "bottleneck", **settings)
    return model


def adapters(model: nn.Module) -> dict[str, nn.Module]:
    return {name: m for name, m in model.named_modules() if name.endswith(".adapter")}


def adapter_tensors(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if ".adapter." in name}


def disturb(model: nn.Module) -> None:
    """Draw every adapter tensor anew, so that the adapters compute something."""
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in adapter_tensors(model).values():
            p.copy_(torch.randn(p.shape, generator=draw, dtype=p.dtype) * 0.2)


@torch.no_grad()
def logits(model: PreTrainedModel, **options: Any) -> torch.Tensor:
    return model.eval()(**tiny.inputs(model), **options).logits


def gradients(model: nn.Module, **options: Any) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(**tiny.inputs(model), **options).loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@each_family
@each_placement
def test_starts_as_the_base_model(family: str, placement: str) -> None:
    model = FAMILIES[family]()
    base = logits(model)
    applied(model, placement)
    torch.testing.assert_close(logits(model), base, rtol=0, atol=1e-5)
    disturb(model)
    assert (logits(model) - base).abs().max() > 1e-3  # the adapters are really in the computation


@pytest.mark.parametrize("family", HEADS)
@each_placement
def test_other_heads(family: str, placement: str, tmp_path: Any) -> None:
    model = HEADS[family]()
    base = logits(model)
    applied(model, placement)
    torch.testing.assert_close(logits(model), base, rtol=0, atol=1e-5)
    disturb(model)
    ftplug.save(model, tmp_path / "artifact")
    loaded = ftplug.load(HEADS[family](), tmp_path / "artifact")
    assert torch.equal(logits(loaded), logits(model))
    assert not torch.equal(logits(loaded), base)


@each_family
@each_placement
def test_every_sub_layer_gets_its_adapter(family: str, placement: str) -> None:
    model = applied(FAMILIES[family](), placement)
    # T5: an encoder layer has two sub-layers, a decoder layer three (cross-attention).
    attentions = {"t5": 3}.get(family, 1) * tiny.LAYERS
    feed_forwards = {"t5": 2}.get(family, 1) * tiny.LAYERS
    count = attentions + feed_forwards if placement == "houlsby" else feed_forwards
    assert len(adapters(model)) == count
    size = 2 * D * M + D + M
    assert sum(p.numel() for p in adapter_tensors(model).values()) == count * size
    if family == "bert" and placement == "houlsby":  # the paper's count, per layer
        assert count * size == tiny.LAYERS * 2 * (2 * D * M + D + M)


@each_family
@each_placement
def test_three_steps_move_every_adapter_and_no_base_tensor(family: str, placement: str) -> None:
    model = applied(FAMILIES[family](), placement)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    own = set(adapter_tensors(model))
    training = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(training, lr=1e-2, weight_decay=0.0)
    losses = []
    for _ in range(3):
        loss = model.train()(**tiny.inputs(model)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    head = {name for name in before if name not in own and model.get_parameter(name).requires_grad}
    assert all(name.startswith(("classifier", "pre_classifier", "score")) for name in head)
    assert moved == own | head


@each_family
@each_placement
def test_every_adapter_tensor_gets_a_gradient(family: str, placement: str) -> None:
    model = applied(FAMILIES[family](), placement, non_linearity="gelu")
    disturb(model)
    found = gradients(model)
    assert all(found[name].abs().max() > 0 for name in adapter_tensors(model))


@each_family
@each_placement
def test_disabled_is_the_base_model_exactly(family: str, placement: str) -> None:
    model = FAMILIES[family]()
    base = logits(model)
    applied(model, placement)
    disturb(model)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.1)  # the head as well
    trained = logits(model)
    with ftplug.disabled(model):
        assert torch.equal(logits(model), base)
    assert torch.equal(logits(model), trained)
    assert not torch.equal(trained, base)


@each_family
@each_placement
def test_save_and_load(family: str, placement: str, tmp_path: Any) -> None:
    model = applied(FAMILIES[family](), placement)
    disturb(model)
    ftplug.save(model, tmp_path / "artifact")
    loaded = FAMILIES[family]()
    base = logits(loaded)
    ftplug.load(loaded, tmp_path / "artifact")
    assert torch.equal(logits(loaded), logits(model))
    assert not torch.equal(logits(loaded), base)


@each_family
@each_placement
def test_a_copy_runs_its_own_adapters(family: str, placement: str) -> None:
    model = applied(FAMILIES[family](), placement)
    disturb(model)
    trained = logits(model)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for p in adapter_tensors(twin).values():
            p.zero_()
    with ftplug.disabled(model):
        base = logits(model)
    torch.testing.assert_close(logits(twin), base, rtol=0, atol=1e-6)
    assert torch.equal(logits(model), trained)


@each_placement
def test_names_are_the_base_names_with_adapter_in_between(placement: str) -> None:
    model = tiny.bert()
    base = set(model.state_dict())
    applied(model, placement)
    added = sorted(set(model.state_dict()) - base)
    assert base < set(model.state_dict())
    layer = "bert.encoder.layer.0"
    expected = {
        "houlsby": [f"{layer}.attention.output.dense", f"{layer}.output.dense"],
        "pfeiffer": [f"{layer}.output.dense"],
        "parallel": [f"{layer}.output"],
    }[placement]
    ends = ("down.bias", "down.weight", "up.bias", "up.weight")
    assert [name for name in added if name.startswith(layer)] == [
        f"{site}.adapter.{end}" for site in expected for end in ends
    ]
    assert set(Bottleneck().select_trainable(model)) == set(added)


@each_placement
def test_bert_layer_equals_the_papers_formula(placement: str) -> None:
    model = applied(tiny.bert(), placement, non_linearity="tanh", scaling=2.0)
    disturb(model)
    layer = model.bert.encoder.layer[0]
    x = torch.randn(2, 5, D, generator=torch.Generator().manual_seed(2))
    serial = placement != "parallel"

    def linear(p: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        return x @ p.weight.T + p.bias

    def adapter(site: nn.Module, x: torch.Tensor) -> torch.Tensor:  # 2 up(tanh(down x))
        return 2.0 * linear(site.adapter.up, torch.tanh(linear(site.adapter.down, x)))

    with torch.no_grad():
        a = layer.attention.self(x)[0]
        a = linear(layer.attention.output.dense, a)
        if placement == "houlsby":
            a = a + adapter(layer.attention.output.dense, a)
        a = layer.attention.output.LayerNorm(x + a)
        h = torch.nn.functional.gelu(linear(layer.intermediate.dense, a))
        h = linear(layer.output.dense, h)
        h = h + (adapter(layer.output.dense, h) if serial else adapter(layer.output, a))
        expected = layer.output.LayerNorm(a + h)
        torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("family", "site"),
    [
        ("distilbert", "distilbert.transformer.layer.1.ffn"),
        ("gpt2", "transformer.h.1.mlp"),
        ("llama", "model.layers.1.mlp"),
        ("t5", "decoder.block.1.layer.2.DenseReluDense"),
        ("vit", "vit.layers.1.mlp"),
    ],
)
def test_parallel_adds_the_adapter_of_the_feed_forwards_input(family: str, site: str) -> None:
    model = applied(FAMILIES[family](), "parallel", scaling=4.0)
    disturb(model)
    module = model.get_submodule(site)
    x = torch.randn(2, 5, D, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        with ftplug.disabled(model):
            alone = module(x)
        expected = alone + 4.0 * module.adapter.up(torch.relu(module.adapter.down(x)))
        torch.testing.assert_close(module(x), expected)


@pytest.mark.parametrize("gated", [False, True])
def test_a_feed_forward_as_wide_as_the_model_ends_in_its_last_linear(gated: bool) -> None:
    kind = "gated-gelu" if gated else "relu"
    model = applied(tiny.t5(d_ff=D, feed_forward_proj=kind), "pfeiffer")
    assert {name.split("DenseReluDense.")[1] for name in adapters(model)} == {"wo.adapter"}
    model = applied(tiny.bert(intermediate_size=D), "pfeiffer")
    assert all(name.endswith("output.dense.adapter") for name in adapters(model))


@pytest.mark.parametrize(("layers", "indices"), [(1, {"1"}), (2, {"0", "1"}), (None, {"0", "1"})])
def test_layers_counts_from_the_top_of_each_stack(layers: int | None, indices: set[str]) -> None:
    model = applied(tiny.t5(), "pfeiffer", layers=layers)
    found = {tuple(name.split(".")[:3]) for name in adapters(model)}
    assert found == {(stack, "block", i) for stack in ("encoder", "decoder") for i in indices}


def test_cross_attention_of_a_bert_decoder_gets_its_own_adapter() -> None:
    config = BertConfig(
        **tiny.bert().config.to_diff_dict() | {"is_decoder": True, "add_cross_attention": True}
    )
    model = applied(BertLMHeadModel(config))
    assert [n.removeprefix("bert.encoder.layer.0.") for n in adapters(model) if ".0." in n] == [
        "attention.output.dense.adapter",
        "crossattention.output.dense.adapter",
        "output.dense.adapter",
    ]


@each_placement
def test_dropout_is_not_drawn_differently(placement: str) -> None:
    model = tiny.bert(dropout=0.5).train()
    batch = tiny.inputs(model)
    torch.manual_seed(3)
    base = model(**batch).logits
    applied(model, placement)
    torch.manual_seed(3)
    torch.testing.assert_close(model(**batch).logits, base, rtol=0, atol=1e-5)


@each_placement
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_adapters_of_a_half_precision_base_are_float32(placement: str, dtype: torch.dtype) -> None:
    model = tiny.llama().to(dtype)
    base = logits(model)
    applied(model, placement)
    assert {p.dtype for p in adapter_tensors(model).values()} == {torch.float32}
    assert torch.equal(logits(model), base)
    disturb(model)
    assert logits(model).dtype == dtype
    assert not torch.equal(logits(model), base)
    assert {g.dtype for g in gradients(model).values()} == {torch.float32}


def test_adapters_of_a_double_base_are_double() -> None:
    model = applied(tiny.bert().double())
    assert {p.dtype for p in adapter_tensors(model).values()} == {torch.float64}


@each_family
@each_placement
def test_autocast(family: str, placement: str) -> None:
    model = applied(FAMILIES[family](), placement)
    disturb(model)
    exact = logits(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = logits(model)
        found = gradients(model)
    assert not torch.equal(rounded.float(), exact)
    torch.testing.assert_close(rounded.float(), exact, rtol=0.1, atol=0.1)
    assert found.keys() >= adapter_tensors(model).keys()


@each_family
@each_placement
def test_activation_checkpointing_gives_the_same_gradients(family: str, placement: str) -> None:
    model = applied(FAMILIES[family](), placement).train()
    disturb(model)
    options = {} if family == "vit" or "bert" in family else {"use_cache": False}
    expected = gradients(model, **options)
    checkpoint(model)
    recomputed = 0

    def count(module: nn.Module, *_: Any) -> None:
        nonlocal recomputed
        recomputed += 1

    next(iter(adapters(model).values())).register_forward_pre_hook(count)
    found = gradients(model, **options)
    assert recomputed == 2
    assert found.keys() == expected.keys() >= adapter_tensors(model).keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient)


@each_placement
@pytest.mark.parametrize("order", [("lora", "bottleneck"), ("bottleneck", "lora")])
def test_composes_with_lora_on_the_same_linear(placement: str, order: tuple, tmp_path: Any) -> None:
    settings = {
        "bottleneck.reduction_factor": 8,
        "bottleneck.placement": placement,
        "lora.target_modules": ("dense", "query"),
    }
    model = tiny.bert()
    base = logits(model)
    ftplug.apply(model, *order, **settings)
    torch.testing.assert_close(logits(model), base, rtol=0, atol=1e-5)
    alone = adapters(applied(tiny.bert(), placement))
    assert len(adapters(model)) == len(alone)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if ".adapter." in name or ".lora_" in name:
                p.normal_(std=0.2, generator=torch.Generator().manual_seed(4))
    found = gradients(model)
    assert all(found[name].abs().max() > 0 for name in adapter_tensors(model))
    ftplug.save(model, tmp_path / "artifact")
    loaded = ftplug.load(tiny.bert(), tmp_path / "artifact")
    assert torch.equal(logits(loaded), logits(model))
    with ftplug.disabled(model):
        torch.testing.assert_close(logits(model), base, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:fan_in_fan_out")  # peft's note on Conv1D
def test_the_adapter_sees_what_lora_adds_before_it() -> None:
    model = ftplug.apply(tiny.gpt2(), "lora", "bottleneck", **{"lora.target_modules": ("c_proj",)})
    projection = model.transformer.h[0].mlp.c_proj
    x = torch.randn(2, 48, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        projection.lora_B.default.weight.normal_()
        projection.adapter.up.weight.normal_()
        y = (
            projection.base_layer(x)
            + 2.0 * x @ (projection.lora_B.default.weight @ projection.lora_A.default.weight).T
        )
        expected = y + projection.adapter(y)
        torch.testing.assert_close(projection(x), expected)


def test_generation_uses_the_adapters() -> None:
    model = tiny.llama()
    ids = tiny.inputs(model)["input_ids"][:1]
    options = {"max_new_tokens": 8, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    base = model.generate(ids, **options)
    applied(model)
    assert torch.equal(model.generate(ids, **options), base)
    disturb(model)
    cached = model.generate(ids, **options)
    assert torch.equal(model.generate(ids, use_cache=False, **options), cached)
    assert not torch.equal(cached, base)


def test_the_draw_is_the_seeds() -> None:
    first, again, other = (
        adapter_tensors(ftplug.apply(tiny.bert(), "bottleneck", seed=seed)) for seed in (1, 1, 2)
    )
    down = "bert.encoder.layer.0.output.dense.adapter.down.weight"
    assert torch.equal(first[down], again[down])
    assert not torch.equal(first[down], other[down])


def test_the_narrowest_adapter_has_one_unit() -> None:
    model = applied(tiny.bert(), reduction_factor=1000)
    assert {p.shape[0] for n, p in adapter_tensors(model).items() if "down" in n} == {1}


def test_unknown_non_linearity_lists_the_known_ones() -> None:
    model = tiny.bert()
    with pytest.raises(MethodError, match=r"no non_linearity 'rleu'; it has .*relu.*swish"):
        ftplug.apply(model, "bottleneck", non_linearity="rleu")
    assert not adapters(model)


@pytest.mark.parametrize("name", ["relu", "gelu", "swish", "prelu"])
def test_non_linearity_is_transformers_own(name: str) -> None:
    from transformers.activations import ACT2FN

    model = applied(tiny.bert(), non_linearity=name)
    found = next(iter(adapters(model).values())).non_linearity
    assert type(found) is type(ACT2FN[name])


@pytest.mark.parametrize(
    "settings",
    [
        {"reduction_factor": 0},
        {"placement": "series"},
        {"layers": 0},
        {"scaling": 0.0},
        {"non_linearity": 3},
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(MethodError, match=f"setting '{next(iter(settings))}' cannot be"):
        Bottleneck.configure(settings)


def test_settings_from_the_command_line() -> None:
    texts = {"reduction_factor": "4", "layers": "none", "scaling": "4", "placement": "parallel"}
    assert Bottleneck.parse(texts).settings() == {
        "reduction_factor": 4,
        "placement": "parallel",
        "non_linearity": "relu",
        "layers": None,
        "scaling": 4.0,
        "original_ln_before": False,
    }


def test_more_layers_than_there_are_is_refused() -> None:
    with pytest.raises(MethodError, match=r"layers=3, but BertForSequenceClassification has 2"):
        applied(tiny.bert(), layers=3)


def test_merge_is_refused() -> None:
    model = applied(tiny.bert())
    with pytest.raises(MethodError, match="cannot be folded"):
        ftplug.merge(model)


def tiny_bart() -> BartConfig:
    sizes = {"d_model": D, "vocab_size": 64, "encoder_layers": 2, "decoder_layers": 2}
    ends = ("encoder_ffn_dim", "decoder_ffn_dim")
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    return BartConfig(**sizes, **heads, **dict.fromkeys(ends, 48))


def tiny_albert(**sizes: int) -> PreTrainedModel:
    config = AlbertConfig(**SMALL, embedding_size=16, num_attention_heads=4, **sizes)
    return AlbertForSequenceClassification(config)


SMALL = {"hidden_size": D, "vocab_size": 64, "num_hidden_layers": 2, "intermediate_size": 48}
UNFIT: dict[str, tuple[Callable[[], PreTrainedModel], str, str]] = {
    "albert": (
        tiny_albert,
        "pfeiffer",
        "no stack of transformer layers in AlbertForSequenceClassification",
    ),
    "albert-groups": (
        lambda: tiny_albert(num_hidden_groups=2),
        "parallel",
        "feed-forward of AlbertLayerGroup is no module of its own",
    ),
    "mobilebert": (
        lambda: MobileBertForSequenceClassification(
            MobileBertConfig(
                **SMALL, embedding_size=D, num_attention_heads=4, intra_bottleneck_size=16
            )
        ),
        "pfeiffer",
        "MobileBertLayer has several feed-forwards",
    ),
    "roberta-prelayernorm": (
        lambda: RobertaPreLayerNormForSequenceClassification(
            RobertaPreLayerNormConfig(**SMALL, num_attention_heads=4)
        ),
        "parallel",
        "feed-forward of RobertaPreLayerNormLayer is no module of its own",
    ),
    "mamba": (
        lambda: MambaForCausalLM(MambaConfig(hidden_size=D, vocab_size=64, num_hidden_layers=2)),
        "pfeiffer",
        "no output projection of the attention in MambaBlock",
    ),
    "mixtral": (
        lambda: MixtralForCausalLM(
            MixtralConfig(
                **SMALL, num_attention_heads=4, num_key_value_heads=2, num_local_experts=2
            )
        ),
        "houlsby",
        "MixtralDecoderLayer has several feed-forwards",
    ),
    "bart": (
        lambda: BartForConditionalGeneration(tiny_bart()),
        "parallel",
        "feed-forward of BartEncoderLayer is no module of its own",
    ),
}


@pytest.mark.parametrize("architecture", UNFIT)
def test_an_architecture_it_does_not_fit_is_refused_by_name_and_left_alone(
    architecture: str,
) -> None:
    make, placement, reason = UNFIT[architecture]
    model = make()
    classes = {name: type(module) for name, module in model.named_modules()}
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(MethodError, match=f"bottleneck: .*{reason}"):
        applied(model, placement)
    assert {name: type(module) for name, module in model.named_modules()} == classes
    after = model.state_dict()
    assert after.keys() == tensors.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in tensors.items())


def test_bart_whose_feed_forward_is_part_of_the_layer_takes_adapters_in_series() -> None:
    model = BartForConditionalGeneration(tiny_bart()).eval()
    base = logits(model)
    applied(model)
    assert len(adapters(model)) == 2 * 2 + 2 * 3
    torch.testing.assert_close(logits(model), base, rtol=0, atol=1e-5)


def test_output_projections_by_structure() -> None:
    layer = layer_stacks(tiny.t5())[1].layers[0]
    found = require_output_projections(layer, "test")
    assert found.hidden_size == D
    assert found.attention == ("layer.0.SelfAttention.o", "layer.1.EncDecAttention.o")
    assert found.feed_forward == "layer.2.DenseReluDense.wo"


@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
def test_linear_layers_counts_conv1d_and_what_peft_wraps_once() -> None:
    model = tiny.gpt2()
    plain = linear_layers(model.transformer.h[0])
    assert plain == {
        "attn.c_attn": (D, 3 * D),
        "attn.c_proj": (D, D),
        "mlp.c_fc": (D, 48),
        "mlp.c_proj": (48, D),
    }
    ftplug.apply(model, "lora", target_modules=("c_attn", "c_proj"))
    assert linear_layers(model.transformer.h[0]) == plain


def test_what_a_layernorm_makes_of_the_output_can_be_read_first() -> None:
    """seq_bn of ``adapters``; tests/ftplug/adopting holds its answers beside that library's."""
    base = tiny.bert()
    model = applied(copy.deepcopy(base), "pfeiffer", original_ln_before=True, scaling=2.0)
    batch = tiny.inputs(base)
    assert torch.equal(model(**batch).logits, base(**batch).logits)
    output: Any = model.get_submodule("bert.encoder.layer.1.output")
    nn.init.normal_(output.adapter.up.weight)
    hidden, residual = torch.randn(3, 7, 2 * D), torch.randn(3, 7, D)
    dense = output.dense(hidden[..., : output.dense.in_features])
    update = output.adapter(output.LayerNorm(dense + residual))
    expected = output.LayerNorm(dense + residual + 2.0 * update)
    found = output(hidden[..., : output.dense.in_features], residual)
    assert torch.allclose(found, expected, atol=1e-6)


def test_it_needs_a_layernorm_there_and_pfeiffer() -> None:
    with pytest.raises(MethodError, match="goes with placement=pfeiffer alone"):
        applied(tiny.bert(), "houlsby", original_ln_before=True)
    with pytest.raises(MethodError, match="no LayerNorm right after its feed-forward"):
        applied(tiny.llama(), "pfeiffer", original_ln_before=True)
