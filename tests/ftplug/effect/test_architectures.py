"""A seeded part of the sweep over transformers' classes (tools/sweep.py): all that can be asked."""

import json
import logging

import pytest
import small_model
import sweep
import sweep_page
import torch
import transformers

from ftplug.effect.answers import ask, make_probe
from ftplug.effect.inputs import inputs_for
from ftplug.effect.probe import FILE, Probe
from ftplug.errors import NotProbed

RESULTS = json.loads(sweep_page.RESULTS.read_text(encoding="utf-8"))
BUILT = {name: line.rpartition(" ")[0] for name, line in RESULTS["classes"].items()}
PART = [name for name, _ in sweep.shuffled(BUILT)[::40]]
THERE = set(dir(transformers))


def asked(name):
    """Return a small model of a class that can be asked, its inputs and its answers."""
    for build in small_model.builds(name):
        try:
            model = build()
        except Exception:  # too large, or a config that its own checks refuse
            continue
        try:
            inputs = inputs_for(model, None)
            return model, inputs, ask(model, inputs, continuations=False)
        except NotProbed:  # this config fits nothing; another may
            continue
    raise NotProbed(f"{name}: no small config of it can be asked")


@pytest.mark.filterwarnings("ignore")  # of the models: of their own deprecations
@pytest.mark.parametrize("name", PART)
def test_a_model_is_asked_twice_alike_and_stays_as_it_was(name, tmp_path):
    if name not in THERE:
        pytest.skip(f"no {name} in transformers {transformers.__version__}")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    try:
        model, inputs, first = asked(name)
    except NotProbed as error:
        if transformers.__version__ == RESULTS["transformers"]:
            raise
        pytest.skip(str(error))
    tensors = (*model.named_parameters(), *model.named_buffers())
    before = {n: t.detach().clone() for n, t in tensors}
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    config, random = model.config.to_dict(), torch.get_rng_state()
    second = ask(model, inputs_for(model, None), continuations=False)
    for one, other in zip(first, second, strict=True):
        assert one.answers.keys() == other.answers.keys()
        assert all(one.answers[kind].equal(other.answers[kind]) for kind in one.answers)
    assert all(
        t.equal(before[n]) or t.isnan().any()  # a model that never set one of its buffers
        for n, t in (*model.named_parameters(), *model.named_buffers())
    )
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()] == hooks
    assert model.config.to_dict() == config
    assert torch.get_rng_state().equal(random)
    assert all(module.training for module in model.modules() if module is model)
    make_probe(inputs, first, second, first, dtype="float32").write(tmp_path / FILE)
    assert (tmp_path / FILE).stat().st_size <= 2**16
    assert len(Probe.read(tmp_path / FILE).inputs) == 8
