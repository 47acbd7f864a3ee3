"""A seeded generator of malformed artifacts: each differs from a sound one in a way that matters.

``spoil(folder, number)`` changes a copy of a sound artifact in place and returns what it did. Files
are listed anew in the manifest where the mutation is not about the listing itself: an attacker
would do the same.
"""

from __future__ import annotations

import hashlib
import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

JUNK: list[Any] = [None, -1, 2**63, 0.5, "x", "../x", [], ["x"], {}, {"x": 1}, True, ""]
NAMES = [
    "../escaped.safetensors",
    "../../escaped.json",
    "/tmp/escaped.safetensors",
    "a/../../escaped",
    "a\\..\\escaped",
    "C:escaped",
    "nul\x00byte",
    "line\nbreak",
    ".git/config",
    "",
    ".",
    "..",
    "a//b",
    "a/./b",
    "x" * 300,
    "weights.bin",
    "weights.PKL",
    "missing.safetensors",
    "\ud800",
    "rtl\u202eexe",
]

PROBE = "ftplug_probe.safetensors"

Mutation = Callable[[Path, random.Random], str]


def spoil(folder: Path, number: int) -> str:
    """Apply mutation ``number`` of the seeded sequence; returns a description."""
    draw = random.Random(number)
    mutate = MUTATIONS[number % len(MUTATIONS)]
    return f"{number} {mutate.__name__}: {mutate(folder, draw)}"


def _manifest(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "ftplug.json").read_text())
    return content


def _weights(folder: Path) -> str:
    if (folder / "ftplug.json").is_file():
        listed = _manifest(folder)["files"]
        return next(n for n in listed if n.endswith(".safetensors") and n != PROBE)
    return next(path.name for path in folder.glob("*.safetensors"))


def _write(folder: Path, manifest: Any) -> None:
    (folder / "ftplug.json").write_text(json.dumps(manifest))


def _relist(folder: Path, name: str) -> None:
    """Give the manifest, if there is one, the size and hash that a changed file now has."""
    if not (folder / "ftplug.json").is_file():
        return
    manifest, data = _manifest(folder), (folder / name).read_bytes()
    manifest["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    _write(folder, manifest)


def _tensors(folder: Path) -> tuple[dict[str, Any], bytes]:
    data = (folder / _weights(folder)).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header: dict[str, Any] = json.loads(data[8 : 8 + length])
    return header, data[8 + length :]


def _write_tensors(folder: Path, header: Any, body: bytes, length: int | None = None) -> None:
    text = json.dumps(header).encode()
    size = len(text) if length is None else length
    (folder / _weights(folder)).write_bytes(struct.pack("<Q", size) + text + body)
    _relist(folder, _weights(folder))


def wrong_type(folder: Path, draw: random.Random) -> str:
    """A value of the manifest of another type."""
    manifest = _manifest(folder)
    places: list[tuple[Any, Any, str]] = [(manifest, k, "") for k in manifest if k != "author"]
    places += [(manifest["base"], key, "base.") for key in ("id", "revision", "fresh")]
    places += [(manifest["methods"][0], key, "methods.0.") for key in ("name", "settings")]
    places += [(manifest["parameters"], key, "parameters.") for key in manifest["parameters"]]
    places += [(manifest["files"], key, "files.") for key in manifest["files"]]
    owner, key, where = draw.choice(places)
    value = draw.choice([j for j in JUNK if not _could_stand_for(owner[key], j, key)])
    owner[key] = value
    _write(folder, manifest)
    return f"{where}{key} = {value!r}"


def _could_stand_for(sound: Any, junk: Any, key: str) -> bool:
    """Whether a junk value would be sound in the place of a value."""
    optional = key in ("id", "revision", "fresh") and junk in (None, [], ["x"])
    same = type(sound) is type(junk) or (isinstance(sound, int) and isinstance(junk, int))
    text = isinstance(sound, str) or sound is None
    return optional or same or (text and isinstance(junk, str))


def lacks_a_key(folder: Path, draw: random.Random) -> str:
    """A required key is gone."""
    manifest = _manifest(folder)
    owner, key = draw.choice(
        [
            *[(manifest, k) for k in ("methods", "train_head", "base", "model", "parameters")],
            *[(manifest, k) for k in ("versions", "schema")],
            *[(manifest["methods"][0], k) for k in ("name", "settings")],
            *[(manifest["base"], k) for k in ("id", "revision", "fingerprint", "fresh")],
            *[(entry, "sha256") for entry in manifest["files"].values()],
            *[(entry, "size") for entry in manifest["files"].values()],
        ]
    )
    del owner[key]
    _write(folder, manifest)
    return str(key)


def broken_json(folder: Path, draw: random.Random) -> str:
    """The manifest is no JSON object at all."""
    path = folder / "ftplug.json"
    text = path.read_text()
    content = draw.choice(
        [
            text[: draw.randrange(1, len(text) - 2)].encode(),
            b"",
            b"\x80\x04K\x01.",
            b"[" * 100_000,
            b'{"a":' * 50_000,
            b"null",
            b"[]",
            b"\xff\xfe" + text.encode("utf-16-le"),
            text.encode().replace(b'"schema"', b'"schem\xff"'),
            b" " * (17 * 2**20),
        ]
    )
    path.write_bytes(content)
    return repr(content[:20])


def unknown_schema(folder: Path, draw: random.Random) -> str:
    manifest = _manifest(folder)
    manifest["schema"] = draw.choice([0, -1, 3, 10**9, "1", None, 1.5, [1], True])
    if manifest["schema"] is True:  # equal to 1, and still not a schema
        manifest["schema"] = "true"
    _write(folder, manifest)
    return repr(manifest["schema"])


def another_name(folder: Path, draw: random.Random) -> str:
    """A listed file has a name that leads elsewhere, or nowhere."""
    manifest = _manifest(folder)
    name = draw.choice(NAMES)
    entry = {"size": 1, "sha256": "0" * 64}
    manifest["files"][name] = draw.choice([entry, next(iter(manifest["files"].values()))])
    _write(folder, manifest)
    return repr(name[:40])


def another_size(folder: Path, draw: random.Random) -> str:
    manifest = _manifest(folder)
    name = draw.choice(list(manifest["files"]))
    entry = manifest["files"][name]
    entry["size"] = draw.choice([entry["size"] + 1, entry["size"] - 1, 0, -1, 2**63, 2**80, 1.5])
    _write(folder, manifest)
    return f"{name} {entry['size']}"


def another_hash(folder: Path, draw: random.Random) -> str:
    manifest = _manifest(folder)
    name = draw.choice(list(manifest["files"]))
    backwards = manifest["files"][name]["sha256"][::-1]
    digest = draw.choice(["0" * 64, "", "x" * 63, "0" * 65, backwards])
    manifest["files"][name]["sha256"] = digest
    _write(folder, manifest)
    return f"{name} {digest[:8]}"


def altered_file(folder: Path, draw: random.Random) -> str:
    """One bit of a listed file is another, or its end is missing."""
    name = draw.choice(list(_manifest(folder)["files"]))
    data = bytearray((folder / name).read_bytes())
    if draw.random() < 0.5:
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    else:
        del data[draw.randrange(len(data)) :]
    (folder / name).write_bytes(bytes(data))
    return name


def bad_header(folder: Path, draw: random.Random) -> str:
    """A safetensors header that lies, under a hash that is right."""
    header, body = _tensors(folder)
    name = draw.choice([key for key in header if key != "__metadata__"])
    entry = header[name]
    kind = draw.randrange(9)
    length = None
    if kind == 0:
        length = draw.choice([2**63, 2**40, 0, len(body) * 10])
    elif kind == 1:
        entry["data_offsets"] = [0, 2**62]
    elif kind == 2:
        entry["data_offsets"] = [8, 4]
    elif kind == 3:
        entry["dtype"] = draw.choice(["F65", "pickle", None, 7])
    elif kind == 4:
        entry["shape"] = [2**40, 2**40]
    elif kind == 5:
        entry["shape"] = [-1, 4]
    elif kind == 6:
        header = draw.choice([[], None, 7, "x"])
    elif kind == 7:
        body = body[: len(body) // 2]
    else:
        del entry["shape"]
    _write_tensors(folder, header, body, length)
    return f"kind {kind}"


def other_tensors(folder: Path, draw: random.Random) -> str:
    """Sound safetensors with other tensors than the method has."""
    import torch
    from safetensors.torch import load_file, save_file

    tensors = dict(load_file(folder / _weights(folder)))
    name = draw.choice(list(tensors))
    kind = draw.choice(["missing", "renamed", "extra", "shape", "flat", "integer", "empty"])
    if kind == "missing":
        del tensors[name]
    elif kind == "renamed":
        tensors[f"{name}.x"] = tensors.pop(name)
    elif kind == "extra":
        tensors["embeddings.stolen"] = torch.zeros(2)
    elif kind == "shape":
        tensors[name] = torch.zeros(*tensors[name].shape, 2)
    elif kind == "flat":
        tensors[name] = torch.zeros(tensors[name].numel() + 1)
    elif kind == "integer":
        tensors[name] = torch.zeros(tensors[name].shape, dtype=torch.int64)
    else:
        tensors = {}
    save_file(tensors, folder / _weights(folder), {"format": "pt"})
    _relist(folder, _weights(folder))
    return f"{kind} {name}"


def not_tensors(folder: Path, draw: random.Random) -> str:
    """The weights file is something else, under a hash that is right."""
    content = draw.choice(
        [b"", b"\x80\x04K\x01.", b"PK\x03\x04" + b"\x00" * 100, b"../../x", b"\x00" * 4096, b"{}"]
    )
    (folder / _weights(folder)).write_bytes(content)
    _relist(folder, _weights(folder))
    return repr(content[:8])


def other_method(folder: Path, draw: random.Random) -> str:
    """A method or settings that do not exist or do not fit."""
    manifest = _manifest(folder)
    method = manifest["methods"][0]
    kind = draw.randrange(6)
    if kind == 0:
        method["name"] = draw.choice(["lorb", "", "os:system", "../lora", "full"])
    elif kind == 1:
        method["settings"]["r"] = draw.choice([-1, 0, 10**9, "8", None, 1.5, [8]])
    elif kind == 2:
        method["settings"]["target_modules"] = draw.choice([["nothing"], "(" * 50, 7, [1]])
    elif kind == 3:
        method["settings"]["no_such_setting"] = 1
    elif kind == 4:
        manifest["methods"] = []
    else:
        manifest["methods"] = [method, method]
    _write(folder, manifest)
    return f"kind {kind}"


def other_model(folder: Path, draw: random.Random) -> str:
    """A model class or config that is not the base's."""
    manifest = _manifest(folder)
    model, config = manifest["model"], manifest["model"]["config"]
    kind = draw.randrange(8)
    if kind == 0:
        model["class"] = draw.choice(
            ["os", "Trainer", "pipeline", "__import__", "BertModel", "GPT2LMHeadModel", None, 7, ""]
        )
    elif kind == 1:
        config["num_hidden_layers"] = draw.choice([10**9, 3, -1, "2", None])
    elif kind == 2:
        config["vocab_size"] = draw.choice([10**12, 10**7, -1, "x"])
    elif kind == 3:
        config["hidden_size"] = draw.choice([10**9, 0, -4, 33, "x", None])
    elif kind == 4:
        config["num_attention_heads"] = draw.choice([0, -1, 3, "x"])
    elif kind == 5:
        config["intermediate_size"] = draw.choice([10**11, 0, "x"])
    elif kind == 6:
        config["hidden_act"] = draw.choice(["os.system", 7, {}])
    else:
        config["id2label"] = {str(n): f"label {n}" for n in range(draw.choice([5, 50_000]))}
        config["label2id"] = {v: int(k) for k, v in config["id2label"].items()}
    _write(folder, manifest)
    return f"kind {kind}, of the {'config' if kind else 'class'}"


def other_base(folder: Path, draw: random.Random) -> str:
    """A fingerprint of other weights, or of a form that is none."""
    manifest = _manifest(folder)
    digests = manifest["base"]["fingerprint"]
    kind = draw.randrange(4)
    if kind == 0:
        manifest["base"]["fingerprint"] = {"bf16": "0" * 64, "fp16": "1" * 64}
    elif kind == 1:
        manifest["base"]["fingerprint"] = {"bf16": digests["bf16"]}
    elif kind == 2:
        manifest["base"]["fingerprint"] = draw.choice(["x", 7, [], digests["bf16"]])
    else:
        manifest["base"]["fresh"] = ["bert.embeddings.word_embeddings.weight"]
    _write(folder, manifest)
    return f"kind {kind}"


def a_link(folder: Path, draw: random.Random) -> str:
    """A listed file is a link to something else."""
    name = draw.choice(list(_manifest(folder)["files"]))
    target = draw.choice(["/etc/hostname", "../outside", "/dev/zero", "loop", folder.name, name])
    (folder / name).unlink()
    (folder / name).symlink_to(target)
    return f"{name} -> {target}"


MUTATIONS: list[Mutation] = [
    wrong_type,
    lacks_a_key,
    broken_json,
    unknown_schema,
    another_name,
    another_size,
    another_hash,
    altered_file,
    bad_header,
    other_tensors,
    not_tensors,
    other_method,
    other_model,
    other_base,
    a_link,
]
