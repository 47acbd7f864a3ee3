"""DPO and GRPO under DeepSpeed compare with what they compare with under DDP."""

import folders
import pytest
import ranks
import zero_ranks
import zero_trl

pytestmark = pytest.mark.deepspeed


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return folders.language_model(tmp_path_factory.mktemp("llama"))


def both_ways(folder, tmp_path, stage, **arguments):
    """Return the references' types, and assert that all that was logged is alike."""
    plain = ranks.both(zero_trl.logged, folder=folder, out=tmp_path / "ddp", stage=0, **arguments)
    zero = zero_ranks.both(
        zero_trl.logged, folder=folder, out=tmp_path / "zero", stage=stage, **arguments
    )
    for (_, expected), (_, found) in zip(plain, zero, strict=True):
        assert len(expected) == 4
        for one, other in zip(expected, found, strict=True):
            assert other == pytest.approx(one, abs=2e-6)
    return {kind for kind, _ in zero}


@pytest.mark.parametrize("algorithm", ["dpo", "grpo"])
@pytest.mark.parametrize("stage", [2, 3])
def test_an_added_method_needs_no_second_model(folder, tmp_path, stage, algorithm):
    arguments = {"method": "lora", "algorithm": algorithm}
    assert both_ways(folder, tmp_path, stage, **arguments) == {"Reference"}


@pytest.mark.parametrize(("stage", "kind"), [(2, "Reference"), (3, "DeepSpeedEngine")])
def test_what_changes_the_base_has_trls_own_in_parts_under_stage_three(
    folder, tmp_path, stage, kind
):
    assert both_ways(folder, tmp_path, stage, method="full", algorithm="dpo") == {kind}


@pytest.mark.parametrize("stage", [2, 3])
def test_after_sft_the_reference_is_what_came(folder, tmp_path, stage):
    arguments = {"method": "lora", "algorithm": "dpo", "trained_before": True}
    assert both_ways(folder, tmp_path, stage, **arguments) == {"Reference"}
