"""Experts that lie in one tensor train alike under DDP and under FSDP2."""

import pytest
import ranks
import torch

from ftplug.testing.compare import base_model

pytestmark = [pytest.mark.ddp, pytest.mark.slow]


def trained_experts(weights):
    """Return which of the experts' tensors left the value that they start with."""
    base = base_model(ranks.MOE).state_dict()
    of_experts = [name for name in weights if ".experts." in name]
    starts = {name: base[name] for name in of_experts if name in base}
    starts |= {n: torch.zeros_like(weights[n]) for n in of_experts if "lora_B" in n}
    return [name for name, start in starts.items() if not weights[name].equal(start)]


@pytest.mark.parametrize("name", ranks.EXPERTS)
def test_both_ways_end_alike_and_resume_to_the_same_bits(tmp_path, name):
    methods = ranks.EXPERTS[name]
    plain = ranks.both(ranks.ended, methods=methods, out=tmp_path / "ddp", family=ranks.MOE)
    shards = {"out": tmp_path / "fsdp", "family": ranks.MOE, "layer": "Qwen3MoeDecoderLayer"}
    sharded = ranks.both(ranks.sharded_ended, methods=methods, **shards)
    expected, _ = plain[0]
    assert len(trained_experts(expected)) >= 2
    for weights, changed_by_resuming in (*plain, *sharded):
        assert changed_by_resuming == []
        torch.testing.assert_close(weights, expected, rtol=0, atol=1e-6)
