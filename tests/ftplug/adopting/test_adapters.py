"""Adapters as AdapterHub's ``adapters`` saves them, written anew here from its format and code."""

import json

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import linear
from transformers.activations import get_activation

import ftplug
from ftplug import ArtifactError
from ftplug.adopting.adopt import adopt

# SeqBnConfig, DoubleSeqBnConfig and ParBnConfig, as their to_dict() gives them.
COMMON = {
    "original_ln_after": True, "ln_before": False, "ln_after": False, "init_weights": "bert",
    "is_parallel": False, "scaling": 1.0, "use_gating": False, "residual_before_ln": True,
    "adapter_residual_before_ln": False, "inv_adapter": None, "cross_adapter": False,
    "leave_out": [], "dropout": 0.0, "phm_layer": False, "phm_dim": 4, "stochastic_depth": 0.0,
    "original_ln_before": False, "reduction_factor": 4, "non_linearity": "relu",
}  # fmt: skip
SEQ_BN = COMMON | {"mh_adapter": False, "output_adapter": True, "original_ln_before": True}
DOUBLE_SEQ_BN = COMMON | {"mh_adapter": True, "output_adapter": True, "non_linearity": "swish"}
PAR_BN = COMMON | {
    "mh_adapter": False, "output_adapter": True, "is_parallel": True, "scaling": 4.0,
    "reduction_factor": 2,
}  # fmt: skip
LORA = {
    "architecture": "lora", "selfattn_lora": True, "intermediate_lora": False,
    "output_lora": False, "leave_out": [], "r": 4, "alpha": 16, "dropout": 0.0,
    "attn_matrices": ["q", "v"], "composition_mode": "add", "init_weights": "lora",
    "use_gating": False, "use_dora": False, "vera_d": None, "vera_b": None, "dtype": None,
}  # fmt: skip


def saved(folder, config, base, *, head=True, version="adapters.1.2.0", pickled=False, **more):
    """Save ``adapter_config.json`` and tensors under the names that the library gives them."""
    folder.mkdir()
    draw = torch.Generator().manual_seed(0)
    hidden = base.config.hidden_size
    tensors = {}

    def drawn(*shape):
        return torch.randn(*shape, generator=draw) * 0.2

    for number in range(base.config.num_hidden_layers):
        layer = f"bert.encoder.layer.{number}"
        if number in config["leave_out"]:
            continue
        if config.get("architecture") == "lora":
            for part in ("query", "value"):
                name = f"{layer}.attention.self.{part}.loras.mine"
                tensors[f"{name}.lora_A"] = drawn(config["r"], hidden)
                tensors[f"{name}.lora_B"] = drawn(hidden, config["r"])
            continue
        width = hidden // config["reduction_factor"]
        places = {"attention.output": config["mh_adapter"], "output": config["output_adapter"]}
        for place in (place for place, there in places.items() if there):
            name = f"{layer}.{place}.adapters.mine"
            tensors[f"{name}.adapter_down.0.weight"] = drawn(width, hidden)
            tensors[f"{name}.adapter_down.0.bias"] = drawn(width)
            tensors[f"{name}.adapter_up.weight"] = drawn(hidden, width)
            tensors[f"{name}.adapter_up.bias"] = drawn(hidden)
    write(folder, tensors, "pytorch_adapter.bin" if pickled else "adapter.safetensors")
    content = {
        "model_type": "bert", "hidden_size": hidden, "name": "mine", "config": config,
        "model_name": "google-bert/tiny", "model_class": type(base).__name__, "version": version,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(content | more))
    if head:
        own = {n: drawn(*p.shape) for n, p in base.named_parameters() if "classifier" in n}
        write(folder, own, "pytorch_model_head.bin" if pickled else "model_head.safetensors")
        described = {"config": None, "num_labels": 2, "model_class": type(base).__name__}
        (folder / "head_config.json").write_text(json.dumps(described))
        tensors |= own
    return tensors


def write(folder, tensors, name):
    if name.endswith(".bin"):
        torch.save(tensors, folder / name)
    else:
        save_file(tensors, folder / name)


def as_adapters_computes(base, config, tensors, alpha=None):
    """Answer as its Adapter, ParallelAdapter and LoRA modules do, within BERT's own modules."""
    with torch.no_grad():
        for name, parameter in base.named_parameters():
            if name in tensors:
                parameter.copy_(tensors[name])
    if config.get("architecture") == "lora":
        for key in (key for key in tensors if key.endswith(".lora_A")):
            name = key.removesuffix(".loras.mine.lora_A")
            product = tensors[key.replace("lora_A", "lora_B")] @ tensors[key]
            base.get_submodule(name).weight.data += (
                product * (alpha or config["alpha"]) / config["r"]
            )
        return answers(base)
    for path, module in base.named_modules():
        if f"{path}.adapters.mine.adapter_up.weight" in tensors:
            part = {k.removeprefix(f"{path}.adapters.mine."): v for k, v in tensors.items()}
            module.forward = lambda h, i, module=module, part=part: output(
                module, config, part, h, i
            )
    return answers(base)


def output(module, config, part, hidden_states, input_tensor):
    """Run BertOutput with its adapter: pre_forward, forward and post_forward of the library."""
    hidden_states = module.dense(hidden_states)
    x, residual = hidden_states, hidden_states
    if config["is_parallel"]:
        x = input_tensor
    elif config["original_ln_before"]:
        x = module.LayerNorm(hidden_states + input_tensor)
    down = linear(x, part["adapter_down.0.weight"], part["adapter_down.0.bias"])
    up = linear(get_activation(config["non_linearity"])(down), part["adapter_up.weight"],
                part["adapter_up.bias"])  # fmt: skip
    return module.LayerNorm(up * config["scaling"] + residual + input_tensor)


def answers(model):
    batch = {n: v for n, v in tiny.inputs(model).items() if n != "labels"}
    with torch.no_grad():
        return model.eval()(**batch).logits


@pytest.mark.parametrize(
    ("config", "method"),
    [
        (SEQ_BN, {"placement": "pfeiffer", "original_ln_before": True}),
        (SEQ_BN | {"original_ln_before": False, "leave_out": [0]}, {"layers": 1}),
        (DOUBLE_SEQ_BN, {"placement": "houlsby", "non_linearity": "swish"}),
        (PAR_BN, {"placement": "parallel", "scaling": 4.0}),
        (LORA, {"r": 4, "lora_alpha": 16}),
        (LORA | {"alpha": 6}, {"lora_alpha": 6}),
    ],
    ids=["seq_bn", "after", "double_seq_bn", "par_bn", "lora", "lora-scale"],
)
def test_it_answers_as_the_library_computes(config, method, elsewhere, tmp_path):
    tensors = saved(tmp_path / "in", config, elsewhere.base("bert"))
    done = adopt(tmp_path / "in", str(elsewhere.root / "bert"), to=tmp_path / "to")
    expected = as_adapters_computes(elsewhere.base("bert"), config, tensors)
    assert not torch.allclose(expected, answers(elsewhere.base("bert")), atol=1e-3)
    loaded = ftplug.load(str(elsewhere.root / "bert"), tmp_path / "to")
    assert torch.allclose(answers(loaded), expected, rtol=0, atol=1e-6)
    settings = done.manifest.methods[0]["settings"]
    assert {name: settings[name] for name in method} == method
    assert done.manifest.train_head
    assert done.manifest.effect["probe"]
    assert "adapters 1.2.0" in done.title


def test_pickles_are_read_where_they_are_accepted(elsewhere, tmp_path):
    tensors = saved(tmp_path / "in", DOUBLE_SEQ_BN, elsewhere.base("bert"), pickled=True)
    base = str(elsewhere.root / "bert")
    with pytest.raises(ArtifactError, match=r"pytorch_adapter\.bin: a pickle"):
        adopt(tmp_path / "in", base, to=tmp_path / "to")
    adopt(tmp_path / "in", base, to=tmp_path / "to", allow_pickle=True)
    expected = as_adapters_computes(elsewhere.base("bert"), DOUBLE_SEQ_BN, tensors)
    assert torch.allclose(answers(ftplug.load(base, tmp_path / "to")), expected, atol=1e-6)


def test_lora_of_before_1_1_was_not_scaled(elsewhere, tmp_path):
    """The library reads it so itself: alpha becomes r."""
    tensors = saved(tmp_path / "in", LORA, elsewhere.base("bert"), version="adapters.1.0.1")
    adopt(tmp_path / "in", str(elsewhere.root / "bert"), to=tmp_path / "to")
    expected = as_adapters_computes(elsewhere.base("bert"), LORA, tensors, alpha=4)
    loaded = ftplug.load(str(elsewhere.root / "bert"), tmp_path / "to")
    assert torch.allclose(answers(loaded), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (SEQ_BN | {"inv_adapter": "nice"}, "inv_adapter='nice'"),
        (SEQ_BN | {"use_gating": True}, "use_gating=True"),
        (SEQ_BN | {"scaling": "learned"}, "scaling='learned'"),
        (SEQ_BN | {"phm_layer": True}, "phm_layer=True"),
        (SEQ_BN | {"residual_before_ln": "post_add"}, "residual_before_ln='post_add'"),
        (SEQ_BN | {"leave_out": [1]}, "leave_out=[1]"),
        (DOUBLE_SEQ_BN | {"output_adapter": False}, "mh_adapter=True, output_adapter=False"),
        (DOUBLE_SEQ_BN | {"original_ln_before": True}, "original_ln_before"),
        (LORA | {"use_gating": True}, "use_gating=True"),
        (LORA | {"composition_mode": "scale"}, "composition_mode='scale'"),
        (LORA | {"use_dora": True}, "use_dora=True"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_has_no_method_here_is_refused_by_name(config, said, elsewhere, tmp_path):
    saved(tmp_path / "in", config, elsewhere.base("bert"))
    with pytest.raises(ArtifactError) as refused:
        adopt(tmp_path / "in", str(elsewhere.root / "bert"), to=tmp_path / "to")
    assert said in str(refused.value)
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize("architecture", ["prefix_tuning", "reft", "union", "prompt_tuning"])
def test_other_methods_of_the_library_are_refused_by_name(architecture, elsewhere, tmp_path):
    saved(tmp_path / "in", SEQ_BN, elsewhere.base("bert"))
    path = tmp_path / "in" / "adapter_config.json"
    path.write_text(json.dumps({"model_type": "bert", "config": {"architecture": architecture}}))
    with pytest.raises(ArtifactError, match=f"'{architecture}' is not read here"):
        adopt(tmp_path / "in", str(elsewhere.root / "bert"), to=tmp_path / "to")


def test_a_flexible_head_is_refused_by_name(elsewhere, tmp_path):
    saved(tmp_path / "in", SEQ_BN, elsewhere.base("bert"))
    path = tmp_path / "in" / "head_config.json"
    path.write_text(json.dumps({"config": {"head_type": "classification", "layers": 2}}))
    with pytest.raises(ArtifactError, match=r"prediction head \('classification'\)"):
        adopt(tmp_path / "in", str(elsewhere.root / "bert"), to=tmp_path / "to")


def test_an_adapter_without_a_head_goes_on_the_bases(elsewhere, tmp_path):
    tensors = saved(tmp_path / "in", DOUBLE_SEQ_BN, elsewhere.base("bert"), head=False)
    done = adopt(tmp_path / "in", str(elsewhere.root / "bert"), to=tmp_path / "to")
    assert not done.manifest.train_head
    expected = as_adapters_computes(elsewhere.base("bert"), DOUBLE_SEQ_BN, tensors)
    loaded = ftplug.load(str(elsewhere.root / "bert"), tmp_path / "to")
    assert torch.allclose(answers(loaded), expected, rtol=0, atol=1e-6)


def test_a_place_that_the_model_has_not_is_refused_by_name(elsewhere, tmp_path):
    saved(tmp_path / "in", DOUBLE_SEQ_BN, elsewhere.base("bert"), head=False)
    with pytest.raises(ArtifactError, match="has no place in a LlamaForCausalLM"):
        adopt(tmp_path / "in", str(elsewhere.root / "llama"), to=tmp_path / "to",
              task="text-generation")  # fmt: skip


def test_tensors_of_another_kind_are_refused_by_name(elsewhere, tmp_path):
    tensors = saved(tmp_path / "in", SEQ_BN, elsewhere.base("bert"), head=False)
    write(tmp_path / "in", tensors | {"bert.invertible_adapters.x": torch.ones(2)},
          "adapter.safetensors")  # fmt: skip
    with pytest.raises(ArtifactError, match="is no tensor of a plain bottleneck"):
        adopt(tmp_path / "in", str(elsewhere.root / "bert"), to=tmp_path / "to")


@pytest.mark.parametrize(
    "more",
    [
        {"mh_adapter": False},  # with tensors of what it says it has not
        {"leave_out": [0]},
        {"is_parallel": True, "mh_adapter": False},
    ],
    ids=str,
)
def test_no_tensor_is_passed_over(more, elsewhere, tmp_path):
    saved(tmp_path / "in", DOUBLE_SEQ_BN, elsewhere.base("bert"))
    path = tmp_path / "in" / "adapter_config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"config": content["config"] | more}))
    with pytest.raises(ArtifactError, match=r"bottleneck has no place for bert\.encoder"):
        adopt(tmp_path / "in", str(elsewhere.root / "bert"), to=tmp_path / "to")
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize("config", [LORA, DOUBLE_SEQ_BN], ids=["lora", "bottleneck"])
def test_a_file_of_two_adapters_is_refused(config, elsewhere, tmp_path):
    tensors = saved(tmp_path / "in", config, elsewhere.base("bert"), head=False)
    more = {name.replace(".mine.", ".yours."): tensor.clone() for name, tensor in tensors.items()}
    write(tmp_path / "in", tensors | more, "adapter.safetensors")
    with pytest.raises(ArtifactError, match=r"yours.* is of a second adapter in one file"):
        adopt(tmp_path / "in", str(elsewhere.root / "bert"), to=tmp_path / "to")


def test_no_tensor_of_a_head_is_passed_over(elsewhere, tmp_path):
    saved(tmp_path / "in", SEQ_BN, elsewhere.base("bert"))
    held = load_file(tmp_path / "in" / "model_head.safetensors")
    write(tmp_path / "in", held | {"cls.other": torch.ones(2)}, "model_head.safetensors")
    with pytest.raises(ArtifactError, match=r"bottleneck has no place for cls\.other"):
        adopt(tmp_path / "in", str(elsewhere.root / "bert"), to=tmp_path / "to")


@pytest.mark.parametrize(
    "more",
    [
        {"scaling": 10**400}, {"scaling": float("nan")}, {"scaling": [1]}, {"scaling": 0},
        {"reduction_factor": 10**400}, {"reduction_factor": float("inf")},
        {"reduction_factor": 0}, {"reduction_factor": {"default": 4}}, {"reduction_factor": None},
        {"is_parallel": "no"}, {"mh_adapter": [0]}, {"output_adapter": 1}, {"leave_out": [True]},
    ],
    ids=lambda more: str(more)[:32],
)  # fmt: skip
def test_values_that_cannot_be_are_one_line(more, elsewhere, tmp_path):
    saved(tmp_path / "in", DOUBLE_SEQ_BN, elsewhere.base("bert"))
    path = tmp_path / "in" / "adapter_config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"config": content["config"] | more}))
    with pytest.raises(ArtifactError, match=next(iter(more))) as refused:
        adopt(tmp_path / "in", str(elsewhere.root / "bert"), to=tmp_path / "to")
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 600


@pytest.mark.parametrize("config", [LORA, DOUBLE_SEQ_BN], ids=["lora", "bottleneck"])
def test_tensors_of_a_pickle_that_are_no_plain_ones_are_refused(config, elsewhere, tmp_path):
    tensors = saved(tmp_path / "in", config, elsewhere.base("bert"), head=False, pickled=True)
    for kind, change in (
        ("sparse_coo", lambda tensor: tensor.to_sparse()),
        ("complex64", lambda tensor: tensor.to(torch.complex64)),
        ("float32", lambda tensor: tensor.to("meta")),
    ):
        odd = {name: change(tensor) for name, tensor in tensors.items()}
        write(tmp_path / "in", odd, "pytorch_adapter.bin")
        with pytest.raises(ArtifactError, match=f"is a tensor of torch.{kind}"):
            adopt(tmp_path / "in", str(elsewhere.root / "bert"), to=tmp_path / "to",
                  allow_pickle=True)  # fmt: skip


def test_tensors_of_a_pickle_may_lie_in_one_storage(elsewhere, tmp_path):
    tensors = saved(tmp_path / "in", LORA, elsewhere.base("bert"), head=False, pickled=True)
    first = next(tensor for name, tensor in tensors.items() if "lora_A" in name)
    tensors = {n: first if "lora_A" in n else tensor for n, tensor in tensors.items()}
    write(tmp_path / "in", tensors, "pytorch_adapter.bin")
    base = str(elsewhere.root / "bert")
    adopt(tmp_path / "in", base, to=tmp_path / "to", allow_pickle=True)
    expected = as_adapters_computes(elsewhere.base("bert"), LORA, tensors)
    assert torch.allclose(answers(ftplug.load(base, tmp_path / "to")), expected, atol=1e-6)
