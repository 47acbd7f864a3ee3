"""A run goes on with another number of processes: from the same state, to the same weights."""

import shutil
from types import SimpleNamespace

import divided
import pytest
import ranks
import torch
from safetensors.torch import load_file

import ftplug
from ftplug.artifacts.checkpoint import STATE_WEIGHTS
from ftplug.training.restarting.another_number import Division, check_division

pytestmark = pytest.mark.ddp

NAME = f"checkpoint-{divided.CHECKPOINT}"
ALONE = [{"per_device_train_batch_size": 8}, {"gradient_accumulation_steps": 2}]


def by_one(out, **options):
    return divided.run(out, **options)


def by_two(out, **options):
    first, second = ranks.both(divided.run, out=out, **options)
    torch.testing.assert_close(first[1], second[1], atol=0, rtol=0)
    return first


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What two processes end with, and their folder."""
    out = tmp_path_factory.mktemp("two")
    return out, by_two(out)[1]


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """What one process ends with, and its folder."""
    out = tmp_path_factory.mktemp("one")
    return out, by_one(out, **ALONE[0])[1]


def interrupted(out, folder):
    """Return a folder with the checkpoint in the middle alone."""
    shutil.copytree(out / NAME, folder / NAME)
    return folder


def assert_is(began, checkpoint):
    """Assert that a run began, to the bit, with what a checkpoint holds."""
    assert began["step"] == divided.CHECKPOINT
    stored = load_file(checkpoint / STATE_WEIGHTS)
    assert stored.keys() <= began["weights"].keys()
    assert [n for n, value in stored.items() if not value.equal(began["weights"][n])] == []
    state = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    assert len(state["state"]) >= 8
    torch.testing.assert_close(began["optimizer"]["state"], state["state"], atol=0, rtol=0)


def farthest(found, expected):
    assert found.keys() == expected.keys()
    return max(float((found[n] - value).abs().max()) for n, value in expected.items())


@pytest.mark.parametrize("options", ALONE, ids=str)
def test_one_goes_on_where_two_were(two, tmp_path, options):
    out, expected = two
    folder = interrupted(out, tmp_path)
    began, ended = by_one(folder, resume=True, **options)
    assert_is(began, out / NAME)
    assert farthest(ended, expected) <= 1e-6


@pytest.mark.parametrize("sharded", [False, True])
def test_two_go_on_where_one_was(one, tmp_path, sharded):
    out, expected = one
    folder = interrupted(out, tmp_path)
    began, ended = by_two(folder, resume=True, sharded=sharded)
    assert_is(began, out / NAME)
    assert farthest(ended, expected) <= 1e-6


def test_one_goes_on_where_two_had_shards(two, tmp_path):
    _, ended = by_two(tmp_path / "sharded", sharded=True)
    assert farthest(ended, two[1]) <= 1e-6
    folder = interrupted(tmp_path / "sharded", tmp_path / "one")
    began, ended = by_one(folder, resume=True, **ALONE[0])
    assert_is(began, tmp_path / "sharded" / NAME)
    assert farthest(ended, two[1]) <= 1e-6


def test_another_global_batch_is_refused_unless_it_is_allowed(two, tmp_path):
    folder = interrupted(two[0], tmp_path)
    with pytest.raises(ftplug.MethodError, match=r"8 \(2 x 4 x 1\) .* has 4 \(1 x 4 x 1\): choose"):
        by_one(folder, resume=True)
    began, _ = by_one(folder, resume=True, allow_batch_change=True)
    assert_is(began, two[0] / NAME)
    more = {"gradient_accumulation_steps": 2}
    first, second = ranks.refusals(divided.run, out=folder, resume=True, **more)
    assert first == second
    assert "has 16 (2 x 4 x 2)" in first


def test_a_checkpoint_without_the_file_is_resumed_as_before(two, tmp_path):
    """Those that earlier versions wrote."""
    folder = interrupted(two[0], tmp_path)
    for name in ("ftplug_batch.json", "ftplug_files.json"):
        (folder / NAME / name).unlink()
    began, _ = by_one(folder, resume=True)  # not allowed where the file is there
    assert_is(began, two[0] / NAME)


def test_random_numbers_begin_anew_from_seed_and_step(two, one, tmp_path, monkeypatch):
    seeds = []
    monkeypatch.setattr("ftplug.training.restarting.another_number.set_seed", seeds.append)
    by_one(interrupted(two[0], tmp_path / "other"), resume=True, **ALONE[0])
    assert seeds == [42 + divided.CHECKPOINT]
    by_one(interrupted(one[0], tmp_path / "same"), resume=True, **ALONE[0])
    assert len(seeds) == 1


def test_batches_that_draw_are_said_to_draw_otherwise(two, tmp_path, caplog):
    class Draws(list):
        def __getitem__(self, index):
            torch.rand(1)
            return super().__getitem__(index)

    by_one(interrupted(two[0], tmp_path), resume=True, rows=lambda few: Draws(4 * few), **ALONE[0])
    assert "as the global batch was 8 (2 x 4 x 1), and is 8 (1 x 8 x 1) now" in caplog.text


def test_parts_of_deepspeeds_optimizer_are_refused_by_name(two):
    """Each process wrote one."""
    args = SimpleNamespace(
        world_size=1,
        gradient_accumulation_steps=1,
        auto_find_batch_size=False,
        accelerator_config=SimpleNamespace(split_batches=False),
    )
    trainer = SimpleNamespace(args=args, _train_batch_size=8, is_deepspeed_enabled=True)
    with pytest.raises(ftplug.MethodError, match=r"here are 1: resume with 2, or train with DDP"):
        check_division(trainer, two[0] / NAME, allow_batch_change=True)
    trainer.is_deepspeed_enabled = False
    check_division(trainer, two[0] / NAME, allow_batch_change=False)


def test_a_file_that_says_nothing_is_refused(tmp_path):
    (tmp_path / "ftplug_batch.json").write_text('{"processes": 2}')
    with pytest.raises(ftplug.ArtifactError, match="no division of a batch among processes"):
        Division.read(tmp_path)
