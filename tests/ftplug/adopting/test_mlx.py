"""Adapters as mlx-lm saves them, written anew here from its format, and what it computes."""

import json

import pytest
import tiny
import torch
from safetensors.torch import save_file

import ftplug
from ftplug import ArtifactError
from ftplug.adopting.adopt import adopt

KEYS = ("self_attn.q_proj", "mlp.down_proj")


def saved(folder, base, *, rank=4, scale=20.0, kind="lora", layers=1, **more):
    """Save what ``mlx_lm.lora`` does: A (in_features, r), B (r, out_features), in top layers."""
    folder.mkdir()
    draw = torch.Generator().manual_seed(0)
    tensors = {}
    depth = base.config.num_hidden_layers
    for name in (f"model.layers.{n}.{k}" for n in range(depth - layers, depth) for k in KEYS):
        weight = base.get_submodule(name).weight
        tensors[f"{name}.lora_a"] = torch.randn(weight.shape[1], rank, generator=draw) * 0.1
        tensors[f"{name}.lora_b"] = torch.randn(rank, weight.shape[0], generator=draw) * 0.1
        if kind == "dora":
            noise = torch.rand(weight.shape[0], generator=draw)
            tensors[f"{name}.m"] = weight.detach().norm(dim=1) * (1 + 0.1 * noise)
    save_file(tensors, folder / "adapters.safetensors")
    config = {
        "model": "mlx-community/tiny",
        "fine_tune_type": kind,
        "num_layers": layers,
        "lora_parameters": {"rank": rank, "scale": scale, "dropout": 0.0, "keys": list(KEYS)}
        | more,
        "iters": 100,
        "resume_adapter_file": None,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "0000100_adapters.safetensors").write_bytes(b"a checkpoint")
    return tensors


def as_mlx_computes(base, tensors, scale):
    """Answer with ``y + scale * (x @ lora_a) @ lora_b``, for DoRA with ``m`` over the new norm."""

    def hook(layer, given, output, *, name):
        a, b = tensors[f"{name}.lora_a"], tensors[f"{name}.lora_b"]
        output = output + scale * ((given[0] @ a) @ b)
        if (m := tensors.get(f"{name}.m")) is not None:
            output = output * (m / (layer.weight + (scale * b.T) @ a.T).norm(dim=1))
        return output

    for name in {key.rpartition(".")[0] for key in tensors}:
        layer = base.get_submodule(name)
        layer.register_forward_hook(lambda m, g, o, name=name: hook(m, g, o, name=name))
    return answers(base)


def answers(model):
    batch = {n: v for n, v in tiny.inputs(model).items() if n != "labels"}
    with torch.no_grad():
        return model.eval()(**batch).logits


@pytest.mark.parametrize(
    ("settings", "alpha"),
    [
        ({}, 80),
        ({"scale": 10.0, "rank": 2, "layers": 2}, 20),
        ({"scale": 0.3, "rank": 3}, 3),  # 0.9 is no whole number: the factor goes into B
        ({"kind": "dora", "scale": 2.0}, 8),
    ],
    ids=str,
)
def test_it_answers_as_mlx_computes(settings, alpha, elsewhere, tmp_path):
    tensors = saved(tmp_path / "in", elsewhere.base("llama"), **settings)
    done = adopt(tmp_path / "in", str(elsewhere.root / "llama"), to=tmp_path / "to")
    expected = as_mlx_computes(elsewhere.base("llama"), tensors, settings.get("scale", 20.0))
    assert not torch.allclose(expected, answers(elsewhere.base("llama")), atol=1e-4)
    loaded = ftplug.load(str(elsewhere.root / "llama"), tmp_path / "to")
    assert torch.allclose(answers(loaded), expected, rtol=0, atol=1e-6)
    assert done.manifest.methods[0]["settings"]["lora_alpha"] == alpha
    assert done.compared.difference <= 1e-6
    assert "0000100_adapters.safetensors" in done.strays
    assert "mlx-community/tiny" in done.remarks[0]
    assert done.manifest.training["adopted"]["was"].endswith("adapter of MLX")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kind": "full"}, "fine_tune_type='full' is no adapter"),
        ({"alpha": 16.0}, "alpha=16.0, which older mlx-lm multiplies by"),
        ({"scale": None}, "scale=None: a number is expected"),
        ({"scale": float("nan")}, "scale=nan: a number is expected"),
        ({"rank": 10**9}, "at most 16,384"),
    ],
    ids=str,
)
def test_what_is_no_lora_of_its_is_refused_by_name(settings, said, elsewhere, tmp_path):
    rank = settings.get("rank", 4)
    saved(tmp_path / "in", elsewhere.base("llama"), **settings | {"rank": min(rank, 4)})
    path = tmp_path / "in" / "adapter_config.json"
    content = json.loads(path.read_text())
    content["lora_parameters"]["rank"] = rank
    path.write_text(json.dumps(content))
    with pytest.raises(ArtifactError) as refused:
        adopt(tmp_path / "in", str(elsewhere.root / "llama"), to=tmp_path / "to")
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: {n: v for n, v in t.items() if "_b" not in n}, "of a module is missing"),
        (lambda t: t | {"model.norm.weight": torch.ones(4)}, "is no tensor of MLX's LoRA"),
        (lambda t: {n: v[None] for n, v in t.items()}, "several experts"),
        (lambda t: {n: v[:, :2].contiguous() for n, v in t.items()}, "no LoRA of rank 4"),
    ],
)
def test_tensors_of_another_kind_are_refused_by_name(change, said, elsewhere, tmp_path):
    tensors = saved(tmp_path / "in", elsewhere.base("llama"))
    save_file(change(tensors), tmp_path / "in" / "adapters.safetensors")
    with pytest.raises(ArtifactError, match=said):
        adopt(tmp_path / "in", str(elsewhere.root / "llama"), to=tmp_path / "to")


def test_messages_name_the_users_folder(elsewhere, tmp_path):
    """Not that of what was written anew for peft."""
    tensors = saved(tmp_path / "in", elsewhere.base("llama"))
    elsewhere_named = {n.replace("layers.1", "layers.9"): v for n, v in tensors.items()}
    save_file(elsewhere_named, tmp_path / "in" / "adapters.safetensors")
    with pytest.raises(ArtifactError) as refused:
        adopt(tmp_path / "in", str(elsewhere.root / "llama"), to=tmp_path / "to")
    assert str(tmp_path / "in") in str(refused.value)
    assert "ftplug-adopt-" not in str(refused.value)
