"""What it takes until training begins: commands, imports, attaching, the base's fingerprint.

``ftplug --help`` in turn with ``trl --help``; the rest as the best of some runs, since other
programs only ever add to it. The large models have no weights (7 billion
parameters on the meta device) or random ones (500 MB).
"""

from __future__ import annotations

import gc
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pairs
import report
from report import Found, Goal

BIN = Path(sys.executable).parent
IMPORT = "import time; t = time.perf_counter(); import ftplug; print(time.perf_counter() - t)"


def run(command: Sequence[str], compiled: str) -> str:
    """Run an installed command and return what it prints.

    Byte code is kept in the folder ``compiled``, as pip keeps it for what it installs.
    """
    program = [str(BIN / command[0]), *command[1:]]
    settings = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": compiled}
    return subprocess.run(
        program, capture_output=True, text=True, check=True, env=os.environ | settings
    ).stdout


def best(action: Callable[[], object], times: int = 5) -> float:
    """Return the shortest of some calls, in seconds."""
    return min(pairs.timed(action) for _ in range(times))


def commands(found: Found, count: int) -> None:
    """Measure the commands, and compare ``ftplug --help`` with ``trl --help``."""
    with tempfile.TemporaryDirectory() as compiled:
        command = partial(run, compiled=compiled)
        command(["ftplug", "methods"])  # it compiles
        imported = min(float(command(["python", "-c", IMPORT])) for _ in range(5))
        found.figure("`import ftplug`", 1000 * imported, "ms", Goal("≤", 50))
        listed = best(partial(command, ["ftplug", "methods"]))
        found.figure("`ftplug methods`", listed, "s", Goal("≤", 0.4))
        compared = pairs.interleave(
            partial(command, ["ftplug", "--help"]), partial(command, ["trl", "--help"]), count
        )
    found.ratio("`ftplug --help`", "`trl --help`", compared, "s", Goal("≤", 1.5))


def attaching(found: Found) -> None:
    """Measure how long methods take to attach to 7 billion parameters without weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    import ftplug

    for method in ("lora", "bottleneck", "bitfit"):
        taken = []
        for _ in range(4):
            with torch.device("meta"):
                model = LlamaForCausalLM(LlamaConfig(attention_bias=method == "bitfit"))
            gc.collect()
            taken.append(pairs.timed(partial(ftplug.apply, model, method)))
        size = sum(parameter.numel() for parameter in model.parameters()) / 1e9
        found.figure(f"`{method}` onto a Llama of {size:.1f} billion parameters (meta device)",
                     min(taken), "s", Goal("≤", 1))  # fmt: skip


def fingerprints(found: Found) -> None:
    """Measure the fingerprint of 500 MB, and what memory it adds."""
    from transformers import BertConfig, BertModel

    from ftplug.base.fingerprint import fingerprint

    model = BertModel(BertConfig(num_hidden_layers=14))
    tensors: Any = dict(model.named_parameters())
    size = sum(tensor.nbytes for tensor in tensors.values()) / 1e6
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = pairs.timed(partial(fingerprint, tensors))
    added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    found.figure(f"fingerprint of {size:.0f} MB", seconds, "s", Goal("≤", 1))
    found.figure("memory that it adds", added, "MiB", Goal("≤", 16))


def measure(found: Found, count: int) -> None:
    """Measure all of it."""
    commands(found, count)
    attaching(found)
    fingerprints(found)


if __name__ == "__main__":
    report.main(__doc__, measure, pairs=15)
