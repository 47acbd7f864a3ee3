"""The same promises on GPUs; skipped with a reason where there is none, or only one."""

import copy
import json
import subprocess
import sys

import pytest
import script
import tiny
import torch
from runs import METHODS, losses, same, trainer, weights

import ftplug

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("method", METHODS)
def test_a_method_trains_saves_and_loads_on_cuda_in_bf16(method, tmp_path):
    base = tiny.bert()
    bound = trainer(copy.deepcopy(base), tmp_path / "out", bf16=True, max_steps=4, save_steps=2)
    ftplug.attach(bound, method, **METHODS[method]).train()
    model = bound.model
    assert {p.device.type for p in model.parameters()} == {"cuda"}
    assert all(map(torch.isfinite, map(torch.tensor, losses(bound))))
    bound.save_model(tmp_path / "a")
    loaded = ftplug.load(copy.deepcopy(base).cuda(), tmp_path / "a")
    batch = {name: value.cuda() for name, value in tiny.inputs(model).items()}
    with torch.no_grad():
        assert torch.equal(loaded.eval()(**batch).logits, model.eval()(**batch).logits)
    bound.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))


@pytest.mark.parametrize("optim", ["adamw_torch_fused", "adamw_torch"])
@pytest.mark.parametrize("method", ["full", "lora", "lisa", "layerwise-lr"])
def test_resume_on_cuda_is_bit_equal(method, optim, tmp_path):
    settings = {"lisa": {"layers": 1, "period": 1}}.get(method, METHODS.get(method, {}))
    options = {"optim": optim, "max_steps": 4, "save_steps": 2}
    ends = []
    for resume in (None, str(tmp_path / "checkpoint-2")):
        bound = trainer(tiny.bert(dropout=0.1), tmp_path, **options)
        ftplug.attach(bound, method, **settings).train(resume_from_checkpoint=resume)
        ends.append(weights(bound.model))
    assert same(*ends)


@pytest.mark.parametrize("bits", [4, 8])
def test_qlora_on_cuda_trains_and_loads(bits, tmp_path):
    pytest.importorskip("bitsandbytes", reason="qlora needs bitsandbytes")
    base = tiny.llama()
    bound = trainer(copy.deepcopy(base), tmp_path / "out", bf16=True, max_steps=4, save_steps=2)
    ftplug.attach(bound, "qlora", r=4, bits=bits).train()
    assert all(map(torch.isfinite, map(torch.tensor, losses(bound))))
    bound.save_model(tmp_path / "a")
    loaded = ftplug.load(copy.deepcopy(base).cuda(), tmp_path / "a").eval()
    batch = {name: value.cuda() for name, value in tiny.inputs(base).items()}
    with torch.no_grad():
        expected = bound.model.eval()(**batch).logits
        assert torch.allclose(loaded(**batch).logits, expected, atol=1e-2)


def test_the_memory_of_a_run_is_the_gpus(tmp_path):
    bound = trainer(tiny.bert(), tmp_path, max_steps=2, save_strategy="no")
    ftplug.attach(bound, "lora", r=4).train()
    facts = ftplug.attaching.attachment.require_attachment(bound.model).training
    assert "NVIDIA" in facts["hardware"] or torch.version.hip
    assert 0 < facts["peak_memory_bytes"] <= torch.cuda.get_device_properties(0).total_memory


@pytest.mark.parametrize("method", ["full", "lora", "lisa"])
def test_one_process_of_ddp_over_nccl_trains_what_a_plain_one_does(method, tmp_path):
    torchrun = ["torch.distributed.run", "--nproc_per_node", "1", "-m", "ftplug"]
    for name, start in (("plain", ["ftplug"]), ("ddp", torchrun)):
        command = [sys.executable, "-m", *start, "run", "--method", method, "--"]
        command += [script.__file__, "--out", str(tmp_path / name)]
        subprocess.run(command, check=True, timeout=120)
    assert torch.load(tmp_path / "ddp/seen.pt")["backend"] == "nccl"
    plain, ddp = (weights(ftplug.load(tiny.bert(), tmp_path / name)) for name in ("plain", "ddp"))
    assert plain.keys() == ddp.keys()
    assert all(torch.allclose(ddp[name], plain[name], atol=1e-6) for name in plain)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("sharded", [False, True], ids=["ddp", "fsdp2"])
@pytest.mark.parametrize("method", ["full", "lora", "lisa", "prompt-tuning"])
def test_two_gpus_train_and_save(method, sharded, tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    ftplug_run = ["-m", "ftplug", "run", "--method", method, "--report", tmp_path / "report.json"]
    more = ["--fsdp"] if sharded else []
    command = [*torchrun, *ftplug_run, "--", script.__file__, "--out", tmp_path / "out", *more]
    subprocess.run(list(map(str, command)), check=True, timeout=300)
    training = json.loads((tmp_path / "out/ftplug.json").read_text())["training"]
    assert training["hyperparameters"]["processes"] == 2
    ftplug.load(tiny.bert(), tmp_path / "out")
    run = json.loads((tmp_path / "report.json").read_text())["runs"][0]
    assert run["tensors"]["moved"] >= run["tensors"]["may_train"] - tiny.LAYERS
