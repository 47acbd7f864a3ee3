"""What was hashed is what is loaded: files that are exchanged, cut off or written to meanwhile."""

import copy
import json
import os
import shutil
import struct
from functools import partial
from pathlib import Path

import pytest
import tiny
import torch
from runs import same, weights
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import ftplug
from ftplug import ArtifactError
from ftplug.artifacts.checkpoint import write_checkpoint
from ftplug.artifacts.contents import Contents
from ftplug.context import read_tensors
from ftplug.files.hashed import HashedFile
from ftplug.files.tensor_file import _types, read_tensor_file

WEIGHTS = {
    "lora": "adapter_model.safetensors",
    "full": "model.safetensors",
    "freeze": "ftplug.safetensors",
    "checkpoint": "ftplug_state.safetensors",
}


@pytest.fixture
def base():
    return tiny.bert()


def trained(base, method, seed):
    model = ftplug.apply(copy.deepcopy(base), method)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in filter(lambda one: one.requires_grad, model.parameters()):
            parameter.add_(torch.randn_like(parameter))
    return model


def saved(base, kind, folder, seed):
    """Return the folder of an artifact, or of a checkpoint."""
    method = "lora" if kind == "checkpoint" else kind
    model = trained(base, method, seed)
    if kind != "checkpoint":
        return ftplug.save(model, folder)
    folder.mkdir()
    write_checkpoint(model, folder)
    return folder


def exchange(path, other):
    os.replace(shutil.copy(other, path.with_name("_new")), path)


def truncate(path, other):
    os.truncate(path, path.stat().st_size // 2)


def overwrite(path, other):
    path.write_bytes(Path(other).read_bytes())


def link(path, other):
    path.unlink()
    path.symlink_to(other)


class Moments:
    """Acts before one of the calls by which a file is opened, read, hashed and compared."""

    CALLS = ((HashedFile, "__init__"), (HashedFile, "readinto"), (HashedFile, "sha256"),
             (HashedFile, "require_unchanged"), (Contents, "finish"), (Contents, "tensor_file"),
             (Contents, "given_as"))  # fmt: skip

    def __init__(self, monkeypatch):
        self.count, self.at, self.act = 0, None, None
        for owner, name in self.CALLS:
            monkeypatch.setattr(owner, name, self.watched(getattr(owner, name)))

    def watched(self, function):
        def before(*args, **kwargs):
            if self.count == self.at:
                self.act()
            self.count += 1
            return function(*args, **kwargs)

        return before

    def load(self, model, folder, at, act):
        """Load, and act at a moment; return what is refused, if anything."""
        self.count, self.at, self.act = 0, at, act
        try:
            ftplug.load(model, folder)
        except ArtifactError as error:
            return str(error)
        return None


@pytest.mark.parametrize("act", [exchange, truncate, overwrite, link])
@pytest.mark.parametrize("kind", WEIGHTS)
def test_a_file_that_changes_between_check_and_use_is_not_loaded(
    base, tmp_path, kind, act, monkeypatch
):
    good, bad = (saved(base, kind, tmp_path / name, i) for i, name in enumerate(("good", "bad")))
    name = WEIGHTS[kind]
    assert (good / name).stat().st_size == (bad / name).stat().st_size
    expected, plain = weights(ftplug.load(copy.deepcopy(base), good)), weights(base)
    moments = Moments(monkeypatch)
    assert moments.load(copy.deepcopy(base), good, None, None) is None
    refusals = []
    for at in sorted({*range(0, moments.count, max(1, moments.count // 6)), moments.count - 1}):
        folder = Path(shutil.copytree(good, tmp_path / f"at-{at}"))
        model = copy.deepcopy(base)
        refusal = moments.load(model, folder, at, partial(act, folder / name, bad / name))
        assert same(weights(model), plain if refusal else expected)
        assert hasattr(model, "_ftplug") == (not refusal)
        refusals += [refusal] if refusal else []
    assert refusals
    assert not any("\n" in refusal for refusal in refusals)


@pytest.mark.parametrize("act", [exchange, truncate, overwrite])
def test_a_method_that_reads_by_name_is_seen_to(base, tmp_path, act, monkeypatch):
    """As another's method may: its library opens the file itself, before or after it is hashed."""
    from ftplug_plugins import full

    good, bad = (saved(base, "full", tmp_path / name, i) for i, name in enumerate(("good", "bad")))
    name, before = WEIGHTS["full"], weights(base)

    def reading(path):
        act(good / name, bad / name)
        return {} if act is truncate else load_file(path)

    monkeypatch.setattr(full, "read_tensors", reading)
    with pytest.raises(ArtifactError, match=r"altered|changed while it was read"):
        ftplug.load(base, good)
    assert same(weights(base), before)


def test_a_file_that_came_back_after_it_was_read_is_seen_to(base, tmp_path, monkeypatch):
    from ftplug_plugins import full

    good, bad = (saved(base, "full", tmp_path / name, i) for i, name in enumerate(("good", "bad")))
    name = WEIGHTS["full"]

    def reading(path):
        (good / name).rename(tmp_path / "aside")
        exchange(good / name, bad / name)
        tensors = load_file(path)
        (tmp_path / "aside").rename(good / name)
        return tensors

    monkeypatch.setattr(full, "read_tensors", reading)
    with pytest.raises(ArtifactError, match="changed while it was read"):
        ftplug.load(base, good)


def test_a_config_is_parsed_from_the_bytes_that_were_hashed(base, tmp_path, monkeypatch):
    from ftplug_plugins.peft_bridge import files

    folder = saved(base, "lora", tmp_path / "a", 0)
    path, read, load = folder / files.CONFIG_FILE, [], files.load
    verified = json.loads(path.read_text())

    def reading(model, directory, *, run):
        read.append(json.loads((directory / files.CONFIG_FILE).read_text()))
        return load(model, directory, run=run)

    exchanged = []

    def exchanging(self, folder):
        path.write_text(json.dumps(verified | {"r": 64}))
        exchanged.append(folder)
        return given_as(self, folder)

    given_as = Contents.given_as
    monkeypatch.setattr(files, "load", reading)
    monkeypatch.setattr(Contents, "given_as", exchanging)
    with pytest.raises(ArtifactError, match=r"adapter_config\.json: changed while it was read"):
        ftplug.load(base, folder)
    assert exchanged
    assert read[0]["r"] == verified["r"]


def test_to_continue_takes_what_was_hashed(base, tmp_path, monkeypatch):
    from ftplug.artifacts.loading import continue_from

    good, bad = (saved(base, "freeze", tmp_path / name, i) for i, name in enumerate(("a", "b")))
    model = ftplug.apply(copy.deepcopy(base), "freeze")
    before, name = weights(model), WEIGHTS["freeze"]
    moments = Moments(monkeypatch)
    moments.at, moments.act = 5, partial(truncate, good / name, bad / name)
    with pytest.raises(ArtifactError):
        continue_from(model, good)
    assert moments.count > 5
    assert same(weights(model), before)


def test_the_values_before_take_the_place_of_those_that_were_copied(base):
    from ftplug.artifacts.tensors import copy_tensors
    from ftplug.attaching.attachment import require_attachment

    model = ftplug.apply(base, "full")
    before = weights(model)
    plan = require_attachment(model).plan
    tensors = {name: torch.full_like(before[name], 2) for name in plan.saved}
    copy_tensors(model, plan, tensors)
    assert all(bool((value == 2).all()) for value in model.state_dict().values())
    assert all(torch.equal(tensors[name], before[name]) for name in plan.saved)


TENSORS = {
    "a": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "b": torch.tensor(2.5, dtype=torch.bfloat16),
    "c": torch.empty(0, 3),
    "d": torch.tensor([True, False]),
    "e": torch.ones(3, dtype=torch.float8_e4m3fn),
}
if "C64" in _types():  # older versions of the library have no complex numbers
    TENSORS["f"] = torch.tensor([1 + 2j], dtype=torch.complex64)


def written(folder, change, tail=b""):
    """Write TENSORS with a header that ``change`` has been at."""
    path = folder / "x.safetensors"
    save_file(TENSORS, path, {"format": "pt"})
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    text = change(json.loads(data[8 : 8 + length]))
    text = text if isinstance(text, bytes) else json.dumps(text).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :] + tail)
    return path


def entry(name, **values):
    return lambda header: header | {name: header[name] | values}


HEADERS = {
    "as it is": lambda header: header,
    "no metadata": lambda header: {n: v for n, v in header.items() if n != "__metadata__"},
    "metadata of numbers": lambda header: header | {"__metadata__": {"a": 1}},
    "another shape": entry("a", shape=[4, 3]),
    "too large a shape": entry("a", shape=[4, 4]),
    "a shape beyond all numbers": entry("a", shape=[2**40, 2**40]),
    "a negative size": entry("a", shape=[-3, -4]),
    "a size that is no number": entry("a", shape=["3", 4]),
    "a size that is a half": entry("a", shape=[1.5, 8]),
    "sizes that are no list": entry("a", shape=12),
    "an unknown type": entry("a", dtype="F33"),
    "a type that is no text": entry("a", dtype=32),
    "another type": entry("a", dtype="I32"),
    "an end before the start": entry("a", data_offsets=[12, 0]),
    "one offset": entry("a", data_offsets=[0]),
    "beyond the file": entry("a", data_offsets=[2**50, 2**50 + 48]),
    "twice the same bytes": lambda header: header | {"g": header["a"]},
    "one less": lambda header: {n: v for n, v in header.items() if n != "a"},
    "no tensors": lambda header: {},
    "a list": lambda header: b"[]",
    "nothing": lambda header: b"",
    "half of it": lambda header: json.dumps(header).encode()[:-9],
    "no text": lambda header: b"\xff" * 40,
    "spaces behind it": lambda header: json.dumps(header).encode() + b"    ",
    "more behind it": lambda header: json.dumps(header).encode() + b"{}",
    "deep": lambda header: b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
}


@pytest.mark.parametrize("what", HEADERS)
def test_a_header_is_accepted_as_the_library_does(tmp_path, what):
    path = written(tmp_path, HEADERS[what])
    try:
        expected = load_file(path)
    except (SafetensorError, TypeError, ValueError, RuntimeError):
        with pytest.raises(ArtifactError, match="not readable as safetensors") as caught:
            read_tensors(path)
        assert "\n" not in str(caught.value)
        return
    found = read_tensors(path)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_a_name_that_stands_there_twice_is_refused(tmp_path):
    def twice(header):
        return json.dumps(header).replace('"__metadata__"', '"a": {}, "__metadata__"').encode()

    with pytest.raises(ArtifactError, match="a name stands there twice"):
        read_tensors(written(tmp_path, twice))


@pytest.mark.parametrize("length", [2**26, 2**63, 9])
def test_a_header_beyond_the_file_or_all_bounds_is_refused(tmp_path, length):
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{}")
    if length == 2**26:
        os.truncate(path, 2**27)  # a hole, which takes no room
    with pytest.raises(ArtifactError, match=f"a header of {length:,} bytes"):
        read_tensors(path)


def test_bytes_behind_the_tensors_are_refused(tmp_path):
    with pytest.raises(ArtifactError, match="bytes of tensors, not"):
        read_tensors(written(tmp_path, dict, tail=b"\0"))


def test_bytes_are_turned_where_the_machine_is_big_endian(tmp_path, monkeypatch):
    path = written(tmp_path, dict)
    monkeypatch.setattr("sys.byteorder", "big")
    with HashedFile(path) as file:
        found = read_tensor_file(file).tensors
    assert torch.equal(found["d"], TENSORS["d"])
    assert found["a"].flatten()[1].numpy().byteswap() == 1
    if "f" in found:
        assert found["f"].real.numpy().byteswap() == 1
        assert found["f"].imag.numpy().byteswap() == 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system without named pipes")
def test_a_pipe_is_no_file(base, tmp_path):
    folder = saved(base, "lora", tmp_path / "a", 0)
    (folder / WEIGHTS["lora"]).unlink()
    os.mkfifo(folder / WEIGHTS["lora"])
    with pytest.raises(ArtifactError, match="is missing"):
        ftplug.load(base, folder)


def test_a_file_that_is_written_to_after_its_bytes_were_read_is_named(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    with HashedFile(path) as file:
        assert file.read(3) == b"abc"
        file.require_unchanged()
        os.utime(path, ns=(0, 0))
        with pytest.raises(ArtifactError, match="x: changed while it was read"):
            file.require_unchanged()
