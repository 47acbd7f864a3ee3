"""Loading an artifact, its files read once, beside hashing them and mapping them by name again.

A base of 110 million parameters, an artifact of all of them (``full``) and one of LoRA. In turn,
A B A B …: CPU seconds of one thread in ``ftplug.load``, the files in the page cache; and the peak
memory of processes that load once. The other way hashes each file, maps it with safetensors'
``load_file`` and copies, while the value before is kept of every tensor.
"""

from __future__ import annotations

import copy
import gc
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pairs
import report
from report import Found, Goal

ARTIFACTS: dict[str, dict[str, Any]] = {"full": {}, "lora": {"r": 64}}
PEAKS = 3  # processes each: they differ by a thousandth


def measure(found: Found, count: int) -> None:
    """Compare time and peak memory of both ways, by artifact."""
    import torch

    torch.set_num_threads(1)
    model, against = base(), "hashed, then mapped"
    with tempfile.TemporaryDirectory() as folder:
        for method, settings in ARTIFACTS.items():
            artifact = saved(copy.deepcopy(model), method, settings, Path(folder, method))
            size = sum(path.stat().st_size for path in artifact.iterdir()) / 1e6
            what = f"`ftplug.load` of {size:.0f} MB, `{method}`"
            seconds: dict[str, list[float]] = {"once": [], "twice": []}
            for _ in range(count + 1):  # the first one warms up
                for way, of in seconds.items():
                    of.append(timed(way, copy.deepcopy(model), artifact))
            compared = pairs.compare(seconds["once"][1:], seconds["twice"][1:])
            found.ratio(what, against, compared, "s", Goal("≤", 1.15))
            peaks = [[peak(way, artifact) for way in ("once", "twice")] for _ in range(PEAKS)]
            compared = pairs.compare(*zip(*peaks, strict=True))
            found.ratio(f"{what}: peak memory", against, compared, "MiB", Goal("≤", 1.05))


def base() -> Any:
    """Return the base, the same in each process."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig())


def saved(model: Any, method: str, settings: dict[str, Any], folder: Path) -> Path:
    """Write the artifact of a method on the base."""
    import ftplug
    from ftplug.quiet import quiet

    with quiet():
        return ftplug.save(ftplug.apply(model, method, **settings), folder)


def timed(way: str, model: Any, artifact: Path) -> float:
    """Load in one of the ways; return CPU seconds."""
    import ftplug

    gc.collect()
    with reading(way):
        return pairs.timed(partial(ftplug.load, model, artifact), time.process_time)


def peak(way: str, artifact: Path) -> float:
    """Load in a process of its own; return its peak memory in MiB."""
    command = [sys.executable, __file__, way, str(artifact)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return int(said.splitlines()[-1]) / 2**10


def high_water() -> int:
    """Return this process's peak memory in KiB; what getrusage says holds the parent's as well."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.findall(r"VmHWM:\s+(\d+)", status)[0])


@contextmanager
def reading(way: str) -> Iterator[None]:
    """Let what is loaded in the block be read once, or hashed first and opened again."""
    from ftplug.artifacts import loading
    from ftplug.artifacts.contents import Contents

    if way == "once":
        yield
        return
    with (
        mock.patch.object(Contents, "tensor_file", hashed_then_mapped),
        mock.patch.object(loading, "copy_tensors", copied_beside),
    ):
        yield


def hashed_then_mapped(contents: Any, name: str) -> Any:
    """Hash a file, and open it by its name once more."""
    from safetensors.torch import load_file

    from ftplug.artifacts.digests import sha256
    from ftplug.files.tensor_file import TensorFile

    path = contents.directory / name
    if sha256(path) != contents._files[name]["sha256"]:
        raise SystemExit(f"{path}: altered")
    contents._later.discard(name)
    return TensorFile(load_file(path), {})


def copied_beside(model: Any, plan: Any, tensors: dict[str, Any]) -> None:
    """Copy, and keep the value before of every tensor until all are copied."""
    import torch

    from ftplug.attaching.plan import saved_tensors

    live, before = saved_tensors(model, plan), {}
    with torch.no_grad():
        for name, tensor in tensors.items():
            before[name] = live[name].to("cpu", copy=True)
            live[name].copy_(tensor)


if __name__ == "__main__":
    if sys.argv[1:2] in (["once"], ["twice"]):
        timed(sys.argv[1], base(), Path(sys.argv[2]))
        print(high_water())
    else:
        report.main(__doc__, measure, pairs=9)
