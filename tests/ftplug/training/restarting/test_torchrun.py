"""torchrun starts both workers again when one is killed: the run ends as one that nobody killed."""

import os
import subprocess
import sys
from pathlib import Path

import kills
import pytest
import restarted

SECONDS = 400  # two starts of two processes that import torch, on a busy machine


def run(out, *arguments, restarts=0):
    """Run the script under torchrun in two processes; return what it wrote to stderr."""
    support = [str(kills.SUPPORT), str(Path(restarted.__file__).parent)]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(support),
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        "OMP_NUM_THREADS": "1",
    }
    launcher = ["torch.distributed.run", "--nproc_per_node", "2", "--max_restarts", str(restarts)]
    endpoint = ["--rdzv_backend", "c10d", "--rdzv_endpoint", f"127.0.0.1:{kills.free_port()}"]
    ours = ["-m", "ftplug", "run", "--method", "lora", "--set", "r=4", "--resume", "auto", "--"]
    process = subprocess.Popen(
        [sys.executable, "-m", *launcher, *endpoint, *ours, restarted.__file__, out, *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _, said = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        raise
    assert process.returncode == 0, said
    return said


@pytest.mark.ddp
@pytest.mark.slow
def test_a_killed_worker_is_started_again_and_ends_bit_identical(tmp_path):
    straight, out = tmp_path / "straight", tmp_path / "out"
    assert "starts anew" in run(straight)
    said = run(out, "--strike", "5:SIGKILL:1", restarts=2)
    assert kills.beside(out, ".struck").exists()
    assert f"goes on from {out / 'checkpoint-4'}" in said
    assert kills.differences(out, straight, ranks=2) == []
