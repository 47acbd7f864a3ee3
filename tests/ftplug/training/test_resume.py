"""A run resumed in a fresh process ends bit-identical to one that was never interrupted."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import runs
import tiny
from runs import METHODS, StopAt, trainer, weights
from safetensors.torch import load_file, save_file

import ftplug


def resume(method: str, out: Path) -> None:
    bound = trainer(tiny.bert(dropout=0.1), out)
    ftplug.attach(bound, method, **METHODS[method])
    bound.train(resume_from_checkpoint=True)
    save_file(weights(bound.model), out / "resumed.safetensors")


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """Train 20 steps straight and 10 interrupted; resume all methods in one fresh process."""
    root = tmp_path_factory.mktemp("resume")
    for method, settings in METHODS.items():
        for name, callbacks in (("straight", []), ("interrupted", [StopAt(10)])):
            bound = trainer(tiny.bert(dropout=0.1), root / method / name, callbacks=callbacks)
            ftplug.attach(bound, method, **settings)
            bound.train()
            assert bound.state.global_step == (20 if name == "straight" else 10)
            save_file(weights(bound.model), root / method / name / "last.safetensors")
    environment = os.environ | {"PYTHONPATH": str(Path(runs.__file__).parent)}
    subprocess.run([sys.executable, __file__, root], check=True, env=environment)
    return root


@pytest.mark.parametrize("method", METHODS)
def test_ten_and_ten_steps_equal_twenty(resumed, method):
    straight = load_file(resumed / method / "straight" / "last.safetensors")
    halfway = load_file(resumed / method / "interrupted" / "last.safetensors")
    again = load_file(resumed / method / "interrupted" / "resumed.safetensors")
    assert straight.keys() == again.keys()
    for name, value in straight.items():
        assert value.equal(again[name]), name
    assert any(not value.equal(halfway[name]) for name, value in straight.items())


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    for method in METHODS:
        resume(method, Path(sys.argv[1]) / method / "interrupted")
