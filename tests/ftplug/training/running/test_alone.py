"""A process that trains alone though several were asked for says so; a plain one says nothing."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import script
import tiny
from runs import trainer

import ftplug
from ftplug.training.running import alone

ACCELERATE = {"ACCELERATE_DYNAMO_BACKEND": "NO", "MASTER_ADDR": "127.0.0.1"}
JOB = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_NPROCS": "4", "SLURM_PROCID": "0"}
STEP = JOB | {"SLURM_STEP_NUM_TASKS": "4"}
TORCHRUN = {"RANK": "0", "LOCAL_RANK": "0"}


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        (TORCHRUN | {"WORLD_SIZE": "2"}, "as do the others, since no GPU is found: on CPUs pass"),
        ({"WORLD_SIZE": "2", "RANK": "1"}, "WORLD_SIZE is 2, but .* LOCAL_RANK, which is not set"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "OMPI_COMM_WORLD_SIZE is 2.*start it with torchrun"),
        ({"PMI_SIZE": "3"}, "PMI_SIZE is 3"),
        ({"PET_NNODES": "2", "PET_NPROC_PER_NODE": "auto"}, "PET_NNODES is 2, which torchrun"),
        ({"PET_NNODES": "1", "PET_NPROC_PER_NODE": "8"}, "PET_NPROC_PER_NODE is 8"),
        (STEP, "srun started this process as one of 4"),
        (STEP | TORCHRUN | {"WORLD_SIZE": "1"}, "one torchrun a node"),
        (ACCELERATE, "accelerate launch was asked for several .* start it with torchrun"),
    ],
)
def test_what_asked_for_more_is_named(monkeypatch, environment, said):
    monkeypatch.setattr("psutil.Process.environ", lambda _: {})  # the launcher's
    found = alone.trap(environment)
    assert found is not None
    assert re.search(said, found), found
    assert "\n" not in found


@pytest.mark.parametrize(
    "environment",
    [
        {},
        JOB,  # in the script of an sbatch of four tasks
        STEP | {"SLURM_PTY_PORT": "42121"},  # in a shell that srun --pty started
        JOB | {"SLURM_STEP_NUM_TASKS": "1"},
        TORCHRUN | {"WORLD_SIZE": "1", "PET_NNODES": "1:2"},
        {"MASTER_ADDR": "node1", "MASTER_PORT": "29500"},  # exported for another command
        {"ACCELERATE_DYNAMO_BACKEND": "NO"},  # accelerate launch --num_processes 1
        {"WORLD_SIZE": ""},
    ],
)
def test_an_allocation_is_no_request(environment):
    assert alone.trap(environment) is None


def test_an_address_that_accelerate_was_given_is_no_request(monkeypatch):
    monkeypatch.setattr("psutil.Process.environ", lambda _: {"MASTER_ADDR": "node1"})
    assert alone.trap(ACCELERATE) is None


def test_it_is_said_once(tmp_path, monkeypatch, caplog):
    alone._warn.cache_clear()
    built = [trainer(tiny.bert(), tmp_path / name) for name in "ab"]
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    alone.warn_if_alone(2)
    assert not caplog.records
    for one in built:
        ftplug.attach(one, "lora")
    assert sum("trains alone" in record.message for record in caplog.records) == 1


@pytest.mark.slow
def test_accelerate_that_starts_one_of_two_is_seen(tmp_path):
    """With its own launcher: on a machine without several GPUs it starts one process."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    ours = ["-m", "ftplug", "run", "--method", "bitfit", "--dry-run", "--"]
    paths = {"PYTHONPATH": str(Path(tiny.__file__).parent)}
    done = subprocess.run(
        [*launch, *ours, script.__file__, "--out", str(tmp_path / "out")],
        env={k: v for k, v in os.environ.items() if k != "MASTER_ADDR"} | paths,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert "accelerate launch was asked for several processes and started this one" in done.stderr
    assert "dry run" in done.stdout
