"""Values of an artifact: of types that a copy converts, finite, and all of them or none."""

import copy
import json
import struct

import pytest
import tiny
import torch
from runs import logits, same, shake, weights
from safetensors.torch import load_file, save_file

import ftplug
from ftplug import ArtifactError
from ftplug.artifacts import tensors as copying
from ftplug.artifacts.digests import file_entry
from ftplug.structure import shards

NAME = "bert.encoder.layer.1.intermediate.dense.weight"
FILE = "ftplug.safetensors"


@pytest.fixture
def base():
    return tiny.bert()


@pytest.fixture
def folder(base, tmp_path):
    return ftplug.save(
        shake(ftplug.apply(copy.deepcopy(base), "freeze", layers=1)), tmp_path / "artifact"
    )


def relist(folder):
    path = folder / "ftplug.json"
    manifest = json.loads(path.read_text())
    manifest["files"][FILE] = file_entry(folder / FILE)
    path.write_text(json.dumps(manifest))


def refuse(base, folder, message):
    before, structure = weights(base), str(base)
    with pytest.raises(ArtifactError, match=message) as caught:
        ftplug.load(base, folder)
    assert "\n" not in str(caught.value)
    assert same(weights(base), before)
    assert str(base) == structure
    assert not hasattr(base, "_ftplug")


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [("F4", 4), ("F8_E8M0", 8), ("F8_E4M3", 8), ("F8_E5M2", 8), ("I32", 32), ("C64", 64)],
)
def test_types_that_a_copy_does_not_convert_are_refused(base, folder, dtype, bits):
    """Written by hand: the library has no names for some of them."""
    data = (folder / FILE).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header, body, parts = json.loads(data[8 : 8 + length]), data[8 + length :], []
    for name in [name for name in header if name != "__metadata__"]:
        entry = header[name]
        start, end = entry["data_offsets"]
        part = body[start:end]
        if name == NAME:
            count = (end - start) // 4
            if dtype == "F4":  # two values in a byte: torch's shape then is of bytes
                entry["shape"][-1] *= 2
                count *= 2
            entry["dtype"], part = dtype, b"\x11" * (count * bits // 8)
        offset = sum(map(len, parts))
        entry["data_offsets"] = [offset, offset + len(part)]
        parts.append(part)
    text = json.dumps(header).encode()
    (folder / FILE).write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))
    relist(folder)
    refuse(base, folder, f"{NAME}|not readable")  # the library may not know the type


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_types_that_a_copy_converts_load(base, folder, dtype):
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(folder / FILE).items()}
    save_file(tensors, folder / FILE, {"format": "pt"})
    relist(folder)
    loaded = ftplug.load(base, folder)
    assert torch.equal(loaded.get_parameter(NAME), tensors[NAME].float())


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), float("-inf"), 1e300], ids=["nan", "inf", "-inf", "1e300"]
)
def test_values_that_are_no_numbers_load_by_force_alone(base, folder, value):
    tensors = load_file(folder / FILE)
    tensors[NAME] = tensors[NAME].double()
    tensors[NAME][3, 2] = value
    save_file(tensors, folder / FILE, {"format": "pt"})
    relist(folder)
    refuse(base, folder, f"{NAME} has values that are NaN or infinite.*force=True")
    assert not ftplug.load(base, folder, force=True).get_parameter(NAME).isfinite().all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400])
def test_a_scale_that_is_no_number_loads_by_force_alone(base, tmp_path, value):
    folder = ftplug.save(
        shake(ftplug.apply(copy.deepcopy(base), "bottleneck", reduction_factor=4)), tmp_path / "a"
    )
    path = folder / "ftplug.json"
    manifest = json.loads(path.read_text())
    manifest["methods"][0]["settings"]["scaling"] = value
    path.write_text(json.dumps(manifest))
    refuse(base, folder, "scaling|malformed|not readable")


def test_a_copy_that_fails_halfway_is_taken_back(base, folder, monkeypatch):
    """As on an accelerator that runs out of memory: the last of the tensors is not copied."""
    calls, count = [], len(load_file(folder / FILE))

    def failing(tensor, value):
        calls.append(tensor)
        if len(calls) == count:
            raise RuntimeError("out of\nmemory")
        shards.write_values(tensor, value)

    monkeypatch.setattr(copying, "write_values", failing)
    refuse(base, folder, "cannot be loaded: out of memory")
    assert len(calls) == count
    assert ftplug.apply(copy.deepcopy(base), "freeze") is not base  # nothing counts it as held


def plain(base, folder, **config):
    import peft

    adapter = peft.get_peft_model(
        copy.deepcopy(base),
        peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query", "value"], **config),
    )
    shake(adapter).save_pretrained(folder, save_embedding_layers=False)
    return folder


@pytest.mark.parametrize("values", [{"r": 3}, {"r": 10**9}, {"target_modules": ["nothing"]}])
def test_a_plain_adapter_that_peft_refuses_leaves_no_wrapper(base, tmp_path, values):
    folder = plain(base, tmp_path / "plain")
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    before = logits(base)
    refuse(base, folder, "far more than its tensors hold|peft cannot load it")
    assert not hasattr(base, "peft_config")
    assert torch.equal(logits(base), before)


def test_a_plain_adapter_with_infinite_weights_loads_by_force_alone(base, tmp_path):
    folder = plain(base, tmp_path / "plain")
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    next(iter(tensors.values()))[0, 0] = float("inf")
    save_file(tensors, file, {"format": "pt"})
    refuse(base, folder, "NaN or infinite")
    assert ftplug.load(base, folder, force=True) is not None
