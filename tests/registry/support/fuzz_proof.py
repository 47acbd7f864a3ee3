"""Mutations of what shows that an artifact works, and who made it: probe, effect, signatures.

``FORGED`` are those after which a model would answer otherwise than the probe says: whoever loads
it must be refused. Of a signed artifact nothing but the card may change: see ``covered``.
"""

import hashlib
import json
import random
import struct
from pathlib import Path
from typing import Any

import malformed
from fuzz_mutations import VALUES
from malformed import PROBE

SIGNATURES = ("model.sig", "ftplug_provenance.sig")


def bytes_of_the_probe(folder: Path, draw: random.Random) -> str:
    """A few bytes of the probe are others, under a hash that is right."""
    data = bytearray((folder / PROBE).read_bytes())
    (length,) = struct.unpack("<Q", data[:8])
    last = draw.choice([8, 8 + length, len(data)])
    places = [draw.randrange(last) for _ in range(draw.choice([1, 1, 3, 50]))]
    for place in places:
        data[place] = draw.randrange(256)
    return _probe(folder, bytes(data), str(places[:4]))


def length_of_the_probe(folder: Path, draw: random.Random) -> str:
    """The probe is cut, padded, empty, or larger than a probe may be."""
    data = (folder / PROBE).read_bytes()
    cut = draw.randrange(len(data))
    content, what = draw.choice(
        [
            (data[:cut], f"cut at {cut}"),
            (data + bytes(draw.choice([1, 8, 4096])), "padded"),
            (b"", "empty"),
            (data + bytes(2**20), "1 MiB more"),
            (struct.pack("<Q", 2**62) + data[8:], "a header of 2**62 bytes"),
            (b"\x80\x04K\x01.", "a pickle"),
        ]
    )
    return _probe(folder, content, what)


def header_of_the_probe(folder: Path, draw: random.Random) -> str:
    """A tensor of the probe has another shape, type or place, or its metadata says other things."""
    data = (folder / PROBE).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header: dict[str, Any] = json.loads(data[8 : 8 + length])
    tensors = [name for name in header if name != "__metadata__"]
    key = draw.choice([*tensors, "__metadata__"])
    if key == "__metadata__":
        known = header[key]
        name = draw.choice(list(known))
        known[name] = draw.choice(["", "x", "[" * 10_000, "{}", "null", "1e999", known[name] * 50])
        what = f"metadata {name}"
    else:
        part = draw.choice(["shape", "dtype", "data_offsets", "name"])
        other = {
            "shape": [[], [0], [2**40], [-1], [1] * 9, ["x"], None],
            "dtype": ["F64", "I64", "BOOL", "F8_E4M3", "X", None],
            "data_offsets": [[0, 2**40], [4, 0], [0], [-8, 8], None],
        }
        if part == "name":
            header[draw.choice(["", "x" * 5000, "../x", *tensors])] = header.pop(key)
        else:
            header[key][part] = draw.choice(other[part])
        what = f"{key} {part}"
    text = json.dumps(header).encode()
    return _probe(folder, struct.pack("<Q", len(text)) + text + data[8 + length :], what)


def effect_in_the_manifest(folder: Path, draw: random.Random) -> str:
    """What the manifest says of the effect is something else."""
    manifest = malformed._manifest(folder)
    effect = manifest.setdefault("effect", {})
    if draw.random() < 0.2:
        manifest["effect"] = draw.choice([None, [], "x", 1])
        key = "all of it"
    else:
        key = draw.choice(["probe", "kl", "changed", "distance", "nil", "dtype", "unseen", "x"])
        effect[key] = draw.choice([*VALUES, "../ftplug_probe.safetensors", "ftplug.json", [PROBE]])
    malformed._write(folder, manifest)
    return key


def no_probe(folder: Path, draw: random.Random) -> str:
    """The probe is gone: from the folder, from the list of files, or from both."""
    kind = draw.choice(["folder", "list", "both"])
    if kind != "list":
        (folder / PROBE).unlink()
    if kind != "folder":
        manifest = malformed._manifest(folder)
        del manifest["files"][PROBE]
        malformed._write(folder, manifest)
    return kind


def zeroed(folder: Path, draw: random.Random) -> str:
    """All that was trained is zero: a method that does nothing, or a head without answers."""
    return _changed_tensors(folder, lambda tensor: tensor * 0)


def negated(folder: Path, draw: random.Random) -> str:
    """All that was trained has the other sign."""
    return _changed_tensors(folder, lambda tensor: -tensor)


def halved(folder: Path, draw: random.Random) -> str:
    """All that was trained is half of what it was."""
    return _changed_tensors(folder, lambda tensor: tensor / 2)


def flipped(folder: Path, draw: random.Random) -> str:
    """Each tensor has its values in another order."""
    return _changed_tensors(folder, lambda tensor: tensor.flatten().flip(0).view(tensor.shape))


def a_signature(folder: Path, draw: random.Random) -> str:
    """A signature lies there that is none, or not of this artifact."""
    name = draw.choice(SIGNATURES)
    path = folder / name
    known = json.loads(path.read_text()) if path.is_file() else {"mediaType": "x"}
    text = json.dumps(known)
    at = draw.randrange(len(text))
    content = draw.choice(
        [
            b"",
            b"{",
            b"[" * 100_000,
            text[:at].encode(),
            (text[:at] + chr(draw.randrange(33, 126)) + text[at + 1 :]).encode(),
            json.dumps(known | {draw.choice([*known, "x"]): draw.choice(VALUES)}).encode(),
            b'{"dsseEnvelope": {"payload": "e30=", "signatures": []}}',
            b" " * (9 * 2**20),
        ]
    )
    path.write_bytes(content)
    return f"{name} {content[:30]!r}"


def other_signature(folder: Path, draw: random.Random) -> str:
    """One signature lies where the other one belongs, or one is gone."""
    first, second = (folder / name for name in draw.sample(SIGNATURES, 2))
    if not (first.is_file() and second.is_file()):
        return a_signature(folder, draw)
    if draw.random() < 0.5:
        first.unlink()
        return f"without {first.name}"
    second.write_bytes(first.read_bytes())
    return f"{second.name} is {first.name}"


def unsigned_file(folder: Path, draw: random.Random) -> str:
    """A file lies there that nobody signed."""
    name = draw.choice(
        ["x.txt", "pytorch_model.bin", "sub/x.json", ".hidden", "a\nb", "config.JSON"]
    )
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"{}")
    if draw.random() < 0.5:
        malformed._relist(folder, name)
    return repr(name)


def covered(folder: Path) -> dict[str, str]:
    """Return the sha256 of what a signature covers."""
    free = {"README.md", *SIGNATURES}
    files = ((p.relative_to(folder).as_posix(), p) for p in folder.rglob("*") if p.is_file())
    return {n: hashlib.sha256(p.read_bytes()).hexdigest() for n, p in files if n not in free}


def _probe(folder: Path, content: bytes, what: str) -> str:
    (folder / PROBE).write_bytes(content)
    malformed._relist(folder, PROBE)
    return what


def _changed_tensors(folder: Path, change: Any) -> str:
    from safetensors.torch import load_file, save_file

    names = [path for path in folder.glob("*.safetensors") if path.name != PROBE]
    for path in names:
        tensors = {name: change(tensor).contiguous() for name, tensor in load_file(path).items()}
        save_file(tensors, path, {"format": "pt"})
        malformed._relist(folder, path.name)
    return ", ".join(path.name for path in names)


FORGED = [zeroed, negated, halved, flipped]
OF_PROBES = [
    bytes_of_the_probe, bytes_of_the_probe, header_of_the_probe, header_of_the_probe,
    length_of_the_probe, effect_in_the_manifest, no_probe,
]  # fmt: skip
OF_SIGNATURES = [a_signature, a_signature, other_signature, unsigned_file]
MUTATIONS = [*OF_PROBES, *FORGED, *OF_SIGNATURES]
