"""DeepSpeed ZeRO-3: each process holds a part of every parameter, and all else is as without it."""

import pytest
import ranks
import torch
import zero_ranks
from safetensors.torch import load_file
from transformers import BertForSequenceClassification

import ftplug
from ftplug.artifacts.checkpoint import STATE_WEIGHTS
from ftplug.attaching.attachment import require_attachment
from ftplug.attaching.disabling import trunk_of_base
from ftplug.effect.answers import ask_as
from ftplug.effect.distances import relative_distance
from ftplug.effect.probe import FILE, Probe
from ftplug.testing.compare import base_model, difference, logits, weights, without_gradient

pytestmark = pytest.mark.deepspeed

METHODS = {
    "lora": {"lora": {"r": 4}},
    "full": {"full": {}},
    "bottleneck": {"bottleneck": {"reduction_factor": 4}},
    "freeze": {"freeze": {"layers": 1}},
    "pissa": {"pissa": {"r": 4}},
    "prompt-tuning": {"prompt-tuning": {"num_virtual_tokens": 4}},
}
KEPT_WHOLE = {"zero": {"stage3_param_persistence_threshold": 100_000}}  # DeepSpeed's default
OFFLOADED = {
    "zero": {"offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}},
    "zero_force_ds_cpu_optimizer": False,  # its own AdamW for CPUs is compiled by g++: minutes
}


def largest_gap(found, expected):
    """Return the largest difference, but of what has no gradient: AdamW makes noise a step."""
    assert found.keys() == expected.keys()
    compared = [name for name in expected if name not in without_gradient("bert")]
    return max(float((found[name] - expected[name]).abs().max()) for name in compared)


@pytest.mark.parametrize("name", METHODS)
def test_training_in_parts_is_the_replicated_one(tmp_path, name):
    """Weights, artifacts in three ways, the base's answers within ``disabled``."""
    methods = METHODS[name]
    plain, _ = ranks.both(ranks.ddp_weights, methods=methods, out=tmp_path / "ddp")
    first, second = zero_ranks.both(
        zero_ranks.everything,
        methods=methods,
        out=tmp_path / "zero",
        artifact=tmp_path / "artifact",
    )
    assert largest_gap(first["weights"], plain) <= 1e-6
    assert difference(first["weights"], second["weights"]) is None
    total = sum(value.numel() for value in plain.values())
    for found in (first, second):
        assert found["parts"]
        assert found["local"] <= 0.52 * total
        assert torch.equal(found["base"], logits(base_model("bert")))
        assert torch.equal(found["again"], found["logits"])
        assert difference(found["after"], found["weights"]) is None
        assert "save the artifact, then: ftplug merge" in found["merge"]
    for way in ("artifact", "by-hand", "pretrained"):
        loaded = ftplug.load(base_model("bert"), tmp_path / way)
        assert difference(weights(loaded), first["weights"]) is None
        assert torch.equal(logits(loaded), first["logits"])
        probe = Probe.read(tmp_path / way / FILE)
        assert relative_distance(ask_as(loaded, probe), probe.trained) < 1e-6
        with trunk_of_base(loaded):
            assert relative_distance(ask_as(loaded, probe), probe.head_only) < 1e-6


@pytest.mark.parametrize("config", [OFFLOADED, KEPT_WHOLE], ids=["offloaded", "kept whole"])
def test_where_the_parts_lie_changes_nothing(tmp_path, config):
    arguments = {"methods": METHODS["lora"], "save_strategy": "no"}
    plain, _ = zero_ranks.both(zero_ranks.everything, out=tmp_path / "plain", **arguments)
    other, _ = zero_ranks.both(
        zero_ranks.everything, out=tmp_path / "other", config=config, **arguments
    )
    assert largest_gap(other["weights"], plain["weights"]) <= 1e-6
    assert torch.equal(other["base"], plain["base"])
    assert torch.equal(other["again"], other["logits"])


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", ["lora", "full", "pissa"])
def test_a_model_that_is_built_in_parts(tmp_path, when, name):
    """It has the base's own fingerprint, not that of empty tensors, and trains as a whole one."""
    base_model("bert", dropout=0.1).save_pretrained(tmp_path / "base")
    base = BertForSequenceClassification.from_pretrained(tmp_path / "base")
    known = require_attachment(ftplug.apply(base, "full")).base.fingerprint
    arguments = {"methods": METHODS[name], "save_strategy": "no"}
    plain, _ = zero_ranks.both(zero_ranks.everything, out=tmp_path / "plain", **arguments)
    for found in zero_ranks.both(
        zero_ranks.everything,
        out=tmp_path / "parts",
        artifact=tmp_path / "artifact",
        built=(when, tmp_path / "base"),
        **arguments,
    ):
        assert found["fingerprint"] == str(known)
        assert largest_gap(found["weights"], plain["weights"]) <= 1e-6
        assert torch.equal(found["base"], plain["base"])
        assert torch.equal(found["again"], found["logits"])
        assert difference(found["after"], found["weights"]) is None
    loaded = ftplug.load(base_model("bert"), tmp_path / "artifact")
    assert difference(weights(loaded), found["weights"]) is None


@pytest.mark.parametrize("config", [{}, KEPT_WHOLE], ids=["in parts", "kept whole"])
def test_the_best_model_is_that_checkpoint(tmp_path, config):
    first, second = zero_ranks.both(
        zero_ranks.best, methods=METHODS["freeze"], out=tmp_path, stage=3, config=config
    )
    stored = load_file(tmp_path / f"checkpoint-{ranks.CHECKPOINT}" / STATE_WEIGHTS)
    for name, value in stored.items():
        assert value.equal(first[name])
        assert value.equal(second[name])


REFUSED = {
    "offload_param to nvme": {"offload_param": {"device": "nvme", "nvme_path": "/nowhere"}},
    "zero_quantized_weights": {"zero_quantized_weights": True},
    "zero_hpz_partition_size": {"zero_hpz_partition_size": 2},
}


@pytest.mark.parametrize("name", REFUSED)
def test_ways_to_part_that_lose_values_are_refused_before_training(tmp_path, name):
    first, second = zero_ranks.refusals(
        zero_ranks.weights,
        methods=METHODS["lora"],
        out=tmp_path,
        stage=3,
        config={"zero": REFUSED[name]},
    )
    assert first == second
    assert first.startswith("MethodError: lora: ")
    assert name in first
    assert not any(tmp_path.iterdir())


def test_a_method_that_needs_a_whole_base_is_refused_by_both(tmp_path):
    """In one line, before the first step, and neither waits for the other."""
    base_model("bert").save_pretrained(tmp_path / "base")
    first, second = zero_ranks.refusals(
        zero_ranks.everything,
        methods={"delora": {"r": 4}},
        out=tmp_path / "out",
        built=("after", tmp_path / "base"),
    )
    assert first == second
    assert first.startswith("MethodError: delora: ")
    assert "on a base in parts (zero.Init)" in first
    assert "\n" not in first


def test_a_method_that_looks_beside_its_layer_is_refused_by_both(tmp_path):
    first, second = zero_ranks.refusals(
        zero_ranks.everything, methods={"deft": {"r": 4}}, out=tmp_path
    )
    assert first == second
    assert first.startswith("MethodError: deft: ")
    assert first.endswith("use ZeRO-2, DDP, or another method")


def test_a_model_that_has_its_engine_is_refused():
    first, second = zero_ranks.refusals(zero_ranks.attached_to_an_engine)
    assert first == second
    assert "sharded over processes already: apply methods first" in first
