"""Mixtures of experts: which settings reach the experts, by architecture."""

import copy
import re
from importlib.metadata import version
from pathlib import Path

import peft
import pytest
import tiny
import torch
import transformers
from runs import shake

import ftplug
from ftplug.structure import expert_parameters
from ftplug.testing.compare import logits

PAGE = Path(__file__).parents[3] / "docs" / "methods.md"
SIZES = {
    "vocab_size": tiny.VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0,
    "num_experts_per_tok": 2,
}  # fmt: skip
LATENT = {
    "q_lora_rank": 16, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
    "v_head_dim": 8, "num_key_value_heads": 4, "n_group": 1, "topk_group": 1,
    "first_k_dense_replace": 0,
}  # fmt: skip
# The table's name, the config's, and what it calls experts.
MODELS = {
    "Mixtral": ("Mixtral", {"num_local_experts": 4}),
    "Qwen3-MoE": ("Qwen3Moe", {"num_experts": 4, "moe_intermediate_size": 24, "head_dim": 8}),
    "OLMoE": ("Olmoe", {"num_experts": 4}),
    "GPT-OSS": ("GptOss", {"num_local_experts": 4, "head_dim": 8}),
    "GraniteMoe": ("GraniteMoe", {"num_local_experts": 4}),
    "DeepSeek-V3": (
        "DeepseekV3", {"n_routed_experts": 4, "moe_intermediate_size": 24, **LATENT},
    ),
    "Jamba": (
        "Jamba", {"num_experts": 4, "expert_layer_period": 1, "expert_layer_offset": 0,
                  "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 4,
                  "mamba_dt_rank": 4, "use_mamba_kernels": False},
    ),
}  # fmt: skip
SETTINGS = {
    "as it is": {},
    "`target_modules=all-linear`": {"target_modules": "all-linear"},
    "`target_parameters=all-experts`": {"target_parameters": ("all-experts",)},
}


def build(name):
    kind, more = MODELS[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**SIZES | more)
    return getattr(transformers, f"{kind}ForCausalLM")(config).eval()


def reached(model, **settings):
    """Return how many of the experts' matrices a setting of lora adapts, of how many."""
    experts = [n for n in expert_parameters(model) if "bias" not in n]
    attached = ftplug.apply(copy.deepcopy(model), "lora", r=2, **settings)
    trained = [n for n, p in attached.named_parameters() if p.requires_grad and "lora_B" in n]
    owners = {name.rpartition(".")[0] for name in experts}
    return sum(n.startswith(tuple(f"{o}." for o in owners)) for n in trained), len(experts)


def rows():
    for name in MODELS:
        model = build(name)
        cells = []
        for settings in SETTINGS.values():
            found, total = reached(model, **settings)
            cells.append(f"all {total}" if found == total else f"{found or 'none'} of {total}")
        yield f"| {name} | {' | '.join(cells)} |"


def table():
    head = ["`lora` on", *SETTINGS]
    return "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *rows()])


def pinned():
    lines = (PAGE.parents[1] / "constraints.txt").read_text("utf-8").split()
    return dict(line.split("==") for line in lines if "==" in line)


@pytest.mark.skipif(
    any(version(name) != pinned()[name] for name in ("peft", "transformers")),
    reason="the page is of the pinned versions",
)
def test_the_page_says_what_reaches_the_experts():
    assert table() in PAGE.read_text(encoding="utf-8"), f"stale, it must hold\n{table()}"


@pytest.mark.filterwarnings("ignore:Unsupported layer type")  # plain peft's, before 0.19
@pytest.mark.parametrize("name", MODELS)
def test_all_experts_are_adapted_saved_and_merged_as_by_peft(name, tmp_path):
    base = build(name)
    model = ftplug.apply(copy.deepcopy(base), "lora", r=2, target_parameters=("all-experts",))
    found, total = reached(base, target_parameters=("all-experts",))
    assert found == total > 0
    model = shake(model, 0.05)
    expected = logits(model)
    assert not expected.equal(logits(base))
    ftplug.save(model, tmp_path / "a")
    assert logits(ftplug.load(copy.deepcopy(base), tmp_path / "a")).equal(expected)
    # DeepSeek's router has buffers, which peft's format cannot hold.
    assert (tmp_path / "a" / "adapter_config.json").exists() == (name != "DeepSeek-V3")
    if name != "DeepSeek-V3":
        plain = peft.PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path / "a")).eval()
        assert torch.allclose(logits(plain), expected, atol=1e-5)
    merged = ftplug.merge(model)
    assert torch.allclose(logits(merged), expected, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_every_expert_that_gets_a_token_gets_a_gradient(name):
    model = ftplug.apply(build(name), "lora", r=2, target_parameters=("all-experts",)).train()
    ids = torch.randint(5, tiny.VOCAB, (4, 16))
    model(input_ids=ids, labels=ids).loss.backward()
    adapted = [n for n, p in model.named_parameters() if p.requires_grad]
    assert all(model.get_parameter(n).grad is not None for n in adapted)


def test_a_model_without_experts_refuses_the_word():
    with pytest.raises(ftplug.MethodError, match="BertForSequenceClassification has no experts"):
        ftplug.apply(tiny.bert(), "lora", target_parameters=("all-experts",))


def test_other_parameters_can_be_named_beside_them():
    base = build("Mixtral")
    more = ("all-experts", "gate.weight")
    model = ftplug.apply(copy.deepcopy(base), "lora", r=2, target_parameters=more)
    names = " ".join(n for n, p in model.named_parameters() if p.requires_grad)
    assert re.search(r"mlp\.gate\.lora_A", names)
    assert re.search(r"mlp\.experts\.", names)
