"""Experts that lie in one tensor train under DeepSpeed as under DDP."""

import pytest
import ranks
import torch
import zero_ranks

pytestmark = pytest.mark.deepspeed


# Under stage 3 gradients round otherwise, and Adam makes the more of that the faster it learns:
# lora-plus, whose B learns sixteen times as fast, would choose other experts.
RATES = {2: 1e-2, 3: 1e-4}


@pytest.mark.parametrize("stage", RATES)
@pytest.mark.parametrize("name", ranks.EXPERTS)
def test_they_end_alike_and_resume_to_the_same_bits(tmp_path, name, stage):
    methods = ranks.EXPERTS[name]
    run = {"methods": methods, "family": ranks.MOE, "learning_rate": RATES[stage]}
    [(expected, _), _] = ranks.both(ranks.ended, out=tmp_path / "ddp", **run)
    trains = "lora_B" if "lora" in methods else ".experts."
    assert any(expected[name].any() for name in expected if ".experts." in name and trains in name)
    for weights, changed_by_resuming in zero_ranks.both(
        zero_ranks.ended, out=tmp_path / "zero", stage=stage, **run
    ):
        assert changed_by_resuming == []
        torch.testing.assert_close(weights, expected, rtol=0, atol=1e-6)
