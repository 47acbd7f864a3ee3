"""The same promises on a GPU, in bf16; skipped with a reason where there is none."""

import copy

import pytest
import tiny
import torch
from runs import METHODS, losses, trainer

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
