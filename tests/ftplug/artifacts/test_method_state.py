"""``run.state`` goes into checkpoints, comes back exactly, and is in no artifact."""

import json

import pytest
import tiny
import torch
from runs import trainer
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import ftplug
from ftplug import ArtifactError, MethodError
from ftplug.artifacts.checkpoint import (
    NOTICE,
    STATE,
    STATE_WEIGHTS,
    read_checkpoint,
    write_checkpoint,
)
from ftplug.artifacts.contents import Contents
from ftplug.artifacts.digests import file_entry
from ftplug.artifacts.method_state import METHOD_STATE, read_method_state
from ftplug.attaching.attachment import require_attachment

TENSORS = {
    "float": torch.randn(3, 2),
    "bf16": torch.randn(5).bfloat16(),
    "steps": torch.tensor(7),
    "mask": torch.tensor([True, False]),
    "empty": torch.zeros(0, 4),
    "transposed": torch.arange(6.0).reshape(2, 3).T,
    "nested/name with spaces": torch.tensor([0.5]),
}


def prepared(*methods):
    return ftplug.apply(tiny.bert(), *(methods or ("lora",)))


def states(model):
    return require_attachment(model).facts.states


def written(folder, **of):
    """Write a checkpoint of a model with LoRA, and BitFit beside it, that have these states."""
    model = prepared("lora", "bitfit")
    states(model).update(of)
    folder.mkdir(exist_ok=True)
    write_checkpoint(model, folder)
    return folder


def same(first, second):
    return first.keys() == second.keys() and all(
        value.dtype == second[name].dtype and value.equal(second[name])
        for name, value in first.items()
    )


def test_states_come_back_to_the_last_bit(tmp_path):
    shared = torch.arange(4.0)
    given = TENSORS | {"a": shared, "its half": shared[:2], "grad": torch.ones(2).requires_grad_()}
    folder = written(tmp_path / "c", lora=given, bitfit={"n": torch.tensor(1)})
    model = prepared("lora", "bitfit")
    read_checkpoint(model, folder)
    assert same(states(model)["lora"], given)
    assert same(states(model)["bitfit"], {"n": torch.tensor(1)})
    assert not states(model)["lora"]["grad"].requires_grad
    states(model)["lora"]["a"].zero_()
    assert states(model)["lora"]["its half"].tolist() == [0, 1]


def test_a_dict_that_was_given_before_is_the_one_that_is_restored(tmp_path):
    folder = written(tmp_path / "c", lora={"steps": torch.tensor(7)})
    model = prepared("lora", "bitfit")
    before = states(model).setdefault("lora", {})
    before["other"] = torch.zeros(1)
    others = states(model)["bitfit"] = {"of a run": torch.zeros(1)}  # the file has none of it
    read_checkpoint(model, folder)
    assert states(model)["lora"] is before
    assert states(model)["bitfit"] is others
    assert before == {"steps": torch.tensor(7)}
    assert others == {}


def test_a_checkpoint_without_states_has_no_file_and_empties_them(tmp_path):
    folder = written(tmp_path / "c", lora={})
    assert list(json.loads((folder / STATE).read_text())["files"]) == [STATE_WEIGHTS]
    assert {path.name for path in folder.iterdir()} == {STATE, STATE_WEIGHTS, NOTICE}
    save_file({"lora/unlisted": torch.ones(1)}, folder / METHOD_STATE)
    model = prepared("lora", "bitfit")
    states(model)["lora"] = {"steps": torch.tensor(3)}
    read_checkpoint(model, folder)
    assert states(model)["lora"] == {}


@pytest.mark.parametrize("damage", ["missing", "short", "flipped"])
def test_damage_is_named_before_anything_is_restored(tmp_path, damage):
    path = written(tmp_path / "c", lora={"steps": torch.tensor(7)}) / METHOD_STATE
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if damage == "flipped" else b"")
    if damage == "missing":
        path.unlink()
    model = prepared("lora", "bitfit")
    state = states(model)["lora"] = {"kept": torch.ones(1)}
    with pytest.raises(ArtifactError, match=METHOD_STATE):
        read_checkpoint(model, tmp_path / "c")
    assert list(state) == ["kept"]


SHARED = torch.zeros(2)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("steps", 3, "'steps'] is of type int, not a tensor: keep torch.tensor"),
        ("names", ["a"], "'names'] is of type list, not a tensor"),
        (1, SHARED, "1]: keys are texts, not int"),
        ("meta", torch.zeros(2, device="meta"), "'meta'] cannot be written: .*meta tensor"),
        ("sparse", torch.eye(2).to_sparse(), "'sparse'] cannot be written"),
        ("wide", torch.zeros(2, dtype=torch.complex128), "'wide'] cannot be written: .*complex128"),
    ],
)
def test_what_no_file_can_hold_is_named(tmp_path, key, value, message):
    with pytest.raises(MethodError, match=f"lora: run.state\\[{message}") as error:
        written(tmp_path / "c", lora={key: value})
    assert "\n" not in str(error.value)
    assert not (tmp_path / "c" / STATE).exists()


def test_what_was_on_an_accelerator_comes_back_on_the_models_device(tmp_path):
    path = tmp_path / METHOD_STATE
    tensors = {"lora/there": torch.ones(2), "lora/here": torch.ones(2)}
    save_file(tensors, path, {"format": "pt", "lora/there": "device"})
    files = {METHOD_STATE: file_entry(path)}
    elsewhere = torch.nn.Linear(1, 1, device="meta")  # a device that every machine has
    read = read_method_state(elsewhere, Contents(tmp_path, files), files)
    assert {name: value.device.type for name, value in read.items()} == {
        "lora/there": "meta",
        "lora/here": "cpu",
    }
    read = read_method_state(tiny.bert(), Contents(tmp_path, files), files)
    assert {value.device.type for value in read.values()} == {"cpu"}


@pytest.mark.gpu
def test_a_state_on_a_gpu_resumes_there(tmp_path):
    folder = written(tmp_path / "c", lora={"there": torch.ones(2).cuda(), "here": torch.ones(2)})
    with safe_open(folder / METHOD_STATE, "pt") as file:
        assert file.metadata() == {"format": "pt", "lora/there": "device"}
    model = prepared("lora", "bitfit").cuda()
    read_checkpoint(model, folder)
    found = {name: value.device.type for name, value in states(model)["lora"].items()}
    assert found == {"there": "cuda", "here": "cpu"}


def test_no_artifact_has_it_and_loading_ignores_it(tmp_path):
    bound = trainer(tiny.bert(), tmp_path / "run", max_steps=2, save_steps=2)
    ftplug.attach(bound, "lora", r=4)
    states(bound.model)["lora"] = {"secret": torch.ones(3)}
    bound.train()
    checkpoint = tmp_path / "run" / "checkpoint-2"
    assert load_file(checkpoint / METHOD_STATE).keys() == {"lora/secret"}

    bound.save_model(str(tmp_path / "a"))
    ftplug.save(bound.model, tmp_path / "b")
    bound.model.save_pretrained(tmp_path / "c")
    for path in (p for name in "abc" for p in (tmp_path / name).rglob("*") if p.is_file()):
        assert b"secret" not in path.read_bytes(), path

    loaded = ftplug.load(tiny.bert(), checkpoint)
    assert not states(loaded).get("lora")
    begun = trainer(
        tiny.bert(), tmp_path / "on", callbacks=[ftplug.FTPlugCallback("lora", r=4,
        start_from=checkpoint)],
    )  # fmt: skip
    assert not states(begun.model).get("lora")
    begun.train(resume_from_checkpoint=str(checkpoint))
    assert same(states(begun.model)["lora"], {"secret": torch.ones(3)})
