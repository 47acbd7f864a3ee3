"""What commit f0380a4 wrote loads and resumes: 21 cases, as data that ``write.py`` describes."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from pinned_runs import (
    CASES,
    INVOCATION,
    SAVED,
    STEPS,
    ask,
    base,
    expected,
    logits,
    outcome,
    trainer,
)
from transformers import TrainerCallback

import ftplug

DATA = Path(__file__).parent / "data"
LORA = {"r": 2, "target_modules": ("value",)}
TOP = {"layers_to_transform": (1,), **LORA}

# How a user asks today for what these cases asked for then: change this table where settings move.
TODAY = CASES | {
    "pissa": ask("lora", init_lora_weights="pissa", **LORA),
    "pissa-niter": ask("lora", init_lora_weights="pissa_niter_4", **LORA),
    "olora": ask("lora", init_lora_weights="olora", **LORA),
    "alora": ask("lora", r=2, alora_invocation_tokens=(INVOCATION,)),
    "freeze-cache": ask("freeze", layers=0, cache=True),
    "lora-cache": ask("lora", cache=True, **TOP),
    "bottleneck-cache": ask("bottleneck", reduction_factor=4, layers=1, cache=True,
                            cache_dtype="float32", cache_bytes=10_000, cache_on_disk=True),
    "pissa-cache": ask("lora", init_lora_weights="pissa", cache=True, **TOP),
    "reft+lora-cache": ask("reft", "lora", **{"reft.layers": (1,), "lora.cache": True},
                           **{f"lora.{name}": value for name, value in TOP.items()}),
}  # fmt: skip

every = pytest.mark.parametrize("case", CASES)


def assert_close(found, wanted):
    # Another processor rounds differently: not to the last bit.
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@every
def test_an_artifact_loads(case):
    wanted = expected(DATA / case)["logits"]
    assert not torch.allclose(logits(base(case)), wanted, atol=1e-2)
    assert_close(logits(ftplug.load(base(case), DATA / case / "artifact")), wanted)


class Begins(TrainerCallback):
    """Notes the step at which training begins."""

    def on_train_begin(self, args, state, control, **kwargs):
        self.step = state.global_step


@every
def test_a_checkpoint_resumes(case, tmp_path):
    checkpoint = tmp_path / f"checkpoint-{SAVED}"
    shutil.copytree(DATA / case / "checkpoint", checkpoint)
    resumed = trainer(base(case), tmp_path, TODAY[case])
    resumed.add_callback(begins := Begins())
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert (begins.step, resumed.state.global_step) == (SAVED, STEPS)
    assert_close(outcome(resumed), expected(DATA / case))


def test_the_data_are_small_and_hold_nothing_else():
    found = {path.relative_to(DATA).as_posix() for path in DATA.rglob("*") if path.is_file()}
    wanted = set()
    for case in CASES:
        sealed = json.loads((DATA / case / "checkpoint/ftplug_files.json").read_text())
        listed = json.loads((DATA / case / "artifact/ftplug.json").read_text())["files"]
        wanted |= {f"{case}/expected.safetensors", f"{case}/artifact/ftplug.json"}
        wanted |= {f"{case}/artifact/{name}" for name in listed}
        wanted |= {f"{case}/checkpoint/{name}" for name in (*sealed, "ftplug_files.json")}
        wanted.add(f"{case}/checkpoint/trainer_state.json")
    assert found == wanted
    assert sum((DATA / name).stat().st_size for name in found) < 1_000_000
