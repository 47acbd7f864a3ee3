"""Changing a model: in whichever mode and thread, it is what it would be alone."""

import copy
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import tiny
import torch
from runs import logits, shake

import ftplug
from ftplug import ArtifactError, MethodError


def trains(model):
    model(**tiny.inputs(model)).loss.backward()
    return all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_what_is_made_of_a_model_in_inference_mode_trains_afterwards(tmp_path):
    ftplug.save(ftplug.apply(tiny.bert(), "lora", "bitfit"), tmp_path, probe=False)
    base, applied, detached, loaded = (tiny.bert() for _ in range(4))
    ftplug.apply(detached, "full")
    with torch.inference_mode():
        ftplug.apply(applied, "lora", "bitfit")
        ftplug.load(loaded, tmp_path)
        shared = ftplug.load(base, tmp_path, share_base=True)
        ftplug.detach(detached)
        assert torch.is_inference_mode_enabled()
    assert all(map(trains, (applied, loaded, shared, detached)))


def test_a_model_that_was_made_in_inference_mode_answers_there_and_is_refused_elsewhere(tmp_path):
    ftplug.save(shake(ftplug.apply(tiny.bert(), "lora")), tmp_path, probe=False)
    with torch.inference_mode():
        base, other = tiny.bert(), tiny.bert()
        assert logits(ftplug.load(base, tmp_path)).equal(logits(ftplug.load(tiny.bert(), tmp_path)))
    with pytest.raises(MethodError, match=r"^lora: .* was made within torch\.inference_mode"):
        ftplug.apply(other, "lora")


def test_where_the_default_device_is_meta_a_model_with_values_is_refused(tmp_path):
    ftplug.save(ftplug.apply(tiny.bert(), "lora"), tmp_path, probe=False)
    base = tiny.bert()
    with torch.device("meta"):
        for doing in (lambda: ftplug.apply(base, "lora"), lambda: ftplug.load(base, tmp_path)):
            with pytest.raises(MethodError, match="the default device is meta"):
                doing()
        with pytest.raises(MethodError, match="the default device is meta"):
            ftplug.load(base, tmp_path, share_base=True)
    ftplug.apply(base.to("meta"), "lora")


@pytest.mark.parametrize("method", ["lora", "freeze"])
def test_an_artifact_is_not_put_on_a_base_without_values(method, tmp_path):
    ftplug.save(ftplug.apply(tiny.bert(), method), tmp_path)
    with pytest.raises(ArtifactError, match="on the meta device: load its weights first"):
        ftplug.load(tiny.bert().to("meta"), tmp_path)


@pytest.mark.parametrize("method", ["lora", "freeze"])
def test_a_model_with_a_method_says_that_it_is_not_pickled(method):
    model = ftplug.apply(tiny.bert(), method)
    with pytest.raises(MethodError, match=r"cannot be pickled.* save the artifact"):
        pickle.dumps(model)
    copy.deepcopy(model)
    pickle.dumps(ftplug.detach(model))


def test_models_change_one_at_a_time_whatever_the_thread(tmp_path):
    """Else what one draws is seeded by another, and hooks of the process change meanwhile."""
    methods = ("lora", "bottleneck", "prompt-tuning")
    for method in methods:
        ftplug.save(shake(ftplug.apply(tiny.bert(), method)), tmp_path / method, probe=False)
    expected = {m: ftplug.apply(tiny.bert(), m).state_dict() for m in methods}
    base, bare = tiny.bert(), [tiny.bert() for _ in range(9)]
    generator, often = torch.get_rng_state(), sys.getswitchinterval()

    def work(index):
        method = methods[index % 3]
        one = ftplug.load(base, tmp_path / method, share_base=True)
        other = ftplug.apply(bare[index], method)
        return one, other, method

    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as pool:
            done = list(pool.map(work, range(9)))
    finally:
        sys.setswitchinterval(often)
    assert torch.get_rng_state().equal(generator)
    for one, other, method in done:
        assert logits(one).equal(logits(ftplug.load(tiny.bert(), tmp_path / method)))
        assert all(value.equal(expected[method][n]) for n, value in other.state_dict().items())
