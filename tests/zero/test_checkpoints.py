"""Checkpoints under DeepSpeed: whole, sealed, of what may train, and resumed by the same method."""

import json

import pytest
import ranks
import zero_ranks
from safetensors.torch import load_file

from ftplug.artifacts.checkpoint import SEAL, STATE_WEIGHTS

pytestmark = pytest.mark.deepspeed

LORA = {"lora": {"r": 64}}


@pytest.fixture(scope="module", params=[1, 2, 3])
def run(request, tmp_path_factory):
    """A run with a checkpoint halfway: its stage, its folder, and what it ended with."""
    out = tmp_path_factory.mktemp("zero")
    return (
        request.param,
        out,
        zero_ranks.both(zero_ranks.weights, methods=LORA, out=out, stage=request.param),
    )


@pytest.fixture(scope="module", autouse=True)
def fresh_processes():
    """So that nothing is resumed in the process that wrote it."""
    zero_ranks.processes()
    yield
    zero_ranks.processes().stop()


def halfway(out):
    return out / f"checkpoint-{ranks.CHECKPOINT}"


def test_it_is_whole_and_sealed(run):
    stage, out, _ = run
    assert sorted(path.name for path in out.iterdir()) == ["checkpoint-2", "checkpoint-4"]
    sealed = json.loads((halfway(out) / SEAL).read_text())
    states = [name for name in sealed if name.startswith("global_step2/")]
    # The model's (under ZeRO-3 one of each process), and a part of the optimizer's from each.
    assert len(states) == (4 if stage == 3 else 3)
    assert {"latest", "scheduler.pt", STATE_WEIGHTS} <= sealed.keys()


def test_it_holds_what_may_train_and_no_base(run):
    stage, out, _ = run
    trains = sum(
        t.numel() * t.element_size() for t in load_file(halfway(out) / STATE_WEIGHTS).values()
    )
    assert trains > 60_000
    part = "zero_pp_rank_0_" if stage == 3 else ""
    for name in (STATE_WEIGHTS, f"global_step2/{part}mp_rank_00_model_states.pt"):
        assert (halfway(out) / name).stat().st_size <= 1.02 * trains + 16 * 1024


def test_a_fresh_process_goes_on_to_the_same_bits(run):
    stage, out, ended = run
    zero_ranks.processes().stop()
    again = zero_ranks.both(zero_ranks.resumed, methods=LORA, out=out, stage=stage)
    for one, other in zip(ended, again, strict=True):
        assert [name for name, value in one.items() if not value.equal(other[name])] == []


def test_other_settings_are_refused_by_both(run):
    stage, out, _ = run
    for other in ({"lora": {"r": 64, "lora_alpha": 3}}, {"lora": {"r": 4}}):
        said = zero_ranks.refusals(zero_ranks.resumed, methods=other, out=out, stage=stage)
        for line in said:
            assert line.startswith("MethodError: ")
            assert "use the same method and settings to resume" in line


def test_another_base_is_refused_by_both(run):
    stage, out, _ = run
    said = zero_ranks.refusals(zero_ranks.resumed_elsewhere, methods=LORA, out=out, stage=stage)
    for line in said:
        assert line.startswith("ArtifactError: ")
        assert "continue on the same base" in line
        assert "\n" not in line


@pytest.mark.parametrize("stage", [2, 3])
def test_what_a_method_adds_and_freezes_is_resumed_too(tmp_path, stage):
    arguments = {"methods": {"cartridge": {}}, "out": tmp_path, "family": "bert", "stage": stage}
    for weights, changed_by_resuming in zero_ranks.both(zero_ranks.ended, **arguments):
        assert "bert.prefix_encoder.frozen_embedding" in weights
        assert changed_by_resuming == []


def test_the_best_model_is_that_checkpoint(tmp_path):
    first, second = zero_ranks.both(zero_ranks.best, methods=LORA, out=tmp_path, stage=2)
    stored = load_file(halfway(tmp_path) / STATE_WEIGHTS)
    for name, value in stored.items():
        assert value.equal(first[name])
        assert value.equal(second[name])


def test_a_truncated_part_is_refused_by_both(run):
    """Last of all: it damages the checkpoint."""
    stage, out, _ = run
    part = halfway(out) / "global_step2/zero_pp_rank_1_mp_rank_00_optim_states.pt"
    part.write_bytes(part.read_bytes()[:-100])
    said = zero_ranks.refusals(zero_ranks.resumed, methods=LORA, out=out, stage=stage)
    assert all("zero_pp_rank_1_mp_rank_00_optim_states.pt" in line for line in said)
