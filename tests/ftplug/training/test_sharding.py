"""FSDP2 over two processes on the CPU: it trains what DDP does, from half of the memory."""

from types import SimpleNamespace

import folders
import pytest
import ranks
import torch
from safetensors.torch import load_file

import ftplug
from ftplug.testing.compare import base_model, difference, logits, weights

pytestmark = pytest.mark.ddp

METHODS = {
    "full": {"full": {}},
    "lora": {"lora": {"r": 4}},
    "bitfit": {"bitfit": {}},
    "bottleneck": {"bottleneck": {"reduction_factor": 4}},
    "reft": {"reft": {}},
    "prompt-tuning": {"prompt-tuning": {"num_virtual_tokens": 4}},
    "prefix-tuning": {"prefix-tuning": {"num_virtual_tokens": 4}},
    "lisa": {"lisa": {"layers": 1, "period": 1}},
    "gradual-unfreezing": {"gradual-unfreezing": {}},
    "lora + lora-plus + l2-sp": {"lora": {"r": 4}, "lora-plus": {}, "l2-sp": {}},
    "layernorm + layerwise-lr": {"layernorm": {}, "layerwise-lr": {}},
}
KINDS = ("FULL_STATE_DICT", "SHARDED_STATE_DICT")


@pytest.mark.parametrize("name", METHODS)
def test_sharded_training_is_the_replicated_one(tmp_path, name):
    """Weights, resume, artifact, the base's answers within ``disabled``: all as without FSDP."""
    methods, kind = METHODS[name], KINDS[len(name) % 2]
    replicated, _ = ranks.both(ranks.ddp_weights, methods=methods, out=tmp_path / "ddp")
    first, second = ranks.both(
        ranks.sharded_run,
        methods=methods,
        out=tmp_path / "fsdp",
        artifact=tmp_path / "artifact",
        state_dict_type=kind,
    )
    assert first["sharded"]
    assert first["units"] == 2  # every layer is gathered by itself
    total = sum(value.numel() for value in replicated.values())
    assert first["local"] <= 0.6 * total
    assert second["local"] <= 0.6 * total
    for tensor, value in replicated.items():
        assert torch.allclose(first["weights"][tensor], value, rtol=0, atol=9e-6), tensor
    for outcome in (first, second):
        assert difference(outcome["weights"], first["weights"]) is None
        assert difference(outcome["resumed"], first["weights"]) is None
        assert torch.equal(outcome["base"], logits(base_model("bert")))
        assert torch.equal(outcome["again"], outcome["logits"])
        assert "save the artifact, then: ftplug merge" in outcome["merge"]

    loaded = ftplug.load(base_model("bert"), tmp_path / "artifact")
    assert difference(weights(loaded), first["weights"]) is None
    assert torch.equal(logits(loaded), first["logits"])
    for other in ("by-hand", "pretrained"):
        again = ftplug.load(base_model("bert"), tmp_path / other)
        assert difference(weights(again), weights(loaded)) is None

    checkpoint = tmp_path / "fsdp" / f"checkpoint-{ranks.STEPS}"
    names = {path.name for path in checkpoint.iterdir()}
    assert names == {
        "ftplug_state.json", "ftplug_state.safetensors", "optimizer.pt", "scheduler.pt",
        "trainer_state.json", "rng_state_0.pth", "rng_state_1.pth", "ftplug_files.json",
        "config.json", "ftplug_batch.json", "ftplug_batches_0.pth", "ftplug_batches_1.pth",
    }  # fmt: skip
    saved = load_file(checkpoint / "ftplug_state.safetensors")
    assert all(torch.equal(first["weights"][tensor], value) for tensor, value in saved.items())


def test_one_process_goes_on_from_what_two_saved(tmp_path):
    """A checkpoint holds whole tensors: the number of processes may change."""
    methods = METHODS["lora"]
    first, _ = ranks.both(
        ranks.sharded_run, methods=methods, out=tmp_path / "out", artifact=tmp_path / "a"
    )
    alone = ranks.trained(methods, tmp_path / "out", resume=True, per_device_train_batch_size=8)
    assert alone.state.global_step == ranks.STEPS
    assert difference(weights(alone.model), first["weights"]) is not None  # dropout draws anew


def test_the_best_model_comes_back_sharded_and_training_goes_on(tmp_path):
    (best, later), (other, _) = ranks.both(
        ranks.sharded_best, methods=METHODS["lora"], out=tmp_path
    )
    saved = load_file(tmp_path / f"checkpoint-{ranks.CHECKPOINT}" / "ftplug_state.safetensors")
    assert all(torch.equal(best[name], value) for name, value in saved.items())
    assert difference(best, other) is None
    assert difference(best, later) is None


REFUSED = {
    "galore": ({"galore": {"rank": 4}}, "galore: it decomposes whole gradients, and FSDP"),
    "apollo": ({"apollo": {"rank": 4}}, "apollo: it projects whole gradients, and FSDP"),
    "adalora": (
        {"adalora": {"init_r": 6, "target_r": 4}},
        "adalora: its penalty and its allocator read whole matrices, and FSDP",
    ),
    "vblora": (
        {"vblora": {"vector_length": 8, "num_vectors": 16}},
        "is shared by 4 modules, which FSDP cannot shard one by one: use DDP",
    ),
    "osf": ({"osf": {}}, "has a gradient hook, which FSDP would silently drop: use DDP"),
    "qlora": ({"qlora": {}}, "is torch.uint8, which FSDP cannot shard"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_shards_cannot_do_is_refused_before_the_first_step(tmp_path, name):
    methods, reason = REFUSED[name]
    for said, *step in ranks.both(ranks.sharded_refusal, methods=methods, out=tmp_path):
        assert said.startswith("MethodError: ")
        assert reason in said
        assert "\n" not in said
        assert step in ([0], [None])  # refused while it was built, or before its first step


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"cpu_ram_efficient_loading": True}, "gives all processes but the first an empty base"),
        ({"activation_checkpointing": True}, "renames the layers"),
    ],
)
def test_ways_to_shard_that_methods_do_not_fit_are_refused(tmp_path, config, reason):
    for said, _ in ranks.both(
        ranks.sharded_refusal, methods=METHODS["lora"], out=tmp_path, **config
    ):
        assert said.startswith("MethodError: ")
        assert reason in said


def test_a_model_that_is_sharded_already_is_refused():
    said = ranks.refusals(ranks.attached_to_a_sharded_model, method="lora")
    assert said[0] == said[1]
    assert "sharded over processes already: apply methods first" in said[0]


def test_a_model_that_was_loaded_with_a_tp_plan_is_refused(tmp_path):
    folder = folders.language_model(tmp_path / "llama")
    said = ranks.refusals(ranks.attached_to_a_divided_model, folder=folder, method="lora")
    assert said[0] == said[1]
    assert "divided this model among 2 processes (tp_plan=, tp_size= or" in said[0]
    assert "load it without" in said[0]


def test_so_is_one_whose_parts_are_plain_tensors():
    """As transformers 5.8 leaves them."""
    model = base_model("bert")
    model._device_mesh = SimpleNamespace(size=lambda: 2)
    with pytest.raises(ftplug.MethodError, match="divided this model among 2 processes"):
        ftplug.apply(model, "lora")
    model._device_mesh = SimpleNamespace(size=lambda: 1)
    ftplug.apply(model, "lora")


def test_activation_checkpointing_by_the_trainer_changes_nothing(tmp_path):
    methods = METHODS["lisa"]
    plain, _ = ranks.both(ranks.sharded_weights, methods=methods, out=tmp_path / "a")
    again, _ = ranks.both(
        ranks.sharded_weights, methods=methods, out=tmp_path / "b", gradient_checkpointing=True
    )
    assert difference(plain, again) is None


def test_the_report_says_what_moved(tmp_path):
    for run in ranks.both(ranks.sharded_report, out=tmp_path):
        assert run["tensors"] == {"may_train": 10, "moved": 10}
        assert run["parameters"]["trained"] == 1090
