"""Two CPU workers of Ray Train end as two of torchrun's processes do, after a failure too.

Ray is in a set of its own of ``make matrix``.
"""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import ranks
import torch

import ftplug
from ftplug.testing.compare import base_model, difference, weights

HERE = Path(__file__).with_name("with_ray.py")
WAYS = ("callback", "attach", "attach-last", "retried")
SECONDS = 900  # of two cores that others use as well; two minutes where they are free
pytestmark = [
    pytest.mark.ddp,
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason="needs ray: tools/matrix.py ray"
    ),
]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """Train on Ray, once for all tests, in a process that ends with all that Ray starts."""
    folder = tmp_path_factory.mktemp("out")
    support = str(Path(ranks.__file__).parent)
    paths = os.pathsep.join([os.environ.get("PYTHONPATH", ""), support])
    quiet = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",  # where the cores are busy
        "PYTHONPATH": paths.strip(os.pathsep),
    }
    with (folder / "log.txt").open("w") as log:
        command = [sys.executable, str(HERE), "--ray", "--out", str(folder)]
        driver = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | quiet)
        try:
            code = driver.wait(SECONDS)
        finally:
            driver.send_signal(signal.SIGTERM)  # it takes Ray with it
            driver.wait(60)
    assert code == 0, (folder / "log.txt").read_text()[-4000:]
    return folder


def ends_with(out, way, rank):
    return torch.load(out / f"{way}-{rank}-of-2.pt")


@pytest.fixture(scope="module")
def torchrun(tmp_path_factory):
    """What two processes end with in which ``ftplug run`` runs the same as a script."""
    folder = tmp_path_factory.mktemp("torchrun")
    ranks.both(ranks.launched, methods={"lora": {"r": 4}}, script=HERE, out=folder / "run")
    return ends_with(folder, "run", 0)


@pytest.mark.parametrize("way", WAYS)
def test_both_workers_end_as_torchruns_processes_do(out, torchrun, way):
    """``retried`` lost a worker after its first checkpoint, and went on from that one."""
    first, second = (ends_with(out, way, rank) for rank in (0, 1))
    assert difference(first, second) is None
    assert first.keys() == torchrun.keys()
    for name, value in torchrun.items():
        assert torch.allclose(first[name], value, rtol=0, atol=1e-6), name


@pytest.mark.parametrize("way", WAYS)
def test_the_artifact_is_what_was_trained(out, way):
    loaded = weights(ftplug.load(base_model("bert"), out / f"{way}-artifact"))
    trained = ends_with(out, way, 0)
    assert all(torch.equal(loaded[name], value) for name, value in trained.items())
    said = json.loads((out / f"{way}-artifact/ftplug.json").read_text())
    assert said["training"]["hyperparameters"]["processes"] == 2


def test_a_worker_was_lost(out):
    assert "this worker is gone" in (out / "log.txt").read_text()


def test_the_checkpoint_that_ray_has_is_whole(out):
    for name in ("in_every_way", "from_the_last_checkpoint"):
        folder = Path((out / f"{name}.txt").read_text(), "checkpoint")
        loaded = weights(ftplug.load(base_model("bert"), folder))
        trained = ends_with(out, "retried", 0)
        assert all(torch.equal(loaded[name], value) for name, value in trained.items())
