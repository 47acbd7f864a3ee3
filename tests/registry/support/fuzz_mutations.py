"""Mutations of artifacts beyond :mod:`malformed`: configs, settings, values, names of ours.

``SAME`` are those after which an artifact may load, and then answers as before.
"""

import json
import random
import struct
from pathlib import Path
from typing import Any

import malformed

NUMBERS: list[Any] = [0, -1, 1, 3, 2**31, 10**9, 10**30, 1.5, float("nan"), float("inf"), 1e308]
TEXTS = ["", "x", "../x", "a" * 5000, "\x00", "\ud800", "([a-z.0-9_]+)*X", "(.*)*(.*)*Q", "(" * 99]
VALUES: list[Any] = [
    *NUMBERS,
    *TEXTS,
    None,
    True,
    [],
    {},
    [[]],
    {"x": {"x": 1}},
    ["query"],
    [10**9],
]
CHOICES = [
    ("attn_implementation", "kernels-community/flash-attn2"),
    ("_attn_implementation", "evil/repo:fn"),
    ("auto_map", {"AutoModel": "x--y.Z"}),
    ("dtype", "bfloat16"),
    ("quantization_config", {"quant_method": "bitsandbytes", "load_in_4bit": True}),
    ("transformers_weights", "../other.safetensors"),
    ("fusion_config", {"x": True}),
    ("trust_remote_code", True),
    ("base_model_name_or_path", "/etc"),
    ("is_decoder", True),
    ("add_cross_attention", True),
    ("chunk_size_feed_forward", 10**9),
    ("pruned_heads", {"0": [0, 1]}),
    ("architectures", ["os.system"]),
    ("model_type", "no-such-type"),
]


def a_setting(folder: Path, draw: random.Random) -> str:
    """One or two of the method's settings are something else."""
    manifest = malformed._manifest(folder)
    settings = manifest["methods"][0]["settings"]
    names = list(settings) or ["x"]
    changed = {draw.choice(names): draw.choice(VALUES) for _ in range(draw.choice([1, 1, 2]))}
    settings.update(changed)
    malformed._write(folder, manifest)
    return repr(changed)[:200]


def a_config_value(folder: Path, draw: random.Random) -> str:
    """A value of the model's config in the manifest is another."""
    manifest = malformed._manifest(folder)
    config = manifest["model"]["config"]
    if draw.random() < 0.4:
        key, value = draw.choice(CHOICES)
    else:
        key, value = draw.choice(list(config)), draw.choice(VALUES)
    config[key] = value
    malformed._write(folder, manifest)
    return f"{key} = {value!r}"[:200]


def a_config_beside(folder: Path, draw: random.Random) -> str:
    """A ``config.json`` lies beside the weights, under a hash that is right."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) if path.exists() else {"model_type": "bert"}
    key, value = draw.choice([*CHOICES, ("num_hidden_layers", 10**6), ("hidden_size", "x")])
    config[key] = value
    path.write_text(json.dumps(config))
    malformed._relist(folder, "config.json")
    return f"{key} = {value!r}"[:200]


def an_adapter_config(folder: Path, draw: random.Random) -> str:
    """peft's config says something else, or lies where none belongs."""
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text()) if path.exists() else {"peft_type": "LORA"}
    keys = [*config, "base_model_name_or_path", "auto_mapping", "megatron_config"]
    key, value = draw.choice(keys), draw.choice(VALUES)
    config[key] = value
    path.write_text(json.dumps(config))
    malformed._relist(folder, "adapter_config.json")
    return f"{key} = {value!r}"[:200]


def not_a_config(folder: Path, draw: random.Random) -> str:
    """A config that is no JSON object."""
    name = draw.choice(["config.json", "adapter_config.json"])
    content = draw.choice([b"", b"[]", b"null", b"{", b"[" * 100_000, b'{"a":' * 50_000, b"\xff"])
    (folder / name).write_bytes(content)
    malformed._relist(folder, name)
    return f"{name} {content[:20]!r}"


def a_value(folder: Path, draw: random.Random) -> str:
    """A weight is NaN, infinite or huge."""
    from safetensors.torch import load_file, save_file

    path = folder / malformed._weights(folder)
    tensors = dict(load_file(path))
    name = draw.choice(list(tensors))
    value = draw.choice([float("nan"), float("inf"), float("-inf")])
    tensors[name] = tensors[name].clone()
    tensors[name].view(-1)[draw.randrange(tensors[name].numel())] = value
    save_file(tensors, path, {"format": "pt"})
    malformed._relist(folder, path.name)
    return f"{name} {value}"


def a_dtype(folder: Path, draw: random.Random) -> str:
    """A tensor is of another type, with as many bytes as that has."""
    header, body = malformed._tensors(folder)
    name = draw.choice([key for key in header if key != "__metadata__"])
    dtype, bits = draw.choice(
        [("F4", 4), ("F6_E2M3", 6), ("F8_E8M0", 8), ("F8_E4M3", 8), ("F8_E5M2", 8), ("I8", 8),
         ("U64", 64), ("BOOL", 8), ("C64", 64), ("I32", 32)]
    )  # fmt: skip
    new, parts = {}, []
    for key in [key for key in header if key != "__metadata__"]:
        entry = dict(header[key])
        start, end = entry["data_offsets"]
        part = body[start:end]
        if key == name:
            entry["dtype"], part = dtype, bytes((end - start) // 4 * bits // 8)
        offset = sum(map(len, parts))
        entry["data_offsets"] = [offset, offset + len(part)]
        new[key] = entry
        parts.append(part)
    malformed._write_tensors(folder, new, b"".join(parts))
    return f"{name} {dtype}"


def a_journal(folder: Path, draw: random.Random) -> str:
    """What an interrupted save leaves lies in the folder, listed or not."""
    name = f"_ftplug_committed-{draw.randrange(10**6)}"
    (folder / name).mkdir()
    content = draw.choice(["{}", "[]", "[" * 50_000, '{"moves": 7}', "", '{"folder": "/etc"}'])
    inside = draw.choice(["journal.json", "ftplug.json", "_ftplug_journal.json"])
    (folder / name / inside).write_text(content)
    if draw.random() < 0.5:
        malformed._relist(folder, f"{name}/{inside}")
    return f"{name}/{inside} {content[:20]}"


def deep(folder: Path, draw: random.Random) -> str:
    """Something of the manifest is nested deeper than anybody needs."""
    manifest = malformed._manifest(folder)
    text, depth = json.dumps(manifest), draw.choice([100, 500, 900, 5000])
    place = draw.choice(['"config": {', '"training": {', '"settings": {', '"base": {'])
    opening = draw.choice(["[", '{"a":'])
    closing = "]" if opening == "[" else "}"
    nested = opening * depth + "1" + closing * depth
    comma = "" if f"{place}}}" in text else ", "
    (folder / "ftplug.json").write_text(text.replace(place, f'{place}"deep": {nested}{comma}', 1))
    return f"{place} {opening} {depth}"


def metadata(folder: Path, draw: random.Random) -> str:
    """The header of the weights has metadata of another kind."""
    header, body = malformed._tensors(folder)
    value = draw.choice([{"format": "tf"}, {"format": "x" * 5000}, {}, {"a": "b"}])
    header["__metadata__"] = value
    malformed._write_tensors(folder, header, body)
    return repr(value)[:60]


def bytes_of_the_header(folder: Path, draw: random.Random) -> str:
    """A few bytes of the header are others, under a hash that is right."""
    path = folder / malformed._weights(folder)
    data = bytearray(path.read_bytes())
    (length,) = struct.unpack("<Q", data[:8])
    places = [draw.randrange(8 + length) for _ in range(draw.choice([1, 1, 3]))]
    for place in places:
        data[place] = draw.randrange(256)
    path.write_bytes(bytes(data))
    malformed._relist(folder, path.name)
    return str(places)


def a_fact(folder: Path, draw: random.Random) -> str:
    """A fact that nothing of loading depends on: the training, the author, the versions."""
    manifest = malformed._manifest(folder)
    section = draw.choice(["training", "versions"])
    manifest[section][draw.choice(["x", "data", "metrics"])] = draw.choice(VALUES)
    malformed._write(folder, manifest)
    return section


def a_pickle(folder: Path, draw: random.Random) -> str:
    """The weights are a pickle, beside or in place of the safetensors, or called so."""
    name = malformed._weights(folder)
    content = b"cos\nsystem\n(S'exit 3'\ntR."
    kind = draw.choice(["beside", "in place", "called so"])
    (folder / "adapter_model.bin").write_bytes(content)
    if kind == "in place":
        (folder / name).unlink()
    elif kind == "called so":
        (folder / "adapter_model.bin").rename(folder / name)
    return kind


MUTATIONS = [
    a_setting, a_setting, a_setting, a_config_value, a_config_value, a_config_beside,
    an_adapter_config, an_adapter_config, not_a_config, a_value, a_dtype, a_journal, deep, metadata,
    bytes_of_the_header, a_fact,
]  # fmt: skip
SAME = {a_config_beside, an_adapter_config, a_journal, metadata, a_fact}
# Those of an adapter that ftplug did not make: it has no manifest.
PLAIN = [
    an_adapter_config, an_adapter_config, an_adapter_config, not_a_config, a_config_beside, a_value,
    a_dtype, metadata, bytes_of_the_header, a_pickle, malformed.bad_header, malformed.other_tensors,
    malformed.not_tensors,
]  # fmt: skip
