"""DeepSpeed's engine trains what DistributedDataParallel does, to the bit."""

import pytest
import ranks
import torch
import zero_ranks

pytestmark = pytest.mark.deepspeed

LORA = {"lora": {"r": 4}}


@pytest.mark.parametrize("stage", [1, 2])
def test_weights_are_those_of_ddp(tmp_path, stage):
    [plain, _] = ranks.both(ranks.ddp_weights, methods=LORA, out=tmp_path / "ddp")
    sharded = zero_ranks.both(
        zero_ranks.weights, methods=LORA, out=tmp_path / "zero", stage=stage, save_strategy="no"
    )
    for found in sharded:
        assert found.keys() == plain.keys()
        assert [name for name, value in plain.items() if not value.equal(found[name])] == []


def test_an_optimizer_of_the_config_trains_all(tmp_path):
    """accelerate holds its place with something that is no optimizer until the engine is there."""
    adamw = {"type": "AdamW", "params": {"lr": 1e-2, "weight_decay": 0.0, "torch_adam": True}}
    arguments = {"methods": LORA, "stage": 2, "save_strategy": "no"}
    named, _ = zero_ranks.both(
        zero_ranks.weights, out=tmp_path / "named", config={"optimizer": adamw}, **arguments
    )
    plain, _ = zero_ranks.both(zero_ranks.weights, out=tmp_path / "plain", **arguments)
    # torch's own loop over the tensors, where the Trainer takes the fused one.
    torch.testing.assert_close(named, plain, atol=1e-6, rtol=0)


@pytest.mark.parametrize("method", ["galore", "apollo"])
def test_an_optimizer_of_whole_matrices_is_refused_before_training(tmp_path, method):
    arguments = {"methods": {method: {"rank": 4}}, "out": tmp_path, "stage": 2}
    first, second = zero_ranks.refusals(zero_ranks.weights, **arguments)
    assert first == second
    assert first.startswith(f"MethodError: {method}: ")
    assert first.endswith("use DDP, or another method")
    assert not any(tmp_path.iterdir())
